"""The site's policy: what its operator allows plans to do, in `policy.toml`.

* Default is to refuse: a policy names the purposes it allows, and a fresh one names none.
* Every key is required, so that a limit is never one that nobody chose; an unknown key is an error.
* A file of the first format, which had one unit of privacy and one task, is read as what it said.
* A policy can only refuse. What it allows must still pass the guard's other rules.
* Checking a plan against a policy is pure: plan in, one finding for each rule out.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from audit.errors import MalformedInput, NotFound
from client.findings import Finding
from client.learning.base_model import TABULAR_PREFIX
from compliance.statements import (
    Digest,
    Document,
    Fraction,
    Name,
    PrivacyUnit,
    TaskName,
    TrainingPlan,
    first_problem,
)

ANY_EMBEDDED = "any-embedded"
"""Allows every base model that comes with an installed package, whose weights the site verified."""

EMBEDDED_PREFIX = "embedded:"

_FIRST_FORMAT = "fiduciary.policy/1"

MAX_POLICY_BYTES = 64 * 1024
"""A policy is a page; more is another file."""


def _number(value: object) -> object:
    """Accept `3`, `3.0` and `"3.0"`, and keep the digits as written."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("expected a number")  # noqa: TRY004  pydantic wants a ValueError
    return value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each value may appear once")
    return values


Number = Annotated[Fraction, BeforeValidator(_number)]
BaseModelRule = Annotated[Literal["any-embedded"] | Digest, Field()]


class Policy(Document):
    """What the operator allows. `DEFAULT_POLICY` explains each key.

    `epsilon` limits are for adding or removing one data subject. `max_epsilon_total` bounds the
    composition of everything that was ever trained at this site, at `delta`. Both hold for whole
    subjects also where a plan that protects single records is allowed.
    """

    format: Literal["fiduciary.policy/2"]
    purposes: Annotated[tuple[Name, ...], AfterValidator(_distinct)]
    tasks: Annotated[tuple[TaskName, ...], AfterValidator(_distinct)]
    base_models: Annotated[tuple[BaseModelRule, ...], AfterValidator(_distinct)]
    privacy_units: Annotated[
        tuple[PrivacyUnit, ...], Field(min_length=1), AfterValidator(_distinct)
    ]
    max_epsilon_per_plan: Annotated[Number, Field(gt=0, le=100)]
    max_epsilon_total: Annotated[Number, Field(gt=0, le=100)]
    delta: Annotated[Number, Field(gt=0, lt=1)]
    minimum_subjects: Annotated[int, Field(ge=1, le=10**9)]
    share_evaluation: bool

    @model_validator(mode="before")
    @classmethod
    def _from_first_format(cls, values: Any) -> Any:
        """Read `fiduciary.policy/1`: `require_unit = "subject"` is all that it could say."""
        if not isinstance(values, dict) or values.get("format") != _FIRST_FORMAT:
            return values
        if values.get("require_unit") != "subject" or "privacy_units" in values:
            raise ValueError(f'require_unit: {_FIRST_FORMAT} has require_unit = "subject"')
        kept = {name: value for name, value in values.items() if name != "require_unit"}
        return {**kept, "format": "fiduciary.policy/2", "privacy_units": ["subject"]}

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if self.max_epsilon_per_plan > self.max_epsilon_total:
            raise ValueError(
                f"max_epsilon_per_plan: {self.max_epsilon_per_plan} is more than "
                f"max_epsilon_total {self.max_epsilon_total}"
            )
        return self


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
    """

    purpose: str
    task: str
    base_model: str
    base_model_digest: str | None
    unit: str
    epsilon: Decimal
    delta: Decimal

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
        )


DEFAULT_POLICY = """\
# What this site allows. Only you can change it: the coordinator has no way to.
# Look at a plan with `client policy check plan.toml` (or a plan's id) before you allow it.
format = "fiduciary.policy/2"

# Purposes for which records may be used, as plans and datasets name them.
# EMPTY MEANS THAT EVERY PLAN IS REFUSED. Allow one like this: purposes = ["triage-research"]
purposes = []

# Tasks that may be trained: "text-classification", "token-classification",
# "causal-language-modelling", "image-classification", "tabular-classification".
tasks = ["text-classification"]

# Base models: "any-embedded" (those of installed packages), or digests like "sha256:…".
base_models = ["any-embedded"]

# Whom a plan must protect: "subject" is a whole data subject with all their records. Add "record"
# to allow plans that promise their epsilon to single records; a subject then bears more, which the
# limits below still bound.
privacy_units = ["subject"]

# Privacy loss (epsilon, add or remove one subject) that one plan may cost, and that all plans
# together may cost, ever, at this site. Smaller is more private: 1 is strong, 8 is common, and
# above 10 the promise means little.
max_epsilon_per_plan = 8
max_epsilon_total = 10

# The chance with which the promise may fail: at most one in the number of subjects.
delta = 0.00001

# Refuse to train on fewer subjects than this (the plan may ask for more).
minimum_subjects = 50

# Answer "evaluate" with counts of right and wrong predictions, and of how sure the model was, on
# held-out subjects. They never train, and the counts have no noise: set to false where even counts
# are too much.
share_evaluation = true
"""


def read_policy(path: Path) -> Policy:
    """Read a site's policy.

    Raises:
        NotFound: When there is no such file; everything is refused then.
        MalformedInput: With the line or key that is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_POLICY_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(
            f"no policy at {path}; every plan is refused",
            fix="write one with `client policy init`",
        ) from error
    return parse_policy(data, name=path.name)


def parse_policy(data: bytes, *, name: str = "policy.toml") -> Policy:
    """Read a policy's bytes.

    Args:
        data: UTF-8 TOML.
        name: What to call it in errors.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise MalformedInput(f"malformed {name}: more than {MAX_POLICY_BYTES} bytes")
    try:
        values = tomllib.loads(data.decode("utf-8"), parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise MalformedInput(f"malformed {name}: not UTF-8", fix=f"save {name} as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise MalformedInput(
            f"malformed {name}: {error}", fix=f"correct that line of {name}"
        ) from error
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        raise MalformedInput(
            f"malformed {name}: {first_problem(error)}",
            fix=f"correct {name}; `client policy init --print` shows a complete one",
        ) from error


def write_default_policy(path: Path) -> None:
    """Write `DEFAULT_POLICY`, which refuses everything, unless there is a policy already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(DEFAULT_POLICY)
        file.flush()
        os.fsync(file.fileno())


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
