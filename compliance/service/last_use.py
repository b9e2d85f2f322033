"""When each principal last called, so that a key that nobody uses is found and ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from compliance.service.access_tables import LastUseRow
from compliance.service.background import beside
from compliance.service.database import Database
from compliance.statements import format_time

SAVE_SECONDS: Final = 60.0
"""What a crash may forget."""


class LastUses:
    """When each principal last called: in memory, and now and then in the database.

    A write for every read would make each call wait for the disk; so a crash forgets a minute.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unsaved: dict[str, str] = {}

    def note(self, principal: str, now: datetime) -> None:
        """Remember a call."""
        with self._lock:
            self._unsaved[principal] = format_time(now)

    def save(self, database: Database) -> None:
        """Write down what was noted. What cannot be written is kept for the next time."""
        with self._lock:
            uses, self._unsaved = self._unsaved, {}
        if not uses:
            return
        try:
            with database.writing() as session:
                for principal, used_at in uses.items():
                    row = session.get(LastUseRow, principal)
                    if row is None:
                        session.add(LastUseRow(principal=principal, used_at=used_at))
                    elif row.used_at < used_at:
                        row.used_at = used_at
        except SQLAlchemyError:
            with self._lock:
                self._unsaved = uses | self._unsaved

    def of(self, session: Session) -> dict[str, str]:
        """The last use of each principal that ever called."""
        rows = session.execute(select(LastUseRow.principal, LastUseRow.used_at))
        saved = {row.principal: row.used_at for row in rows}
        with self._lock:
            return saved | self._unsaved


@contextmanager
def saving(uses: LastUses, database: Database) -> Iterator[None]:
    """Inside the block, last uses are written down every minute."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(SAVE_SECONDS):
            uses.save(database)

    with beside("last-uses", serve, ended.set, SAVE_SECONDS):
        yield
