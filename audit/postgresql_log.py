"""A log in a PostgreSQL database, through psycopg (extra `postgresql`).

* Appenders take one transaction-level advisory lock before they read the size; readers see one
  moment (`REPEATABLE READ`, read only) and never wait for them.
* A commit is durable when it returned: where the server's default is weaker, this connection's
  `synchronous_commit` is set to `on`.
* A lost connection is replaced at the next transaction. A commit during which it was lost may or
  may not have happened: `audit.journal` finds out.
* The tables are those of the compliance service, in the first schema of the `search_path`.
* An address may name a file with the password (`audit.database_address`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, Self

from audit.database_address import read_password, split_password_file
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound
from audit.source import LogDamaged, LogSource, SqlSource
from audit.sql_log import TABLES, PostgresLogStorage, SqlCursor
from audit.storage import META_ORIGIN, LogReader, LogStorage, LogUnavailable, LogUnreachable

try:
    import psycopg
    from psycopg import sql
    from psycopg.pq import TransactionStatus
except ModuleNotFoundError as error:
    raise FiduciaryError(
        "a log in PostgreSQL needs the package psycopg, which is not installed",
        fix="pip install 'fiduciary[postgresql]'",
    ) from error

SCHEMA: Final = (
    "CREATE TABLE log_entries (position BIGINT PRIMARY KEY, leaf BYTEA NOT NULL)",
    "CREATE TABLE log_nodes (place BIGINT PRIMARY KEY, hash BYTEA NOT NULL)",
    "CREATE TABLE log_checkpoints (size BIGINT PRIMARY KEY, note TEXT NOT NULL)",
    "CREATE TABLE log_cosignatures (witness VARCHAR(200) NOT NULL, size BIGINT NOT NULL,"
    " note TEXT NOT NULL, PRIMARY KEY (witness, size))",
    "CREATE TABLE log_meta (name VARCHAR(40) PRIMARY KEY, value TEXT NOT NULL)",
)
"""The tables of a log, one statement each."""

CONNECT_SECONDS: Final = 10
"""How long a server may take to answer before it counts as unreachable."""

_BEGIN_READING: Final = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITING: Final = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

_STREAM_ROWS: Final = 2000
"""Rows that a server-side cursor fetches at a time: about 2 MB of entries."""


class _Connection:
    """`audit.sql_log.SqlConnection` over psycopg, which spells a parameter `%b`.

    Args:
        connection: Commits by itself what is outside a transaction.
        begin: Begins a transaction together with the first statement, which saves a round trip if
            it has no parameters; None where the caller began one.
    """

    def __init__(self, connection: psycopg.Connection[Any], begin: bytes | None = None) -> None:
        self._connection = connection
        self._begin = begin

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> SqlCursor:
        """Run one statement."""
        begin, self._begin = self._begin, None
        if begin is not None:
            if not parameters:
                cursor = self._connection.execute(b"%b; %b" % (begin, query.encode()))
                cursor.nextset()
                return cursor
            self._connection.execute(begin)
        return self._connection.execute(_spelled(query), parameters, binary=True)


class PostgresStore:
    """`audit.storage.LogStore` in a PostgreSQL database. Safe under threads and processes.

    Args:
        address: `postgresql://user:password@host/database`, as libpq reads it.
    """

    def __init__(self, address: str) -> None:
        self._address = libpq_address(address)
        self._connection: psycopg.Connection[Any] | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._busy = False

    @classmethod
    @contextmanager
    def create(cls, address: str) -> Iterator[Self]:
        """Make the tables of a new log, which stay when the block is left normally.

        Raises:
            Conflict: When the database holds a log already.
            LogUnavailable: When it cannot be used.
        """
        store = cls(address)
        try:
            try:
                with store._writing() as connection:
                    for statement in SCHEMA:
                        connection.execute(statement)
            except LogUnavailable as error:
                if isinstance(error.__cause__, psycopg.errors.DuplicateTable):
                    raise Conflict(
                        "this database holds a log already", fix="choose another database"
                    ) from error
                raise
            try:
                yield store
            except BaseException:
                store._drop()
                raise
        finally:
            store.close()

    @classmethod
    def open(cls, address: str) -> Self:
        """Open a store.

        Raises:
            LogUnavailable: When the server does not answer.
            NotFound: When the database holds no log.
        """
        store = cls(address)
        try:
            with store.reading() as storage:
                origin = storage.read_meta(META_ORIGIN)
        except LogUnavailable as error:
            store.close()
            if not isinstance(error.__cause__, psycopg.errors.UndefinedTable):
                raise
            origin = None
        if origin is None:
            store.close()
            raise NotFound("this database holds no log", fix="check the address")
        return store

    @contextmanager
    def reading(self) -> Iterator[LogReader]:
        """One moment's view."""
        with self._using() as connection:
            yield PostgresLogStorage(_Connection(connection, _BEGIN_READING))
            if connection.info.transaction_status != TransactionStatus.IDLE:
                _check_committed(self._commit(connection))

    @contextmanager
    def writing(self) -> Iterator[LogStorage]:
        """A transaction that begins with the appenders' lock."""
        with self._writing() as connection:
            storage = PostgresLogStorage(_Connection(connection))
            storage.lock()
            yield storage

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    def _commit(self, connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
        """Ask for a commit; in a pipeline, whose end waits for the answer."""
        return connection.execute(b"COMMIT")

    def _drop(self) -> None:
        with self._writing() as connection:
            for table in TABLES:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))

    @contextmanager
    def _writing(self) -> Iterator[psycopg.Connection[Any]]:
        with self._using() as connection:
            with connection.pipeline():  # statements whose answer nobody reads are not waited for
                connection.execute(_BEGIN_WRITING)
                yield connection
                commit = self._commit(connection)
            _check_committed(commit)

    @contextmanager
    def _using(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, for one thread; a transaction that is left by an error is undone."""
        with self._lock:
            if self._busy:
                raise LogUnavailable("this thread is in a transaction of the journal already")
            self._busy = True
            try:
                connection = self._connected()
                try:
                    yield connection
                except BaseException:
                    if not connection.closed:
                        connection.rollback()
                    raise
            except psycopg.Error as error:
                raise LogUnavailable(
                    f"the journal's database cannot be used: {_first_line(error)}",
                    fix="check that the server runs and has space, then try again",
                ) from error
            finally:
                self._busy = False

    def _connected(self) -> psycopg.Connection[Any]:
        if self._closed:
            raise LogUnavailable("the journal is closed")
        if self._connection is None or self._connection.closed:
            self._connection = _connect(self._address)
        return self._connection


def libpq_address(address: str) -> str:
    """An address as libpq reads it; SQLAlchemy's form names the driver too.

    >>> libpq_address("postgresql+psycopg://anna@host/database")
    'postgresql://anna@host/database'
    """
    scheme, separator, rest = address.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


@contextmanager
def open_postgresql_source(address: str) -> Iterator[LogSource]:
    """A log in a database, at one moment, streamed by server-side cursors.

    Raises:
        LogUnreachable: When the server does not answer.
        MalformedInput: When the database holds no log.
    """
    numbers = count()
    try:
        with _connect(libpq_address(address)) as connection:
            connection.execute(_BEGIN_READING)
            row = connection.execute("SELECT to_regclass('log_meta')").fetchone()
            if row is None or row[0] is None:
                raise MalformedInput(
                    "this database holds no log: no table log_meta",
                    fix="give the database of the compliance service",
                )

            def stream(query: str, parameters: tuple[Any, ...]) -> Iterator[Any]:
                name = f"fiduciary_{next(numbers)}"
                try:
                    with connection.cursor(name, binary=True) as cursor:
                        cursor.execute(_spelled(query), parameters)
                        while rows := cursor.fetchmany(_STREAM_ROWS):
                            yield from rows
                except psycopg.errors.DataError as error:
                    raise LogDamaged(f"the database is damaged: {_first_line(error)}") from error

            old = connection.execute("SELECT to_regclass('log_hashes')").fetchone()
            yield SqlSource(
                stream, PostgresLogStorage(_Connection(connection)), first_format=old != (None,)
            )
            connection.rollback()
    except psycopg.Error as error:
        raise LogUnreachable(
            f"the database cannot be read: {_first_line(error)}",
            fix="check the address and that the server runs",
        ) from error


def _connect(address: str) -> psycopg.Connection[Any]:
    address, password_file = split_password_file(address)
    connection = psycopg.connect(
        address,
        password=None if password_file is None else read_password(password_file),
        autocommit=True,  # transactions are begun and ended by statements
        connect_timeout=CONNECT_SECONDS,
        application_name="fiduciary",
        client_encoding="utf8",  # a server without an encoding would otherwise answer in bytes
    )
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
    )
    return connection


def _check_committed(commit: psycopg.Cursor[Any]) -> None:
    """PostgreSQL answers the commit of a failed transaction with `ROLLBACK`, and no error."""
    if commit.statusmessage != "COMMIT":
        raise LogUnavailable("the journal's database rolled the transaction back", fix="try again")


def _spelled(query: str) -> bytes:
    return query.replace("?", "%b").encode()  # binary: bytes as text take three times as long


def _first_line(error: psycopg.Error) -> str:
    """What happened, without the statement and its parameters."""
    return (str(error) or type(error).__name__).split("\n", 1)[0]
