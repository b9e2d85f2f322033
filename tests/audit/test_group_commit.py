"""Concurrent callers share a turn: each item once, in order, and nobody waits for who left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from audit.group_commit import GroupCommit
from audit.storage import LogUnavailable
from tests.audit.storage_contract import run_together

SECONDS = 30


class Store:
    """What a commit makes durable. A commit can be held up, and made to fail."""

    def __init__(self, max_turn: int = 256) -> None:
        self.turns: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.fail: BaseException | None = None
        self.commits: GroupCommit[int, str] = GroupCommit(self._commit, max_turn)

    def _commit(self, turn: list[int]) -> Sequence[str | Exception]:
        self.begun.release()
        assert self.gate.wait(SECONDS)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self.turns.append(turn)
        return [ValueError(str(item)) if item < 0 else f"done {item}" for item in turn]

    def queue_behind(self, items: Sequence[int], first: int = 0) -> dict[int, object]:
        """Submit `first`, hold its commit up, submit the others behind it in order, let go."""
        outcomes: dict[int, object] = {}
        self.gate.clear()
        threads = [self.start(first, outcomes)]
        assert self.begun.acquire(timeout=SECONDS)
        for count, item in enumerate(items, start=1):
            threads.append(self.start(item, outcomes))
            self.wait_for_queue(count)
        assert outcomes == {}
        self.gate.set()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        return outcomes

    def start(self, item: int, outcomes: dict[int, object]) -> threading.Thread:
        def run() -> None:
            try:
                outcomes[item] = self.commits.submit(item)
            except BaseException as error:  # noqa: BLE001  judged by the test
                outcomes[item] = error

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def wait_for_queue(self, length: int) -> None:
        for _ in range(20_000):
            if len(self.commits._queue) >= length:
                return
            threading.Event().wait(0.001)
        pytest.fail("nobody came")


def test_a_lone_caller_has_a_turn_of_its_own() -> None:
    store = Store()
    assert [store.commits.submit(item) for item in (1, 2, 3)] == ["done 1", "done 2", "done 3"]
    assert store.turns == [[1], [2], [3]]


def test_whoever_waits_shares_the_next_turn_in_order_of_arrival() -> None:
    store = Store()
    outcomes = store.queue_behind([5, 3, 9, 1])
    assert store.turns == [[0], [5, 3, 9, 1]]
    assert outcomes == {item: f"done {item}" for item in (0, 5, 3, 9, 1)}


def test_a_turn_has_a_limit() -> None:
    store = Store(max_turn=3)
    store.queue_behind(range(1, 9))
    assert store.turns == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]


def test_an_item_that_is_left_out_fails_alone() -> None:
    store = Store()
    outcomes = store.queue_behind([1, -2, 3])
    assert isinstance(outcomes.pop(-2), ValueError)
    assert outcomes == {0: "done 0", 1: "done 1", 3: "done 3"}


def test_a_commit_that_fails_fails_its_turn_and_no_other() -> None:
    store = Store()
    store.fail = OSError("disk")
    outcomes = store.queue_behind([1, 2])
    assert isinstance(outcomes.pop(0), OSError)
    assert outcomes == {1: "done 1", 2: "done 2"}
    assert store.commits.submit(3) == "done 3"


def test_a_leader_that_is_interrupted_does_not_take_the_others_with_it() -> None:
    """Its own turn is told that the outcome is unknown; who waits is led by somebody else."""
    store = Store(max_turn=2)
    store.gate.clear()
    outcomes: dict[int, object] = {}
    threads = [store.start(0, outcomes)]
    assert store.begun.acquire(timeout=SECONDS)
    for count, item in enumerate((1, 2, 3), start=1):
        threads.append(store.start(item, outcomes))
        store.wait_for_queue(count)
    store.fail = KeyboardInterrupt()
    store.gate.set()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert isinstance(outcomes[0], KeyboardInterrupt)
    assert {outcomes[item] for item in (1, 2, 3)} == {"done 1", "done 2", "done 3"}


def test_members_of_an_interrupted_turn_are_told_that_the_outcome_is_unknown() -> None:
    store = Store()
    original = store.commits._commit

    def interrupt_second_turn(turn: list[int]) -> Sequence[str | Exception]:
        if turn != [0]:
            store.fail = KeyboardInterrupt()
        return original(turn)

    store.commits._commit = interrupt_second_turn
    outcomes = store.queue_behind([1, 2])
    assert outcomes[0] == "done 0"
    assert isinstance(outcomes[1], KeyboardInterrupt)  # it led
    assert isinstance(outcomes[2], LogUnavailable)
    assert "not known" in str(outcomes[2])


class Interrupted(BaseException):
    """What a signal handler raises in a thread that waits."""


class InterruptedLock:
    """A lock whose waiter is interrupted, before or just after it was woken."""

    def __init__(self, lock: threading.Lock, *, after: bool) -> None:
        self._lock = lock
        self._after = after

    def acquire(self) -> bool:
        if self._after:
            self._lock.acquire()
        raise Interrupted

    def release(self) -> None:
        self._lock.release()


@pytest.mark.parametrize("after", [False, True], ids=["before it is woken", "just after"])
def test_a_waiter_that_is_interrupted_is_not_waited_for(
    after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it was just given the lead: it hands it on."""
    import audit.group_commit as module

    class Waiting(module._Waiting):  # type: ignore[type-arg]
        __slots__ = ()

        def __init__(self, item: int) -> None:
            super().__init__(item)
            if item == 1:
                self.woken = InterruptedLock(self.woken, after=after)  # type: ignore[assignment]

    monkeypatch.setattr(module, "_Waiting", Waiting)
    store = Store()
    store.gate.clear()
    outcomes: dict[int, object] = {}
    threads = [store.start(0, outcomes)]
    assert store.begun.acquire(timeout=SECONDS)
    threads.append(store.start(1, outcomes))
    if after:
        store.wait_for_queue(1)
    else:
        threads[1].join(SECONDS)
    for count, item in enumerate((2, 3), start=2 if after else 1):
        threads.append(store.start(item, outcomes))
        store.wait_for_queue(count)
    store.gate.set()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert isinstance(outcomes.pop(1), Interrupted)
    assert outcomes == {0: "done 0", 2: "done 2", 3: "done 3"}
    assert [item for turn in store.turns for item in turn] == [0, 2, 3]
    assert store.commits.submit(4) == "done 4"


class InterruptedMutex:
    """A mutex whose n-th holder is interrupted as it takes it or gives it back."""

    def __init__(self, at: int, *, leaving: bool) -> None:
        self._mutex = threading.Lock()
        self._left = at
        self._leaving = leaving

    def __enter__(self) -> None:
        self._left -= 1
        if self._left == 0 and not self._leaving:
            raise Interrupted
        self._mutex.acquire()

    def __exit__(self, *_: object) -> None:
        self._mutex.release()
        if self._left == 0 and self._leaving:
            self._left = -1
            raise Interrupted


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("at", [1, 2], ids=["as it joins", "as it takes its turn"])
def test_a_caller_that_is_interrupted_before_its_commit_leaves_nothing(
    at: int, leaving: bool
) -> None:
    store = Store()
    store.commits._mutex = InterruptedMutex(at, leaving=leaving)  # type: ignore[assignment]
    with pytest.raises(Interrupted):
        store.commits.submit(1)
    outcomes: dict[int, object] = {}
    thread = store.start(2, outcomes)
    thread.join(SECONDS)
    assert outcomes == {2: "done 2"}
    assert store.turns == [[2]]


def test_many_threads_each_item_exactly_once() -> None:
    store = Store(max_turn=7)
    results: list[str] = []

    def work(thread: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(200):
                item = thread * 1000 + number
                results.append(store.commits.submit(item))
                assert results.count(f"done {item}") <= 1

        return run

    run_together([work(thread) for thread in range(8)])
    flat = [item for turn in store.turns for item in turn]
    assert sorted(flat) == sorted(thread * 1000 + n for thread in range(8) for n in range(200))
    assert len(results) == 1600
    for thread in range(8):  # of one thread, in order
        own = [item for item in flat if item // 1000 == thread]
        assert own == sorted(own)
