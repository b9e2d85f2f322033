"""How the odometer of a site's budget moved: its readings after rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

HISTORY_POINTS = 24
"""Readings of a history: a composition each."""


@dataclass(frozen=True)
class Reading:
    """The odometer after a round.

    Attributes:
        time: When the round started.
        plan_id: Its plan.
        rounds: Rounds of all plans started so far.
        epsilon: ε of them, at the policy's δ.
    """

    time: str
    plan_id: str
    rounds: int
    epsilon: Decimal

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "time": self.time,
            "plan_id": self.plan_id,
            "rounds": self.rounds,
            "epsilon_spent": float(self.epsilon),
        }


def readings_at(plan_ids: Sequence[str], points: int) -> list[int]:
    """After how many rounds to read: where a plan's rounds end, and evenly in between.

    >>> readings_at(["a", "a", "a", "b"], 2)
    [2, 3, 4]
    """
    total = len(plan_ids)
    ends = {n for n in range(1, total + 1) if n == total or plan_ids[n] != plan_ids[n - 1]}
    if len(ends) > points:  # plans that train in turns
        ends = {total} if total else set()
    return sorted(ends | {math.ceil(total * n / points) for n in range(1, points + 1) if total})
