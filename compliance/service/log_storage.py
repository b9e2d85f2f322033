"""The log's view of one of the service's transactions (`audit.storage.LogStorage`).

* It uses the caller's session, so an entry is committed with the change that it describes. The
  statements are those of `audit.sql_log`, on the session's own connection (`service.driver`).
* A transaction that writes holds the writers' lock from its beginning. What it appended last is
  therefore the log's end, and is not asked for again: changes that share a transaction read the
  stored head once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from audit.sql_log import PostgresLogStorage, SqlConnection, SqlCursor, SqlLogStorage
from audit.storage import Append
from compliance.service.database import ServiceSession, Tail
from compliance.service.driver import driver_of


class SessionConnection:
    """`audit.sql_log.SqlConnection` over a session."""

    def __init__(self, session: Session) -> None:
        self._driver = driver_of(session)
        self._marker = "?" if session.get_bind().dialect.paramstyle == "qmark" else "%b"

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> SqlCursor:
        """Run one statement in the session's transaction."""
        return self._driver.execute(query.replace("?", self._marker), tuple(parameters))


def session_log(session: Session) -> SqlLogStorage:
    """The log over a session that `Database.writing` or `Database.reading` began."""
    connection = SessionConnection(session)
    tail = session.tail if isinstance(session, ServiceSession) else Tail()
    sqlite = session.get_bind().dialect.name == "sqlite"
    return _Tailed(connection, tail) if sqlite else _PostgresTailed(connection, tail)


class _Tailed(SqlLogStorage):
    """Over a transaction that sees one moment, or took the writers' lock when it began."""

    def __init__(self, connection: SqlConnection, tail: Tail) -> None:
        super().__init__(connection, lock=None)
        self._tail = tail

    def head(self) -> tuple[str | None, int]:
        """The last note and the number of entries."""
        if self._tail.head is None:
            self._tail.head = super().head()
        return self._tail.head

    def write_append(self, append: Append) -> None:
        """All of an append, which is the log's end from here on."""
        self._tail.head = None  # in case that it fails
        super().write_append(append)
        self._tail.head = append.note, append.size

    def write_checkpoint(self, size: int, note: str) -> None:
        """Insert or replace the checkpoint of that size."""
        self._tail.head = None
        super().write_checkpoint(size, note)

    def delete_checkpoint(self, size: int) -> None:
        """Remove the checkpoint of that size."""
        self._tail.head = None
        super().delete_checkpoint(size)

    def write_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        """Insert entries."""
        self._tail.head = None
        super().write_leaves(first, leaves)


class _PostgresTailed(_Tailed, PostgresLogStorage):
    """The same over a connection to PostgreSQL."""
