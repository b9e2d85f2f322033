"""What a log asks of its storage, and what can be read and proven from storage without a key.

* `LogStorage` is one transaction's view of a log. It never begins, commits or rolls back, so that a
  service can change its own state and the log together.
* `LogStore` is a log that has its own transactions: SQLite (`audit.sqlite_log`), PostgreSQL
  (`audit.postgresql_log`) and plain files (`audit.file_log`). One contract suite runs against all.
* A new store is supported by implementing the two; nothing else knows of SQL or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol, TypeVar

from audit.checkpoint import read_checkpoint
from audit.errors import ExitCode, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.leaf import Leaf
from audit.merkle import EMPTY_ROOT, HASH_BYTES, HashReader, Node, inclusion_proof, root
from audit.proof import Proof

LOG_FORMAT: Final = "fiduciary.log/2"
"""How logs are stored today."""

FIRST_LOG_FORMAT: Final = "fiduciary.log/1"
"""Differs only in how stored hashes are keyed: it is read, and brought up to date when opened."""

META_FORMAT: Final = "format"
META_ORIGIN: Final = "origin"
META_KEY: Final = "key"


_Computed = TypeVar("_Computed")


class LogTampered(VerificationFailed):
    """The stored log is not the one that was signed."""

    code = "log-tampered"


class LogUnavailable(FiduciaryError):
    """The log cannot be read or written; what was to be recorded must not happen."""

    code = "journal-unavailable"


class LogUnreachable(LogUnavailable):
    """The database of the log does not answer whoever reads it."""

    exit_code = ExitCode.UNREACHABLE


class StoredCosignature(NamedTuple):
    """A witness's word for a tree head: its name, the size, and the note with its signature."""

    witness: str
    size: int
    note: str


class Append(NamedTuple):
    """All that one append writes.

    Attributes:
        first: Position of the first entry.
        leaves: The entries.
        nodes: What they complete of the tree, in that order.
        size: Of the log with them.
        note: Its signed checkpoint.
        superseded: Size of a checkpoint that goes, None when all stay.
    """

    first: int
    leaves: Sequence[bytes]
    nodes: Sequence[Node]
    size: int
    note: str
    superseded: int | None


class LogReader(Protocol):
    """One moment's view of a stored log."""

    def size(self) -> int:
        """Number of entries: the highest position plus one, or 0."""
        ...

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`, None when there is none."""
        ...

    def read_leaves(self, positions: Sequence[int]) -> list[bytes | None]:
        """The entries at some positions, in their order, in one question."""
        ...

    def read_hashes(self, nodes: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The hashes of nodes `(level, index)` in their order, None where there is none.

        A proof asks for all of its nodes at once: each question to a database is a round trip.
        """
        ...

    def read_proof(
        self, position: int, nodes: Sequence[tuple[int, int]]
    ) -> tuple[bytes | None, list[bytes | None]]:
        """`read_leaf` and `read_hashes` in one question."""
        ...

    def head(self) -> tuple[str | None, int]:
        """The checkpoint note of the largest size, None when there is none; and `size`."""
        ...

    def cosignatures(self) -> list[StoredCosignature]:
        """What witnesses have signed, smallest size first."""
        ...

    def read_meta(self, name: str) -> str | None:
        """A fact about the log: `format`, `origin` or `key`."""
        ...


class LogStorage(LogReader, Protocol):
    """One transaction's view of a stored log. It never begins, commits or rolls back.

    Every method may raise the store's own errors; the caller then rolls back and nothing has
    happened.
    """

    def lock(self) -> None:
        """Keep every other appender out until this transaction ends."""
        ...

    def write_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        """Insert entries at `first` and the positions after it. Fails when one is taken."""
        ...

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        """Insert nodes, in the order in which entries complete them. Fails when one exists."""
        ...

    def write_checkpoint(self, size: int, note: str) -> None:
        """Insert the checkpoint of that size, or replace it."""
        ...

    def delete_checkpoint(self, size: int) -> None:
        """Remove the checkpoint of that size, if there is one."""
        ...

    def write_append(self, append: Append) -> None:
        """All of an append, as the four methods above would; each statement is a round trip."""
        ...

    def write_cosignature(self, witness: str, size: int, note: str) -> None:
        """Insert what a witness signed at that size, or replace it."""
        ...

    def delete_cosignature(self, witness: str, size: int) -> None:
        """Remove what a witness signed at that size, if there is something."""
        ...

    def write_meta(self, name: str, value: str) -> None:
        """Insert a fact about the log."""
        ...


class LogStore(Protocol):
    """A log with transactions of its own."""

    def reading(self) -> AbstractContextManager[LogReader]:
        """One moment's view: a proof must not mix two states of the log.

        Raises:
            LogUnavailable: When the store cannot be read.
        """
        ...

    def writing(self) -> AbstractContextManager[LogStorage]:
        """A transaction, durable when the block was left normally, without trace otherwise.

        Raises:
            LogUnavailable: When it could not begin or commit. After a failed commit either may be
                true; `audit.journal` finds out.
        """
        ...

    def close(self) -> None:
        """Release connections and files."""
        ...


def write_parts(storage: LogStorage, append: Append) -> None:
    """Write an append part by part, for a store where that costs nothing more."""
    storage.write_leaves(append.first, append.leaves)
    storage.write_hashes(append.nodes)
    storage.write_checkpoint(append.size, append.note)
    if append.superseded is not None:
        storage.delete_checkpoint(append.superseded)


def read_leaf(storage: LogReader, position: int) -> Leaf:
    """The clear fields and the sealed payload of an entry.

    Raises:
        NotFound: When there is no such entry.
        LogTampered: When its bytes are no entry, or are those of another one.
    """
    data = storage.read_leaf(position)
    if data is None:
        raise NotFound(f"the log has no entry {position}")
    return parse_stored(position, data)


def parse_stored(position: int, data: object) -> Leaf:
    """The entry in bytes that a log holds at a position.

    Raises:
        LogTampered: When they are no entry, or are those of another one.
    """
    if not isinstance(data, bytes):
        raise LogTampered(f"entry {position} is not stored as bytes", fix="run: audit verify")
    try:
        leaf = Leaf.parse(data)
    except MalformedInput as error:
        raise LogTampered(f"entry {position}: {error}", fix="run: audit verify") from error
    if leaf.position != position:
        raise LogTampered(f"entry {position} says that it is entry {leaf.position}")
    return leaf


def prove_entry(
    storage: LogReader, position: int, *, with_leaf: bool, note: str | None = None
) -> Proof:
    """Prove an entry from the stored hashes. Needs no key.

    Args:
        storage: The log.
        position: The entry.
        with_leaf: Put the entry's bytes into the proof's extra line.
        note: The log's checkpoint to prove it against; by default the latest stored one.

    Raises:
        NotFound: When there is no such entry.
        LogTampered: When a stored hash is missing.
    """
    note = latest_head(storage)[0] if note is None else note
    size = read_checkpoint(note).size

    def compute(read_hash: HashReader) -> tuple[bytes, ...]:
        return inclusion_proof(read_hash, position, size)

    wanted = _wanted(compute)
    leaf, found = storage.read_proof(position, wanted)
    if leaf is None:
        raise NotFound(f"the log has no entry {position}")
    hashes = _checked(wanted, found)
    path = compute(lambda level, index: hashes[level, index])
    return Proof(position, path, note, leaf if with_leaf else None)


def latest_head(storage: LogReader) -> tuple[str, int]:
    """The checkpoint note of the whole log, and the number of entries that are stored.

    Raises:
        NotFound: When there is no log.
    """
    note, size = storage.head()
    if note is None:
        raise NotFound("this database holds no log", fix="create the log first")
    return note, size


def with_hashes(storage: LogReader, compute: Callable[[HashReader], _Computed]) -> _Computed:
    """What `compute` makes of stored hashes, all of which are read in one go.

    Args:
        storage: The log.
        compute: Reads hashes and computes with them. It is called twice: which ones it reads must
            not depend on what they are.

    Raises:
        LogTampered: When a hash is missing or short.
    """
    wanted = _wanted(compute)
    hashes = _checked(wanted, storage.read_hashes(wanted))
    return compute(lambda level, index: hashes[level, index])


def stored_root(storage: LogReader, size: int) -> bytes:
    """Root hash of the first `size` entries.

    Raises:
        LogTampered: When a stored hash is missing.
    """
    return with_hashes(storage, lambda read_hash: root(read_hash, size))


def _wanted(compute: Callable[[HashReader], object]) -> list[tuple[int, int]]:
    """The nodes that a computation reads, each once."""
    wanted: dict[tuple[int, int], None] = {}

    def note(level: int, index: int) -> bytes:
        wanted[level, index] = None
        return EMPTY_ROOT

    compute(note)
    return list(wanted)


def _checked(
    nodes: Sequence[tuple[int, int]], hashes: Sequence[object]
) -> dict[tuple[int, int], bytes]:
    checked: dict[tuple[int, int], bytes] = {}
    for node, value in zip(nodes, hashes, strict=True):
        if not isinstance(value, bytes) or len(value) != HASH_BYTES:
            raise LogTampered(f"the stored hash of level {node[0]}, index {node[1]} is missing")
        checked[node] = value
    return checked
