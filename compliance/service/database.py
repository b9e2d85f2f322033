"""Transactions of the service's database.

* A writing transaction begins as one: writers queue at its start and never deadlock half-way. On
  SQLite that is `BEGIN IMMEDIATE`; on PostgreSQL a transaction-level advisory lock. The log has one
  tail, so writers are serial whatever the database offers (docs/adr/0004).
* Writers that come while one commits share the next commit (`shared_transaction`).
* It is durable when `writing()` is left without an exception, and has left no trace otherwise.
* SQLite runs with a write-ahead log and `synchronous=FULL`: a commit survives a power failure.
* Parameters never appear in SQLAlchemy's errors or logs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from audit.errors import MalformedInput
from audit.sql_log import POSTGRESQL_LOCK
from compliance.service.shared_transaction import SharedTransactions
from compliance.service.tables import Base

BUSY_TIMEOUT_MILLISECONDS: Final = 10_000
"""How long a writer waits for another process before it gives up with 503."""

POOL_SIZE: Final = 40
"""As many as the thread pool that runs the endpoints, so that no request waits for a connection."""

_WRITING: Final = "fiduciary_writing"


class Database:
    """The service's database.

    Args:
        url: SQLAlchemy URL. A relative SQLite path is relative to `folder`.
        folder: The compliance folder.

    Raises:
        MalformedInput: When the URL is none, or its driver is not installed.
    """

    def __init__(self, url: str, folder: Path) -> None:
        try:
            address = make_url(url)
            address.get_dialect().import_dbapi()
        except (ArgumentError, ModuleNotFoundError) as error:
            raise MalformedInput(
                f"database_url cannot be used: {type(error).__name__}",
                fix="write it as SQLAlchemy does, and install its driver, for example psycopg",
            ) from error
        options: dict[str, Any] = {"hide_parameters": True, "pool_pre_ping": True}
        self._sqlite = address.get_backend_name() == "sqlite"
        if self._sqlite:
            path = Path(address.database or "compliance.sqlite")
            address = address.set(database=str(path if path.is_absolute() else folder / path))
        self._engine = create_engine(
            address, pool_size=POOL_SIZE, max_overflow=POOL_SIZE, **options
        )
        event.listen(
            self._engine, "connect", _configure_sqlite if self._sqlite else _configure_postgresql
        )
        event.listen(self._engine, "begin", _begin)
        self._shared = SharedTransactions(
            lambda: self._engine.connect().execution_options(**{_WRITING: True})
        )

    @property
    def engine(self) -> Engine:
        """The engine, for schema work and tests."""
        return self._engine

    def create_tables(self) -> None:
        """Make the tables of an empty database."""
        with self._engine.connect() as connection, connection.begin():
            Base.metadata.create_all(connection)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only view of one moment: a proof must not mix two states of the log."""
        with self._engine.connect() as plain:
            options = {} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
            with Session(plain.execution_options(**options)) as session:
                try:
                    yield session
                finally:
                    session.rollback()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed when the block is left normally, else rolled back.

        Raises:
            SQLAlchemyError: When it cannot begin or commit. After a failed commit nothing may be
                assumed; repeating the operation is safe because operations are idempotent.
        """
        with (
            self._shared.member() as connection,
            Session(
                connection,
                autoflush=True,
                expire_on_commit=False,
                join_transaction_mode="create_savepoint",
            ) as session,
        ):
            try:
                yield session
                session.commit()
            except BaseException:
                session.rollback()
                raise

    def answers(self) -> bool:
        """Whether the database can be read."""
        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: `_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _configure_postgresql(connection: Any, _record: object) -> None:
    """A commit that was answered is on the server's disk, whatever its default is."""
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
    )
    cursor.close()
    connection.commit()


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get(_WRITING, False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
    elif writing:
        lock_writers(connection)


def lock_writers(connection: Connection) -> None:
    """Keep other writers out until the transaction ends. Safe to repeat."""
    if connection.dialect.name != "sqlite":  # there, BEGIN IMMEDIATE has done it
        connection.exec_driver_sql(POSTGRESQL_LOCK)
