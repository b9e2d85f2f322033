"""Answers to questions about the log: found by the index, read from the leaves, each proven.

* An answer is about the log of one size. That tree never changes again, so all that is read about
  it, in however many transactions, is one snapshot: later entries change no leaf and no path.
* Pages follow each other by position, never by offset: what is appended between two pages moves
  nothing, and a question does not find the entries that it leaves behind itself.
* A cursor holds no secret and grants nothing: who alters one gets another page of what the same
  caller may ask for anyway. It is checked so that a mistake is said, not answered.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.checkpoint import Checkpoint, read_checkpoint
from audit.errors import MalformedInput, NotFound
from audit.key_manager import KeyDestroyed
from audit.leaf import Leaf
from audit.merkle import HashReader, hash_leaf, inclusion_proofs
from audit.storage import LogStorage, latest_head, parse_stored, with_hashes
from audit.words import count_of
from compliance.log_views import LogEntryView, LogPage, LogQuery
from compliance.rules import EVERYWHERE, Scope
from compliance.service.log_positions import find_positions
from compliance.service.registry import Registry
from compliance.service.tables import LogIndexRow
from compliance.service.witnessing import cosigned

_TOPICS: Final = select(
    LogIndexRow.position, LogIndexRow.site, LogIndexRow.plan, LogIndexRow.release
)

_PROVEN_AT_ONCE: Final = 100
"""Entries whose paths are read in one query, 53 hashes each at most: databases limit its size."""

_BEGIN_AGAIN: Final = "begin again without a cursor"


@dataclass(frozen=True)
class Head:
    """The log that an answer is about.

    Attributes:
        note: Its signed checkpoint, with the witnesses' cosignatures of it.
        checkpoint: What the note says.
    """

    note: str
    checkpoint: Checkpoint


def read_head(session: Session, storage: LogStorage) -> Head:
    """The log as it is now."""
    note = cosigned(session, latest_head(storage)[0])
    return Head(note, read_checkpoint(note))


@dataclass(frozen=True)
class Cursor:
    """Where the next page begins.

    Attributes:
        last: Position of the last entry that was shown.
        size: Size of the log when the first page was made; later entries are on no page.
        identity: Digest of order and filters.
    """

    last: int
    size: int
    identity: str

    def encoded(self) -> str:
        """One word, safe in a URL."""
        document = {"last": self.last, "size": self.size, "query": self.identity}
        return base64.urlsafe_b64encode(canonical_bytes(document)).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor.

        Raises:
            MalformedInput: When it is none.
        """
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            document = parse_canonical_object(data)
        except (binascii.Error, ValueError, MalformedInput) as error:
            raise MalformedInput(
                "malformed cursor: not one of this service", fix=_BEGIN_AGAIN
            ) from (error)
        match document:
            case {"last": int(last), "size": int(size), "query": str(identity)} if (
                0 <= last < size and len(document) == 3
            ):
                return cls(last, size, identity)
        raise MalformedInput("malformed cursor: not one of this service", fix=_BEGIN_AGAIN)


def read_page(
    office: Registry, session: Session, query: LogQuery, scope: Scope = EVERYWHERE
) -> LogPage:
    """One page of an answer, of the entries that concern the sites of a scope.

    Raises:
        MalformedInput: When the cursor is none, or of another question or log.
    """
    storage = office.storage(session)
    head = read_head(session, storage)
    size, last = head.checkpoint.size, None
    if query.cursor is not None:
        cursor = Cursor.parse(query.cursor)
        _check_cursor(cursor, query, size)
        size, last = cursor.size, cursor.last
    positions = find_positions(
        session,
        office.log_times,
        query,
        size,
        query.order,
        query.limit + 1,
        last=last,
        scope=scope,
    )
    shown = positions[: query.limit]
    following = None
    if len(positions) > query.limit:
        following = Cursor(shown[-1], size, query.identity()).encoded()
    reader = EntryReader(office, head.checkpoint)
    entries = tuple(reader.read(session, shown))
    return LogPage(checkpoint=head.note, size=size, entries=entries, next=following)


class EntryReader:
    """Reads entries and proves each against one checkpoint.

    Args:
        office: The service.
        checkpoint: The tree that every path leads to the root of.
    """

    def __init__(self, office: Registry, checkpoint: Checkpoint) -> None:
        self._office = office
        self._size = checkpoint.size

    def read(self, session: Session, positions: Sequence[int]) -> Iterator[LogEntryView]:
        """The entries at some positions, in that order.

        Raises:
            NotFound: When an entry that the index knows is not there.
            LogTampered: When an entry or a hash is not what it should be.
        """
        storage = self._office.storage(session)
        for start in range(0, len(positions), _PROVEN_AT_ONCE):
            yield from self._read_batch(
                session, storage, positions[start : start + _PROVEN_AT_ONCE]
            )

    def _read_batch(
        self, session: Session, storage: LogStorage, positions: Sequence[int]
    ) -> Iterator[LogEntryView]:
        among = LogIndexRow.position.in_(positions)
        topics = {row.position: row for row in session.execute(_TOPICS.where(among))}
        leaves = storage.read_leaves(positions)

        def all_paths(read_hash: HashReader) -> list[tuple[bytes, ...]]:
            return inclusion_proofs(read_hash, positions, self._size)

        paths = with_hashes(storage, all_paths)
        for position, data, path in zip(positions, leaves, paths, strict=True):
            if data is None:
                raise NotFound(f"the log has no entry {position}", fix="run: audit verify")
            yield self._view(parse_stored(position, data), data, path, topics[position])

    def _view(self, leaf: Leaf, data: bytes, path: tuple[bytes, ...], row: Any) -> LogEntryView:
        return LogEntryView(
            position=leaf.position,
            time=leaf.time,
            actor=leaf.actor,
            action=leaf.action,
            object=leaf.object,
            subject=leaf.subject,
            site=row.site,
            plan=row.plan,
            release=row.release,
            payload=self._payload(leaf),
            leaf=data,
            leaf_hash=hash_leaf(data).hex(),
            path=path,
        )

    def _payload(self, leaf: Leaf) -> dict[str, Any] | None:
        try:
            return self._office.log.open(leaf)
        except KeyDestroyed:
            return None


def _check_cursor(cursor: Cursor, query: LogQuery, size: int) -> None:
    if cursor.identity != query.identity():
        raise MalformedInput(
            "the cursor belongs to a question with other filters or another order",
            fix=f"repeat those of the first page, or {_BEGIN_AGAIN}",
        )
    if cursor.size > size:
        raise MalformedInput(
            f"the cursor is of a log of {count_of(cursor.size, 'entry')}, this one has {size}",
            fix=f"{_BEGIN_AGAIN}; if the log is the same, it was cut off: run `audit verify`",
        )
