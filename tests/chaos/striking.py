"""What chaos does, from a seed: kills at random moments, and cables pulled and put back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from demo.processes import CommandFailed
from tests.chaos.hospitals import SERVICES, SITES, Hospitals

TWO_AT_ONCE = 0.15
"""How often two processes are killed at the same moment."""

LONGEST_LURK_SECONDS = 1.5
"""How long after a round counted chaos strikes at most: a round takes about this long."""

LONGEST_DOWN_SECONDS = 2.0

PATIENCE_SECONDS = 60.0
"""How long chaos waits for a round to count before it strikes all the same."""


@dataclass(frozen=True)
class Strike:
    """One kill, or one cable.

    Attributes:
        names: Who was struck.
        what: `kill` or `cut`.
        round: Rounds that counted by then.
        activity: What the run had on disk: nothing of its round, its aggregate, or its report.
        down_seconds: How long until the process was started again, or the cable put back.
    """

    names: tuple[str, ...]
    what: str
    round: int
    activity: str
    down_seconds: float


class Striker:
    """Strikes a federation while a plan runs.

    Args:
        hospitals: Whom.
        plan_id: The plan that runs.
        seed: Of what is struck when; the machine's own timing is not in it.
        deadline: Monotonic seconds at which this must be over.
    """

    def __init__(self, hospitals: Hospitals, plan_id: str, seed: int, deadline: float) -> None:
        self._hospitals = hospitals
        self._plan_id = plan_id
        self._chance = random.Random(seed)
        self._deadline = deadline
        self._deck: list[str] = []
        self.strikes: list[Strike] = []

    def kill(self, count: int) -> Iterator[Strike]:
        """Kill processes, about once a round, until `count` were killed or the run has ended."""
        processes, killed, seen = self._hospitals.processes, 0, -1
        while killed < count:
            state = self._after_a_round(seen)
            if state.get("stage", "running") != "running":
                return
            seen = state.get("rounds_done", 0)
            self._rest(self._chance.uniform(0, LONGEST_LURK_SECONDS))
            names = self._victims(count - killed)
            state = self._hospitals.run_state(self._plan_id)
            for name in names:
                processes.kill(name)
            down = self._chance.uniform(0, LONGEST_DOWN_SECONDS)
            time.sleep(down)
            for name in names:
                processes.serve(name)
            killed += len(names)
            yield self._note(names, "kill", state, down)

    def cut(self, seconds: float) -> Iterator[Strike]:
        """Pull each host's cable once, and two sites' at once, each for so many seconds."""
        hosts = self._hospitals.hosts
        if hosts is None:
            return
        groups: list[tuple[str, ...]] = [("compliance",), *((site,) for site in SITES)]
        groups.append((SITES[0], SITES[1]))
        self._chance.shuffle(groups)
        seen = -1
        for names in groups:
            state = self._after_a_round(seen)
            seen = state.get("rounds_done", 0)
            self._rest(self._chance.uniform(0, LONGEST_LURK_SECONDS))
            state = self._hospitals.run_state(self._plan_id)
            for name in names:
                hosts.cut(name)
            self._rest(seconds)
            for name in names:
                hosts.heal(name)
            yield self._note(names, "cut", state, seconds)

    def _victims(self, left: int) -> tuple[str, ...]:
        both = left > 1 and self._chance.random() < TWO_AT_ONCE
        names: list[str] = []
        while len(names) < (2 if both else 1):
            if not self._deck:  # everybody has been struck equally often
                self._deck = self._chance.sample(sorted(SERVICES), len(SERVICES))
            name = self._deck.pop()
            if name not in names:
                names.append(name)
        return tuple(names)

    def _note(
        self, names: tuple[str, ...], what: str, state: dict[str, Any], down: float
    ) -> Strike:
        activity = "asking"
        for stage in ("aggregated", "pending"):
            if state.get(stage):
                activity = stage
        strike = Strike(names, what, state.get("rounds_done", 0), activity, round(down, 2))
        self.strikes.append(strike)
        return strike

    def _after_a_round(self, seen: int) -> dict[str, Any]:
        """Wait until a round has counted since, or long enough."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            state = self._hospitals.run_state(self._plan_id)
            moved = state.get("rounds_done", 0) != seen or state.get("stage") != "running"
            if (state and moved) or time.monotonic() > until:
                return state
            self._rest(0.05)

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if time.monotonic() > self._deadline:
                raise CommandFailed("chaos took longer than it may: --minutes")
            self._hospitals.processes.supervise()
            time.sleep(min(0.05, seconds))
