"""Ending `client start` at once and cleanly, at any point.

* Ctrl-C and SIGTERM set a flag. Where nothing durable is being written (training, waiting for a
  task, sleeping) they also interrupt the work at once, so that a long step cannot delay the end.
* While the ledger, the journal or a reply is being written nothing is interrupted; the flag is seen
  right after. A second signal, or `GRACE_SECONDS`, ends even that, as a kill would, and the ledger
  is made for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

GRACE_SECONDS = 4.0
"""How long a farewell to a coordinator that does not answer may take."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class Stopped(BaseException):
    """The operator asked this process to end. Not an error, so nothing may swallow it."""


class StopSignal:
    """Turns signals into a clean end. A context manager; install it in the main thread only."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._interruptible = False
        self._changed = threading.Event()
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the operator asked this process to end."""
        return self._received is not None

    @property
    def received(self) -> signal.Signals | None:
        """The first signal that came."""
        return self._received

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal end the block at once with `Stopped`. Nothing durable is written in it."""
        self._interruptible = True
        try:
            self.check()
            yield
        finally:
            self._interruptible = False

    def check(self) -> None:
        """Raise `Stopped` when the end was asked for."""
        if self.requested:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, and end at once when asked to."""
        with self.interruptible():
            self._changed.wait(seconds)
        self.check()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        again = self.requested
        if not again:
            self._received = signal.Signals(number)
            self._changed.set()
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS, GRACE_SECONDS)
        if again or self._interruptible:
            raise Stopped
