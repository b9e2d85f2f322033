"""Plans of a simulation: a plan file over simulated sites, in the variants that are compared. Pure.

* Simulated sites take the place of admitted ones; a quorum that the file states keeps its share.
* Another clipping norm keeps the noise in the weights as it was: a phase's learning rate changes in
  inverse proportion. What then differs is what clipping cuts off.
* What a simulation leaves out of a plan is said, in `left_out`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Final

from audit.errors import MalformedInput
from client.learning.recipes import with_learning_rate
from compliance.statements import Phase, TrainingPlan
from server.errors import MalformedPlanFile
from server.plan_file import PlanFile, make_plan

FEDERATION: Final = "simulation"

MAX_VARIANTS: Final = 50
"""A sweep that takes a day is a mistake in its options more often than not."""


@dataclass(frozen=True)
class Variant:
    """One plan of a sweep; None: as the file has it.

    Attributes:
        epsilon: Promised to a subject by each site.
        rounds: In all, of recommended phases.
        clipping: Clipping norm of every phase but a histogram.
    """

    epsilon: Decimal | None = None
    rounds: int | None = None
    clipping: Decimal | None = None


def variants(
    epsilons: Sequence[Decimal], rounds: Sequence[int], clippings: Sequence[Decimal]
) -> tuple[Variant, ...]:
    """Every combination, in the order given.

    Raises:
        MalformedInput: When there are too many, or one is given twice.
    """
    found = tuple(
        Variant(*values)
        for values in product(epsilons or (None,), rounds or (None,), clippings or (None,))
    )
    if len(set(found)) != len(found):
        raise MalformedInput("a value is given twice", fix="give each value once")
    if len(found) > MAX_VARIANTS:
        raise MalformedInput(
            f"{len(found)} combinations are more than {MAX_VARIANTS}",
            fix="give fewer values of --epsilon, --rounds or --clipping",
        )
    return found


def plan_of(
    file: PlanFile, path: Path, sites: Sequence[str], variant: Variant, quorum: int | None = None
) -> TrainingPlan:
    """The plan of a variant over simulated sites.

    Args:
        file: As `server.plan_file.read_plan_file` gives it.
        path: Where it came from, for messages.
        sites: The simulated sites.
        variant: What differs from the file.
        quorum: Of the simulated sites; by default the file's share of its own.

    Raises:
        MalformedPlanFile: As `make_plan`, or when rounds are given and the file states its phases.
        MalformedInput, NotFound: As `make_plan`.
    """
    section, privacy = file.plan, file.privacy
    if variant.rounds is not None and file.phases:
        raise MalformedPlanFile(
            f"{path}: each phase states its own rounds",
            fix="leave --rounds out, or the phases",
        )
    changed = section.model_copy(
        update={
            "sites": tuple(sites),
            "quorum": _quorum(len(sites), len(section.sites), section.quorum, quorum),
            "rounds": section.rounds if variant.rounds is None else variant.rounds,
            "privacy_audit": False,
            "secure_aggregation": False,
        }
    )
    promised = privacy.epsilon if variant.epsilon is None else variant.epsilon
    asked = file.model_copy(
        update={
            "plan": changed,
            "privacy": privacy.model_copy(update={"epsilon": promised, "noise_sites": None}),
        }
    )
    plan = make_plan(asked, path=path, federation=FEDERATION, admitted_sites=sites)
    if variant.clipping is None:
        return plan
    phases = [_clipped(phase, variant.clipping) for phase in plan.phases]
    return TrainingPlan.from_body({**plan.body(), "phases": [_body(phase) for phase in phases]})


def left_out(file: PlanFile) -> tuple[str, ...]:
    """What the file asks for and a simulation does without, a sentence each."""
    sentences = []
    if file.plan.secure_aggregation:
        sentences.append(
            "secure_aggregation is not simulated: sums are the same, messages are larger"
        )
    if file.privacy.noise_sites is not None:
        sentences.append(
            "noise_sites is not simulated: each site adds all of its noise, so a federation that "
            "distributes it is more accurate"
        )
    if file.plan.privacy_audit:
        sentences.append("privacy_audit is not simulated: sites do not test their trainer here")
    return tuple(sentences)


def share_of_data(plan: TrainingPlan, subjects: int) -> str:
    """A warning where sites have far fewer or more subjects than the plan divides by; or nothing.

    Args:
        plan: States the nominal number.
        subjects: Of all sites together.
    """
    each = subjects / len(plan.sites)
    nominal = plan.privacy.nominal_subjects
    if nominal / 2 <= each <= 2 * nominal:
        return ""
    return (
        f"a simulated site has {each:.0f} subjects on average and the plan divides by "
        f"nominal_subjects = {nominal}: state about what sites have, or updates are "
        f"{'too small' if each < nominal else 'too large'}"
    )


def _quorum(sites: int, planned_sites: int, planned: int | None, given: int | None) -> int | None:
    """Of simulated sites: as given, or the planned share of them; None: all."""
    if given is not None:
        return given
    if planned is None:
        return None
    return min(sites, math.ceil(sites * planned / planned_sites))


def _clipped(phase: Phase, norm: Decimal) -> Phase:
    if phase.kind == "histogram":
        return phase  # its norm is what one subject's shares of labels have
    rate = float(phase.learning_rate * phase.max_grad_norm / norm)
    return with_learning_rate(phase.model_copy(update={"max_grad_norm": norm}), rate)


def _body(phase: Phase) -> dict[str, object]:
    return phase.model_dump(mode="json")
