"""Transactions of the service's database.

* A writing transaction begins as one: writers queue at its start and never deadlock half-way. On
  SQLite that is `BEGIN IMMEDIATE`; on PostgreSQL a transaction-level advisory lock. The log has one
  tail, so writers are serial whatever the database offers (docs/adr/0004).
* Writers that come while one commits share the next commit (`shared_transaction`).
* It is durable when `writing()` is left without an exception, and has left no trace otherwise.
* SQLite runs with a write-ahead log and `synchronous=FULL`: a commit survives a power failure.
* PostgreSQL's connections begin no transaction by themselves: `_begin` says which kind, in one
  question together with the lock. A single question needs none.
* Parameters never appear in SQLAlchemy's errors or logs.
* A password is read from the file that the URL names, for each new connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import IO, Any, Final

from sqlalchemy import Connection, Dialect, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from audit.database_address import read_password, split_password_file
from audit.errors import Conflict, FiduciaryError, MalformedInput
from audit.sql_log import POSTGRESQL_LOCK
from compliance.service.driver import Driver
from compliance.service.in_use import alone, share_database, share_folder
from compliance.service.shared_transaction import SharedTransactions

BUSY_TIMEOUT_MILLISECONDS: Final = 10_000
"""How long a writer waits for another process before it gives up with 503."""

POOL_SIZE: Final = 40
"""As many as the thread pool that runs the endpoints, so that no request waits for a connection."""

REST_SECONDS: Final = 1.0
"""How long a connection may lie in the pool without being asked whether it is alive."""

_BEGIN: Final = "fiduciary_begin"
"""Execution option: the statement that begins a transaction of the connection; empty for none."""

_TAIL: Final = "fiduciary_tail"
_SINCE: Final = "fiduciary_rests_since"


class Tail:
    """What a transaction that holds the writers' lock knows of the log's end.

    Attributes:
        head: The last note and the size, as `LogReader.head` tells them; None when they must be
            asked for.
    """

    def __init__(self) -> None:
        self.head: tuple[str | None, int] | None = None


class ServiceSession(Session):
    """A session of the service.

    Attributes:
        driver: For statements that never differ (`service.driver`).
        changed: Whether a mapped row was added, changed or deleted.
    """

    def __init__(self, connection: Connection, **options: Any) -> None:
        super().__init__(connection, expire_on_commit=False, **options)
        self.connection()  # makes its savepoint now: the driver would not
        self.driver = Driver(connection)
        self.changed = False

    @property
    def tail(self) -> Tail:
        """What is known of the log's end."""
        tail = self.driver.connection.get_execution_options().get(_TAIL)
        return tail if isinstance(tail, Tail) else Tail()


@event.listens_for(ServiceSession, "after_flush")
def _note_change(session: ServiceSession, _context: object) -> None:
    session.changed = session.changed or bool(session.new or session.dirty or session.deleted)


class Database:
    """The service's database.

    Args:
        url: SQLAlchemy URL, perhaps with `password_file` (`audit.database_address`). A relative
            SQLite path is relative to `folder`.
        folder: The compliance folder.

    Raises:
        MalformedInput: When the URL is none, its driver is not installed, or the file that it names
            holds no password.
        NotFound: When there is no such file.
    """

    def __init__(self, url: str, folder: Path) -> None:
        url, password_file = split_password_file(url)
        try:
            address = make_url(url)
            address.get_dialect().import_dbapi()
        except (ArgumentError, ModuleNotFoundError) as error:
            raise MalformedInput(
                f"database_url cannot be used: {type(error).__name__}",
                fix="write it as SQLAlchemy does, and install its driver, for example psycopg",
            ) from error
        self._sqlite = address.get_backend_name() == "sqlite"
        if self._sqlite and password_file is not None:
            raise MalformedInput(
                "database_url cannot be used: SQLite has no password",
                fix="leave password_file out of database_url",
            )
        options: dict[str, Any] = {"hide_parameters": True}
        if self._sqlite:
            path = Path(address.database or "compliance.sqlite")
            address = address.set(database=str(path if path.is_absolute() else folder / path))
            self._begin_writing, self._begin_reading = "BEGIN IMMEDIATE", "BEGIN"
        else:
            options["isolation_level"] = "AUTOCOMMIT"
            self._begin_writing = f"BEGIN; {POSTGRESQL_LOCK}"
            self._begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ"
        self._engine = create_engine(
            address, pool_size=POOL_SIZE, max_overflow=POOL_SIZE, **options
        )
        event.listen(
            self._engine, "connect", _configure_sqlite if self._sqlite else _configure_postgresql
        )
        event.listen(self._engine, "begin", _begin)
        dialect: Any = self._engine.dialect
        dialect.do_savepoint, dialect.do_release_savepoint = _savepoint, _keep_savepoint
        if not self._sqlite:  # a connection to a server may have died in the pool
            rested = _Rested(self._engine.dialect)
            event.listen(self._engine, "checkin", rested.begin)
            event.listen(self._engine, "checkout", rested.end)
        if password_file is not None:
            event.listen(self._engine, "do_connect", _PasswordFile(password_file))
        self._shared = SharedTransactions(
            lambda: self._engine.connect().execution_options(
                **{_BEGIN: self._begin_writing, _TAIL: Tail()}
            )
        )

        self._folder = folder
        self._shares: IO[str] | None = None

    def serve(self) -> None:
        """Keep the tables where they are until `close` (`service.in_use`).

        Raises:
            Conflict: When they are being moved.
        """
        if not self._sqlite:
            event.listen(self._engine, "connect", share_database)
        self._shares = share_folder(self._folder)

    def alone(self) -> AbstractContextManager[None]:
        """No service runs on the database inside the block.

        Raises:
            Conflict: When one does.
        """
        return alone(self._folder, self._engine.execution_options(**{_BEGIN: ""}))

    @property
    def engine(self) -> Engine:
        """The engine, for schema work and tests."""
        return self._engine

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A writing transaction in which tables may be made again, with their rows.

        SQLite makes a table again by dropping it, which its references would forbid: they are not
        looked at until all is done, and then all of them are.

        Raises:
            SQLAlchemyError: When it cannot begin or commit.
            Conflict: When a row refers to one that is not there. Nothing was changed.
        """
        options = {_BEGIN: self._begin_writing}
        with self._engine.connect().execution_options(**options) as connection:
            if self._sqlite:
                connection.detach()  # nobody else gets a connection that does not look
                cursor = connection.connection.cursor()
                cursor.execute("PRAGMA foreign_keys = OFF")
                cursor.close()
            with connection.begin():
                yield connection
                if self._sqlite:
                    _check_references(connection)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only view of one moment: a proof must not mix two states of the log."""
        options = {_BEGIN: self._begin_reading}
        with (
            self._engine.connect().execution_options(**options) as connection,
            Session(connection) as session,
        ):
            try:
                yield session
            finally:
                session.rollback()

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """For single questions, whose answers need not be of one moment.

        Without a transaction a server is asked once, not three times.
        """
        with self._engine.connect().execution_options(**{_BEGIN: ""}) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[ServiceSession]:
        """A transaction that is committed when the block is left normally, else rolled back.

        Raises:
            SQLAlchemyError: When it cannot begin or commit. After a failed commit nothing may be
                assumed; repeating the operation is safe because operations are idempotent.
        """
        with (
            self._shared.member() as (connection, follows),
            ServiceSession(
                connection,
                join_transaction_mode="create_savepoint" if follows else "rollback_only",
            ) as session,
        ):
            try:
                yield session
                session.flush()
                session.driver.check_transaction()
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
        if self._shares is not None:
            self._shares.close()


class _Rested:
    """Asks a connection that has lain in the pool for a while whether it is alive.

    Each question is a round trip. A connection that died a moment ago fails where it is used, and
    the operation is done again (`service.repeating`).
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def begin(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """The connection goes to the pool."""
        record.info[_SINCE] = monotonic()

    def end(self, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        """It comes out of it.

        Raises:
            DisconnectionError: When it is dead: the pool makes another one.
        """
        if monotonic() - record.info.get(_SINCE, monotonic()) < REST_SECONDS:
            return
        try:
            self._dialect.do_ping(connection)
        except self._dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error


class _PasswordFile:
    """Gives each new connection the password that is in the file now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._password = read_password(path)

    def __call__(self, _dialect: Any, _record: Any, _arguments: Any, options: Any) -> None:
        # While it is being replaced the last one is tried; the server says whether it still holds.
        with suppress(FiduciaryError, OSError):
            self._password = read_password(self._path)
        options["password"] = self._password


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


def _check_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise Conflict(
            f"a row of {broken[0]} refers to one of {broken[2]} that is not there",
            fix="restore the database from a backup: `compliance restore`",
        )


def _begin(connection: Connection) -> None:
    begin = connection.get_execution_options().get(_BEGIN, "BEGIN")
    if begin:
        Driver(connection).execute(begin)


def _savepoint(connection: Connection, name: str) -> None:
    Driver(connection).execute(f"SAVEPOINT {name}")


def _keep_savepoint(_connection: Connection, _name: str) -> None:
    """Nothing: savepoints end with their transaction, and to release one is another question."""
