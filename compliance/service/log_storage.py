"""The log's view of one of the service's transactions (`audit.log.LogStorage`).

It uses the caller's session, so an entry is committed with the change that it describes. The
statements are those of `audit.sqlite_log`, written so that PostgreSQL runs them too.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from audit.merkle import Node
from compliance.service.database import lock_writers
from compliance.service.tables import LogCheckpointRow, LogEntryRow, LogHashRow, LogMetaRow


class SqlLogStorage:
    """`LogStorage` over a session that `Database.writing` or `Database.reading` began."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self) -> None:
        """Keep other appenders out; `Database.writing` has done so already."""
        lock_writers(self._session.connection())

    def size(self) -> int:
        """Number of entries."""
        highest = self._session.scalar(select(func.max(LogEntryRow.position)))
        return 0 if highest is None else highest + 1

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        return self._session.scalar(
            select(LogEntryRow.leaf).where(LogEntryRow.position == position)
        )

    def write_leaf(self, position: int, leaf: bytes) -> None:
        """Insert an entry; the primary key refuses a position that is taken."""
        self._session.execute(
            insert(LogEntryRow.__table__).values(position=position, leaf=leaf)  # type: ignore[arg-type]
        )

    def read_hash(self, level: int, index: int) -> bytes | None:
        """The hash of node `(level, index)`."""
        return self._session.scalar(
            select(LogHashRow.hash).where(LogHashRow.level == level, LogHashRow.position == index)
        )

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        """Insert nodes; the primary key refuses one that exists."""
        rows = [{"level": level, "position": index, "hash": node} for level, index, node in nodes]
        if rows:
            self._session.execute(insert(LogHashRow.__table__), rows)  # type: ignore[arg-type]

    def latest_checkpoint(self) -> str | None:
        """The checkpoint note of the largest size."""
        return self._session.scalar(
            select(LogCheckpointRow.note).order_by(LogCheckpointRow.size.desc()).limit(1)
        )

    def write_checkpoint(self, size: int, note: str) -> None:
        """Insert or replace the checkpoint of that size."""
        self.delete_checkpoint(size)
        self._session.execute(
            insert(LogCheckpointRow.__table__).values(size=size, note=note)  # type: ignore[arg-type]
        )

    def delete_checkpoint(self, size: int) -> None:
        """Remove the checkpoint of that size."""
        self._session.execute(
            delete(LogCheckpointRow.__table__).where(LogCheckpointRow.size == size)  # type: ignore[arg-type]
        )

    def read_meta(self, name: str) -> str | None:
        """A fact about the log."""
        return self._session.scalar(select(LogMetaRow.value).where(LogMetaRow.name == name))

    def write_meta(self, name: str, value: str) -> None:
        """Insert a fact about the log."""
        self._session.execute(
            insert(LogMetaRow.__table__).values(name=name, value=value)  # type: ignore[arg-type]
        )
