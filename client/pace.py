"""How fast a run goes and when it may be done, from nothing but rounds that were measured.

* A round is like other rounds of its phase, and of no other: a phase is what trains the same
  parameters with the same mechanism.
* What was not measured is not guessed: while a phase that is still to come has no measured round,
  there is no time left to tell. The phase that is going on has one after its first round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

WINDOW_ROUNDS = 10
"""The last rounds of a phase that count: sites come and go, and machines change their load."""


@dataclass(frozen=True)
class Pace:
    """How a run goes; None is what is not known.

    Attributes:
        phase: Index of the phase that is going on, or of the last one when all rounds are done.
        seconds_a_round: Mean of the phase's last measured rounds.
        rounds_an_hour: The same, the other way round.
        phase_seconds_left: What is left of this phase.
        seconds_left: What is left of the run.
    """

    phase: int
    seconds_a_round: float | None
    rounds_an_hour: float | None
    phase_seconds_left: float | None
    seconds_left: float | None

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def pace_of(
    phase_rounds: Sequence[int],
    measured: Iterable[tuple[int, float]],
    rounds_done: int,
    round_seconds: float = 0.0,
) -> Pace:
    """Reckon the pace.

    Args:
        phase_rounds: Rounds of each phase, in order; at least one phase.
        measured: Round number, from 0, and its seconds.
        rounds_done: Finished rounds.
        round_seconds: How long the present round has gone on.

    >>> pace_of([2, 4], [(0, 9.0), (1, 11.0)], 2).seconds_left is None
    True
    >>> pace_of([2, 4], [(0, 9.0), (1, 11.0), (2, 30.0)], 3, 10.0)
    Pace(phase=1, seconds_a_round=30.0, rounds_an_hour=120.0, phase_seconds_left=80.0, \
seconds_left=80.0)
    """
    by_phase: list[list[float]] = [[] for _ in phase_rounds]
    for number, seconds in sorted(measured):
        if number < sum(phase_rounds):
            by_phase[phase_index(phase_rounds, number)].append(seconds)
    means = [_mean(seconds[-WINDOW_ROUNDS:]) for seconds in by_phase]
    present = phase_index(phase_rounds, rounds_done)
    left: list[float | None] = []
    first = 0
    for index, rounds in enumerate(phase_rounds):
        open_rounds = max(0, min(rounds, first + rounds - rounds_done))
        mean = means[index]
        if not open_rounds:
            left.append(0.0)
        elif mean is None:
            left.append(None)
        else:
            going_on = min(round_seconds, mean) if index == present else 0.0
            left.append(open_rounds * mean - going_on)
        first += rounds
    here = means[present]
    known = [seconds for seconds in left if seconds is not None]
    return Pace(
        phase=present,
        seconds_a_round=here,
        rounds_an_hour=3600 / here if here else None,
        phase_seconds_left=left[present],
        seconds_left=sum(known) if len(known) == len(left) else None,
    )


def phase_index(phase_rounds: Sequence[int], number: int) -> int:
    """Which phase a round belongs to; the last one for a number past the end.

    >>> [phase_index([2, 1], number) for number in range(4)]
    [0, 0, 1, 1]
    """
    end = 0
    for index, rounds in enumerate(phase_rounds):
        end += rounds
        if number < end:
            return index
    return len(phase_rounds) - 1


def in_words(seconds: float | None) -> str:
    """A time that is left, for a person.

    >>> in_words(None), in_words(42.2), in_words(150), in_words(7300)
    ('not known yet', 'about 42 s', 'about 2 min', 'about 2.0 h')
    """
    if seconds is None:
        return "not known yet"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
