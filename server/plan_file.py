"""`plan.toml`: what a coordinator writes, and the training plan that comes of it.

```toml
[plan]
name = "message-routing"
task = "text-classification"         # or token-, image- or tabular-classification, or
                                     # causal-language-modelling
labels = ["billing", "clinical"]     # every label, once; none where language is modelled
sites = ["st-elm", "lakeside"]       # admitted sites
purpose = "message-routing"
legal_basis = "legitimate-interests"
retention_days = 365
# optional: base_model, max_tokens, groups, class_weights ("histogram"), focal_gamma, privacy_audit,
# quorum, deadline_seconds, minimum_subjects, held_out_share, author;
# secure_aggregation; missed_rounds (may be without a quorum; a tenth otherwise);
# rounds and adapter_rounds choose among the recommended phases

[privacy]
epsilon = 8                          # one site's whole part in the plan
delta = 1e-5
nominal_subjects = 1000              # public; the divisor of every sum
# optional: max_records_per_subject; unit = "record" protects single records only;
# noise_sites = 3 distributes the noise over at least so many honest sites (secure_aggregation only)

[adapter]                            # optional: rank, alpha, target_modules, layers

[starts_from]                        # optional: a kept model (`server checkpoints`) instead of the
plan = "message-routing-3"           # base model: a plan's id or name, and how many of its rounds;
rounds = 20                          # without [[phases]] what was left of that plan is trained

[aggregation]                        # optional: rule ("mean"; "trimmed-mean", "median", "krum" with
                                     # tolerated), server ("average"; "momentum", "adam"),
                                     # learning_rate, momentum, second_momentum, adaptivity

[transport]                          # optional: precision ("float32", "float16", "int8"),
                                     # compression ("none", "deflate")

[deidentification]                   # optional: what must have been measured of each dataset
minimum_recall = 0.95                # limits with 95 % confidence, not estimates
maximum_leak_share = 0.1             # of texts; either or both
measured = "either"                  # "evaluation" on labelled texts, "review" of own rows
not_older_than_days = 365

[[features]]                         # a table's columns; tabular-classification only
name = "age"
kind = "number"                      # low and high; or "category" with values
low = 0
high = 120

[[phases]]                           # optional; recommended phases otherwise
kind = "probe"                       # or "histogram", "adapter", "full"
rounds = 10
steps_per_round = 2
sampling_rate = 1.0
learning_rate = 2.0
max_grad_norm = 1.0
relative_noise = 1.0                 # optional: this phase's noise relative to the others'
batch_limit = { subjects = 500, max_population = 5000 }  # optional
proximal = 0.01                      # optional: FedProx's mu
```

* Noise is never written down: it is what the promised epsilon needs (`client.learning.accounting`).
* The base model's digest is that of the model on this machine.
* Unknown fields are errors. Numbers with a fraction are read as decimals, never as floats.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError

from audit.errors import NotFound
from client.learning.accounting import solve_noise_multipliers
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.task_recipes import LINEAR_MODEL, kinds_for, recommended_for
from compliance.statements import (
    Adapter,
    Aggregation,
    BaseModelReference,
    BatchLimit,
    DeidentificationDemand,
    Document,
    Feature,
    Fraction,
    PhaseKind,
    PrivacyUnit,
    TaskName,
    TrainingPlan,
    Transport,
    problem_reason,
    utc_now,
)
from server.errors import MalformedPlanFile
from server.starts import Start

MAX_PLAN_FILE_BYTES = 4 * 1024 * 1024
DEFAULT_AUTHOR = "coordinator"

MISSED_ROUNDS_SHARE: Final = 0.1
"""Of a plan's rounds, how many may be without a quorum where the file does not say."""

DEFAULT_MODELS: Final[Mapping[str, str]] = {
    "text-classification": EMBEDDED_MODEL,
    "token-classification": EMBEDDED_MODEL,
    "tabular-classification": LINEAR_MODEL,
}
"""What a task trains on where the file names no base model; other tasks must name one."""


class PlanSection(Document):
    """`[plan]`. Its limits are those of `TrainingPlan`, which is checked after it."""

    name: str
    author: str = DEFAULT_AUTHOR
    task: TaskName = "text-classification"
    base_model: str | None = None
    labels: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    max_tokens: int = 128
    class_weights: str = "none"
    focal_gamma: Fraction = Decimal(0)
    privacy_audit: bool = False
    secure_aggregation: bool = False
    missed_rounds: int | None = None
    sites: tuple[str, ...]
    quorum: int | None = None
    deadline_seconds: int = 600
    minimum_subjects: int = 50
    held_out_share: Fraction = Decimal("0.2")
    purpose: str
    legal_basis: str
    retention_days: int
    rounds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    adapter_rounds: Annotated[int, Field(ge=0, le=10_000)] | None = None


class PrivacySection(Document):
    """`[privacy]`."""

    unit: PrivacyUnit = "subject"
    epsilon: Annotated[Fraction, Field(gt=0, le=100)]
    delta: Annotated[Fraction, Field(gt=0, lt=1)]
    nominal_subjects: Annotated[int, Field(ge=1, le=10**9)]
    max_records_per_subject: int = 4
    noise_sites: int | None = None


class PhaseSection(Document):
    """`[[phases]]`."""

    kind: PhaseKind
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    sampling_rate: Annotated[Fraction, Field(gt=0, le=1)]
    learning_rate: Annotated[Fraction, Field(gt=0, le=1000)]
    max_grad_norm: Annotated[Fraction, Field(gt=0, le=1000)]
    relative_noise: Annotated[Fraction, Field(gt=0, le=100)] = Decimal(1)
    batch_limit: BatchLimit | None = None
    proximal: Annotated[Fraction, Field(ge=0, le=1000)] = Decimal(0)


class StartSection(Document):
    """`[starts_from]`."""

    plan: Annotated[str, Field(min_length=1, max_length=100)]
    rounds: Annotated[int, Field(ge=1, le=80_000)]


class PlanFile(Document):
    """The whole file."""

    plan: PlanSection
    starts_from: StartSection | None = None
    privacy: PrivacySection
    adapter: Adapter = Adapter()
    aggregation: Aggregation = Aggregation()
    transport: Transport = Transport()
    deidentification: DeidentificationDemand | None = None
    features: tuple[Feature, ...] = ()
    phases: Annotated[tuple[PhaseSection, ...], Field(max_length=8)] = ()


def read_plan_file(path: Path) -> PlanFile:
    """Read `plan.toml`.

    Raises:
        NotFound: When it cannot be read.
        MalformedPlanFile: With the first thing that is wrong.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_PLAN_FILE_BYTES:
            raise MalformedPlanFile(f"{path} is larger than any plan", fix="pass a plan.toml")
        document = tomllib.loads(data.decode("utf-8"), parse_float=Decimal)
    except OSError as error:
        raise NotFound(
            f"cannot read {path}: {error.strerror}", fix="pass the path of a plan.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedPlanFile(f"{path} is not TOML: {error}", fix="correct it") from error
    try:
        return PlanFile.model_validate(document)
    except ValidationError as error:
        raise _malformed(path, error, PlanFile) from error


def make_plan(
    file: PlanFile,
    *,
    path: Path,
    federation: str,
    admitted_sites: Collection[str],
    start: Start | None = None,
) -> TrainingPlan:
    """The training plan that a file asks for: digest filled in, noise solved.

    Args:
        file: From `read_plan_file`.
        path: Where it came from, for messages.
        federation: The federation's name.
        admitted_sites: Sites that may be asked.
        start: The kept model that the file's `[starts_from]` names.

    Raises:
        MalformedPlanFile: When a value is out of range, or a site is not admitted.
        NotFound: When the base model is not on this machine.
        MalformedInput: When the promised epsilon cannot be kept in the steps asked.
    """
    section = file.plan
    unknown = sorted(set(section.sites) - set(admitted_sites))
    if unknown:
        raise MalformedPlanFile(
            f"{path}: plan.sites: not an admitted site: {', '.join(unknown)}",
            fix="see `server sites`; admit them first: server admit SITE",
        )
    if file.phases and (section.rounds, section.adapter_rounds) != (None, None):
        raise MalformedPlanFile(
            f"{path}: plan.rounds: each phase states its own rounds",
            fix="remove plan.rounds and plan.adapter_rounds, or the phases",
        )
    if file.starts_from is not None and start is None:
        raise MalformedPlanFile(
            f"{path}: starts_from: only `server submit` knows the kept models",
            fix=f"remove starts_from from {path.name}, or submit it",
        )
    if start is not None and not file.phases:
        _check_rest(path, section, start)
    draft = _draft(file, path, federation, start)
    phases = (
        solve_noise_multipliers(draft.phases, draft.privacy.epsilon, draft.privacy.delta)
        if file.phases or start is not None
        else recommended_for(
            draft.task,
            draft.privacy.epsilon,
            draft.privacy.delta,
            base_model=draft.base_model.name,
            label_count=len(draft.labels),
            nominal_subjects=draft.privacy.nominal_subjects,
            site_count=len(draft.sites),
            with_histogram=draft.class_weights == "histogram",
            rounds=section.rounds,
            adapter_rounds=section.adapter_rounds,
        )
    )
    missed = section.missed_rounds
    if missed is None:
        missed = math.ceil(MISSED_ROUNDS_SHARE * sum(phase.rounds for phase in phases))
    # Noise can outgrow its range; the whole plan is checked once more.
    return _checked(
        path,
        {
            **draft.model_dump(),
            "phases": [phase.model_dump() for phase in phases],
            "missed_rounds": missed,
        },
    )


def _check_rest(path: Path, section: PlanSection, start: Start) -> None:
    """Without phases of its own, the file asks for what was left of the earlier plan."""
    if (section.rounds, section.adapter_rounds) != (None, None):
        raise MalformedPlanFile(
            f"{path}: plan.rounds: recommended phases are for the base model",
            fix="state the phases, or leave plan.rounds out to train what was left",
        )
    if not start.phases_left:
        raise MalformedPlanFile(
            f"{path}: starts_from: nothing was left of plan {start.earlier.name}",
            fix=f"state the phases in {path.name}",
        )


def _draft(file: PlanFile, path: Path, federation: str, start: Start | None) -> TrainingPlan:
    """The plan with noise of relative scale, so that every other mistake is told first."""
    section = file.plan
    name = section.base_model or DEFAULT_MODELS.get(section.task)
    if name is None:
        raise MalformedPlanFile(
            f"{path}: plan.base_model: {section.task} has no default base model",
            fix=f"add plan.base_model to {path.name}: a hub id in the local cache, or a folder",
        )
    if not section.labels and section.task != "causal-language-modelling":
        raise MalformedPlanFile(
            f"{path}: plan.labels: Field required",
            fix=f"add plan.labels to {path.name}; `server submit --help` shows a complete file",
        )
    stand_ins = tuple(
        PhaseSection(
            kind=kind,
            rounds=section.rounds or 1,
            steps_per_round=1,
            sampling_rate=Decimal(1),
            learning_rate=Decimal(1),
            max_grad_norm=Decimal(1),
        )
        for kind in kinds_for(section.task, with_histogram=section.class_weights == "histogram")
    )
    asked = [
        {**phase.model_dump(exclude={"relative_noise"}), "noise_multiplier": phase.relative_noise}
        for phase in file.phases or stand_ins
    ]
    if start is not None and not file.phases:
        asked = [phase.model_dump() for phase in start.phases_left]
    fields: dict[str, Any] = {
        **section.model_dump(exclude={"base_model", "rounds", "adapter_rounds", "missed_rounds"}),
        "federation": federation,
        "created_at": utc_now(),
        "base_model": {"name": name, "digest": f"sha256:{'0' * 64}"},
        "adapter": file.adapter.model_dump(),
        "aggregation": file.aggregation.model_dump(),
        "transport": file.transport.model_dump(),
        "deidentification": file.deidentification and file.deidentification.model_dump(),
        "features": [feature.model_dump() for feature in file.features],
        "quorum": len(section.sites) if section.quorum is None else section.quorum,
        "privacy": file.privacy.model_dump(),
        "phases": asked,
        "starts_from": None if start is None else start.statement.model_dump(),
    }
    draft = _checked(path, fields)
    reference = BaseModelReference(name=name, digest=base_model_digest(resolve_base_model(name)))
    return draft.model_copy(update={"base_model": reference})


def _checked(path: Path, fields: dict[str, Any]) -> TrainingPlan:
    try:
        return TrainingPlan.model_validate(fields)
    except ValidationError as error:
        raise _malformed(path, error, TrainingPlan) from error


def _malformed(path: Path, error: ValidationError, model: type[BaseModel]) -> MalformedPlanFile:
    problems = error.errors(include_url=False, include_input=False)
    # A slip in a key is an unknown key and a missing one: only the first tells what to do.
    slips = (p for p in problems if p["type"] == "extra_forbidden" and _nearest(p["loc"]))
    problem = next(slips, problems[0])
    where = ".".join(str(part) for part in problem["loc"])
    if model is TrainingPlan and where.partition(".")[0] in PlanSection.model_fields:
        where = f"plan.{where}"
    reason = problem_reason(problem)
    if problem["type"] == "missing":
        what = where if len(problem["loc"]) > 1 or model is TrainingPlan else f"[{where}]"
        fix = f"add {what} to {path.name}; `server submit --help` shows a complete file"
    elif problem["type"] == "extra_forbidden":
        fix = _nearest(problem["loc"]) or f"remove {where} from {path.name}"
    else:
        fix = f"correct {where or 'it'} in {path.name}"
    return MalformedPlanFile(f"{path}: {where or 'plan'}: {reason}", fix=fix)


def _nearest(location: tuple[int | str, ...]) -> str:
    sections: dict[str, type[BaseModel]] = {
        "plan": PlanSection,
        "privacy": PrivacySection,
        "starts_from": StartSection,
        "adapter": Adapter,
        "aggregation": Aggregation,
        "transport": Transport,
        "deidentification": DeidentificationDemand,
        "features": Feature,
        "phases": PhaseSection,
    }
    section = sections.get(str(location[0])) if len(location) > 1 else PlanFile
    known = list(section.model_fields) if section is not None else []
    if location[-2:-1] == ("batch_limit",):
        known = list(BatchLimit.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]}?" if close else ""
