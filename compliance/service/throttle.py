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

from compliance.service.connections import caller_address

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
        """Count one failure of `address` and say how to treat it; of IPv6, of its /64."""
        caller = caller_address(address)
        with self._lock:
            failures = self._failures.get(caller)
            if failures is None or now - failures.since >= self._window:
                failures = self._failures[caller] = _Failures(now, 0)
            failures.count += 1
            self._failures.move_to_end(caller)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            if failures.count <= self._max_failures:
                return Verdict.ANSWER
            if failures.count == self._max_failures + 1:
                return Verdict.LIMIT_AND_LOG
            return Verdict.LIMIT


MAX_FILINGS: Final = 20
"""Requests that one address may file in an hour: a help desk's, and no flood of the log."""

MAX_LOOKUPS: Final = 60
"""Questions with a receipt code that one address may ask in a minute, right or wrong alike."""


class PublicThrottle:
    """Counts what anybody may do without a token, whether it succeeds or not."""

    def __init__(self, filings: int = MAX_FILINGS, lookups: int = MAX_LOOKUPS) -> None:
        self._filings = Throttle(filings, timedelta(hours=1))
        self._lookups = Throttle(lookups, timedelta(minutes=1))

    def may_file(self, address: str, now: datetime) -> bool:
        """Count one filing of `address` and say whether it is one too many."""
        return self._filings.failed(address, now) is Verdict.ANSWER

    def may_look(self, address: str, now: datetime) -> bool:
        """Count one question of `address` and say whether it is one too many."""
        return self._lookups.failed(address, now) is Verdict.ANSWER


MAX_VISITS: Final = 1200
"""Reads without a token that one address may make in a minute: a monitor's, many times over."""

MAX_KNOCKS: Final = 120
"""Attempts to enrol, to log in or to file that one address may make in a minute."""

MAX_CALLS: Final = 12_000
"""Calls of one principal in a minute: more than any command makes, less than stops the others."""

MAX_REFUSALS: Final = 1000
"""Refusals of one principal in a minute. Each is a log entry: a broken script must not fill it."""


class Rates:
    """Counts what each address does without a token, and each principal with one."""

    def __init__(
        self,
        visits: int = MAX_VISITS,
        knocks: int = MAX_KNOCKS,
        calls: int = MAX_CALLS,
        refusals: int = MAX_REFUSALS,
    ) -> None:
        self._visits = Throttle(visits)
        self._knocks = Throttle(knocks)
        self._calls = Throttle(calls)
        self._refusals = Throttle(refusals)

    def visited(self, address: str, method: str, now: datetime) -> Verdict:
        """Count one call without a token and say how to treat it."""
        throttle = self._visits if method in ("GET", "HEAD") else self._knocks
        return throttle.failed(address, now)

    def called(self, principal: str, now: datetime) -> Verdict:
        """Count one call of a principal and say how to treat it."""
        return self._calls.failed(principal, now)

    def refused(self, principal: str, now: datetime) -> Verdict:
        """Count one refusal of a principal and say how to treat it."""
        return self._refusals.failed(principal, now)
