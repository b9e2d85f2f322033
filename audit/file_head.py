"""The head of a file-backed log: what is in the log and what is not, in one small file.

Whoever replaces the head commits. It names the number and the length of the entries, the latest
checkpoint, the facts about the log, and how much of the tables of older checkpoints and of
cosignatures counts. What the other files hold beyond it is not part of the log.
It is a line of canonical JSON and a line with the JSON's digest.

A **table** holds notes by `(size, witness)`; a checkpoint has no witness. It is a file of lines,
each the canonical JSON `[size, witness, note]`, of which the last one of a key counts; a note of
null removes the key. It is appended to until it has doubled and then written anew under the next
generation's name, so that what was replaced takes no more room than what is there.

Decision record: docs/adr/0015-file-backed-log.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from audit.canonical import canonical_bytes, digest, parse_canonical, parse_canonical_object
from audit.checkpoint import MAX_SIZE
from audit.errors import MalformedInput

HEAD_FORMAT: Final = "fiduciary.log-files/1"

MAX_HEAD_BYTES: Final = 1024 * 1024
"""A head is about a kilobyte; larger is no head."""

MIN_TABLE_LINES: Final = 64
"""Lines that a table may always grow by before it is written anew: 20 kB."""

NoteKey: TypeAlias = tuple[int, str]
"""`(size, witness)`; the witness of a checkpoint is the empty string."""


@dataclass(frozen=True)
class Table:
    """The part of a table's file that counts.

    Attributes:
        name: `checkpoints` or `cosignatures`.
        generation: Number in the file's name.
        length: Bytes that count.
        lines: Lines in them.
        rewritten: Lines that this generation began with.
    """

    name: str
    generation: int = 0
    length: int = 0
    lines: int = 0
    rewritten: int = 0

    @property
    def file_name(self) -> str:
        """The name of the file of this generation."""
        return f"{self.name}.{self.generation}"

    def appended(self, data: bytes, lines: int) -> Table:
        """The table with more lines."""
        return replace(self, length=self.length + len(data), lines=self.lines + lines)

    def is_full_with(self, lines: int) -> bool:
        """Whether it is to be written anew rather than to take these lines too."""
        return self.lines + lines > 2 * max(self.rewritten, MIN_TABLE_LINES)

    def rewritten_with(self, data: bytes, lines: int) -> Table:
        """The next generation, which holds these lines."""
        return Table(self.name, self.generation + 1, len(data), lines, lines)

    def parse(self, data: bytes) -> dict[NoteKey, str]:
        """The notes of the table, smallest key first.

        Raises:
            MalformedInput: When `data` is not what a table of this state holds.
        """
        lines = data.split(b"\n")
        if lines.pop() != b"" or len(lines) != self.lines:
            raise MalformedInput(f"malformed {self.name}: expected {self.lines} lines")
        notes: dict[NoteKey, str] = {}
        for line in lines:
            match parse_canonical(line):
                case [bool(), *_]:  # which is an int too
                    raise MalformedInput(f"malformed {self.name}: expected size, witness and note")
                case [int(size), str(witness), str(note)] if 0 <= size <= MAX_SIZE:
                    notes[size, witness] = note
                case [int(size), str(witness), None] if 0 <= size <= MAX_SIZE:
                    notes.pop((size, witness), None)
                case _:
                    raise MalformedInput(f"malformed {self.name}: expected size, witness and note")
        return dict(sorted(notes.items()))


def table_lines(notes: Mapping[NoteKey, str | None]) -> bytes:
    """The lines that put notes into a table, or remove them."""
    return b"".join(
        canonical_bytes([size, witness, note]) + b"\n" for (size, witness), note in notes.items()
    )


@dataclass(frozen=True)
class Head:
    """The state of a log.

    Attributes:
        entries: Number of entries.
        length: Bytes in them. The last offset says so too, but an appender cuts off what is beyond,
            and must not believe a damaged offset.
        latest: Size and note of the latest checkpoint, None when there is none.
        meta: Facts about the log.
        checkpoints: Checkpoints before the latest; none while there is no latest.
        cosignatures: What witnesses signed.
    """

    entries: int = 0
    length: int = 0
    latest: tuple[int, str] | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    checkpoints: Table = Table("checkpoints")
    cosignatures: Table = Table("cosignatures")

    def encoded(self) -> bytes:
        """The bytes of the file."""
        size, note = self.latest or (None, None)
        content = canonical_bytes(
            {
                "format": HEAD_FORMAT,
                "entries": self.entries,
                "length": self.length,
                "checkpoint": {"size": size, "note": note} if self.latest else None,
                "meta": dict(self.meta),
                "checkpoints": _encode_table(self.checkpoints),
                "cosignatures": _encode_table(self.cosignatures),
            }
        )
        return content + b"\n" + digest(content).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Read a head.

        Raises:
            MalformedInput: For anything that `encoded` does not write.
        """
        if len(data) > MAX_HEAD_BYTES:
            raise MalformedInput(f"malformed log head: more than {MAX_HEAD_BYTES} bytes")
        content, _, stated = data.partition(b"\n")
        if stated != digest(content).encode() + b"\n":
            raise MalformedInput("malformed log head: it does not have the digest that it states")
        document = parse_canonical_object(content)
        if document.get("format") != HEAD_FORMAT:
            raise MalformedInput(f"malformed log head: its format is not {HEAD_FORMAT}")
        try:
            match document:
                case {
                    "entries": entries,
                    "length": length,
                    "checkpoint": latest,
                    "meta": dict(meta),
                    "checkpoints": dict(checkpoints),
                    "cosignatures": dict(cosignatures),
                } if len(document) == 7:
                    head = cls(
                        _count(entries),
                        _count(length),
                        _parse_latest(latest),
                        {_text(name): _text(value) for name, value in meta.items()},
                        _parse_table("checkpoints", checkpoints),
                        _parse_table("cosignatures", cosignatures),
                    )
                case _:
                    raise MalformedInput("malformed log head: fields")
        except (KeyError, TypeError) as error:
            raise MalformedInput(f"malformed log head: {error}") from error
        if head.encoded() != data:
            raise MalformedInput("malformed log head: further fields")
        return head


def _encode_table(table: Table) -> dict[str, int]:
    return {
        "generation": table.generation,
        "length": table.length,
        "lines": table.lines,
        "rewritten": table.rewritten,
    }


def _parse_table(name: str, fields: Mapping[str, Any]) -> Table:
    numbers = (_count(fields[key]) for key in ("generation", "length", "lines", "rewritten"))
    return Table(name, *numbers)


def _parse_latest(latest: object) -> tuple[int, str] | None:
    if latest is None:
        return None
    if not isinstance(latest, dict) or latest.keys() != {"size", "note"}:
        raise TypeError("expected size and note of a checkpoint")
    return _count(latest["size"]), _text(latest["note"])


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
        raise TypeError(f"expected a count, got {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value
