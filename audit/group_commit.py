"""Concurrent callers share one durable transaction, and none is answered before it is durable.

The first caller that finds nobody at work leads: it takes what is waiting, commits all of it at
once, and answers everybody. Whoever came meanwhile waits for the next turn, whose first caller
leads it. So a lone caller pays for one transaction, and the cost of a sync is shared by as many as
there are. There is no thread of its own and no lost wake-up to fear:

* An item is committed in exactly one turn, in the order of arrival.
* `submit` returns when the turn that held the item has returned, with the item's own result.
* Callers that were just answered often come back at once. A leader that has had company gives it a
  moment to arrive, no longer than the last commit took, so that all share one transaction instead
  of forming two groups that wait for each other. A lone caller waits for nobody.
* A caller that is interrupted while it waits takes its item back if no turn has it yet, and hands
  the lead on if it was given it: the others never wait for somebody who left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from audit.storage import LogUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_TURN: Final = 256
"""Items in one transaction: enough to share a sync, few enough to keep everybody's wait short."""

MAX_PATIENCE_SECONDS: Final = 0.005
"""How long a leader waits for its company, if the last commit took as long."""


class _Waiting(Generic[Item, Result]):
    __slots__ = ("error", "item", "leads", "result", "woken")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.woken = threading.Lock()  # the cheapest thing that a thread can wait for
        self.woken.acquire()
        self.leads = False
        self.result: Result | None = None
        self.error: BaseException | None = None


class GroupCommit(Generic[Item, Result]):
    """Runs `commit` over what concurrent callers submit, one turn at a time.

    Args:
        commit: Makes the items durable, all in one transaction, and returns a result for each, in
            order: a value, or an exception for an item that was left out. When it raises, every
            item of the turn failed.
        max_turn: Most items in one turn.
    """

    def __init__(
        self,
        commit: Callable[[list[Item]], Sequence[Result | Exception]],
        max_turn: int = MAX_TURN,
    ) -> None:
        self._commit = commit
        self._max_turn = max_turn
        self._mutex = threading.Lock()
        self._queue: list[_Waiting[Item, Result]] = []
        self._led = False
        self._company = 1  # callers that were here when the last turn ended
        self._took = 0.0  # seconds that the last commit took
        self._gathering: threading.Lock | None = None  # released when the company is complete

    def submit(self, item: Item) -> Result:
        """Hand in an item and wait until it is durable.

        Raises:
            Exception: What `commit` raised, or what it returned for this item.
        """
        mine: _Waiting[Item, Result] = _Waiting(item)
        try:
            with self._mutex:
                self._queue.append(mine)
                if not self._led:
                    self._led = mine.leads = True
                elif len(self._queue) >= self._company:
                    gathering, self._gathering = self._gathering, None
                    if gathering is not None:
                        gathering.release()
            if not mine.leads:
                mine.woken.acquire()
            if mine.leads:
                self._lead()
        except BaseException:
            self._leave(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return mine.result  # type: ignore[return-value]  # set where there is no error

    def _lead(self) -> None:
        turn: list[_Waiting[Item, Result]] = []
        try:
            self._gather()
            with self._mutex:
                turn = self._queue[: self._max_turn]
                del self._queue[: self._max_turn]
            started = time.perf_counter()
            results = self._commit([waiting.item for waiting in turn])
            self._took = time.perf_counter() - started
            for waiting, result in zip(turn, results, strict=True):
                if isinstance(result, Exception):
                    waiting.error = result
                else:
                    waiting.result = result
        except Exception as error:  # noqa: BLE001  everybody in the turn is told
            for waiting in turn:
                waiting.error = error
        except BaseException:
            for waiting in turn:
                waiting.error = LogUnavailable(
                    "the transaction was interrupted; whether it was stored is not known",
                    fix="look for the entry before repeating it",
                )
            raise
        finally:
            self._company = min(len(turn) + len(self._queue), self._max_turn)
            self._hand_on()
            for waiting in turn:
                if not waiting.leads:
                    waiting.woken.release()

    def _gather(self) -> None:
        """Wait a moment for whoever was here when the last turn ended."""
        if len(self._queue) >= self._company:
            return
        gathering = threading.Lock()
        gathering.acquire()
        with self._mutex:
            if len(self._queue) >= self._company:
                return
            self._gathering = gathering
        try:
            gathering.acquire(timeout=min(self._took, MAX_PATIENCE_SECONDS))
        finally:
            with self._mutex:
                self._gathering = None

    def _hand_on(self) -> None:
        """Give the lead to whoever has waited longest, before anybody is answered."""
        with self._mutex:
            if self._queue:
                self._queue[0].leads = True
                self._queue[0].woken.release()
            else:
                self._led = False

    def _leave(self, mine: _Waiting[Item, Result]) -> None:
        """An interrupted caller: it must not be waited for."""
        with self._mutex:
            if mine not in self._queue:
                return  # its turn ran, or runs in another thread: only the outcome is not awaited
            self._queue.remove(mine)
            leads = mine.leads
        if leads:
            self._hand_on()
