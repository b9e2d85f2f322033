"""The log's view of one of the service's transactions (`audit.storage.LogStorage`).

It uses the caller's session, so an entry is committed with the change that it describes. The
statements are those of `audit.sql_log`; SQLAlchemy carries them, so that its errors, its connection
and its transaction are the service's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from audit.sql_log import PostgresLogStorage, SqlCursor, SqlLogStorage


class SessionConnection:
    """`audit.sql_log.SqlConnection` over a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._marker = "?" if session.get_bind().dialect.paramstyle == "qmark" else "%b"

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> SqlCursor:
        """Run one statement in the session's transaction."""
        connection = self._session.connection()
        return connection.exec_driver_sql(query.replace("?", self._marker), tuple(parameters))


def session_log(session: Session) -> SqlLogStorage:
    """The log over a session that `Database.writing` or `Database.reading` began."""
    connection = SessionConnection(session)
    sqlite = session.get_bind().dialect.name == "sqlite"
    return SqlLogStorage(connection) if sqlite else _LockedAlready(connection)


class _LockedAlready(PostgresLogStorage):
    """Over a transaction that took the writers' lock when it began (`service.database`)."""

    def lock(self) -> None:
        """Nothing: another question to the database for what is so already."""
