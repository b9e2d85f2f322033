"""Which arrays of a state travel in a task and in its answer: only what the other side cannot have.

* Every party can build the plan's model as it is before the first round
  (`client.learning.tasks.build_model`), and a phase moves nothing but `trained_names`. So a task
  holds what an earlier round may have moved, and an answer what its own round may have.
* A plan that starts from another's model (`starts_from`) has moved everything before its first
  round: sites need not know that model, and one that comes later neither, so all of it travels.
* Plan, activity and round decide, and nothing else: both sides know the names beforehand, and
  refuse any others.
* The receiver of a task takes what is missing from the model as built; the receiver of an answer
  takes it for zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput
from client.learning.plan_model import State, trained_names
from compliance.statements import TrainingPlan

Activity = Literal["train", "evaluate"]


def names_in_task(
    plan: TrainingPlan, activity: Activity, round_index: int, names: Iterable[str]
) -> frozenset[str]:
    """Of a state's arrays, those that a task holds: what rounds before it may have moved.

    Args:
        plan: The plan.
        activity: `evaluate` measures the state after its round, `train` begins before it.
        round_index: From 0.
        names: Of the whole state.

    Raises:
        MalformedInput: When the plan has no such round.
    """
    plan.phase_of(round_index)
    if plan.starts_from is not None:
        return frozenset(names)
    all_names, moved, first = frozenset(names), frozenset[str](), 0
    done = round_index + (activity == "evaluate")
    for phase in plan.phases:
        if first < done:
            moved |= trained_names(phase.kind, all_names)
        first += phase.rounds
    return moved


def names_in_update(plan: TrainingPlan, round_index: int, names: Iterable[str]) -> frozenset[str]:
    """Of a state's arrays, those that an update holds: what its phase trains.

    Raises:
        MalformedInput: When the plan has no such round.
    """
    return trained_names(plan.phase_of(round_index).kind, names)


def chosen(
    arrays: Mapping[str, npt.NDArray[Any]], names: frozenset[str]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names, in the order that they have."""
    return {name: array for name, array in arrays.items() if name in names}


def completed(update: State, like: State) -> State:
    """An update of the whole state: what was not sent did not move.

    Args:
        update: Some of the state's arrays.
        like: The state, for names and shapes.
    """
    # `zeros` takes no memory until somebody writes to it.
    return {
        name: update[name] if name in update else np.zeros(array.shape, np.float32)
        for name, array in like.items()
    }


def check_names(given: Iterable[str], wanted: frozenset[str]) -> None:
    """Refuse arrays of other names than these.

    Raises:
        MalformedInput: With one that is missing or unknown.
    """
    odd = wanted.symmetric_difference(given)
    if odd:
        name = min(odd)
        raise MalformedInput(
            f"malformed model state: {name!r} is {'missing' if name in wanted else 'not needed'} "
            "in this round",
            fix="run the same version and plan everywhere",
        )
