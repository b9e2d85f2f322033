"""A log in an SQLite file.

* A transaction is durable when it was committed: write-ahead log, `synchronous=FULL`.
* Appenders of all threads and processes queue for the write lock before they read the size, so no
  position is used twice; readers see one moment and never wait for them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from audit.durable import private_temporary, publish_durably
from audit.errors import Conflict, MalformedInput, NotFound
from audit.sql_log import SqlLogStorage, bring_up_to_date
from audit.storage import (
    FIRST_LOG_FORMAT,
    META_FORMAT,
    META_ORIGIN,
    LogReader,
    LogStorage,
    LogUnavailable,
)

SCHEMA: Final = (
    "CREATE TABLE log_entries (position INTEGER PRIMARY KEY, leaf BLOB NOT NULL)",
    "CREATE TABLE log_nodes (place INTEGER PRIMARY KEY, hash BLOB NOT NULL)",
    "CREATE TABLE log_checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
    "CREATE TABLE log_cosignatures (witness TEXT NOT NULL, size INTEGER NOT NULL,"
    " note TEXT NOT NULL, PRIMARY KEY (witness, size)) WITHOUT ROWID",
    "CREATE TABLE log_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
"""The tables of a log, one statement each. The compliance service has the same ones."""

BUSY_TIMEOUT_SECONDS: Final = 30.0
"""How long an appender waits for others; far more than any transaction of ours takes."""


class SqliteStore:
    """`audit.storage.LogStore` in one SQLite file (mode 0600). Safe under threads and processes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use `create` or `open`."""
        self._connection = connection
        self._storage = SqlLogStorage(connection, lock=None)  # BEGIN IMMEDIATE takes it
        self._lock = threading.RLock()
        self._busy = False

    @classmethod
    @contextmanager
    def create(cls, path: Path) -> Iterator[Self]:
        """A new store, which gets its name when the block is left normally.

        Raises:
            Conflict: When the file exists.
        """
        temporary = private_temporary(path)
        try:
            store = cls(_connect(temporary))
            try:
                with store._transaction("BEGIN IMMEDIATE"):
                    for statement in SCHEMA:
                        store._connection.execute(statement)
                yield store
            finally:
                store.close()
            publish_durably(temporary, path)
        except FileExistsError as error:
            raise Conflict(f"{path} exists already", fix="choose another file") from error
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a store.

        Raises:
            NotFound: When there is no such file.
            MalformedInput: When it holds no log.
        """
        if not path.is_file():
            raise NotFound(f"no journal at {path}")
        try:
            connection = _connect(path)
        except sqlite3.Error as error:
            raise MalformedInput(f"{path} is not a journal: {error}") from error
        storage = SqlLogStorage(connection)
        try:
            origin, format_ = storage.read_meta(META_ORIGIN), storage.read_meta(META_FORMAT)
        except sqlite3.Error:
            origin = None
        if origin is None:
            connection.close()
            raise MalformedInput(f"{path} is not a journal: it has no origin")
        store = cls(connection)
        if format_ == FIRST_LOG_FORMAT:
            try:
                with store._transaction("BEGIN IMMEDIATE"):
                    bring_up_to_date(store._storage, connection, SCHEMA)
            except BaseException:
                store.close()
                raise
        return store

    @contextmanager
    def reading(self) -> Iterator[LogReader]:
        """One moment's view."""
        with self._transaction("BEGIN"):
            yield self._storage

    @contextmanager
    def writing(self) -> Iterator[LogStorage]:
        """A transaction that begins with the write lock."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield self._storage

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._lock:
            if self._busy:
                raise LogUnavailable("this thread is in a transaction of the journal already")
            self._busy = True
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")  # which failed before
                self._connection.execute(begin)
                try:
                    yield
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise LogUnavailable(
                    f"the journal cannot be used: {error}",
                    fix="check the disk's free space and the file's permissions, then try again",
                ) from error
            finally:
                self._busy = False


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # Of a new file: an append fills whole pages, and half as many are written and summed up.
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
