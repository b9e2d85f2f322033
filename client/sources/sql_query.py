"""The rows of one SQL query, over SQLAlchemy: streamed, and in a connection that cannot write.

* Only databases are read whose sessions can be made read-only: PostgreSQL, MySQL and MariaDB, and
  SQLite. Another is refused, rather than trusted to be asked nicely.
* MySQL and MariaDB let such a session set variables of the server and write files: there, what does
  not begin as a query does, or writes into a file, is refused before it is sent.
* PostgreSQL and MySQL answer from one snapshot each time the query is read.
* A password comes from a file or the environment and is given to the driver alone. A URL that
  holds one is refused: commands are kept in histories and process lists.
* What the database's driver says may hold values of rows, or the address: it is never repeated,
  but for the SQLSTATE, the error's number and its kind.

SQLAlchemy is imported here alone, and is an extra (`pip install fiduciary[sql]`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audit.errors import MalformedInput, NotFound, Refused, Unreachable
from client.tables import MalformedTable, Row, positions_of, row_of

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine

PASSWORD_ENVIRONMENT: Final = "FIDUCIARY_SQL_PASSWORD"  # noqa: S105 - its name, not its value

ROWS_AT_ONCE: Final = 500
"""Fetched from the database in one go."""

MAX_QUERY_BYTES: Final = 1024 * 1024

READ_ONLY: Final = ("postgresql", "mysql", "mariadb", "sqlite")
"""Dialects whose sessions this module can make read-only."""


_MYSQL: Final = ("mysql", "mariadb")

_QUERY = re.compile(
    r"(?:\s|\(|--\s[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*(?!!).*?\*/)*"
    r"(?:SELECT|WITH|TABLE|VALUES)\b",
    re.IGNORECASE | re.DOTALL,
)
"""How a statement begins that answers with rows and changes nothing, after comments."""

_INTO_FILE = re.compile(r"\bINTO\s+(?:OUTFILE|DUMPFILE)\b", re.IGNORECASE)


class DatabaseFailed(Unreachable):
    """The database did not answer the query."""

    code = "database-failed"


class SqlQuery:
    """One query.

    Args:
        url: SQLAlchemy's, without a password.
        query: A SELECT with an ORDER BY, or the path of a file that holds it.
        password: The password; empty for none.

    Raises:
        MalformedInput: When the URL is none, or holds a password.
        Refused: When the database cannot be read without the right to write, or the query writes.
        NotFound: When SQLAlchemy is not installed.
    """

    name = "the query"
    folder: Path | None = None
    usual_columns: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, url: str, query: str, password: str = "") -> None:
        self._url = _read_url(url)
        self._query = _read_query(query)
        self._password = password
        if self._url.get_backend_name() in _MYSQL:
            _check_reads(self._query)

    def rows(self, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Row]:
        """Every row of the answer; see `client.sources.source.Source.rows`."""
        from sqlalchemy import text

        # A colon begins a parameter in SQLAlchemy's text; this query has none.
        statement = text(self._query.replace(":", "\\:"))
        streamed = {"stream_results": True, "max_row_buffer": ROWS_AT_ONCE}
        with (
            self._connected() as connection,
            _own_words(),
            connection.execution_options(**streamed).execute(statement) as answer,
        ):
            if not answer.returns_rows:
                raise MalformedTable("the query answers with no rows", fix="write a SELECT")
            at = positions_of(self.name, list(answer.keys()), columns)
            number = 0
            for number, values in enumerate(answer.yield_per(ROWS_AT_ONCE), start=1):
                record = {
                    name: _plain(values[position])
                    for name, position in zip(columns, at, strict=True)
                }
                yield row_of(self.name, f"row {number}", record, columns, lists)
        if number == 0:
            raise MalformedTable("the query answers with no rows", fix="look for its conditions")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with _own_words():
            engine = self._engine()
            try:
                with engine.connect() as connection:
                    if self._url.get_backend_name() == "postgresql":
                        connection = connection.execution_options(
                            isolation_level="REPEATABLE READ", postgresql_readonly=True
                        )
                    yield connection
            finally:
                engine.dispose()

    def _engine(self) -> Engine:
        import sqlalchemy

        url = self._url.set(password=self._password) if self._password else self._url
        backend = url.get_backend_name()
        if backend == "sqlite" and not Path(url.database or "").is_file():
            raise NotFound("there is no such SQLite file", fix="check the path in the URL")
        try:
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        except ImportError as error:
            raise NotFound(
                f"the driver of {url.drivername} is not installed",
                fix="install it, or name another, such as postgresql+psycopg",
            ) from error

        @sqlalchemy.event.listens_for(engine, "connect")
        def _only_read(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            if backend == "sqlite":
                cursor.execute("PRAGMA query_only = ON")
            elif backend in _MYSQL:
                cursor.execute("SET SESSION TRANSACTION READ ONLY")
            cursor.close()

        return engine


def _read_url(given: str) -> URL:
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise NotFound(
            "SQL queries need SQLAlchemy, which is not installed", fix="pip install fiduciary[sql]"
        ) from error
    try:
        url = make_url(given)
    except ArgumentError as error:
        raise MalformedInput(
            "malformed database URL", fix="write it as postgresql+psycopg://reader@host/database"
        ) from error
    if url.password or "password" in {key.lower() for key in url.query}:
        raise MalformedInput(
            "the database URL holds a password, which histories and process lists would keep",
            fix=f"name a file with --password-file, or set {PASSWORD_ENVIRONMENT}",
        )
    if url.get_backend_name() not in READ_ONLY:
        raise Refused(
            f"sessions of {url.get_backend_name()} cannot be made read-only here",
            fix=f"one of {', '.join(READ_ONLY)}; or export the rows to CSV or Parquet",
        )
    return url


def _read_query(given: str) -> str:
    """The query itself, or what is in the file of that name."""
    if not given.strip():
        raise MalformedInput("no query given", fix="write a SELECT, or name its file, with --query")
    if any(char.isspace() for char in given.strip()):
        return given
    path = Path(given)
    try:
        with path.open("rb") as file:
            return file.read(MAX_QUERY_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"there is no readable file {path.name}", fix="check --query") from error


def _check_reads(query: str) -> None:
    """Refuse what MySQL's read-only sessions let through."""
    if not _QUERY.match(query) or _INTO_FILE.search(query):
        raise Refused(
            "the query does not begin as one, or writes into a file",
            fix="write a SELECT, or WITH … SELECT, without INTO OUTFILE",
        )


def read_password(path: Path | None, environment: Mapping[str, str]) -> str:
    """The password out of a file, else out of the environment, else none.

    Raises:
        NotFound: When the file cannot be read.
    """
    if path is None:
        return environment.get(PASSWORD_ENVIRONMENT, "")
    try:
        return path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(
            f"the password file {path.name} cannot be read", fix="check the path and its rights"
        ) from error


@contextmanager
def _own_words() -> Iterator[None]:
    """Errors of the database without what its driver says."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        original = getattr(error, "orig", None)
        state = getattr(original, "sqlstate", None) or ""
        told = [type(original or error).__name__, state and f"SQLSTATE {state}"]
        number = next(iter(getattr(original, "args", ())), None)
        if isinstance(number, int):  # as MySQL's drivers tell it
            told.append(f"error {number}")
        raise DatabaseFailed(
            f"the database did not answer the query ({', '.join(filter(None, told))})",
            fix="try the query with the database's own client, as the same user; an ingest goes on"
            " where it stopped when its command is given again",
        ) from None  # the driver's own words may hold values


def _plain(value: object) -> object:
    """A database's value as text or a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value
