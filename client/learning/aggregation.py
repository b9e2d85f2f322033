"""What the coordinator does with updates: pure functions over arrays, with a state to checkpoint.

* The plan's rule makes one update of the sites' (`client.learning.robust_rules`), the plan's server
  optimiser a step of that (`client.learning.server_optimizer`).
* Sites weigh the same. Weights by record counts would tell the counts, which are private.
* A rule that bears hostile sites needs a number of updates for that; with fewer there is no step.
* The released model is an average of the phase's iterates: it is post-processing of private
  updates, so it costs no privacy, and it averages their noise away.
* Nothing here is random or keeps state: the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from audit.words import count_of
from client.learning.plan_model import State, check_state
from client.learning.robust_rules import RULES
from client.learning.server_optimizer import Moments, server_step
from compliance.statements import Aggregation, TrainingPlan

AVERAGING_DEGREE = 16
"""Polynomial-decay averaging (Shamir & Zhang 2013, arXiv 1212.1824): roughly the last
`1 / (degree + 1)` of the iterates, without knowing the number of rounds ahead. Averages over more
of them lag behind (banking77: degree 2 is a point worse); none leaves oscillations in."""


@dataclass(frozen=True)
class Iterate:
    """The coordinator's state between rounds.

    `current` is what sites train from next; `average` is what is evaluated and released; `moments`
    are the server optimiser's.
    """

    round: int
    current: State
    average: State
    moments: Moments = field(default_factory=Moments)

    def to_arrays(self) -> State:
        """Arrays for one safetensors file; the round number is not in it."""
        return {
            **{f"current/{name}": array for name, array in self.current.items()},
            **{f"average/{name}": array for name, array in self.average.items()},
            **{f"server/{name}": array for name, array in self.moments.to_arrays().items()},
        }

    @classmethod
    def from_arrays(cls, round_index: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Iterate:
        """Read what `to_arrays` gave, also of a version that knew no server optimiser.

        Raises:
            MalformedInput: When a part is missing.
        """
        parts: dict[str, State] = {"current": {}, "average": {}, "server": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if part not in parts or not rest:
                raise MalformedInput(
                    f"malformed checkpoint: {name!r} is unknown", fix="restore the checkpoint"
                )
            parts[part][rest] = np.asarray(array, dtype=np.float32)
        check_state(parts["average"], parts["current"])
        return cls(
            round=round_index,
            current=parts["current"],
            average=parts["average"],
            moments=Moments.from_arrays(parts["server"], parts["current"]),
        )


def begin(state: State) -> Iterate:
    """Before the first round: the model as built."""
    return Iterate(round=0, current=dict(state), average=dict(state))


def combined_update(
    settings: Aggregation, updates: Sequence[Mapping[str, npt.NDArray[Any]]], like: State
) -> State:
    """One update of the sites', by the plan's rule.

    Args:
        settings: The plan's rule, and how many hostile sites it has to bear.
        updates: In the order of the sites' names.
        like: For names and shapes.

    Raises:
        MalformedInput: When there are fewer than the rule needs, or one has other names, shapes or
            non-finite values.
    """
    if not updates:
        raise MalformedInput("no update to aggregate", fix="wait for a quorum of sites")
    if len(updates) < settings.needed_updates:
        raise MalformedInput(
            f"{settings.rule} needs {count_of(settings.needed_updates, 'update')} to bear"
            f" {settings.tolerated} hostile sites, got {len(updates)}",
            fix="wait for more sites: no weaker rule stands in",
        )
    for update in updates:
        check_state(update, like)
    combined = RULES[settings.rule](updates, settings.tolerated)
    return {name: combined[name] for name in like}


def advance(
    iterate: Iterate, plan: TrainingPlan, updates: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> Iterate:
    """One round: combine the sites' updates, and take the step.

    Raises:
        MalformedInput: As `combined_update` and `advance_by` do.
    """
    return advance_by(iterate, plan, combined_update(plan.aggregation, updates, iterate.current))


def advance_by(iterate: Iterate, plan: TrainingPlan, update: State) -> Iterate:
    """One round: step from the current iterate by a combined update, and fold it into the average.

    A new phase starts from the average of the one before, averages afresh, and remembers nothing of
    the server optimiser's moments.

    Raises:
        MalformedInput: When the plan has no such round, or the update does not fit.
    """
    phase, position = _round_in_phase(plan, iterate.round)
    check_state(update, iterate.current)
    start = iterate.average if position == 0 else iterate.current
    step, moments = server_step(
        plan.aggregation, plan.phases[phase].kind, phase, update, iterate.moments
    )
    current = {name: start[name] + step[name] for name in start}
    weight = (AVERAGING_DEGREE + 1) / (position + 1 + AVERAGING_DEGREE)
    average = {
        # What did not move stays the same to the last bit.
        name: (iterate.average[name] + weight * (current[name] - iterate.average[name])).astype(
            np.float32
        )
        for name in current
    }
    return Iterate(round=iterate.round + 1, current=current, average=average, moments=moments)


def miss(iterate: Iterate, plan: TrainingPlan) -> Iterate:
    """A round that had no quorum: the model stays as it is, and the next round is its turn.

    A phase whose first round was missed starts, all the same, from the average of the one before.

    Raises:
        MalformedInput: When the plan has no such round.
    """
    return Iterate(
        round=iterate.round + 1,
        current=state_to_send(iterate, plan),
        average=iterate.average,
        moments=iterate.moments,
    )


def state_to_send(iterate: Iterate, plan: TrainingPlan) -> State:
    """What sites train from in round `iterate.round`."""
    _, position = _round_in_phase(plan, iterate.round)
    return iterate.average if position == 0 else iterate.current


def _round_in_phase(plan: TrainingPlan, round_index: int) -> tuple[int, int]:
    """Number of a round's phase, and of the round in it."""
    first = 0
    for number, phase in enumerate(plan.phases):
        if first <= round_index < first + phase.rounds:
            return number, round_index - first
        first += phase.rounds
    raise MalformedInput(
        f"round {round_index} is not one of the plan's {count_of(plan.rounds, 'round')}"
    )
