"""A coordinator's `plan.toml`, read by a site that is asked for its opinion before submission.

Only what a policy looks at is read; the coordinator's own command checks the rest. A draft proves
nothing: what counts is the signed and approved plan, which the guard checks again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit.errors import MalformedInput
from client.policy import Proposal
from compliance.statements import Fraction, first_problem

MAX_DRAFT_BYTES = 4 * 1024 * 1024

DEFAULT_BASE_MODEL = "embedded:all-MiniLM-L6-v2"


class _Plan(BaseModel):
    model_config = ConfigDict(extra="ignore")

    purpose: str
    task: str = "text-classification"
    base_model: str = DEFAULT_BASE_MODEL


class _Privacy(BaseModel):
    model_config = ConfigDict(extra="ignore")

    unit: str = "subject"
    epsilon: Annotated[Fraction, Field(gt=0)]
    delta: Annotated[Fraction, Field(gt=0, lt=1)]


class _Draft(BaseModel):
    model_config = ConfigDict(extra="ignore")

    plan: _Plan
    privacy: _Privacy


def read_draft(path: Path, digest_of: Callable[[str], str | None]) -> Proposal:
    """What a `plan.toml` proposes.

    Args:
        path: The file.
        digest_of: Digest of a base model as it is installed here, or None.

    Raises:
        MalformedInput: When it is not a plan's file.
    """
    fix = "pass the coordinator's plan.toml, or the id of a submitted plan"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DRAFT_BYTES + 1)
        if len(data) > MAX_DRAFT_BYTES:
            raise MalformedInput(f"{path.name} is larger than any plan", fix=fix)
        document = tomllib.loads(data.decode("utf-8"), parse_float=Decimal)
        draft = _Draft.model_validate(document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedInput(f"malformed {path.name}: not TOML: {error}", fix=fix) from error
    except ValidationError as error:
        raise MalformedInput(f"malformed {path.name}: {first_problem(error)}", fix=fix) from error
    return Proposal(
        purpose=draft.plan.purpose,
        task=draft.plan.task,
        base_model=draft.plan.base_model,
        base_model_digest=digest_of(draft.plan.base_model),
        unit=draft.privacy.unit,
        epsilon=draft.privacy.epsilon,
        delta=draft.privacy.delta,
    )
