"""A coordinator's `plan.toml`, read by a site that is asked for its opinion before submission.

Only what a policy and a budget look at is read; the coordinator's own command checks the rest. A
draft proves nothing: what counts is the signed and approved plan, which the guard checks again.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit.errors import MalformedInput
from audit.words import count_of
from client.budget import Reservation, rounds_of
from client.proposals import Proposal
from compliance.statements import Fraction, Phase, Privacy, first_problem
from compliance.toml_file import load_toml

MAX_DRAFT_BYTES = 4 * 1024 * 1024

DEFAULT_BASE_MODEL = "embedded:all-MiniLM-L6-v2"
DEFAULT_TABULAR_MODEL = "tabular:linear"


class _Plan(BaseModel):
    model_config = ConfigDict(extra="ignore")

    purpose: str
    task: str = "text-classification"
    base_model: str = ""
    secure_aggregation: bool = False

    @property
    def model(self) -> str:
        """The base model, also where the file leaves it to the task."""
        tabular = self.task == "tabular-classification"
        return self.base_model or (DEFAULT_TABULAR_MODEL if tabular else DEFAULT_BASE_MODEL)


class _Privacy(BaseModel):
    model_config = ConfigDict(extra="ignore")

    unit: str = "subject"
    epsilon: Annotated[Fraction, Field(gt=0)]
    delta: Annotated[Fraction, Field(gt=0, lt=1)]
    noise_sites: Annotated[int, Field(ge=2, le=1000)] | None = None


class _Start(BaseModel):
    model_config = ConfigDict(extra="ignore")

    plan: str
    rounds: int


class _Draft(BaseModel):
    model_config = ConfigDict(extra="ignore")

    plan: _Plan
    privacy: _Privacy
    starts_from: _Start | None = None


class _PlanRounds(_Plan):
    name: str = "draft"
    labels: tuple[str, ...] = ()
    class_weights: str = "none"
    sites: Annotated[tuple[str, ...], Field(min_length=1)]
    rounds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    adapter_rounds: Annotated[int, Field(ge=0, le=10_000)] | None = None


class _Costed(BaseModel):
    model_config = ConfigDict(extra="ignore")

    plan: _PlanRounds
    privacy: Privacy
    phases: Annotated[tuple[dict[str, Any], ...], Field(max_length=8)] = ()
    starts_from: _Start | None = None


def read_draft(path: Path, digest_of: Callable[[str], str | None]) -> Proposal:
    """What a `plan.toml` proposes.

    Args:
        path: The file.
        digest_of: Digest of a base model as it is installed here, or None.

    Raises:
        MalformedInput: When it is not a plan's file.
    """
    draft = _read(path, _Draft)
    start = draft.starts_from
    return Proposal(
        purpose=draft.plan.purpose,
        task=draft.plan.task,
        base_model=draft.plan.model,
        base_model_digest=digest_of(draft.plan.model),
        unit=draft.privacy.unit,
        epsilon=draft.privacy.epsilon,
        delta=draft.privacy.delta,
        secure_aggregation=draft.plan.secure_aggregation,
        noise_sites=draft.privacy.noise_sites,
        starts_from=""
        if start is None
        else f"what plan {start.plan} had after {count_of(start.rounds, 'round')}: its release"
        " tells of those rounds too",
    )


def draft_reservation(path: Path) -> Reservation:
    """What a `plan.toml` would reserve, with the noise that `server submit` would solve for it.

    Args:
        path: The file.

    Raises:
        MalformedInput: When it is not a plan's file, or its epsilon cannot be reached in the steps
            that it asks for.
    """
    draft, phases = _costed(path)
    plan, privacy = draft.plan, draft.privacy
    return Reservation(
        plan_id="",
        plan_name=plan.name,
        purpose=plan.purpose,
        datasets=(),
        unit=privacy.unit,
        adjacency=privacy.adjacency,
        max_records_per_subject=privacy.max_records_per_subject,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        rounds=rounds_of(phases),
    )


def draft_promise(path: Path) -> tuple[str, Privacy, tuple[Phase, ...]]:
    """A draft's name, what it promises, and its phases as `draft_reservation` solves them.

    Raises:
        MalformedInput: As `draft_reservation` does.
    """
    draft, phases = _costed(path)
    return draft.plan.name, draft.privacy, phases


def _costed(path: Path) -> tuple[_Costed, tuple[Phase, ...]]:
    from client.learning.accounting import solve_noise_multipliers
    from client.learning.task_recipes import recommended_for

    draft = _read(path, _Costed)
    plan, privacy = draft.plan, draft.privacy
    if draft.phases:
        stated = _phases(path, draft.phases)
        return draft, solve_noise_multipliers(stated, privacy.epsilon, privacy.delta)
    if draft.starts_from is not None:
        raise MalformedInput(
            f"{path.name} trains what was left of plan {draft.starts_from.plan}, which a draft "
            "does not say",
            fix="ask for a plan.toml that states its phases, or for the plan once it is submitted",
        )
    return draft, recommended_for(
        plan.task,
        privacy.epsilon,
        privacy.delta,
        base_model=plan.model,
        label_count=len(plan.labels),
        nominal_subjects=privacy.nominal_subjects,
        site_count=len(plan.sites),
        with_histogram=plan.class_weights == "histogram",
        rounds=plan.rounds,
        adapter_rounds=plan.adapter_rounds,
    )


_Model = TypeVar("_Model", bound=BaseModel)

_FIX = "pass the coordinator's plan.toml, or the id of a submitted plan"


def _read(path: Path, model: type[_Model]) -> _Model:
    return load_toml(path, model, limit_bytes=MAX_DRAFT_BYTES, fix=_FIX, exact=True)


def _phases(path: Path, sections: tuple[dict[str, Any], ...]) -> tuple[Phase, ...]:
    """Phases whose noise multipliers are relative, as `relative_noise` states them."""
    try:
        return tuple(
            Phase.model_validate(
                {
                    **{name: value for name, value in one.items() if name != "relative_noise"},
                    "noise_multiplier": one.get("relative_noise", Decimal(1)),
                }
            )
            for one in sections
        )
    except ValidationError as error:
        raise MalformedInput(
            f"malformed {path.name}: phases: {first_problem(error)}", fix=_FIX
        ) from error
