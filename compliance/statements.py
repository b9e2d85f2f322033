"""The domain documents that somebody must later prove.

* A statement is data only: no code, no paths, no free-form options. Unknown fields are an error.
* Its bytes are canonical JSON (`audit.canonical`), so it has one digest; `audit.statement` signs.
* Numbers with a fraction are decimals, written as strings: canonical JSON has no floats.
* Times are RFC 3339 in UTC. Digests are `sha256:<hex>`.
* A format change gets a new `format` value and an ADR; a reader refuses what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from audit.errors import MalformedInput

MAX_LABELS = 1000
"""More classes than any task of the registry needs; bounds a hostile plan's memory."""

_NAME = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
_DIGEST = r"^sha256:[0-9a-f]{64}$"
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$")


def _is_time(value: str) -> str:
    if not _TIME.match(value):
        raise ValueError("expected RFC 3339 in UTC, such as 2026-01-31T12:00:00Z")
    datetime.fromisoformat(value)
    return value


def _is_plain(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("expected a finite number")
    return value


Name = Annotated[str, Field(pattern=_NAME)]
"""Lower-case name of a site, plan, federation or release: 1 to 64 of `a-z 0-9 . _ -`."""

Digest = Annotated[str, Field(pattern=_DIGEST)]
"""`sha256:` and 64 hexadecimal digits."""

Time = Annotated[str, AfterValidator(_is_time)]
"""RFC 3339 in UTC with a `Z`."""

Text = Annotated[str, Field(min_length=1, max_length=2000)]
"""One line or paragraph for people."""

Fraction = Annotated[Decimal, AfterValidator(_is_plain), Field(max_digits=18, allow_inf_nan=False)]
"""A decimal number, a string in JSON."""

Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


def utc_now() -> str:
    """The present time as statements write it: RFC 3339, UTC, milliseconds."""
    return format_time(datetime.now(UTC))


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and a `Z`.

    >>> format_time(datetime(2026, 1, 31, 12, 0, tzinfo=UTC))
    '2026-01-31T12:00:00.000Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Document(BaseModel):
    """A frozen, closed document; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Statement(Document):
    """A document that is signed, logged, and later proven.

    Each subclass fixes `format`, the first word of which is the statement's kind in the log.
    """

    kind: ClassVar[str]

    def body(self) -> dict[str, Any]:
        """The statement as canonical JSON can hold it: strings, integers, lists, objects."""
        return self.model_dump(mode="json")

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Read a statement.

        Raises:
            MalformedInput: With the first field that is wrong and why.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise MalformedInput(f"malformed {cls.kind}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, as one sentence without the input's value."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "document"
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        reason = "unknown field"
    return f"{where}: {reason}"


# --- the training plan -------------------------------------------------------------------------


class BaseModelReference(Document):
    """The pretrained model, always named by digest."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    digest: Digest


class Adapter(Document):
    """LoRA (Hu et al. 2021): `rank` and `alpha` of the low-rank update of `target_modules`."""

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[int, Field(ge=1, le=1024)] = 16
    target_modules: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] = (
        "query",
        "value",
    )


class Phase(Document):
    """Consecutive rounds that train the same parameters with the same mechanism.

    `probe` trains the classification head on features of the frozen encoder; `adapter` trains LoRA
    and head. `sampling_rate` is the Poisson rate of each of the `steps_per_round` steps, in (0, 1].
    """

    kind: Literal["probe", "adapter"]
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    sampling_rate: Annotated[Fraction, Field(gt=0, le=1)]
    learning_rate: Annotated[Fraction, Field(gt=0, le=1000)]
    max_grad_norm: Annotated[Fraction, Field(gt=0, le=1000)]
    noise_multiplier: Annotated[Fraction, Field(gt=0, le=10_000)]


class Privacy(Document):
    """What every site promises its subjects.

    `epsilon` and `delta` hold for one site's whole part in the plan, for adding or removing one
    data subject (`unit`), by the PLD accountant over the plan's phases. `nominal_subjects` is a
    public constant: every sum is divided by `sampling_rate * nominal_subjects`, whatever the
    site's true number of subjects is, so that neither schedule nor scale depends on private data.
    """

    unit: Literal["subject"] = "subject"
    adjacency: Literal["add-remove-one"] = "add-remove-one"
    epsilon: Annotated[Fraction, Field(gt=0, le=100)]
    delta: Annotated[Fraction, Field(gt=0, lt=1)]
    nominal_subjects: Annotated[int, Field(ge=1, le=10**9)]
    max_records_per_subject: Annotated[int, Field(ge=1, le=1000)] = 4


class TrainingPlan(Statement):
    """One federated fine-tuning run, as the coordinator proposes it (DESIGN: declarative only)."""

    kind: ClassVar[str] = "plan"

    format: Literal["fiduciary.plan/1"] = "fiduciary.plan/1"
    name: Name
    federation: Name
    author: Annotated[str, Field(min_length=1, max_length=200)]
    created_at: Time
    base_model: BaseModelReference
    task: Literal["text-classification"]
    labels: Annotated[tuple[Text, ...], Field(min_length=2, max_length=MAX_LABELS)]
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 128
    adapter: Adapter = Adapter()
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=8)]
    privacy: Privacy
    held_out_share: Annotated[Fraction, Field(gt=0, lt=1)] = Decimal("0.2")
    purpose: Name
    legal_basis: Literal[
        "consent",
        "contract",
        "legal-obligation",
        "vital-interests",
        "public-task",
        "legitimate-interests",
    ]
    retention_days: Annotated[int, Field(ge=1, le=36_500)]
    sites: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    quorum: Annotated[int, Field(ge=1, le=1000)]
    deadline_seconds: Annotated[int, Field(ge=5, le=7 * 86_400)] = 600
    minimum_subjects: Annotated[int, Field(ge=1, le=10**9)] = 50

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label may appear once")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: each site may appear once")
        if self.quorum > len(self.sites):
            raise ValueError(f"quorum: {self.quorum} is more than the {len(self.sites)} sites")
        kinds = [phase.kind for phase in self.phases]
        if "probe" in kinds[1:]:
            raise ValueError("phases: a probe can only come first")
        return self

    @property
    def rounds(self) -> int:
        """Number of rounds over all phases."""
        return sum(phase.rounds for phase in self.phases)

    def phase_of(self, round_index: int) -> Phase:
        """The phase that round `round_index` (from 0) belongs to.

        Raises:
            MalformedInput: When the plan has no such round.
        """
        first = 0
        for phase in self.phases:
            if first <= round_index < first + phase.rounds:
                return phase
            first += phase.rounds
        raise MalformedInput(f"round {round_index} is not one of the plan's {self.rounds} rounds")


class Decision(Statement):
    """An officer's approval or rejection, signed by the compliance service."""

    kind: ClassVar[str] = "decision"

    format: Literal["fiduciary.decision/1"] = "fiduciary.decision/1"
    object: Annotated[str, Field(pattern=r"^(plan|release):sha256:[0-9a-f]{64}$")]
    verdict: Literal["approved", "rejected"]
    decided_by: Annotated[str, Field(min_length=1, max_length=200)]
    decided_at: Time
    reason: str = ""


# --- sites -------------------------------------------------------------------------------------


class SiteEnrolment(Statement):
    """A site's own keys, signed with its identity key. The private halves never leave the site."""

    kind: ClassVar[str] = "enrolment"

    format: Literal["fiduciary.enrolment/1"] = "fiduciary.enrolment/1"
    federation: Name
    site: Name
    identity_key: Annotated[str, Field(max_length=200)]
    """Ed25519 verifier key in C2SP signed-note form."""
    certificate_request: Annotated[str, Field(max_length=10_000)]
    """PEM certificate signing request (PKCS #10) of the P-384 node key: proof of possession."""
    requested_at: Time


class SiteAdmission(Statement):
    """The coordinator's approval of a site, with the certificate that it issued."""

    kind: ClassVar[str] = "admission"

    format: Literal["fiduciary.admission/1"] = "fiduciary.admission/1"
    federation: Name
    site: Name
    enrolment: Digest
    certificate: Annotated[str, Field(max_length=10_000)]
    admitted_at: Time


class SiteReport(Statement):
    """What a site did in one round. Holds no count of people and no text."""

    kind: ClassVar[str] = "site-report"

    format: Literal["fiduciary.site-report/1"] = "fiduciary.site-report/1"
    plan_id: Digest
    site: Name
    round: Count
    activity: Literal["train", "evaluate"]
    steps: Count
    epsilon_spent: Fraction
    """ε of this plan's rounds started so far at this site, at the plan's δ."""
    update_digest: Digest
    """Digest of the arrays that the site returned."""
    dataset_digest: Digest
    base_model_digest: Digest
    deidentification_digest: Digest
    software: Annotated[str, Field(max_length=200)]
    reported_at: Time


class Refusal(Statement):
    """A site or the coordinator says no to a plan, a message or a request, and why."""

    kind: ClassVar[str] = "refusal"

    format: Literal["fiduciary.refusal/1"] = "fiduciary.refusal/1"
    refused_by: Annotated[str, Field(min_length=1, max_length=200)]
    object: Annotated[str, Field(min_length=1, max_length=200)]
    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]
    reason: Text
    refused_at: Time


# --- rounds and releases -------------------------------------------------------------------------


class Metrics(Document):
    """Measured on the summed confusion matrix of the sites' held-out subjects."""

    accuracy: Annotated[Fraction, Field(ge=0, le=1)]
    macro_f1: Annotated[Fraction, Field(ge=0, le=1)]
    examples: Count


class RoundReport(Statement):
    """One round, as the coordinator saw it."""

    kind: ClassVar[str] = "round-report"

    format: Literal["fiduciary.round-report/1"] = "fiduciary.round-report/1"
    plan_id: Digest
    round: Count
    phase: Literal["probe", "adapter"]
    participants: tuple[Name, ...]
    absent: dict[Name, Text]
    """Each site of the plan that did not take part, with the reason."""
    update_norm: Annotated[Fraction, Field(ge=0)]
    state_digest: Digest
    epsilon_by_site: dict[Name, Fraction]
    metrics: Metrics | None = None
    finished_at: Time


class RunOutcome(Statement):
    """How a plan's run ended. Only `completed` produced a model."""

    kind: ClassVar[str] = "outcome"

    format: Literal["fiduciary.outcome/1"] = "fiduciary.outcome/1"
    plan_id: Digest
    verdict: Literal["completed", "failed"]
    reason: str = ""
    rounds_done: Count
    metrics: Metrics | None = None
    finished_at: Time


class ReleaseManifest(Statement):
    """A release: what is in it, where it came from, what it cost in privacy."""

    kind: ClassVar[str] = "release"

    format: Literal["fiduciary.release/1"] = "fiduciary.release/1"
    name: Name
    plan_id: Digest
    base_model: BaseModelReference
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")], Digest]
    ciphertext_digest: Digest
    ciphertext_bytes: Count
    delta: Fraction
    epsilon_by_site: dict[Name, Fraction]
    metrics: Metrics
    created_at: Time


# --- data subjects -------------------------------------------------------------------------------


class ErasureReceipt(Statement):
    """A site's statement that it erased a data subject (GDPR Art. 17, 19).

    `subject` is the site's keyed pseudonym: nobody else can tell who it is, and the site can, when
    the subject comes back with a name.
    """

    kind: ClassVar[str] = "erasure"

    format: Literal["fiduciary.erasure/1"] = "fiduciary.erasure/1"
    site: Name
    subject: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    datasets: tuple[Name, ...]
    records_removed: Count
    key_destroyed: bool
    plans: tuple[Digest, ...]
    """Plans in which the subject's records may have been sampled before erasure."""
    erased_at: Time
