"""Plans, policies and records that the tests of a site share."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from audit.canonical import canonical_bytes, digest
from client.budget import Limits, Reservation, RoundEvent
from client.findings import Finding
from client.guard import Allowed, Approval, Terms
from client.policy import Policy
from client.site import Site
from client.vault import Content, Provenance, Record, Staging, Vault
from compliance.statements import TrainingPlan
from tests.client.site.counterparts import FEDERATION, SITE, FakeCompliance

ZERO_DIGEST = "sha256:" + "0" * 64
PURPOSE = "triage"
LABELS = ("urgent", "routine")


TASKS: dict[Content, dict[str, Any]] = {
    "text": {"format": "fiduciary.plan/2", "task": "text-classification"},
    "spans": {
        "format": "fiduciary.plan/2",
        "task": "token-classification",
        "labels": ["O", *LABELS],
    },
    "language": {
        "format": "fiduciary.plan/2",
        "task": "causal-language-modelling",
        "labels": [],
        "phase": {"kind": "full"},
    },
    "image": {"format": "fiduciary.plan/2", "task": "image-classification"},
    "table": {
        "format": "fiduciary.plan/2",
        "task": "tabular-classification",
        "features": [{"name": "age", "kind": "number", "low": "0", "high": "100"}],
        "phase": {"kind": "full"},
    },
}
"""Changes that make a plan of each kind of content out of `make_plan`."""


def make_plan(**changes: Any) -> TrainingPlan:
    """A plan of four cheap rounds that a fresh site with `make_policy` allows."""
    privacy = {
        "epsilon": "8",
        "delta": "0.00001",
        "nominal_subjects": 20,
        **changes.pop("privacy", {}),
    }
    phase = {
        "kind": "probe",
        "rounds": 4,
        "steps_per_round": 2,
        "sampling_rate": "0.5",
        "learning_rate": "0.5",
        "max_grad_norm": "1",
        "noise_multiplier": "2",
        **changes.pop("phase", {}),
    }
    return TrainingPlan.from_body(
        {
            "format": "fiduciary.plan/1",
            "name": "triage-2026",
            "federation": FEDERATION,
            "author": "coordinator",
            "created_at": "2026-11-02T09:00:00Z",
            "base_model": {"name": "tiny", "digest": ZERO_DIGEST},
            "task": "text-classification",
            "labels": list(LABELS),
            "max_tokens": 16,
            "phases": [phase],
            "privacy": privacy,
            "purpose": PURPOSE,
            "legal_basis": "public-task",
            "retention_days": 365,
            "sites": [SITE, "south"],
            "quorum": 1,
            "minimum_subjects": 10,
            **changes,
        }
    )


def make_policy(**changes: Any) -> Policy:
    """A policy that allows `make_plan`."""
    return Policy.model_validate(
        {
            "format": "fiduciary.policy/4",
            "purposes": [PURPOSE],
            "tasks": ["text-classification"],
            "base_models": ["any-embedded", ZERO_DIGEST],
            "privacy_units": ["subject"],
            "max_epsilon_per_plan": "8",
            "max_epsilon_total": "10",
            "max_epsilon_per_period": changes.get("max_epsilon_total", "10"),
            "period_days": 30,
            "delta": "0.00001",
            "minimum_subjects": 10,
            "require_secure_aggregation": False,
            "allow_distributed_noise": False,
            "training_hours": ["00:00-24:00"],
            "timezone": "UTC",
            "share_evaluation": True,
            "minimum_deidentification_recall": "0",
            "maximum_deidentification_leak_share": "1",
            "deidentification_measured_within_days": 365,
            **changes,
        }
    )


def policy_toml(policy: Policy) -> str:
    """A policy as its file."""
    lines = []
    for name, value in policy.model_dump(mode="json").items():
        if isinstance(value, list):
            shown = "[" + ", ".join(f'"{item}"' for item in value) + "]"
        elif isinstance(value, bool):
            shown = "true" if value else "false"
        elif isinstance(value, int):
            shown = str(value)
        else:
            shown = f'"{value}"'
        lines.append(f"{name} = {shown}")
    return "\n".join(lines) + "\n"


def make_reservation(
    plan_id: str = ZERO_DIGEST,
    *,
    rounds: int = 3,
    noise: str = "1",
    rate: str = "1",
    steps: int = 1,
    epsilon: str = "100",
    datasets: tuple[str, ...] = ("notes",),
) -> Reservation:
    return Reservation(
        plan_id=plan_id,
        plan_name="triage-2026",
        purpose=PURPOSE,
        datasets=datasets,
        unit="subject",
        adjacency="add-remove-one",
        max_records_per_subject=4,
        epsilon=Decimal(epsilon),
        delta=Decimal("0.00001"),
        rounds=tuple(RoundEvent(Decimal(noise), Decimal(rate), steps) for _ in range(rounds)),
    )


def make_allowed(*, datasets: tuple[str, ...] = ("notes",), **changes: Any) -> Allowed:
    """The guard's consent to `make_plan`, as it would be for an approved one."""
    plan = make_plan(**changes)
    plan_id = digest(canonical_bytes(plan.body()))
    approval = Approval("fiduciary.test/log", 7, 8, ZERO_DIGEST, "officer", "2026-11-02T10:00:00Z")
    terms = Terms(Reservation.of(plan_id, plan, datasets), make_limits("100"))
    return Allowed(plan, terms, approval, ())


def make_limits(total: str = "20", per_plan: str | None = None) -> Limits:
    return Limits(Decimal(per_plan or total), Decimal(total), Decimal("0.00001"))


def add_dataset(
    site: Site,
    name: str = "notes",
    *,
    subjects: int = 24,
    labels: tuple[str, ...] = LABELS,
    purposes: tuple[str, ...] = (PURPOSE,),
    legal_basis: str = "public-task",
    replace: bool = False,
) -> None:
    """A published dataset: two records a subject, subjects `P-000`, `P-001`, …."""
    with (
        Vault.open(site.paths, site.keyring) as vault,
        Staging(vault, name, replace=replace) as staging,
    ):
        staging.add(
            Record(
                vault.pseudonym(f"P-{index:03}"),
                f"{labels[index % len(labels)]} note {record}",
                labels[index % len(labels)],
            )
            for index in range(subjects)
            for record in range(2)
        )
        staging.publish(Provenance(ZERO_DIGEST, purposes, legal_basis), lambda _dataset: None)


def submit(compliance: FakeCompliance, *, approve: bool = True, **changes: Any) -> str:
    """Submit `make_plan` to a fake service, and have it approved."""
    plan_id = compliance.submit(compliance.coordinator.sign_plan(make_plan(**changes)))
    if approve:
        compliance.decide(plan_id)
    return plan_id


def failures(findings: tuple[Finding, ...]) -> list[str]:
    """Names of the rules that object."""
    return [finding.rule for finding in findings if not finding.passed]
