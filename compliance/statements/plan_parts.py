"""What a training plan is made of: model, adapter, phases, aggregation, transport, privacy."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from audit.words import count_of
from compliance.statements.documents import (
    Digest,
    Document,
    Fraction,
    Name,
    Text,
)

MAX_LABELS = 1000
"""More classes than any task of the registry needs; bounds a hostile plan's memory."""

MAX_FEATURES = 1000
"""Columns of a table; likewise."""

TaskName = Literal[
    "text-classification",
    "token-classification",
    "causal-language-modelling",
    "image-classification",
    "tabular-classification",
]

PhaseKind = Literal["histogram", "probe", "adapter", "full"]

PrivacyUnit = Literal["subject", "record"]

AggregationRule = Literal["mean", "trimmed-mean", "median", "krum"]

ServerOptimizer = Literal["average", "momentum", "adam"]

PHASES_OF_TASK: Final[Mapping[str, frozenset[str]]] = {
    "text-classification": frozenset({"histogram", "probe", "adapter", "full"}),
    "token-classification": frozenset({"histogram", "probe", "adapter", "full"}),
    "causal-language-modelling": frozenset({"adapter", "full"}),
    "image-classification": frozenset({"histogram", "probe", "adapter", "full"}),
    "tabular-classification": frozenset({"histogram", "full"}),
}
"""What a task can train: a language model has no head of its own, a table's model no encoder."""


TEXT_TASKS: Final = frozenset(
    {"text-classification", "token-classification", "causal-language-modelling"}
)
"""Tasks on text, in which identifiers are found and replaced."""


class BaseModelReference(Document):
    """The pretrained model, always named by digest."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    digest: Digest


class Adapter(Document):
    """LoRA (Hu et al. 2021): `rank` and `alpha` of the low-rank update of `target_modules`.

    `layers` says how many of the upper layers have it; None: all. What lies below is frozen, and a
    site computes it once.
    """

    later: ClassVar[Mapping[str, int]] = {"layers": 2}

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[int, Field(ge=1, le=1024)] = 16
    target_modules: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] = (
        "query",
        "value",
    )
    layers: Annotated[int, Field(ge=1, le=1000)] | None = None


class BatchLimit(Document):
    """Of more than `subjects` sampled subjects, a uniform subset of this size takes part.

    The promise then holds at sites with at most `max_population` subjects; others refuse.
    """

    subjects: Annotated[int, Field(ge=1, le=10**9)]
    max_population: Annotated[int, Field(ge=1, le=10**9)]

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.subjects > self.max_population:
            raise ValueError(
                f"a batch of {count_of(self.subjects, 'subject')} must not be larger than the"
                f" population of at most {self.max_population}"
            )
        return self


class Phase(Document):
    """Consecutive rounds that train the same parameters with the same mechanism.

    `histogram` counts labels, with noise, so that rare ones can weigh more; `probe` trains the head
    on features of the frozen base model; `adapter` trains LoRA and head; `full` trains all weights.
    `sampling_rate` is the Poisson rate of each of the `steps_per_round` steps, in (0, 1].
    `proximal` is the mu of FedProx (Li et al. 2020, arXiv 1812.06127): each step also draws the
    weights back to the round's global ones, by `learning_rate * proximal` of their distance, which
    is at most all of it.
    """

    later: ClassVar[Mapping[str, int]] = {"batch_limit": 2, "proximal": 3}

    kind: PhaseKind
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    sampling_rate: Annotated[Fraction, Field(gt=0, le=1)]
    learning_rate: Annotated[Fraction, Field(gt=0, le=1000)]
    max_grad_norm: Annotated[Fraction, Field(gt=0, le=1000)]
    noise_multiplier: Annotated[Fraction, Field(gt=0, le=10_000)]
    batch_limit: BatchLimit | None = None
    proximal: Annotated[Fraction, Field(ge=0, le=1000)] = Decimal(0)

    @model_validator(mode="after")
    def _pulls_back_at_most(self) -> Self:
        if self.learning_rate * self.proximal > 1:
            raise ValueError(
                "proximal: learning_rate * proximal above 1 would pull beyond the start"
            )
        if self.proximal and self.kind == "histogram":
            raise ValueError("proximal: a histogram counts, and nothing draws counts back")
        return self


class Aggregation(Document):
    """How the coordinator makes one step of the sites' updates.

    `rule` makes one update of them. All but the mean stay near the honest sites' updates while at
    most `tolerated` sites send anything they like: the coordinate-wise trimmed mean and median (Yin
    et al. 2018, arXiv 1803.01498) and Krum (Blanchard et al. 2017, arXiv 1703.02757).

    `server` takes the step: the update itself (FedAvg, McMahan et al. 2017, arXiv 1602.05629), with
    `momentum` (FedAvgM, Hsu et al. 2019, arXiv 1909.06335), or by Adam with `momentum` for beta 1
    (FedAdam, Reddi et al. 2021, arXiv 2003.00295).
    """

    rule: AggregationRule = "mean"
    tolerated: Annotated[int, Field(ge=0, le=1000)] = 0
    server: ServerOptimizer = "average"
    learning_rate: Annotated[Fraction, Field(gt=0, le=1000)] = Decimal(1)
    momentum: Annotated[Fraction, Field(ge=0, lt=1)] = Decimal("0.9")
    second_momentum: Annotated[Fraction, Field(ge=0, lt=1)] = Decimal("0.99")
    """Adam's beta 2."""
    adaptivity: Annotated[Fraction, Field(gt=0, le=1)] = Decimal("0.001")
    """Adam's tau, added to the root of the second moment."""

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if (self.rule == "mean") != (self.tolerated == 0):
            raise ValueError("tolerated: a mean bears no hostile site, every other rule some")
        return self

    @property
    def needed_updates(self) -> int:
        """How many updates the rule needs to bear `tolerated` hostile ones among them, at least."""
        return 2 * self.tolerated + (3 if self.rule == "krum" else 1)


class Transport(Document):
    """How arrays travel. What is lost on the way is lost after the noise: it costs no privacy.

    `precision` is that of each number: `float16`, or `int8` with a scale for each array and
    rounding at random, so that sums stay right on average. `compression` is that of the bytes.
    """

    precision: Literal["float32", "float16", "int8"] = "float32"
    compression: Literal["none", "deflate"] = "none"


class Feature(Document):
    """A column of a table, with what is public about it.

    A `number` is scaled by its stated range and cut to it; a `category` is one of `values`. What is
    missing or not among the values is told to the model as missing. So preparing a record needs
    nothing of any other record.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    kind: Literal["number", "category"]
    low: Fraction | None = None
    high: Fraction | None = None
    values: Annotated[tuple[Text, ...], Field(max_length=MAX_LABELS)] = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "number":
            if self.low is None or self.high is None or not self.low < self.high or self.values:
                raise ValueError(f"{self.name}: a number needs low < high, and no values")
        elif not self.values or len(set(self.values)) != len(self.values) or self.low or self.high:
            raise ValueError(f"{self.name}: a category needs distinct values, and no low or high")
        return self


class Privacy(Document):
    """What every site promises its subjects.

    `epsilon` and `delta` hold for one site's whole part in the plan, for adding or removing one
    `unit`, by the PLD accountant over the plan's phases. The unit is a data subject with all of
    their records, or, where a plan says so and a site's policy allows it, a single record.
    `nominal_subjects` is a public constant, of units: every sum is divided by `sampling_rate *
    nominal_subjects`, whatever the site's true number is, so that neither schedule nor scale
    depends on private data.

    `noise_sites`: where it is given, noise is distributed. Each site adds only its share, so that
    the sum over this many honest sites carries the promise; without it each site's own update does.
    """

    later: ClassVar[Mapping[str, int]] = {"noise_sites": 3}

    unit: PrivacyUnit = "subject"
    adjacency: Literal["add-remove-one"] = "add-remove-one"
    epsilon: Annotated[Fraction, Field(gt=0, le=100)]
    delta: Annotated[Fraction, Field(gt=0, lt=1)]
    nominal_subjects: Annotated[int, Field(ge=1, le=10**9)]
    max_records_per_subject: Annotated[int, Field(ge=1, le=1000)] = 4
    noise_sites: Annotated[int, Field(ge=2, le=1000)] | None = None
