"""Recording what must be provable later; without that evidence nothing goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from audit.errors import Unreachable
from audit.statement import SignedStatement
from server.rounds import Stopped

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 15.0


class Recorder(Protocol):
    """Who records what must be provable later: the part of `compliance.api` that a run needs."""

    def report_round(self, plan_id: str, statement: SignedStatement) -> object:
        """Record a round's signed report, once.

        Raises:
            Unreachable: When it is not recorded; it is sent again.
        """

    def report_outcome(self, plan_id: str, statement: SignedStatement) -> object:
        """Record how the run ended, likewise."""


class Recording:
    """Repeats a call until the compliance service answers.

    Args:
        recorder: The compliance service.
        stop: Set when the coordinator is asked to stop.
        note: Told, in words, what is waited for.
    """

    def __init__(
        self, recorder: Recorder, stop: threading.Event, note: Callable[[str], None]
    ) -> None:
        self._recorder = recorder
        self._stop = stop
        self._note = note

    def round(self, plan_id: str, statement: SignedStatement) -> None:
        """Record a round's report; raises as `until_answered` does."""
        self.until_answered(lambda: self._recorder.report_round(plan_id, statement))

    def outcome(self, plan_id: str, statement: SignedStatement) -> None:
        """Record how a run ended; raises as `until_answered` does."""
        self.until_answered(lambda: self._recorder.report_outcome(plan_id, statement))

    def until_answered(self, call: Callable[[], object]) -> None:
        """Repeat any call until it is answered.

        Raises:
            Stopped: When the coordinator was asked to stop before that.
        """
        backoff_seconds, told = FIRST_BACKOFF_SECONDS, False
        while True:
            try:
                call()
            except Unreachable as error:
                if not told:
                    self._note(f"waiting for compliance: {error}")
                    told = True
                if self._stop.wait(backoff_seconds):
                    raise Stopped from error
                backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)
            else:
                return
