"""A log in an SQLite file, and the journal that a site keeps in one.

* `SqliteLogStorage` is `audit.log.LogStorage` over a connection whose transaction the caller owns.
* `Journal.record` returns only when the entry is durable (write-ahead log, `synchronous=FULL`, one
  transaction each), and is safe under threads and processes: appenders queue for the write lock
  before they read the size, so no position is used twice.
* A journal that cannot be written raises; the caller must then not do what it wanted recorded.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from audit.durable import private_temporary, publish_durably
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound
from audit.key_manager import DataKeys
from audit.keys import SigningKey, VerifyKey
from audit.leaf import Leaf
from audit.log import Appended, AuditLog, Entry, utc_clock
from audit.merkle import Node
from audit.storage import META_ORIGIN, LogTampered, read_leaf

SCHEMA: Final = (
    "CREATE TABLE log_entries (position INTEGER PRIMARY KEY, leaf BLOB NOT NULL)",
    "CREATE TABLE log_hashes (level INTEGER NOT NULL, position INTEGER NOT NULL,"
    " hash BLOB NOT NULL, PRIMARY KEY (level, position)) WITHOUT ROWID",
    "CREATE TABLE log_checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
    "CREATE TABLE log_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
"""The tables of a log, one statement each. The compliance service has the same ones."""

BUSY_TIMEOUT_SECONDS: Final = 30.0
"""How long an appender waits for others; far more than any transaction of ours takes."""


class JournalUnavailable(FiduciaryError):
    """The journal cannot be read or written; what was to be recorded must not happen."""

    code = "journal-unavailable"


class SqliteLogStorage:
    """`LogStorage` over an SQLite connection. The caller begins and ends the transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def lock(self) -> None:
        """Take the write lock, if the caller's transaction does not hold it (BEGIN IMMEDIATE)."""
        # Matches no row and writes no page, but is a write: SQLite takes the lock for it.
        self._connection.execute("DELETE FROM log_checkpoints WHERE size < 0")

    def size(self) -> int:
        """Number of entries."""
        return int(self._one("SELECT coalesce(max(position), -1) + 1 FROM log_entries"))

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        value = self._one("SELECT leaf FROM log_entries WHERE position = ?", position)
        if value is not None and not isinstance(value, bytes):
            raise LogTampered(f"entry {position} is not stored as bytes", fix="run: audit verify")
        return value

    def write_leaf(self, position: int, leaf: bytes) -> None:
        """Insert an entry; the primary key refuses a position that is taken."""
        self._connection.execute("INSERT INTO log_entries VALUES (?, ?)", (position, leaf))

    def read_hash(self, level: int, index: int) -> bytes | None:
        """The hash of node `(level, index)`."""
        value = self._one(
            "SELECT hash FROM log_hashes WHERE level = ? AND position = ?", level, index
        )
        return value if isinstance(value, bytes) else None

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        """Insert nodes; the primary key refuses one that exists."""
        self._connection.executemany("INSERT INTO log_hashes VALUES (?, ?, ?)", nodes)

    def latest_checkpoint(self) -> str | None:
        """The checkpoint note of the largest size."""
        value = self._one("SELECT note FROM log_checkpoints ORDER BY size DESC LIMIT 1")
        return value if isinstance(value, str) else None

    def write_checkpoint(self, size: int, note: str) -> None:
        """Insert or replace the checkpoint of that size."""
        self._connection.execute(
            "INSERT OR REPLACE INTO log_checkpoints VALUES (?, ?)", (size, note)
        )

    def delete_checkpoint(self, size: int) -> None:
        """Remove the checkpoint of that size."""
        self._connection.execute("DELETE FROM log_checkpoints WHERE size = ?", (size,))

    def read_meta(self, name: str) -> str | None:
        """A fact about the log."""
        value = self._one("SELECT value FROM log_meta WHERE name = ?", name)
        return value if isinstance(value, str) else None

    def write_meta(self, name: str, value: str) -> None:
        """Insert a fact about the log."""
        self._connection.execute("INSERT INTO log_meta VALUES (?, ?)", (name, value))

    def _one(self, query: str, *parameters: object) -> Any:
        row = self._connection.execute(query, parameters).fetchone()
        return None if row is None else row[0]


class Journal:
    """A durable log in one SQLite file (mode 0600), with a transaction of its own per record."""

    def __init__(self, connection: sqlite3.Connection, log: AuditLog) -> None:
        """Use `create` or `open`."""
        self._connection = connection
        self._storage = SqliteLogStorage(connection)
        self._log = log
        self._lock = threading.RLock()

    @classmethod
    def create(
        cls,
        path: Path,
        origin: str,
        signer: SigningKey,
        keys: DataKeys,
        clock: Callable[[], datetime] = utc_clock,
    ) -> Journal:
        """Begin a new journal.

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
        temporary = private_temporary(path)
        try:
            with cls(_connect(temporary), log) as journal, journal._transaction():
                for statement in SCHEMA:
                    journal._connection.execute(statement)
                log.create(journal._storage)
            publish_durably(temporary, path)
        except FileExistsError as error:
            raise Conflict(f"{path} exists already", fix="choose another file") from error
        finally:
            temporary.unlink(missing_ok=True)
        return cls.open(path, signer, keys, clock)

    @classmethod
    def open(
        cls,
        path: Path,
        signer: SigningKey,
        keys: DataKeys,
        clock: Callable[[], datetime] = utc_clock,
    ) -> Journal:
        """Open a journal and check that its head is what was signed.

        Raises:
            NotFound: When there is no such file.
            MalformedInput: When it is no journal.
            Conflict: When it was begun with another key.
            VerificationFailed: When it was tampered with.
        """
        if not path.is_file():
            raise NotFound(f"no journal at {path}")
        try:
            connection = _connect(path)
        except sqlite3.Error as error:
            raise MalformedInput(f"{path} is not a journal: {error}") from error
        try:
            origin = SqliteLogStorage(connection).read_meta(META_ORIGIN)
        except sqlite3.Error:
            origin = None
        if origin is None:
            connection.close()
            raise MalformedInput(f"{path} is not a journal: it has no origin")
        journal = cls(connection, AuditLog(origin, signer, keys, clock))
        try:
            with journal._reading():
                journal._log.check(journal._storage)
        except FiduciaryError:
            journal.close()
            raise
        return journal

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
            JournalUnavailable: When it could not be made durable.
            KeyDestroyed: When the entry's subject was forgotten.
            LogTampered: When the journal is not what was signed last.
            MalformedInput: When the payload cannot be recorded.
        """
        with self._transaction():
            return self._log.append(self._storage, entry)

    def record_many(self, entries: Iterable[Entry]) -> list[Appended]:
        """Append entries in one transaction: all of them are durable, or none is there.

        Raises:
            FiduciaryError: As `record`.
        """
        with self._transaction():
            return self._log.append_many(self._storage, entries)

    def size(self) -> int:
        """Number of entries."""
        with self._reading():
            return self._storage.size()

    def read(self, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload; see `AuditLog.read`."""
        with self._reading():
            return self._log.read(self._storage, position)

    def leaves(self, after: int = -1, limit: int = 1000) -> list[Leaf]:
        """Up to `limit` entries that follow position `after`, in order."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT position FROM log_entries WHERE position > ? ORDER BY position LIMIT ?",
                (after, limit),
            ).fetchall()
            return [read_leaf(self._storage, row[0]) for row in rows]

    def checkpoint(self) -> str:
        """The signed checkpoint of the whole journal."""
        with self._reading():
            return self._log.checkpoint(self._storage)

    def prove(self, position: int, *, with_leaf: bool = False) -> str:
        """The tlog-proof text of an entry; see `audit.log.prove_entry`."""
        with self._reading():
            return self._log.prove(self._storage, position, with_leaf=with_leaf)

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """Proof that the journal of `first` entries is a prefix of that of `second`."""
        with self._reading():
            return self._log.consistency(self._storage, first, second)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._scope("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One snapshot for all reads: a proof must not mix two states of the log."""
        with self._scope("BEGIN"):
            yield

    @contextmanager
    def _scope(self, begin: str) -> Iterator[None]:
        with self._lock:
            try:
                self._connection.execute(begin)
                try:
                    yield
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise JournalUnavailable(
                    f"the journal cannot be used: {error}",
                    fix="check the disk's free space and the file's permissions, then try again",
                ) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
