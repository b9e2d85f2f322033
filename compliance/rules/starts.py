"""Plans that start from another plan's model, and whose rounds a model therefore holds. Pure.

* A *line* is a plan with all that its model was made of: each earlier plan with as many rounds as
  the next one started from. What a round was trained on is in every model of its line after it.
* A plan may start from what a recorded round report says that another plan had, and goes on with
  the same model for the same purpose: same base model, task, labels, columns and shape.
* Somebody whom a plan may have sampled from round f on is in a model that holds more than f of its
  rounds. A model without them has at most f, and nothing later of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from audit.words import count_of
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import TrainingPlan

MAX_LINE: Final = 50
"""Plans in a line. Each costs privacy, so an honest line is short; this bounds who walks it."""

_SAME: Final = (
    "federation",
    "task",
    "base_model",
    "labels",
    "features",
    "adapter",
    "class_weights",
    "purpose",
)


@dataclass(frozen=True)
class Part:
    """The first `rounds` rounds of a plan, as a part of a line."""

    plan_id: str
    plan: TrainingPlan
    rounds: int


def line_of(
    plan_id: str, plan: TrainingPlan, read: Callable[[str], TrainingPlan]
) -> tuple[Part, ...]:
    """A plan's line, oldest first; the plan itself is the last part, with all of its rounds.

    Args:
        plan_id: The plan's digest.
        plan: The plan.
        read: Gives a plan that was recorded.

    Raises:
        ValueError: When the line is longer than `MAX_LINE`, which no recorded plan's is.
    """
    line = [Part(plan_id, plan, plan.rounds)]
    while (start := line[-1].plan.starts_from) is not None:
        if len(line) == MAX_LINE:
            raise ValueError(f"the line of {plan_id} is longer than {MAX_LINE} plans")
        line.append(Part(start.plan, read(start.plan), start.rounds))
    return tuple(reversed(line))


def may_start(
    plan: TrainingPlan, line: Sequence[Part] | None, reported_model: str | None
) -> Ruling:
    """Whether a plan may start where it says.

    Args:
        plan: The plan that is submitted; without `starts_from` there is nothing to ask.
        line: Of the plan that it starts from; None when no such plan is known.
        reported_model: What the last report of the last round that it starts from says of the
            model; None when there is none that names it.
    """
    start = plan.starts_from
    if start is None:
        return ALLOWED
    choose = "choose one that is kept: `server checkpoints PLAN`"
    if not line:
        return contradiction("start-unknown", "the plan starts from one that is not known", choose)
    earlier = line[-1].plan
    differing = [name for name in _SAME if getattr(plan, name) != getattr(earlier, name)]
    if _trains_all(plan) != _trains_all(earlier):
        differing.append("phases")
    if start.seed != earlier.seed:
        differing.append("seed")
    if differing:
        return contradiction(
            "start-of-something-else",
            f"the plan starts from a model of something else: {', '.join(differing)} differ",
            "only the same model for the same purpose can go on",
        )
    if len(line) >= MAX_LINE:
        return contradiction(
            "start-too-far", f"a model is made by at most {MAX_LINE} plans", "start anew"
        )
    if start.rounds > earlier.rounds or reported_model is None:
        return contradiction(
            "start-unreported",
            f"no report says which model {earlier.name} had after"
            f" {count_of(start.rounds, 'round')}",
            choose,
        )
    if start.model != reported_model:
        return contradiction(
            "start-mismatch",
            f"the report says that {earlier.name} had another model after"
            f" {count_of(start.rounds, 'round')}",
            choose,
        )
    return ALLOWED


def latest_start(line: Sequence[Part], first_rounds: Mapping[str, int]) -> tuple[Part, int] | None:
    """Where on a line a model without some subjects is latest: the plan, and rounds done of it.

    Args:
        line: Oldest first.
        first_rounds: Of plans, the first round in which any of the subjects may have been sampled.

    Returns:
        None for the base model.
    """
    latest: tuple[Part, int] | None = None
    for part in line:
        first = first_rounds.get(part.plan_id, part.rounds)
        if first > 0:
            latest = part, min(first, part.rounds)
        if first < part.rounds:
            break
    return latest


def may_start_without(line: Sequence[Part], first_rounds: Mapping[str, int]) -> Ruling:
    """Whether what a plan starts from was made without some subjects.

    Args:
        line: The plan's, itself the last part: its own rounds are not asked about.
        first_rounds: As for `latest_start`.
    """
    for part in line[:-1]:
        first = first_rounds.get(part.plan_id, part.rounds)
        if first < part.rounds:
            return Refused(
                "start-too-late",
                f"the plan starts from {count_of(part.rounds, 'round')} of {part.plan.name}, and"
                f" somebody who was erased may have been sampled from its round {first} on",
                f"start from at most {count_of(first, 'round')} of it: `server checkpoints`, or"
                " from the base model",
                "conflict",
            )
    return ALLOWED


def _trains_all(plan: TrainingPlan) -> bool:
    return any(phase.kind == "full" for phase in plan.phases)
