"""Failed attempts, counted per address.

* It slows guessing and keeps a flood of bad tokens from filling the log. It is no access control:
  tokens have 256 bits, and a valid one works however many others failed from the same address, so
  that nobody can lock a site out from behind the same gateway.
* `MAX_FAILURES` failures in `WINDOW` are answered and logged one by one; the next is answered 429
  and logged once; the rest are answered 429 until the window has passed.
* Memory is bounded: the address that failed longest ago is forgotten first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

MAX_FAILURES: Final = 30
"""Many more than a person mistypes, far fewer than a guess needs."""

WINDOW: Final = timedelta(minutes=1)

MAX_ADDRESSES: Final = 10_000


class Verdict(Enum):
    """How to treat one more failure."""

    ANSWER = "answer"
    LIMIT_AND_LOG = "limit-and-log"
    LIMIT = "limit"


@dataclass
class _Failures:
    since: datetime
    count: int


class Throttle:
    """Counts failures; safe under threads."""

    def __init__(self, max_failures: int = MAX_FAILURES, window: timedelta = WINDOW) -> None:
        self._max_failures = max_failures
        self._window = window
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def failed(self, address: str, now: datetime) -> Verdict:
        """Count one failure of `address` and say how to treat it."""
        with self._lock:
            failures = self._failures.get(address)
            if failures is None or now - failures.since >= self._window:
                failures = self._failures[address] = _Failures(now, 0)
            failures.count += 1
            self._failures.move_to_end(address)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            if failures.count <= self._max_failures:
                return Verdict.ANSWER
            if failures.count == self._max_failures + 1:
                return Verdict.LIMIT_AND_LOG
            return Verdict.LIMIT
