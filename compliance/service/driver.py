"""Statements that never differ, given to the database's driver without SQLAlchemy's work on them.

Every call asks who calls, and every change appends to the log: for such a statement SQLAlchemy
takes several times as long as the driver does. So these few go past it; all others do not.

* The connection, its transaction and its errors are SQLAlchemy's own: it is told what the driver
  raised, and makes of it what it always does.
* Texts and numbers go in and come out as the driver has them; listeners to SQLAlchemy's statements
  are not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from audit.sql_log import SqlCursor

_IN_TRANSACTION: Final = 2
"""libpq's PQTRANS_INTRANS; 3 is a transaction that failed, which a commit would undo silently."""


class Driver:
    """The driver below a connection.

    Args:
        connection: In the transaction that the statements belong to, if there is to be one.

    Attributes:
        allows: Told each statement before it is run; raises to refuse it.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.allows: Callable[[str], None] | None = None
        self._driver: Any = connection.connection.dbapi_connection
        # As text, octets would take three times as long.
        self._options = {} if connection.dialect.name == "sqlite" else {"binary": True}

    def execute(
        self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /
    ) -> SqlCursor:
        """Run one statement; without parameters, PostgreSQL takes several in one go.

        Raises:
            SQLAlchemyError: As SQLAlchemy raises what the driver says.
        """
        if self.allows is not None:
            self.allows(query)
        given = (query, parameters) if parameters else (query,)
        options = self._options if parameters else {}
        try:
            cursor: SqlCursor = self._driver.execute(*given, **options)
        except Exception as error:  # noqa: BLE001  which ones are the driver's, it knows
            # Private, but the one place that tells a lost connection from a failed statement.
            self.connection._handle_dbapi_exception(error, query, None, None, None)
        return cursor

    def check_transaction(self) -> None:
        """Refuse a transaction that the database has given up, whoever caught its error.

        SQLite ends one by itself when its disk is full; PostgreSQL answers a commit with `ROLLBACK`
        and no error. This asks neither.

        Raises:
            OperationalError: Then.
        """
        inside = getattr(self._driver, "in_transaction", None)  # of sqlite3
        if inside is None:
            inside = int(self._driver.info.transaction_status) == _IN_TRANSACTION
        if not inside:
            raise outcome_unknown("the database ended the transaction")


def outcome_unknown(what: str) -> OperationalError:
    """The error of a commit of which nobody can know whether it happened."""
    return OperationalError("COMMIT", None, RuntimeError(what))


def driver_of(database: Session | Connection) -> Driver:
    """The driver below a connection, or below a session's."""
    if isinstance(database, Connection):
        return Driver(database)
    return getattr(database, "driver", None) or Driver(database.connection())


class Fixed:
    """A statement of SQLAlchemy's, put together once for each kind of database.

    Args:
        statement: Its parameters that are not given here have values.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._texts: dict[str, tuple[str, Mapping[str, Any], Sequence[str] | None]] = {}

    def run(self, database: Session | Connection, values: Mapping[str, Any]) -> SqlCursor:
        """Run it. A session's pending changes are written first, as SQLAlchemy does.

        Raises:
            SQLAlchemyError: As `Driver.execute`.
        """
        if isinstance(database, Session):
            database.flush()
        driver = driver_of(database)
        dialect = driver.connection.dialect
        known = self._texts.get(dialect.name)
        if known is None:
            compiled: Any = self._statement.compile(dialect=dialect)
            known = self._texts[dialect.name] = (
                str(compiled),
                compiled.params,
                compiled.positiontup,
            )
        text, defaults, order = known
        given = {**defaults, **values}
        return driver.execute(text, given if order is None else [given[name] for name in order])
