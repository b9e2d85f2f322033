"""What a site's policy says of a plan: the plan's proposal in, one finding for each rule out.

* Pure, and the same for a coordinator's draft, a submitted plan, and a plan that is being trained.
* `check_proposal` is about a plan as a whole; `check_hours` about a round at a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from audit.words import count_of
from client.findings import Finding
from client.learning.base_model import TABULAR_PREFIX
from client.policy import ANY_EMBEDDED, EMBEDDED_PREFIX, Policy
from client.training_hours import ALL_DAY
from compliance.statements import StartsFrom, TrainingPlan

TRAINING_HOURS: Final = "training-hours"
"""Rule, and code of the refusal of a single round."""


@dataclass(frozen=True)
class Proposal:
    """What a policy looks at of a plan, also of one that nobody has signed yet.

    Attributes:
        purpose: What the records would be used for.
        task: What would be trained.
        base_model: The base model's name.
        base_model_digest: Its digest; None when a draft does not say it and it is not installed.
        unit: Whom the promise protects.
        epsilon: What the plan may cost, at `delta`.
        delta: The plan's delta.
        secure_aggregation: Whether the coordinator learns only sums over sites.
        noise_sites: Over how many honest sites noise is distributed; None: each site adds all.
        starts_from: In words, the model that training starts from; empty for the base model.
    """

    purpose: str
    task: str
    base_model: str
    base_model_digest: str | None
    unit: str
    epsilon: Decimal
    delta: Decimal
    secure_aggregation: bool = False
    noise_sites: int | None = None
    starts_from: str = ""

    @classmethod
    def of(cls, plan: TrainingPlan) -> Proposal:
        """What a signed plan proposes."""
        return cls(
            purpose=plan.purpose,
            task=plan.task,
            base_model=plan.base_model.name,
            base_model_digest=plan.base_model.digest,
            unit=plan.privacy.unit,
            epsilon=plan.privacy.epsilon,
            delta=plan.privacy.delta,
            secure_aggregation=plan.secure_aggregation,
            noise_sites=plan.privacy.noise_sites,
            starts_from="" if plan.starts_from is None else told_start(plan.starts_from),
        )


def check_proposal(policy: Policy, proposal: Proposal) -> tuple[Finding, ...]:
    """What the policy says of a plan, one finding for each rule, in the order of the file."""
    return (
        _purpose(policy, proposal),
        Finding(
            "task",
            proposal.task in policy.tasks,
            f"the plan's task is {proposal.task}; allowed: {_listed(policy.tasks)}",
            "if you agree to it, add the task to tasks in policy.toml",
        ),
        _base_model(policy, proposal),
        Finding("start", True, f"training starts from {proposal.starts_from or 'the base model'}"),
        Finding(
            "privacy-unit",
            proposal.unit in policy.privacy_units,
            f"the plan protects each {proposal.unit}; allowed: {_listed(policy.privacy_units)}",
            "ask the coordinator for a plan that protects whole subjects",
        ),
        Finding(
            "epsilon-per-plan",
            proposal.epsilon <= policy.max_epsilon_per_plan,
            f"the plan may cost epsilon {proposal.epsilon}; allowed: {policy.max_epsilon_per_plan}",
            "ask the coordinator for a smaller epsilon, or raise max_epsilon_per_plan",
        ),
        Finding(
            "delta",
            proposal.delta <= policy.delta,
            f"the plan's delta is {proposal.delta}; allowed: {policy.delta}",
            "ask the coordinator for a smaller delta",
        ),
        _secure_aggregation(policy, proposal),
        _distributed_noise(policy, proposal),
        Finding(TRAINING_HOURS, True, _told_hours(policy)),
    )


def told_start(start: StartsFrom) -> str:
    """What a plan starts from, in words; the compliance service verified that it was reported."""
    return (
        f"what plan {start.plan[:19]}… had after {count_of(start.rounds, 'round')},"
        f" {start.model[:19]}…: its "
        "release tells of those rounds too; a first round from another model is refused"
    )


def check_hours(policy: Policy, moment: datetime) -> Finding:
    """Whether a round may begin at a moment; it says nothing of the plan as a whole.

    Args:
        policy: The site's.
        moment: With its time zone.
    """
    refusal = policy.hours.refusal(moment)
    return Finding(
        TRAINING_HOURS,
        refusal is None,
        refusal or _told_hours(policy),
        "" if refusal is None else "wait, or widen training_hours in policy.toml",
    )


def _told_hours(policy: Policy) -> str:
    if ALL_DAY in policy.training_hours:
        return "rounds may begin at any time"
    return f"rounds begin {policy.hours}; at other times they are declined one by one"


def _secure_aggregation(policy: Policy, proposal: Proposal) -> Finding:
    seen = "only sums over sites" if proposal.secure_aggregation else "each site's own update"
    required = "" if policy.require_secure_aggregation else "not "
    return Finding(
        "secure-aggregation",
        proposal.secure_aggregation or not policy.require_secure_aggregation,
        f"the coordinator would see {seen}; secure aggregation is {required}required",
        "ask the coordinator for a plan with secure_aggregation = true",
    )


def _distributed_noise(policy: Policy, proposal: Proposal) -> Finding:
    sites = proposal.noise_sites
    if sites is None:
        detail = "this site adds all the noise itself: the promise rests on no other site"
        return Finding("distributed-noise", True, detail)
    allowed = "allowed" if policy.allow_distributed_noise else "not allowed"
    return Finding(
        "distributed-noise",
        policy.allow_distributed_noise,
        f"this site would add one share of the noise in {sites}: the promise rests on {sites} "
        f"honest sites, this one among them, that add theirs, and on nobody seeing single "
        f"updates; {allowed}",
        "ask the coordinator for a plan without noise_sites, or, if you rely on the other sites, "
        "set allow_distributed_noise = true",
    )


def _purpose(policy: Policy, proposal: Proposal) -> Finding:
    if not policy.purposes:
        return Finding(
            "purpose",
            False,
            f"the plan is for {proposal.purpose}, and the policy allows no purpose",
            f'if you agree to it, set purposes = ["{proposal.purpose}"] in policy.toml',
        )
    return Finding(
        "purpose",
        proposal.purpose in policy.purposes,
        f"the plan is for {proposal.purpose}; allowed: {_listed(policy.purposes)}",
        f"if you agree to it, add {proposal.purpose} to purposes in policy.toml",
    )


def _base_model(policy: Policy, proposal: Proposal) -> Finding:
    digest = proposal.base_model_digest
    embedded = proposal.base_model.startswith((EMBEDDED_PREFIX, TABULAR_PREFIX))
    allowed = digest in policy.base_models or (embedded and ANY_EMBEDDED in policy.base_models)
    named = proposal.base_model if digest is None else f"{proposal.base_model} ({digest[:19]}…)"
    return Finding(
        "base-model-allowed",
        allowed,
        f"the plan's base model is {named}; allowed: {_listed(policy.base_models)}",
        "if you trust that model, add its digest to base_models in policy.toml",
    )


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values) if values else "none"
