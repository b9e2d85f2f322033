"""Whether a site's answer is what the round asked for. Pure; nothing is added up before it passes.

An update counts only when
* it answers this plan and round, in the name of the site whose key brought it;
* the site's own signed report says the same, and names the digest of exactly these arrays;
* the report names the plan's base model and spends no more than the plan's epsilon; where the plan
  asks sites to audit themselves, it states what the audit found, and that keeps the promise;
* its arrays have the names, shapes and type of the global state, are finite, and are no longer than
  honest private training can make them.

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
from client.learning.plan_model import State, check_state
from client.learning.tasks import counts_of
from compliance.statements import Phase, SiteReport, TrainingPlan
from server.errors import MalformedReply

MAX_SUBJECTS_OVER_NOMINAL = 100
"""No site has this many times the plan's nominal subjects; bounds the sum of clipped gradients."""

NOISE_DEVIATIONS = 10.0
"""How far the noise's norm may lie above its expectation: never, in practice."""

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
    """An answer that passed: its arrays and the site's signed report of them."""

    arrays: dict[str, npt.NDArray[np.float32]]
    report: SiteReport
    report_id: str


def accept_update(
    expected: Expected, arrays: Arrays, report: dict[str, str | int], like: State
) -> Accepted:
    """Check the answer to a `train` task.

    Args:
        expected: What the site was asked for.
        arrays: The update as received.
        report: The report as received.
        like: The global state, for names and shapes.

    Raises:
        MalformedReply: With the first thing that is wrong.
    """
    try:
        check_state(arrays, like)
    except FiduciaryError as error:
        raise MalformedReply(str(error).replace("model state", "update")) from error
    norm, bound = norm_of(arrays), norm_bound(expected.plan, expected.round, like)
    if norm > bound:
        raise MalformedReply(f"its update is {norm:.3g} long, and at most {bound:.3g} is possible")
    stated, report_id = _check_report(expected, arrays, report)
    return Accepted(dict(arrays), stated, report_id)


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


def norm_of(arrays: Arrays) -> float:
    """Euclidean norm over all arrays together, in float64."""
    return math.sqrt(
        math.fsum(float(np.square(array.astype(np.float64)).sum()) for array in arrays.values())
    )


def norm_bound(plan: TrainingPlan, round_index: int, like: State) -> float:
    """The longest update that honest training can make in a round.

    Each step moves the weights by the learning rate times (sum of clipped gradients + noise) /
    divisor. A sum over `n` subjects is at most `n` clipping norms long; the noise is about
    `noise_multiplier * max_grad_norm * sqrt(weights)` long.
    """
    phase: Phase = plan.phase_of(round_index)
    divisor = float(phase.sampling_rate) * plan.privacy.nominal_subjects
    weights = sum(array.size for array in like.values())
    noise = float(phase.noise_multiplier) * (math.sqrt(weights) + NOISE_DEVIATIONS) / divisor
    step = float(phase.learning_rate) * float(phase.max_grad_norm)
    # The rate cancels: a site samples q of its n subjects and divides by q of the nominal number.
    subjects = MAX_SUBJECTS_OVER_NOMINAL / min(1.0, float(phase.sampling_rate))
    return phase.steps_per_round * step * (subjects + noise)


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
