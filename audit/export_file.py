"""Exports of a log's entries as JSON Lines: written by a service, checked by anyone, offline.

```
{"checkpoint": …, "count": …, "filters": …, "format": "fiduciary.log-export/1", "origin": …}
{"action": …, "actor": …, "index": …, "leaf": …, "leaf_hash": …, "object": …, "path": …,
 "payload": …, "position": …, "subject": …, "time": …}
…
```

* Each line is canonical JSON (`audit.canonical`). `leaf` and the hashes of `path` are base64.
* Every path leads to the root that the one checkpoint of the header signs. What that proves of an
  entry, and what it does not, is said in `audit.shown`; `index` holds the exporter's word for what
  an entry is about.
* A file that ends early is noticed: the header says how many entries follow.
* An export without filters that holds as many entries as the log is the whole log.

Decision record: docs/adr/0012-audit-queries.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from audit.canonical import canonical_bytes, odd_fields, parse_canonical_object
from audit.checkpoint import Checkpoint, verify_checkpoint
from audit.encoding import decode_base64, encode_base64
from audit.errors import FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.keys import VerifyKey
from audit.proof import MAX_PATH
from audit.shown import CLEAR_FIELDS, ShownEntry, verify_shown
from audit.words import count_of

EXPORT_FORMAT: Final = "fiduciary.log-export/1"

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""The largest payload as JSON, and once more in base64 within its leaf."""

_CSV: Final = "a CSV file carries no proofs; export again with --format jsonl"

_HEADER_FIELDS: Final = frozenset({"format", "origin", "checkpoint", "filters", "count"})
_ENTRY_FIELDS: Final = frozenset({*CLEAR_FIELDS, "payload", "index", "leaf", "leaf_hash", "path"})


class MalformedExport(MalformedInput):
    """A file that is no export."""

    code = "malformed-export"


@dataclass(frozen=True)
class VerifiedExport:
    """What a verified export is.

    Attributes:
        checkpoint: The signed tree head that contains every entry.
        filters: The question that the exporter says it answered.
        entries: How many entries there are.
        statements: How many of them quote the statement that the log entry names.
        forgotten: How many payloads are gone.
        whole: The file holds every entry of the log that the checkpoint signs.
    """

    checkpoint: Checkpoint
    filters: dict[str, Any]
    entries: int
    statements: int
    forgotten: int
    whole: bool


def export_header(*, origin: str, checkpoint: str, filters: Mapping[str, Any], count: int) -> bytes:
    """The first line, with its newline.

    Args:
        origin: Name of the log.
        checkpoint: The signed note that all paths lead to.
        filters: The question, by the names of its conditions.
        count: The number of entries that follow.
    """
    header = {
        "format": EXPORT_FORMAT,
        "origin": origin,
        "checkpoint": checkpoint,
        "filters": dict(filters),
        "count": count,
    }
    return canonical_bytes(header) + b"\n"


def export_entry(entry: ShownEntry, index: Mapping[str, str | None]) -> bytes:
    """The line of an entry, with its newline.

    Args:
        entry: The entry and its path.
        index: What else the exporter says that it is about; unproven.
    """
    fields = {
        **{name: entry.fields[name] for name in CLEAR_FIELDS},
        "payload": entry.payload,
        "index": dict(index),
        "leaf": encode_base64(entry.leaf),
        "leaf_hash": entry.leaf_hash,
        "path": [encode_base64(item) for item in entry.path],
    }
    return canonical_bytes(fields) + b"\n"


def verify_export(
    path: Path,
    key: VerifyKey,
    origin: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifiedExport:
    """Check an export file, line by line, in flat memory.

    Args:
        path: The file.
        key: The log's verifier key.
        origin: The log that is expected; None accepts the one that the key signed for.
        progress: Called with the number of entries checked and announced.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: With the first line that is not what it should be.
        VerificationFailed: With the first line that does not verify.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}", fix="check the path")
    with path.open("rb") as file:
        lines = _lines(file)
        header = _read_header(next(lines, b""))
        checkpoint = _within_line(1, lambda: verify_checkpoint(header.checkpoint, key, origin))
        if checkpoint.origin != header.origin:
            raise VerificationFailed(
                f"line 1: the export is said to be of {header.origin}, its checkpoint is of"
                f" {checkpoint.origin}"
            )
        tally = _Tally()
        for number, line in enumerate(lines, start=2):
            if tally.entries == header.count:
                raise MalformedExport(
                    f"malformed export: more than {count_of(header.count, 'entry')}"
                )
            _within_line(number, partial(tally.add, line, checkpoint))
            if progress is not None:
                progress(tally.entries, header.count)
    if tally.entries != header.count:
        raise MalformedExport(
            f"malformed export: {count_of(tally.entries, 'entry')}, {header.count} were"
            " announced: the file was cut off",
            fix="export again",
        )
    return VerifiedExport(
        checkpoint,
        header.filters,
        tally.entries,
        tally.statements,
        tally.forgotten,
        whole=tally.entries == checkpoint.size,
    )


@dataclass(frozen=True)
class _Header:
    origin: str
    checkpoint: str
    filters: dict[str, Any]
    count: int


class _Tally:
    """Entries that were checked so far."""

    def __init__(self) -> None:
        self.entries = 0
        self.statements = 0
        self.forgotten = 0
        self._last = -1

    def add(self, line: bytes, checkpoint: Checkpoint) -> None:
        """Check one more entry."""
        entry = _read_entry(line)
        verified = verify_shown(entry, checkpoint)
        if verified.leaf.position <= self._last:
            raise VerificationFailed(
                f"entry {verified.leaf.position} follows entry {self._last}: entries are in order,"
                " each once"
            )
        self._last = verified.leaf.position
        self.entries += 1
        self.statements += verified.statement is not None
        self.forgotten += entry.payload is None


def _within_line(number: int, check: Callable[[], Any]) -> Any:
    """Say in which line a check failed."""
    try:
        return check()
    except (VerificationFailed, MalformedInput) as error:
        kind = VerificationFailed if isinstance(error, VerificationFailed) else MalformedExport
        raise kind(f"line {number}: {error}", fix=error.fix) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise MalformedExport(f"malformed export: a line of more than {MAX_LINE_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise MalformedExport("malformed export: the last line was cut off", fix="export again")
        yield line[:-1]


def _read_header(line: bytes) -> _Header:
    try:
        fields = parse_canonical_object(line)
    except FiduciaryError as error:
        raise MalformedExport(f"malformed export: line 1: {error}", fix=_CSV) from error
    if fields.get("format") != EXPORT_FORMAT or fields.keys() != _HEADER_FIELDS:
        raise MalformedExport(
            f"malformed export: line 1 is no header of format {EXPORT_FORMAT}", fix=_CSV
        )
    match fields:
        case {
            "origin": str(origin),
            "checkpoint": str(checkpoint),
            "filters": dict(filters),
            "count": int(count),
        } if count >= 0 and not isinstance(count, bool):
            return _Header(origin, checkpoint, dict(filters), count)
    raise MalformedExport("malformed export: a field of line 1 is not what it should be")


def _read_entry(line: bytes) -> ShownEntry:
    fields = parse_canonical_object(line)
    if fields.keys() != _ENTRY_FIELDS:
        odd = odd_fields(fields.keys(), _ENTRY_FIELDS)
        raise MalformedExport(f"malformed entry: fields: {odd}")
    payload = fields["payload"]
    match fields:
        case {"leaf": str(leaf), "leaf_hash": str(leaf_hash), "path": list(path)} if (
            payload is None or isinstance(payload, dict)
        ) and len(path) <= MAX_PATH:
            hashes = tuple(decode_base64(_text(item), "hash") for item in path)
            return ShownEntry(
                {name: fields[name] for name in CLEAR_FIELDS},
                payload,
                decode_base64(leaf, "leaf"),
                leaf_hash,
                hashes,
            )
    raise MalformedExport("malformed entry: a field is not what it should be")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedExport("malformed entry: a hash is not text")
    return value
