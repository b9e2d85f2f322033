"""Rounds, how a run ended, and what it released."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compliance.statements.documents import (
    Count,
    Digest,
    Document,
    Fraction,
    Name,
    Statement,
    Text,
    Time,
)
from compliance.statements.plan_parts import BaseModelReference, PhaseKind


class Metrics(Document):
    """Measured on the summed counts of the sites' held-out subjects.

    `macro_f1` is absent and `perplexity` present where the plan models language: there an example
    is a token, and it is right when it was the likeliest one.
    """

    later: ClassVar[Mapping[str, int]] = {"perplexity": 2}

    accuracy: Annotated[Fraction, Field(ge=0, le=1)]
    macro_f1: Annotated[Fraction, Field(ge=0, le=1)] | None = None
    examples: Count
    perplexity: Annotated[Fraction, Field(ge=1)] | None = None

    def in_words(self) -> str:
        """What was measured, in one line.

        >>> Metrics(accuracy="0.9", macro_f1="0.8", examples=61).in_words()
        'accuracy 0.9, macro F1 0.8'
        """
        told = (("macro F1", self.macro_f1), ("perplexity", self.perplexity))
        more = (f", {name} {value}" for name, value in told if value is not None)
        return f"accuracy {self.accuracy}{''.join(more)}"


class _Measured(Statement):
    """A statement with metrics."""

    @model_validator(mode="after")
    def _measured_as_its_format_does(self) -> Self:
        metrics: Metrics | None = getattr(self, "metrics", None)
        written = str(getattr(self, "format", ""))
        if written.endswith("/1") and metrics is not None and metrics.macro_f1 is None:
            raise ValueError(f"metrics.macro_f1: {written} always has it")
        return self


class RoundReport(_Measured):
    """One round, as the coordinator saw it."""

    kind: ClassVar[str] = "round-report"

    later: ClassVar[Mapping[str, int]] = {"model_digest": 3}

    format: Literal[
        "fiduciary.round-report/1", "fiduciary.round-report/2", "fiduciary.round-report/3"
    ] = "fiduciary.round-report/3"
    plan_id: Digest
    round: Count
    phase: PhaseKind
    participants: tuple[Name, ...]
    absent: dict[Name, Text]
    """Each site of the plan that did not take part, with the reason."""
    update_norm: Annotated[Fraction, Field(ge=0)]
    state_digest: Digest
    """Of all that the coordinator goes on from."""
    epsilon_by_site: dict[Name, Fraction]
    metrics: Metrics | None = None
    finished_at: Time
    model_digest: Digest | None = None
    """Of the model after this round, which is what is measured, released, and started from."""

    @model_validator(mode="after")
    def _phase_of_its_format(self) -> Self:
        if self.format == "fiduciary.round-report/1" and self.phase not in ("probe", "adapter"):
            raise ValueError(f"phase: {self.format} knows probe and adapter only")
        return self


class RunOutcome(_Measured):
    """How a plan's run ended. Only `completed` produced a model."""

    kind: ClassVar[str] = "outcome"

    format: Literal["fiduciary.outcome/1", "fiduciary.outcome/2"] = "fiduciary.outcome/2"
    plan_id: Digest
    verdict: Literal["completed", "failed"]
    reason: str = ""
    rounds_done: Count
    metrics: Metrics | None = None
    finished_at: Time


class RemovedModel(Document):
    """A model that was kept of a plan after so many rounds."""

    rounds: Count
    model: Digest


class KeptModelRemoval(Statement):
    """That the coordinator removes models which hold somebody who was erased.

    It is recorded before their keys are destroyed. It has no time of its own, so that the same
    removal that is stated again, after a crash, is the same statement.
    """

    kind: ClassVar[str] = "kept-model-removal"

    format: Literal["fiduciary.kept-model-removal/1"] = "fiduciary.kept-model-removal/1"
    plan_id: Digest
    models: Annotated[tuple[RemovedModel, ...], Field(min_length=1, max_length=1000)]


class GroupEvaluation(Document):
    """What was measured of one group's held-out records. `low` to `high`: its 95 % interval."""

    group: Text
    examples: Count
    accuracy: Annotated[Fraction, Field(ge=0, le=1)]
    low: Annotated[Fraction, Field(ge=0, le=1)]
    high: Annotated[Fraction, Field(ge=0, le=1)]


class ReleaseEvaluation(Document):
    """How sure a release's figures are: 95 % intervals, for everybody and by group.

    A group that the plan declares and that is not here was not told: too few records.
    """

    accuracy_low: Annotated[Fraction, Field(ge=0, le=1)]
    accuracy_high: Annotated[Fraction, Field(ge=0, le=1)]
    groups: Annotated[tuple[GroupEvaluation, ...], Field(max_length=100)] = ()


class ReleaseManifest(_Measured):
    """A release: what is in it, where it came from, what it cost in privacy."""

    kind: ClassVar[str] = "release"

    later: ClassVar[Mapping[str, int]] = {
        "evaluation": 3,
        "model_signing_key": 3,
        "epsilon_with_start": 4,
    }

    format: Literal[
        "fiduciary.release/1", "fiduciary.release/2", "fiduciary.release/3", "fiduciary.release/4"
    ] = "fiduciary.release/4"
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
    evaluation: ReleaseEvaluation | None = None
    model_signing_key: Annotated[str, Field(max_length=1000)] | None = None
    """The P-384 public key, PEM, that verifies the release's `model.sig`."""
    epsilon_with_start: dict[Name, Fraction] = Field(default_factory=dict)
    """Where the plan starts from another's rounds: what those and its own tell together of one unit
    of each site, at `delta`; none where the plan starts from the base model."""

    @property
    def epsilon_told(self) -> dict[str, Decimal]:
        """By site, what the released model tells of one unit, with the rounds it starts from."""
        return self.epsilon_with_start or self.epsilon_by_site
