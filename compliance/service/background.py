"""Work that goes on beside the service for as long as it serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from audit.errors import FiduciaryError
from compliance.service.process_log import event, logger


@contextmanager
def beside(
    name: str, serve: Callable[[], None], stop: Callable[[], None], stop_seconds: float
) -> Iterator[None]:
    """Run something in a thread of its own until the block ends.

    Args:
        name: The thread's name.
        serve: The work; it returns soon after `stop` was called.
        stop: Asks it to end.
        stop_seconds: How long it is waited for.
    """
    thread = threading.Thread(target=serve, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(stop_seconds)


class Recurring:
    """Does something again and again until it is stopped. No failure ends it.

    Args:
        work: What to do; it says itself what came of it.
        failed: The event that a failure is, in `compliance.event_kinds`.
        undone: What was not done then, for the process's log.
        seconds: How long to wait from one time to the next.
        first_seconds: How long to wait before the first.
        on_failure: Told that it failed.
        wait: Waits so many seconds; True when there is to be no further time. The default waits
            for `stop`.
    """

    def __init__(
        self,
        work: Callable[[], None],
        *,
        failed: str,
        undone: str,
        seconds: float,
        first_seconds: float = 0.0,
        on_failure: Callable[[], None] | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._work = work
        self._failed = failed
        self._undone = undone
        self._seconds = seconds
        self._first_seconds = first_seconds
        self._on_failure = on_failure
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait

    def serve(self) -> None:
        """Do it until `stop`."""
        if self._first_seconds and self._wait(self._first_seconds):
            return
        while True:
            try:
                self._work()
            except FiduciaryError as error:
                # One line for an operator; a stack is for what nobody expects.
                self._tell(error.code, f"{error}. {error.fix}")
            except Exception as error:  # noqa: BLE001  its text may quote what was sealed
                self._tell(FiduciaryError.code, type(error).__name__)
            if self._wait(self._seconds):
                return

    def stop(self) -> None:
        """Let it end after what has begun."""
        self._stopped.set()

    @contextmanager
    def beside(self, name: str, stop_seconds: float) -> Iterator[None]:
        """Inside the block it is done in a thread of that name."""
        with beside(name, self.serve, self.stop, stop_seconds):
            yield

    def _tell(self, code: str, why: str) -> None:
        logger.error("%s: %s", self._undone, why, extra=event(self._failed, code=code))
        if self._on_failure is not None:
            self._on_failure()
