"""A limit on what starts within any stretch of time, and what is said of it.

A period's limit is a filter beside the total. When a plan is reserved, what counts is: every round
that started within the last `days` days, every round of any plan that is reserved and has not
started, and the plan itself. The accountant composes all of it; that must be within the limit.

**Formal guarantees.** With a clock that is right when plans are reserved and rounds start, and one
limit, the rounds that start within any `days` days cost at most the limit together. Take any such
stretch, and the last reservation among the plans of its rounds. Each of these rounds had either
started by then, within the last `days` days, or was reserved: all of them were counted then, and a
part never costs more than the whole. So nothing has to be asked again when a round starts late.

| edge case | what happens |
|---|---|
| a round starts long after it was reserved | it counts all along, and for `days` from its start |
| a plan ends early | rounds that never started do not count any more |
| a round without a time | it counts for ever |
| exactly `days` days ago | does not count any more |
| the clock goes back an hour at most | what starts then has the newest time that the ledger knows |
| the clock goes back further | `ClockBehind`: nothing is reserved and no round starts |
| a limit is set or lowered | a plan that is reserved goes on, as with the total |

What it cannot know: a clock that is ahead when a plan is reserved makes old rounds look older, and
one that is behind, but not behind the ledger, makes a round look older later. `client check`
compares the clock with the compliance service's; `max_epsilon_total` knows no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from audit.errors import Refused
from compliance.statements import format_time

CLOCK_TOLERANCE = timedelta(hours=1)
"""By how much the clock may be behind the ledger: more than any correction of a clock that runs."""

PERIOD = (
    "rounds that started within the period, and every round that is reserved: no rounds that start "
    "within any such period ever exceed the limit together"
)
"""What a period's figures count (docs/adr/0024)."""


class ClockBehind(Refused):
    """The clock is behind the ledger: nobody knows how old its rounds are."""

    code = "clock-behind"


@dataclass(frozen=True)
class Period:
    """A limit on what starts within any stretch of time.

    Attributes:
        days: Its length, at least 1.
        max_epsilon: Most that the rounds which start within it may cost together.
    """

    days: int
    max_epsilon: Decimal

    def counts_after(self, now: str) -> str:
        """Rounds that started at this time or before do not count any more.

        Args:
            now: As statements write time.
        """
        return format_time(datetime.fromisoformat(now) - timedelta(days=self.days))


@dataclass(frozen=True)
class PeriodBudget:
    """The part of the budget that a period's limit is about, at the policy's δ (`PERIOD`).

    Attributes:
        period: The limit.
        since: Rounds that started after this time count.
        spent: ε of the rounds that count and have started.
        committed: ε of those and of every round that is reserved.
        ahead: The newest time of the ledger, where it is later than the clock: rounds are then
            taken to start at that time, and count for longer. Else None.
    """

    period: Period
    since: str
    spent: Decimal
    committed: Decimal
    ahead: str | None = None

    @property
    def left(self) -> Decimal:
        """Limit less committed, at least 0."""
        return max(Decimal(0), self.period.max_epsilon - self.committed)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "days": self.period.days,
            "since": self.since,
            "epsilon_spent": float(self.spent),
            "epsilon_committed": float(self.committed),
            "epsilon_limit": float(self.period.max_epsilon),
            "epsilon_left": float(self.left),
            "ledger_ahead": self.ahead,
            "counts": PERIOD,
        }


def refuse_clock_behind(now: str, newest: str) -> None:
    """Raise when a period cannot be told from the clock.

    Args:
        now: The clock's time, as statements write it.
        newest: The newest time that the ledger knows; empty for none.

    Raises:
        ClockBehind: When the clock is behind it by more than `CLOCK_TOLERANCE`.
    """
    if newest and datetime.fromisoformat(newest) - datetime.fromisoformat(now) > CLOCK_TOLERANCE:
        raise ClockBehind(
            f"this machine's clock says {now}, and the privacy ledger knows {newest}",
            fix="set the clock by NTP; if it was ahead once, wait until it is past that time, or "
            "set max_epsilon_per_period to max_epsilon_total in policy.toml, which ends the limit",
        )
