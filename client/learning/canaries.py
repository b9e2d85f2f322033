"""Canaries: made-up subjects that the site's trainer trains on, so that what they move can be seen.

* Each canary is in or out by a fair coin of its own, has a coordinate of the weights for itself,
  and brings several records. Coordinates are orthogonal, and so are the noises in them: what one
  canary moves says nothing about another.
* Canaries train in passes of `PASS_CANARIES`, each a training run of its own on its own canaries.
* Gradients exceed the clipping norm times the number of canaries: otherwise a mean over a batch
  would hide that nothing is clipped (as in Opacus' ghost mode around a model's own loss).
* The trainer is `client.learning.private_sgd.SiteTrainer` as it is: its sampling, cap, engine,
  clipping, noise and divisor. Only the model is a stand-in, whose gradients are known.
* What a phase trains does not matter to its mechanism: `histogram` and `full` phases are audited as
  `adapter` phases of their noise, rate, norm, steps and batch limit.
* Where a plan protects single records, a canary is one record.

Canaries that are orthogonal, with gradients set by the auditor: Steinke, Nasr & Jagielski 2023
(arXiv 2305.08846, "gradient space attacks"), after Nasr et al. 2023 (arXiv 2302.07956).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.learning.data import Example
from client.learning.epsilon_bounds import Included, Scores
from client.learning.passes import Settings
from client.learning.plan_model import EncodedRecord, PlanModel
from client.learning.private_sgd import RoundResult, SiteTrainer
from client.learning.randomness import Keystream
from client.learning.single_label import SingleLabel
from compliance.statements import BaseModelReference, Phase, Privacy, TrainingPlan

PASS_CANARIES: Final = 500
MAX_STEPS: Final = 2000
"""Bounds an audit's time whatever a plan asks for: about a minute."""

MAX_PASSES: Final = 40
"""Where a batch limit lets few canaries train together; there are fewer of them then."""

RECORDS_PER_CANARY: Final = 5
"""So that clipping records instead of subjects shifts a canary several times as far."""

GRADIENT_OVER_NORM: Final = 1000.0
"""A canary's gradient, over clipping norm times canaries."""

MICRO_BATCH_RECORDS: Final = 200
"""Small enough that a step takes several, as real ones do."""

SCALE_COORDINATES: Final = 256
SCALE_RUNS: Final = 4

_LARGEST_LOGIT: Final = 1e-3
"""Weights stay so small that a canary's gradient is the same in every step."""


class Trainer(Protocol):
    """What is audited."""

    def train_round(
        self, round_index: int, global_state: Mapping[str, npt.NDArray[Any]]
    ) -> RoundResult:
        """Train one round from `global_state`."""
        ...


MakeTrainer = Callable[[PlanModel, TrainingPlan, Sequence[Example]], Trainer]


@dataclass(frozen=True)
class CanaryScores:
    """How far each canary's coordinate moved.

    Attributes:
        scores: `(canaries,)`, in standard deviations of the promised noise.
        included: `(canaries,)`: who was in.
        expected_effect: By how much the scores of those in are shifted if all is as promised.
        steps: Steps of each training run.
    """

    scores: Scores
    included: Included
    expected_effect: float
    steps: int


def site_trainer(engine: str) -> MakeTrainer:
    """The site's own trainer, with one of `private_sgd.ENGINES`, as audits use it."""
    settings = Settings(engine=engine, micro_batch_tokens=MICRO_BATCH_RECORDS)
    return partial(SiteTrainer, settings=settings)


def run_canaries(
    phases: Sequence[Phase],
    privacy: Privacy,
    canaries: int,
    make_trainer: MakeTrainer,
    coins: Keystream,
    progress: Callable[[int, int], None] | None = None,
) -> CanaryScores:
    """Train canaries, and score each by the move of its own coordinate.

    A round's move is weighted by sampling rate over squared noise multiplier, which tells a sum of
    Gaussian steps best.
    """
    limits = [p.batch_limit.max_population for p in phases if p.batch_limit is not None]
    most = min([PASS_CANARIES, *limits])
    passes = min(MAX_PASSES, math.ceil(canaries / most))
    width = min(most, math.ceil(canaries / passes))
    audited = _shortened(_as_canaries_train(phases), MAX_STEPS // passes)
    weights = [float(p.sampling_rate) / float(p.noise_multiplier) ** 2 for p in audited]
    steps = [p.rounds * p.steps_per_round for p in audited]
    deviation = math.sqrt(
        sum(
            (a * float(p.noise_multiplier)) ** 2 * n
            for a, p, n in zip(weights, audited, steps, strict=True)
        )
    )
    shift = sum(
        a * float(p.sampling_rate) * n for a, p, n in zip(weights, audited, steps, strict=True)
    )
    rounds = sum(phase.rounds for phase in audited)
    all_scores, all_included = [], []
    for number in range(passes):
        included = coins.uniform(width) < 0.5
        experiment = _Experiment(audited, privacy, width, np.flatnonzero(included))
        trainer = experiment.trainer(make_trainer)
        scores = np.zeros(width)
        for index in range(rounds):
            moved, phase = experiment.moves(trainer, index)
            scores += weights[phase] * moved
            if progress is not None:
                progress(number * rounds + index + 1, passes * rounds)
        all_scores.append(scores / deviation)
        all_included.append(included)
    return CanaryScores(
        np.concatenate(all_scores), np.concatenate(all_included), shift / deviation, sum(steps)
    )


def neighbours_noise(
    phases: Sequence[Phase], privacy: Privacy, make_trainer: MakeTrainer
) -> tuple[Scores, Scores]:
    """Noise of two data sets that differ by one subject, in coordinates that nobody touches.

    The data sets have one subject and two: where a scale follows their number, it doubles.

    Returns:
        Two arrays of `SCALE_RUNS * SCALE_COORDINATES` for each phase, in standard deviations of the
        promised noise.
    """
    short = [
        p.model_copy(update={"rounds": 1, "steps_per_round": 1, "batch_limit": None})
        for p in _as_canaries_train(phases)
    ]
    noises = []
    for subjects in (1, 2):
        values = []
        for _ in range(SCALE_RUNS):
            experiment = _Experiment(short, privacy, SCALE_COORDINATES + 2, np.arange(subjects))
            trainer = experiment.trainer(make_trainer)
            for index, phase in enumerate(short):
                moved, _number = experiment.moves(trainer, index)
                values.append(moved[2:] / float(phase.noise_multiplier))
        noises.append(np.concatenate(values))
    return noises[0], noises[1]


def _as_canaries_train(phases: Sequence[Phase]) -> list[Phase]:
    """Phases of the two kinds that canaries know. Each starts from zero, so order is free.

    Without FedProx's pull, which comes after clipping and noise: it would only blur what is looked
    for.
    """
    phases = [phase.model_copy(update={"proximal": Decimal(0)}) for phase in phases]
    probes = [phase for phase in phases if phase.kind == "probe"]
    others = [phase for phase in phases if phase.kind != "probe"]
    return probes + [phase.model_copy(update={"kind": "adapter"}) for phase in others]


def _shortened(phases: Sequence[Phase], most_steps: int) -> list[Phase]:
    """The first rounds of each phase, at least one, so that all steps are about `most_steps`."""
    total = sum(phase.rounds * phase.steps_per_round for phase in phases)
    if total <= most_steps:
        return list(phases)
    shorter = []
    for phase in phases:
        steps = max(1, phase.rounds * phase.steps_per_round * most_steps // total)
        each = min(phase.steps_per_round, steps)
        rounds = max(1, steps // each)
        shorter.append(phase.model_copy(update={"rounds": rounds, "steps_per_round": each}))
    return shorter


class _Experiment:
    """One training run on canaries: the plan, the model, and how to read a move."""

    def __init__(
        self,
        phases: Sequence[Phase],
        privacy: Privacy,
        width: int,
        included: npt.NDArray[np.int64],
    ) -> None:
        norm = max(float(phase.max_grad_norm) for phase in phases)
        scale = GRADIENT_OVER_NORM * norm * width
        self._units = [_unit(phase, scale) for phase in phases]
        self._plan = _canary_plan(phases, privacy, self._units)
        self._model = CanaryModel(self._plan, width, scale)
        self._signs = np.where(np.arange(width) % 2 == 0, 1.0, -1.0)
        records = RECORDS_PER_CANARY if privacy.unit == "subject" else 1
        self._examples = [
            Example(subject=f"canary-{canary}", text=str(canary), label=int(canary) % 2)
            for canary in included
            for _ in range(records)
        ]

    def trainer(self, make: MakeTrainer) -> Trainer:
        """A trainer of this run."""
        return make(self._model, self._plan, self._examples)

    def moves(self, trainer: Trainer, index: int) -> tuple[Scores, int]:
        """How far a round from zero moves each canary's way, in clipping norms; and its phase."""
        phase = self._plan.phase_of(index)
        number = self._plan.phases.index(phase)
        zero = {name: np.zeros_like(array) for name, array in self._model.get_state().items()}
        update = trainer.train_round(index, zero).update
        names = ["head.weight"] if phase.kind == "probe" else sorted(zero)
        # The gradient of label 0 points along (-1, 1), that of label 1 the other way.
        moved = sum((update[name][0] - update[name][1]).astype(np.float64) for name in names)
        return self._signs * moved / math.sqrt(2 * len(names)) / self._units[number], number


def _unit(phase: Phase, scale: float) -> float:
    """How far one clipping norm is to move a weight, so that logits stay small."""
    steps = phase.steps_per_round
    reach = steps + 8 * float(phase.noise_multiplier) * math.sqrt(steps)
    return _LARGEST_LOGIT / (scale * reach)


def _canary_plan(phases: Sequence[Phase], privacy: Privacy, units: Sequence[float]) -> TrainingPlan:
    """A plan with these phases, whose learning rates move weights by `units`."""
    changed = []
    for phase, unit in zip(phases, units, strict=True):
        divisor = float(phase.sampling_rate * privacy.nominal_subjects)
        rate = unit * divisor / float(phase.max_grad_norm)
        changed.append(phase.model_copy(update={"learning_rate": Decimal(repr(rate))}))
    plan = TrainingPlan(
        name="audit",
        federation="audit",
        author="audit",
        created_at="2026-01-01T00:00:00Z",
        base_model=BaseModelReference(name="canaries", digest="sha256:" + 64 * "0"),
        task="text-classification",
        labels=("zero", "one"),
        phases=tuple(phases),
        privacy=privacy,
        purpose="audit",
        legal_basis="legal-obligation",
        retention_days=1,
        sites=("audit",),
        quorum=1,
    )
    return plan.model_copy(update={"phases": tuple(changed)})


class _CanaryNetwork(nn.Module):
    """Logits of a canary: its own column of two weight matrices, which start at zero."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.head = nn.Linear(width, 2, bias=False)
        self.adapter = nn.Linear(width, 2, bias=False)
        self._scale = scale
        for layer in (self.head, self.adapter):
            nn.init.zeros_(layer.weight)

    def inputs(self, canaries: Tensor) -> Tensor:
        """`(records, width)`: the scale in the canary's column."""
        return nn.functional.one_hot(canaries, self.head.in_features).float() * self._scale

    def forward(self, canaries: Tensor) -> Tensor:
        """Logits `(records, 2)` of canaries' numbers `(records,)`."""
        inputs = self.inputs(canaries)
        logits: Tensor = self.head(inputs) + self.adapter(inputs)
        return logits


class CanaryModel(SingleLabel):
    """Stands in for a plan's model: same interface, and every canary has a direction of its own.

    A `probe` phase trains `head.weight`, any other phase `adapter.weight` too, so that norms
    must be taken over both.
    """

    network: _CanaryNetwork
    load_example: ClassVar[str] = ""

    def __init__(self, plan: TrainingPlan, width: int, scale: float) -> None:
        super().__init__(plan, _CanaryNetwork(width, scale))

    def weights(self, kind: str) -> Mapping[str, nn.Parameter]:
        """One matrix, or both."""
        names = ("head",) if kind == "probe" else ("adapter", "head")
        return {f"{name}.weight": getattr(self.network, name).weight for name in names}

    def trained_module(self, kind: str) -> nn.Module:
        """The head, or both."""
        return self.network.head if kind == "probe" else self.network

    @property
    def is_adapted(self) -> bool:
        """No canary changes what the head sees."""
        return False

    def exchanged(self) -> Mapping[str, nn.Parameter]:
        """Both matrices."""
        return self.weights("adapter")

    def save(self, folder: Path) -> None:
        """Nobody releases canaries."""
        raise NotImplementedError

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """The canary's number."""
        return [EncodedRecord(int(example.text), example.label, 1) for example in examples]

    def inputs(
        self, kind: str, records: Sequence[EncodedRecord], below: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Numbers, or what the head sees of them."""
        del below
        numbers = torch.tensor([record.content for record in records], dtype=torch.long)
        return (self.network.inputs(numbers) if kind == "probe" else numbers,)
