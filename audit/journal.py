"""A log that is written to entry by entry, by many at once, and never loses what it acknowledged.

* `record` returns only when its entry is durable. Concurrent calls share one transaction and one
  signed tree head (`audit.group_commit`); an entry that cannot be recorded fails alone.
* A commit that fails tells nobody whether it was stored. The journal then looks for the tree that
  was signed in the stored one, to which others may have appended meanwhile: if it is there,
  everything is durable and the calls return; if it is not, nothing is, and they raise. An entry is
  so never recorded twice by a caller that repeats what failed. Only when the store cannot even be
  read is the outcome unknown, and the error says so.
* A journal that cannot be written raises; the caller must then not do what it wanted recorded.
* Where it is kept is a `LogStore`: an SQLite file unless another is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

from audit.checkpoint import read_checkpoint
from audit.errors import FiduciaryError
from audit.group_commit import GroupCommit
from audit.key_manager import DataKeys
from audit.keys import SigningKey, VerifyKey
from audit.leaf import Leaf
from audit.log import Appended, AuditLog, Entry, utc_clock
from audit.sqlite_log import SqliteStore
from audit.storage import META_ORIGIN, LogStore, LogUnavailable, read_leaf, stored_root

_Appended = list[Appended]


FIRST_LOOK_ENTRIES = 8
PAGE_ENTRIES = 500


class Leaves(Protocol):
    """What `newest_first` reads."""

    def size(self) -> int:
        """Number of entries."""
        ...

    def leaves(self, after: int = -1, limit: int = 1000) -> list[Leaf]:
        """Entries that follow a position, in order."""
        ...


def newest_first(journal: Leaves) -> Iterator[Leaf]:
    """Entries from the newest back, in pages: what is looked for was mostly written just now."""
    end, length = journal.size(), FIRST_LOOK_ENTRIES
    while end > 0:
        start = max(0, end - length)
        yield from reversed(journal.leaves(start - 1, end - start))
        end, length = start, min(2 * length, PAGE_ENTRIES)


class Journal:
    """A durable log with a transaction for whatever is recorded at the same time.

    Args:
        store: Where it is kept; holds a log already.
        log: Name and keys of that log.

    Attributes:
        on_append: Told the seconds that each call waited until its entries were durable.

    Raises:
        FiduciaryError: As `AuditLog.check`, when the stored log is not that one.
    """

    on_append: Callable[[float], None] | None = None

    def __init__(self, store: LogStore, log: AuditLog) -> None:
        self._store = store
        self._log = log
        self._commits: GroupCommit[tuple[Entry, ...], _Appended] = GroupCommit(self._commit)
        with store.reading() as storage:
            log.check(storage)

    @classmethod
    def create(
        cls,
        path: Path,
        origin: str,
        signer: SigningKey,
        keys: DataKeys,
        clock: Callable[[], datetime] = utc_clock,
    ) -> Self:
        """Begin a new journal in an SQLite file.

        Args:
            path: File to make; its directory must exist.
            origin: Unique name of the log, such as `fiduciary.example/site/north`.
            signer: Signs the checkpoints.
            keys: Data keys of the payloads.
            clock: The present time, with a zone.

        Raises:
            Conflict: When the file exists.
        """
        log = AuditLog(origin, signer, keys, clock)
        with SqliteStore.create(path) as store, store.writing() as storage:
            log.create(storage)
        return cls.open(path, signer, keys, clock)

    @classmethod
    def open(
        cls,
        path: Path,
        signer: SigningKey,
        keys: DataKeys,
        clock: Callable[[], datetime] = utc_clock,
    ) -> Self:
        """Open a journal in an SQLite file and check that its head is what was signed.

        Raises:
            NotFound: When there is no such file.
            MalformedInput: When it is no journal.
            Conflict: When it was begun with another key.
            VerificationFailed: When it was tampered with.
        """
        return cls.over(SqliteStore.open(path), signer, keys, clock)

    @classmethod
    def over(
        cls,
        store: LogStore,
        signer: SigningKey,
        keys: DataKeys,
        clock: Callable[[], datetime] = utc_clock,
    ) -> Self:
        """A journal over any store that holds a log. Closes the store, also when this fails.

        Raises:
            FiduciaryError: As `open`.
        """
        try:
            with store.reading() as storage:
                origin = storage.read_meta(META_ORIGIN) or "unknown"
            return cls(store, AuditLog(origin, signer, keys, clock))
        except BaseException:
            store.close()
            raise

    @property
    def origin(self) -> str:
        """Name of the log."""
        return self._log.origin

    @property
    def key(self) -> VerifyKey:
        """The key that verifies the journal."""
        return self._log.key

    def record(self, entry: Entry) -> Appended:
        """Append an entry; it is durable when this returns.

        Raises:
            LogUnavailable: When it could not be made durable.
            KeyDestroyed: When the entry's subject was forgotten.
            LogTampered: When the journal is not what was signed last.
            MalformedInput: When the payload cannot be recorded.
        """
        return self._append((entry,))[0]

    def record_many(self, entries: Iterable[Entry]) -> list[Appended]:
        """Append entries in one transaction: all of them are durable, or none is there.

        Raises:
            FiduciaryError: As `record`.
        """
        return self._append(tuple(entries))

    def _append(self, entries: tuple[Entry, ...]) -> list[Appended]:
        began = time.perf_counter()
        appended = self._commits.submit(entries)
        if self.on_append is not None:
            self.on_append(time.perf_counter() - began)
        return appended

    def size(self) -> int:
        """Number of entries."""
        with self._store.reading() as storage:
            return storage.size()

    def read(self, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload; see `AuditLog.read`."""
        with self._store.reading() as storage:
            return self._log.read(storage, position)

    def leaves(self, after: int = -1, limit: int = 1000) -> list[Leaf]:
        """Up to `limit` entries that follow position `after`, in order."""
        with self._store.reading() as storage:
            end = min(storage.size(), after + 1 + limit)
            return [read_leaf(storage, position) for position in range(after + 1, end)]

    def checkpoint(self) -> str:
        """The signed checkpoint of the whole journal."""
        with self._store.reading() as storage:
            return self._log.checkpoint(storage)

    def prove(self, position: int, *, with_leaf: bool = False) -> str:
        """The tlog-proof text of an entry; see `audit.log.prove_entry`."""
        with self._store.reading() as storage:
            return self._log.prove(storage, position, with_leaf=with_leaf)

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """Proof that the journal of `first` entries is a prefix of that of `second`."""
        with self._store.reading() as storage:
            return self._log.consistency(storage, first, second)

    def close(self) -> None:
        """Release the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self, turn: list[tuple[Entry, ...]]) -> list[_Appended | FiduciaryError]:
        """Make one turn durable, or find out whether it is."""
        signed: str | None = None
        results: list[_Appended | FiduciaryError] = []
        try:
            with self._store.writing() as storage:
                results, signed = self._log.append_each(storage, turn)
        except LogUnavailable as error:
            if signed is None or not self._is_stored(signed, error):
                raise
        return results

    def _is_stored(self, signed: str, error: LogUnavailable) -> bool:
        """Whether the log contains the tree that was signed, after a commit that failed."""
        head = read_checkpoint(signed)
        try:
            with self._store.reading() as storage:
                if storage.size() < head.size:
                    return False
                return stored_root(storage, head.size) == head.root
        except FiduciaryError as unreadable:
            raise LogUnavailable(
                f"the journal failed while it was written ({error}) and cannot be read:"
                " whether the entry was stored is not known",
                fix=f"{error.fix}; then look for the entry before repeating it",
            ) from unreadable
