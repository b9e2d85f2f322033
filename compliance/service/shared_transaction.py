"""Concurrent changes share one durable transaction, each whole or not at all.

A commit waits for the disk. Changes that arrive meanwhile join the next transaction one after the
other, and the last of them commits for all. Each but the first is in a savepoint of its own: before
the first there is nothing to keep.

* Changes are serial: one at a time holds the baton, and sees what those before it did.
* Nobody is told that a change is done before the commit that holds it is durable. When that commit
  fails, every change in it failed.
* A change that fails is undone, to its savepoint if it has one, and ends its transaction: what was
  done before it is committed, what waits begins a new one. A failure hurts nobody else, and never
  leaves a connection that somebody goes on with.
* A lone change pays for one transaction, as if there were no sharing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from compliance.service.driver import Driver, outcome_unknown

MAX_MEMBERS: Final = 16
"""Changes in one transaction: enough to share a sync, few enough to keep everybody's wait short."""


class _Turn:
    """One transaction that several changes share."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._transaction = connection.begin()
        self._done = threading.Event()
        self._error: SQLAlchemyError | None = None
        self.members = 0
        self.closed = False

    def finish(self) -> None:
        """Commit what the members did, and tell them."""
        try:
            if self.members == 0:
                if self._transaction.is_active:  # else the one member has rolled it back
                    self._transaction.rollback()
            else:
                Driver(self.connection).check_transaction()
                self._transaction.commit()
        except SQLAlchemyError as error:
            self._error = error
            self.connection.invalidate()  # closing it undoes what may be left
        except BaseException:
            self._error = outcome_unknown("interrupted")
            self.connection.invalidate()
            raise
        finally:
            self.connection.close()
            self._done.set()

    def wait(self) -> None:
        """Until the commit is durable.

        Raises:
            SQLAlchemyError: When it failed.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error


class SharedTransactions:
    """Hands the baton from change to change.

    Args:
        connect: Opens a connection whose transaction will be a writer's.
        max_members: Most changes in one transaction.
    """

    def __init__(self, connect: Callable[[], Connection], max_members: int = MAX_MEMBERS) -> None:
        self._connect = connect
        self._max_members = max_members
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()
        self._turn: _Turn | None = None  # whoever holds the baton may look at it

    @contextmanager
    def member(self) -> Iterator[tuple[Connection, bool]]:
        """Take part in a transaction; it is durable when the block was left and this returned.

        The block gets a connection, and whether it is not the first: then it works in a savepoint,
        which it releases or rolls back itself. The first rolls the transaction back.

        Raises:
            SQLAlchemyError: When the transaction cannot begin or commit.
        """
        self._take()
        turn = self._turn
        try:
            if turn is None:
                turn = self._turn = _Turn(self._connect())
            try:
                yield turn.connection, turn.members > 0
                turn.members += 1
            except BaseException:
                turn.closed = True
                raise
        finally:
            self._leave(turn)
        turn.wait()

    def _take(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()
        except BaseException:
            with self._mutex:
                given = mine not in self._waiting
                if not given:
                    self._waiting.remove(mine)
            if given:
                self._leave(self._turn)
            raise

    def _leave(self, turn: _Turn | None) -> None:
        try:
            if turn is not None and not self._may_go_on(turn):
                self._turn = None
                turn.finish()
        finally:
            with self._mutex:
                if self._waiting:
                    self._waiting.popleft().release()
                else:
                    self._held = False

    def _may_go_on(self, turn: _Turn) -> bool:
        with self._mutex:
            return bool(self._waiting) and not turn.closed and turn.members < self._max_members
