"""Finding entries in a stored log by their clear fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from audit.errors import Conflict, MalformedInput, NotFound
from audit.key_manager import DataKeys, KeyDestroyed
from audit.leaf import Leaf
from audit.log import open_payload
from audit.source import LogSource
from audit.storage import LogReader, LogTampered, parse_stored, read_leaf

FORGOTTEN: Final = "forgotten"
"""Stands for a payload whose key was destroyed."""

_LISTED_POSITIONS: Final = 10

_SPAN: Final = re.compile(r"(?P<first>\d{1,15})(?:-(?P<last>\d{1,15}))?", re.ASCII)

_DIGITS: Final = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class EntryFilter:
    """Which entries are wanted; None accepts all.

    Attributes:
        actor: Exactly this actor.
        action: Exactly this action, or with a trailing `.` every action that begins so.
        object: About `kind:digest`, or about whatever has that digest, or one that begins so.
        subject: Exactly this pseudonym.
        positions: At one of these positions.
    """

    actor: str | None = None
    action: str | None = None
    object: str | None = None
    subject: str | None = None
    positions: tuple[range, ...] | None = None

    def accepts(self, leaf: Leaf) -> bool:
        """Whether the entry is wanted."""
        return (
            self.actor in (None, leaf.actor)
            and self.subject in (None, leaf.subject)
            and (self.positions is None or any(leaf.position in span for span in self.positions))
            and (self.object is None or is_about(leaf, self.object))
            and (self.action is None or self._accepts_action(self.action, leaf.action))
        )

    @staticmethod
    def _accepts_action(wanted: str, action: str) -> bool:
        return action.startswith(wanted) if wanted.endswith(".") else action == wanted


def parse_positions(text: str) -> tuple[range, ...]:
    """Positions as a person writes them.

    >>> parse_positions("8-10,17")
    (range(8, 11), range(17, 18))

    Raises:
        MalformedInput: When it is anything else.
    """
    spans = []
    for part in text.split(","):
        found = _SPAN.fullmatch(part.strip())
        if found is None or int(found["last"] or found["first"]) < int(found["first"]):
            raise MalformedInput(
                f"malformed positions: {part.strip()!r}", fix="write them like 8-10,17"
            )
        first = int(found["first"])
        spans.append(range(first, int(found["last"] or first) + 1))
    return tuple(spans)


def is_about(leaf: Leaf, object_id: str) -> bool:
    """Whether the entry is about `kind:digest`, or about whatever kind has that digest.

    Of a digest the first six digits or more will do, as everywhere else.
    """
    if leaf.object == object_id or leaf.object.endswith(f":{object_id}"):
        return True
    digits = object_id.removeprefix("sha256:")
    _, is_digest, full = leaf.object.rpartition(":sha256:")
    return bool(is_digest) and _DIGITS.fullmatch(digits) is not None and full.startswith(digits)


def stored_leaves(reader: LogReader, after: int = -1) -> Iterator[Leaf]:
    """The entries that follow position `after`, in order, read one by one.

    Raises:
        NotFound: At a position that is missing.
        VerificationFailed: At an entry that is not what it should be.
    """
    for position in range(after + 1, reader.size()):
        yield read_leaf(reader, position)


def streamed_leaves(source: LogSource, after: int = -1) -> Iterator[Leaf]:
    """The entries that follow position `after`, in order, read in one go.

    Raises:
        VerificationFailed: At a position that is missing, or an entry that is not what it should
            be.
    """
    for expected, (position, data) in enumerate(source.leaves(after), start=after + 1):
        if position != expected:
            raise LogTampered(f"entry {expected} is missing", fix="run: audit verify")
        yield parse_stored(position, data)


def find_position(source: LogSource, entry: str) -> int:
    """The position that a person means.

    Args:
        source: The log.
        entry: A position in decimal, or the id of what exactly one entry is about.

    Raises:
        NotFound: When no entry is about it.
        Conflict: When several are.
    """
    if entry.isascii() and entry.isdigit() and len(entry) < 16:
        return int(entry)
    positions = [leaf.position for leaf in streamed_leaves(source) if is_about(leaf, entry)]
    if not positions:
        raise NotFound(
            f"no entry of the log is about {entry}", fix="list what there is: audit show LOG"
        )
    if len(positions) > 1:
        listed = ", ".join(map(str, positions[:_LISTED_POSITIONS]))
        raise Conflict(
            f"{len(positions)} entries are about {entry}: {listed}",
            fix=f"say which one by its position, such as {positions[0]}",
        )
    return positions[0]


def payload_or_forgotten(leaf: Leaf, origin: str, keys: DataKeys) -> dict[str, Any] | str:
    """The payload, or `FORGOTTEN` when its key was destroyed."""
    try:
        return open_payload(leaf, origin, keys)
    except KeyDestroyed:
        return FORGOTTEN
