"""Whether a site's answer is what the round asked for. Pure; nothing is added up before it passes.

An update counts only when
* it answers this plan and round, in the name of the site whose key brought it;
* the site's own signed report says the same, and names the digest of exactly these arrays;
* the report names the plan's base model and spends no more than the plan's epsilon; where the plan
  asks sites to audit themselves, it states what the audit found, and that keeps the promise;
* its arrays are those that travel (`client.learning.travelling`, `client.transport`): of what the
  phase trains, with the state's names and shapes, in the plan's precision, finite, and no longer
  than honest private training and rounding can make them.

Evaluation counts are added when their report passes the same tests and some examples of the plan's
task and labels could have given them. An answer that fails is left out of the round with the
reason, and the round goes on.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from audit.errors import FiduciaryError
from audit.keys import VerifyKey
from audit.statement import SignedStatement, verify_statement
from client.arrays import Arrays, arrays_digest
from client.learning.evaluation import Evaluation
from client.learning.plan_model import State, check_state, trained_names
from client.learning.tasks import counts_of
from client.learning.travelling import chosen, names_in_update
from client.transport import decode, most_rounded
from compliance.statements import Phase, SiteReport, TrainingPlan
from server.errors import MalformedReply

MAX_SUBJECTS_OVER_NOMINAL = 100
"""No site has this many times the plan's nominal subjects; bounds the sum of clipped gradients.
A phase's `batch_limit` states less."""

NOISE_DEVIATIONS = 10.0
"""How far the noise's norm may lie above its expectation. Honest noise is longer with a chance of
exp(-10²/2) = 2e-22 at most: a norm changes no more than its vector does, and is as concentrated
(Boucheron, Lugosi & Massart 2013, Concentration Inequalities, Theorem 5.6)."""

SAMPLING_EXPONENT = 50.0
"""Honest sampling takes more subjects than `_most_sampled` says with a chance below exp(-50)."""

ROUNDING = 2.0**-9
"""What the arithmetic of honest sites may add to a bound, relative to it: noise is larger by 2^-10
for the rounding of sums (`client.learning.subject_optimizer`), and weights are float32."""

REPORT_FIELDS = frozenset({"plan_id", "round", "site", "statement"})


@dataclass(frozen=True)
class Expected:
    """What one site was asked for."""

    plan_id: str
    plan: TrainingPlan
    round: int
    site: str
    identity: VerifyKey
    activity: Literal["train", "evaluate"]


@dataclass(frozen=True)
class Accepted:
    """An answer that passed: the update of what its phase trains, and the site's signed report."""

    arrays: dict[str, npt.NDArray[np.float32]]
    report: SiteReport
    report_id: str


def accept_update(
    expected: Expected,
    arrays: Arrays,
    report: dict[str, str | int],
    like: State,
    stretch: float = 1.0,
) -> Accepted:
    """Check the answer to a `train` task.

    Args:
        expected: What the site was asked for.
        arrays: The update as it travelled.
        report: The report as received.
        like: The whole global state, for names and shapes.
        stretch: `PlanModel.stretch` of the plan's model.

    Raises:
        MalformedReply: With the first thing that is wrong.
    """
    plan = expected.plan
    stated, report_id = _check_report(expected, arrays, report)
    part = chosen(like, names_in_update(plan, expected.round, like))
    try:
        update = decode(arrays, plan.transport.precision, part)
        check_state(update, part)
    except FiduciaryError as error:
        raise MalformedReply(str(error).replace("model state", "update")) from error
    norm, bound = norm_of(update), norm_bound(plan, expected.round, like, stretch)
    if norm > bound:
        raise MalformedReply(f"its update is {norm:.3g} long, and at most {bound:.3g} is possible")
    return Accepted(update, stated, report_id)


def accept_evaluation(
    expected: Expected, arrays: Arrays, report: dict[str, str | int]
) -> tuple[Evaluation[Any], SiteReport]:
    """Check the answer to an `evaluate` task.

    Raises:
        MalformedReply: With the first thing that is wrong.
    """
    try:
        plan = expected.plan
        kind = counts_of(plan)
        evaluation = Evaluation.from_arrays(arrays, len(plan.labels), plan.groups, kind)
    except FiduciaryError as error:
        raise MalformedReply(str(error)) from error
    stated, _ = _check_report(expected, arrays, report)
    return evaluation, stated


def accept_masked(expected: Expected, arrays: Arrays, report: dict[str, str | int]) -> SiteReport:
    """Check the report of a masked vector; of the vector itself nothing can be seen.

    Raises:
        MalformedReply: With the first thing that is wrong.
    """
    stated, _ = _check_report(expected, arrays, report)
    return stated


def check_mean(plan: TrainingPlan, round_index: int, mean: State, stretch: float = 1.0) -> None:
    """Refuse a mean of updates that honest sites cannot have.

    It is all that a secure sum shows: one site that sends nonsense is not told from another.

    Raises:
        MalformedReply: When it is too long.
    """
    norm, bound = norm_of(mean), norm_bound(plan, round_index, mean, stretch)
    if norm > bound:
        raise MalformedReply(f"the mean is {norm:.3g} long, and at most {bound:.3g} is possible")


def norm_of(arrays: Arrays) -> float:
    """Euclidean norm over all arrays together, in float64."""
    return math.sqrt(
        math.fsum(float(np.square(array.astype(np.float64)).sum()) for array in arrays.values())
    )


def norm_bound(plan: TrainingPlan, round_index: int, like: State, stretch: float = 1.0) -> float:
    """The longest update that honest training can make in a round.

    Each step moves the weights by the learning rate times (sum of clipped gradients + noise) /
    (sampling rate * nominal subjects). The sum over `n` sampled subjects is at most `n` clipping
    norms long. The noise of all steps together is `noise_multiplier * max_grad_norm *
    sqrt(steps * weights)` long, or little more. FedProx's pull only shortens. Rounding on the way
    lengthens by what `client.transport.most_rounded` says of the largest honest number.

    Args:
        plan: States everything but `MAX_SUBJECTS_OVER_NOMINAL`.
        round_index: From 0.
        like: The global state.
        stretch: By how much longer an update may be as it is sent than as it was trained.
    """
    phase: Phase = plan.phase_of(round_index)
    divisor = float(phase.sampling_rate) * plan.privacy.nominal_subjects
    names = trained_names(phase.kind, like)
    weights = sum(array.size for name, array in like.items() if name in names)
    steps = phase.steps_per_round
    clipped = steps * _most_sampled(phase, plan.privacy.nominal_subjects)
    noise = float(phase.noise_multiplier)
    noise *= math.sqrt(steps) * (math.sqrt(weights) + NOISE_DEVIATIONS)
    step = float(phase.learning_rate) * float(phase.max_grad_norm) / divisor
    step *= max(1.0, stretch) * (1 + ROUNDING)
    longest = step * (clipped + noise)
    largest = step * (clipped + _most_in_one_weight(phase, weights))
    return longest + most_rounded(plan.transport.precision, longest, largest, weights)


def _most_in_one_weight(phase: Phase, weights: int) -> float:
    """Noise of all steps in the weight that has most of it, in clipping norms.

    The largest of `n` Gaussians is sqrt(2 ln 2n) deviations on average, and as concentrated as a
    norm is.
    """
    deviations = math.sqrt(2 * math.log(2 * max(1, weights))) + NOISE_DEVIATIONS
    return float(phase.noise_multiplier) * math.sqrt(phase.steps_per_round) * deviations


def _most_sampled(phase: Phase, nominal_subjects: int) -> float:
    """Units that one step can take, but for a chance that nobody meets (Bernstein's inequality)."""
    population = float(MAX_SUBJECTS_OVER_NOMINAL * nominal_subjects)
    limit = population
    if phase.batch_limit is not None:
        population = min(population, float(phase.batch_limit.max_population))
        limit = float(phase.batch_limit.subjects)
    if phase.sampling_rate < 1:
        expected = float(phase.sampling_rate) * population
        above = math.sqrt(2 * SAMPLING_EXPONENT * expected) + 2 * SAMPLING_EXPONENT / 3
        limit = min(limit, expected + above)
    return min(limit, population)


def _check_report(
    expected: Expected, arrays: Arrays, report: dict[str, str | int]
) -> tuple[SiteReport, str]:
    if set(report) != REPORT_FIELDS:
        raise MalformedReply("its report does not hold exactly plan, round, site and statement")
    asked = {"plan_id": expected.plan_id, "round": expected.round, "site": expected.site}
    for name, value in asked.items():
        if report[name] != value or type(report[name]) is not type(value):
            raise MalformedReply(f"its report is for another {name.removesuffix('_id')}")
    stated, report_id = _signed_report(expected, str(report["statement"]))
    differs = {
        "for another plan": stated.plan_id != expected.plan_id,
        "for another site": stated.site != expected.site,
        "for another round": stated.round != expected.round,
        "for another activity": stated.activity != expected.activity,
        "for another base model": stated.base_model_digest != expected.plan.base_model.digest,
        "of other arrays than it sent": stated.update_digest != arrays_digest(arrays),
    }
    for what, wrong in differs.items():
        if wrong:
            raise MalformedReply(f"its signed report is {what}")
    if stated.epsilon_spent > expected.plan.privacy.epsilon:
        raise MalformedReply(
            f"it spent epsilon {stated.epsilon_spent}, the plan allows "
            f"{expected.plan.privacy.epsilon}"
        )
    _check_audit(expected.plan, stated)
    return stated, report_id


def _check_audit(plan: TrainingPlan, stated: SiteReport) -> None:
    if not plan.privacy_audit:
        return
    if stated.audited_epsilon is None:
        raise MalformedReply("its report does not state the audit that the plan asks for")
    if stated.audited_epsilon > plan.privacy.epsilon:
        raise MalformedReply(
            f"its own audit measured epsilon {stated.audited_epsilon} at least, the plan allows "
            f"{plan.privacy.epsilon}"
        )


def _signed_report(expected: Expected, text: str) -> tuple[SiteReport, str]:
    try:
        statement = SignedStatement.from_json(json.loads(text))
        body = verify_statement(statement, expected.identity)
        return SiteReport.from_body(body), statement.digest
    except (FiduciaryError, ValueError, RecursionError) as error:
        raise MalformedReply(f"its signed report does not verify: {error}") from error


def mean_norm(norm: float) -> Decimal:
    """A norm as a round report holds it."""
    return Decimal(f"{norm:.6f}")
