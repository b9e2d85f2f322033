"""The training plan that a coordinator proposes, and an officer's decision about it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from audit.canonical import canonical_bytes, digest
from audit.errors import MalformedInput
from audit.words import count_of
from compliance.statements.deidentification import DeidentificationDemand
from compliance.statements.documents import (
    Digest,
    Document,
    Fraction,
    Name,
    Statement,
    Text,
    Time,
)
from compliance.statements.plan_parts import (
    MAX_FEATURES,
    MAX_LABELS,
    PHASES_OF_TASK,
    TEXT_TASKS,
    Adapter,
    Aggregation,
    BaseModelReference,
    Feature,
    Phase,
    Privacy,
    TaskName,
    Transport,
)


class StartsFrom(Document):
    """The model that a plan goes on from instead of the base model.

    It is the model of another plan of the federation after its first `rounds` rounds, as its report
    of the last of them states it (`RoundReport.model_digest`): what that plan would have released.
    It holds whatever those rounds, and whatever they started from, were trained on.
    """

    plan: Digest
    rounds: Annotated[int, Field(ge=1, le=80_000)]
    model: Digest
    """Of the whole state, as sites are sent it in round 0 (`client.arrays`)."""
    seed: Digest
    """Of the body of the line's first plan, which started from the base model: what is drawn once
    and never trained, such as LoRA's `A`, is drawn from this in every plan of the line."""

    @classmethod
    def after(cls, plan_id: str, plan: TrainingPlan, rounds: int, model: str) -> StartsFrom:
        """The start at what a plan had after some rounds.

        Args:
            plan_id: The plan's digest.
            plan: The plan.
            rounds: How many of its rounds.
            model: Digest of the model after them.
        """
        return cls(plan=plan_id, rounds=rounds, model=model, seed=plan.seed)


class TrainingPlan(Statement):
    """One federated fine-tuning run, as the coordinator proposes it: what is to be, and no code."""

    kind: ClassVar[str] = "plan"

    later: ClassVar[Mapping[str, int]] = {
        "features": 2,
        "groups": 2,
        "class_weights": 2,
        "focal_gamma": 2,
        "privacy_audit": 2,
        "secure_aggregation": 3,
        "aggregation": 3,
        "transport": 3,
        "missed_rounds": 3,
        "deidentification": 4,
        "starts_from": 4,
    }

    format: Literal[
        "fiduciary.plan/1", "fiduciary.plan/2", "fiduciary.plan/3", "fiduciary.plan/4"
    ] = "fiduciary.plan/4"
    name: Name
    federation: Name
    author: Annotated[str, Field(min_length=1, max_length=200)]
    created_at: Time
    base_model: BaseModelReference
    task: TaskName
    labels: Annotated[tuple[Text, ...], Field(max_length=MAX_LABELS)]
    """Every label, in the order of the model's outputs; none where language is modelled."""
    features: Annotated[tuple[Feature, ...], Field(max_length=MAX_FEATURES)] = ()
    """Columns that a tabular plan reads; records without one of them count it as missing."""
    groups: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    """Groups of records by which evaluation is sliced; a site says which column holds them."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 128
    adapter: Adapter = Adapter()
    class_weights: Literal["none", "histogram"] = "none"
    """`histogram`: a label weighs the less, the commoner it is by the `histogram` phase."""
    focal_gamma: Annotated[Fraction, Field(ge=0, le=10)] = Decimal(0)
    """Focal loss (Lin et al. 2017, arXiv 1708.02002): 0 is cross-entropy."""
    privacy_audit: bool = False
    """Whether each site audits the plan by canaries before it trains, and refuses what fails."""
    secure_aggregation: bool = False
    """Whether the coordinator learns only sums over at least a quorum of sites
    (`client.secure_aggregation`)."""
    aggregation: Aggregation = Aggregation()
    transport: Transport = Transport()
    missed_rounds: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many rounds may be without a quorum before the run has failed."""
    starts_from: StartsFrom | None = None
    """The model before the first round; None: the base model."""
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
    deidentification: DeidentificationDemand | None = None
    """What must have been measured of the pipeline that made each dataset; None: nothing."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label may appear once")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: each site may appear once")
        if self.quorum > len(self.sites):
            raise ValueError(
                f"quorum: {self.quorum} is more than the {count_of(len(self.sites), 'site')}"
            )
        self._check_format()
        self._check_aggregation()
        self._check_task()
        self._check_phases()
        return self

    def _check_format(self) -> None:
        """What the first format had one value for; `Document.later` knows of fields only."""
        if self.format != "fiduciary.plan/1":
            return
        if self.task != "text-classification":
            raise ValueError(f"task: {self.format} knows no {self.task}")
        if self.privacy.unit != "subject":
            raise ValueError(f"privacy.unit: {self.format} protects subjects only")
        if any(phase.kind not in ("probe", "adapter") for phase in self.phases):
            raise ValueError(f"phases: {self.format} knows probe and adapter only")

    def _check_aggregation(self) -> None:
        tolerated, rule = self.aggregation.tolerated, self.aggregation.rule
        needed = self.aggregation.needed_updates
        if rule != "mean" and self.quorum < needed:
            raise ValueError(
                f"aggregation.tolerated: {rule} bears {count_of(tolerated, 'hostile site')} with"
                f" a quorum of at least {needed}"
            )
        if self.secure_aggregation:
            if rule != "mean":
                raise ValueError(
                    f"aggregation.rule: {rule} looks at single updates, secure aggregation hides "
                    "them"
                )
            if self.transport != Transport():
                raise ValueError("transport: masked numbers are as they are in every precision")
            if self.quorum < 2 or 2 * self.quorum <= len(self.sites):
                raise ValueError(
                    "quorum: secure aggregation needs at least 2, and more than half of the sites"
                )
        shares = self.privacy.noise_sites
        if shares is None:
            return
        if not self.secure_aggregation:
            raise ValueError("privacy.noise_sites: distributed noise needs secure_aggregation")
        if shares > self.quorum:
            raise ValueError(f"privacy.noise_sites: {shares} is more than the quorum")
        if any(phase.steps_per_round != 1 for phase in self.phases):
            raise ValueError("privacy.noise_sites: distributed noise needs one step a round")

    def _check_task(self) -> None:
        if self.task == "causal-language-modelling":
            if self.labels or self.focal_gamma:
                raise ValueError("labels: a plan that models language has no labels or focal_gamma")
        elif len(self.labels) < 2:
            raise ValueError("labels: a plan that classifies names at least 2 labels")
        if bool(self.features) != (self.task == "tabular-classification"):
            raise ValueError("features: a tabular plan names at least one, and no other plan any")
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise ValueError("features: each column may appear once")
        if self.deidentification is not None and self.task not in TEXT_TASKS:
            raise ValueError(f"deidentification: no text is searched for {self.task}")
        if len(set(self.groups)) != len(self.groups) or any("/" in group for group in self.groups):
            raise ValueError("groups: each group may appear once, and none may hold a slash")

    def _check_phases(self) -> None:
        kinds = [phase.kind for phase in self.phases]
        for kind in kinds:
            if kind not in PHASES_OF_TASK[self.task]:
                raise ValueError(f"phases: {self.task} has no phase {kind!r}")
        if {"adapter", "full"} <= set(kinds):
            raise ValueError("phases: a plan trains an adapter or all weights, not both")
        for kind in ("histogram", "probe"):
            if kinds.count(kind) > 1:
                raise ValueError(f"phases: a {kind} can only come once")
        if "histogram" in kinds[1:]:
            raise ValueError("phases: a histogram can only come first")
        if "probe" in kinds and kinds.index("probe") > ("histogram" in kinds):
            raise ValueError("phases: a probe can only come first, or after a histogram")
        if kinds == ["histogram"]:
            raise ValueError("phases: a histogram alone trains nothing")
        if self.privacy.unit == "record" and any(phase.batch_limit for phase in self.phases):
            raise ValueError("phases: a plan that protects single records has no batch_limit")
        if self.starts_from is not None:
            if "histogram" in kinds:
                raise ValueError("phases: a plan that starts from a model has its histogram")
        elif ("histogram" in kinds) != (self.class_weights == "histogram"):
            raise ValueError("class_weights: a histogram phase and class_weights go together")

    @property
    def seed(self) -> str:
        """Digest of which everything is drawn that is public and the same for every party."""
        if self.starts_from is not None:
            return self.starts_from.seed
        return digest(canonical_bytes(self.body()))

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
        raise MalformedInput(
            f"round {round_index} is not one of the plan's {count_of(self.rounds, 'round')}"
        )


class Decision(Statement):
    """An officer's approval or rejection, signed by the compliance service."""

    kind: ClassVar[str] = "decision"

    format: Literal["fiduciary.decision/1"] = "fiduciary.decision/1"
    object: Annotated[str, Field(pattern=r"^(plan|release):sha256:[0-9a-f]{64}$")]
    verdict: Literal["approved", "rejected"]
    decided_by: Annotated[str, Field(min_length=1, max_length=200)]
    decided_at: Time
    reason: str = ""
