"""`server submit`: a plan file becomes a signed plan, after everybody saw what it will cost.

A file that was submitted before is recognised: what it asks for is compared, not when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from audit.errors import Conflict, VerificationFailed
from audit.statement import SignedStatement, sign_statement, verify_statement
from client.learning.accounting import epsilon_of_subject, events_of, reported_epsilon
from client.learning.base_model import resolve_base_model
from client.learning.plan_model import PlanModel
from client.learning.tasks import build_model
from compliance.api import ComplianceClient
from compliance.resources import PlanView
from compliance.rules.plans import is_same_proposal, keeps_name, may_submit_plan
from compliance.rules.ruling import Refused
from compliance.rules.starts import Part, may_start
from compliance.statements import StartsFrom, TrainingPlan
from compliance.wire import PlanState
from server.errors import MalformedPlanFile
from server.federation import Federation
from server.plan_file import StartSection, make_plan, read_plan_file
from server.starts import (
    Start,
    epsilon_with_start,
    read_line,
    reported_model,
    start_state,
)

BYTES_A_WEIGHT = 4


@dataclass(frozen=True)
class PhaseCost:
    """What one phase does and costs.

    Attributes:
        batch_limit: Most subjects in a step, and the population for which epsilon holds; None for
            no limit.
        epsilon_after: ε spent after this phase and those before it, for the plan's unit.
        subject_gradients: Expected gradients of single units at a site of nominal size.
    """

    kind: str
    rounds: int
    steps: int
    sampling_rate: Decimal
    noise_multiplier: Decimal
    max_grad_norm: Decimal
    learning_rate: Decimal
    batch_limit: tuple[int, int] | None
    epsilon_after: Decimal
    subject_gradients: int


@dataclass(frozen=True)
class Proposal:
    """A plan that is ready to be submitted.

    Attributes:
        epsilon_of_subject: ε of the whole plan for a data subject; None where none is finite, as
            may be of a plan that protects single records.
        epsilon_with_start: By site, ε of the plan and all rounds that it starts from, which its
            release will tell together; empty where it starts from the base model.
        weights: Trained weights.
        megabytes_a_site: What one site sends and receives in the whole run.
        submitted: The state of this very plan, where it was submitted before.
    """

    plan: TrainingPlan
    statement: SignedStatement
    phases: tuple[PhaseCost, ...]
    epsilon_of_subject: Decimal | None
    weights: int
    megabytes_a_site: float
    epsilon_with_start: Mapping[str, Decimal] = field(default_factory=dict)
    submitted: PlanState | None = None

    @property
    def plan_id(self) -> str:
        """The plan's id."""
        return self.statement.digest

    def to_json(self) -> dict[str, Any]:
        """The proposal for `--json`."""
        return {
            "plan_id": self.plan_id,
            "plan": self.plan.body(),
            "phases": [
                {
                    name: str(value) if isinstance(value, Decimal) else value
                    for name, value in vars(phase).items()
                }
                for phase in self.phases
            ],
            "epsilon": str(self.phases[-1].epsilon_after),
            "epsilon_of_subject": None
            if self.epsilon_of_subject is None
            else str(self.epsilon_of_subject),
            "epsilon_with_start": {
                site: str(value) for site, value in self.epsilon_with_start.items()
            },
            "weights": self.weights,
            "megabytes_a_site": round(self.megabytes_a_site, 3),
        }


def propose(federation: Federation, compliance: ComplianceClient, path: Path) -> Proposal:
    """Read a plan file, complete and sign the plan, and compute what it costs.

    The model is built once, so that a plan that cannot be trained is not submitted. A plan that was
    submitted before is the plan that there is, not a second one.

    Raises:
        MalformedPlanFile: When the file is not a plan.
        Conflict: When another plan has its name.
        FiduciaryError: When the base model cannot be had or the epsilon cannot be kept.
    """
    file = read_plan_file(path)
    admitted = [view.name for view in compliance.sites() if view.state == "approved"]
    start: Start | None = None
    before: tuple[Part, ...] = ()
    if file.starts_from is not None:
        start, before = _start(federation, compliance, file.starts_from)
    plan = make_plan(
        file,
        path=path,
        federation=federation.settings.name,
        admitted_sites=admitted,
        start=start,
    )
    before_it = _same_plan(federation, compliance, plan)
    if before_it is not None:
        plan = before_it.plan
    model = build_model(plan, resolve_base_model(plan.base_model.name))
    if start is not None:
        _check_start(federation, compliance, path, plan, start, before, model)
    line = (*before, Part("", plan, plan.rounds))
    weights = sum(array.size for array in model.get_state().values())
    # A round sends the state to train, the update back, and the state to evaluate.
    megabytes = 3 * plan.rounds * weights * BYTES_A_WEIGHT / 1e6
    statement = (
        sign_statement(plan.body(), federation.identity)
        if before_it is None
        else before_it.statement
    )
    return Proposal(
        plan,
        statement,
        _costs(plan),
        epsilon_of_subject(plan),
        weights,
        megabytes,
        epsilon_with_start(line),
        None if before_it is None else before_it.state,
    )


def _same_plan(
    federation: Federation, compliance: ComplianceClient, plan: TrainingPlan
) -> PlanView | None:
    """This very plan as it was submitted before, if it was and was not rejected.

    Raises:
        Conflict: When another plan has its name.
        VerificationFailed: When the service shows a plan that we did not sign.
    """
    for view in compliance.plans():
        if view.plan.name != plan.name or not keeps_name(view.state):
            continue
        verify_statement(view.statement, federation.identity.public)
        if view.statement.digest != view.plan_id:
            raise VerificationFailed(f"plan {view.plan_id} is listed under another plan's id")
        if is_same_proposal(plan, view.plan):
            return view
        ruling = may_submit_plan(plan, plan.sites, (view.plan_id, view.state))
        if isinstance(ruling, Refused):
            raise Conflict(ruling.reason, fix=ruling.fix)
    return None


def _start(
    federation: Federation, compliance: ComplianceClient, asked: StartSection
) -> tuple[Start, tuple[Part, ...]]:
    """The kept model that a file names, and the line of the plan that had it up to there."""
    kept = federation.checkpoints.find(asked.plan, asked.rounds, datetime.now(UTC))
    coordinator = federation.identity.public
    statement = compliance.plan(kept.plan_id).statement
    earlier = TrainingPlan.from_body(verify_statement(statement, coordinator))
    *older, last = read_line(compliance, coordinator, kept.plan_id, earlier)
    line = (*older, replace(last, rounds=kept.rounds))
    named = StartsFrom.after(kept.plan_id, earlier, kept.rounds, kept.model)
    return Start(named, earlier), line


def _check_start(
    federation: Federation,
    compliance: ComplianceClient,
    path: Path,
    plan: TrainingPlan,
    start: Start,
    before: tuple[Part, ...],
    model: PlanModel,
) -> None:
    """Refuse a start that the service or the sites would refuse, before anybody is asked.

    Raises:
        MalformedPlanFile: With the reason.
        FiduciaryError: When the kept model does not open.
    """
    evidence = compliance.plan_evidence(start.statement.plan)
    ruling = may_start(plan, before, reported_model(evidence, start.statement.rounds))
    if isinstance(ruling, Refused):
        raise MalformedPlanFile(f"{path}: starts_from: {ruling.reason}", fix=ruling.fix)
    model.set_state(start_state(federation.checkpoints, start.statement, model.get_state()))
    for phase in plan.phases:
        model.set_trainable(phase.kind)


def _costs(plan: TrainingPlan) -> tuple[PhaseCost, ...]:
    costs, rounds = [], 0
    for phase in plan.phases:
        rounds += phase.rounds
        steps = phase.rounds * phase.steps_per_round
        spent = reported_epsilon(events_of(plan.phases, rounds), plan.privacy.delta)
        sampled = phase.sampling_rate * plan.privacy.nominal_subjects
        limit = phase.batch_limit
        if limit is not None:
            sampled = min(sampled, Decimal(limit.subjects))
        costs.append(
            PhaseCost(
                kind=phase.kind,
                rounds=phase.rounds,
                steps=steps,
                sampling_rate=phase.sampling_rate,
                noise_multiplier=phase.noise_multiplier,
                max_grad_norm=phase.max_grad_norm,
                learning_rate=phase.learning_rate,
                batch_limit=None if limit is None else (limit.subjects, limit.max_population),
                epsilon_after=spent,
                subject_gradients=int(steps * sampled),
            )
        )
    return tuple(costs)
