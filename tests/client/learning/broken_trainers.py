"""The site's trainer with one fault each, for the audit to catch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy.typing as npt
import pytest
import torch

from client.learning import private_sgd
from client.learning.canaries import MICRO_BATCH_RECORDS
from client.learning.data import Example
from client.learning.passes import Settings
from client.learning.plan_model import PlanModel
from client.learning.private_sgd import Progress, RoundResult, SiteTrainer
from client.learning.subject_gradients import SubjectGradients
from client.learning.subject_optimizer import SubjectOptimizer
from compliance.statements import TrainingPlan


class NoNoise(SubjectOptimizer):
    """Clips, sums, divides, and forgets the noise."""

    def add_noise(self) -> None:
        for p in self.params:
            p.grad = (p.summed_grad / self._public_divisor).to(p.dtype)
            p.summed_grad = None


class LessNoise(SubjectOptimizer):
    """Four fifths of the promised noise."""

    def __init__(self, *arguments: Any, noise_multiplier: float, **options: Any) -> None:
        super().__init__(*arguments, noise_multiplier=0.8 * noise_multiplier, **options)


class NoClipping(SubjectOptimizer):
    """Sums whole gradients; the noise is for clipped ones."""

    def accumulate(
        self, gradients: SubjectGradients, subject_count: int, *, finished: bool = True
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "max_grad_norm", 1e30)
            super().accumulate(gradients, subject_count, finished=finished)


class MeanOfBatch(NoClipping):
    """Whole gradients, hidden in a mean: ghost clipping around a model's own loss."""

    def accumulate(
        self, gradients: SubjectGradients, subject_count: int, *, finished: bool = True
    ) -> None:
        self.batch = getattr(self, "batch", 0) + subject_count
        super().accumulate(gradients, subject_count, finished=finished)

    def add_noise(self) -> None:
        for p in self.params:
            p.summed_grad /= max(1, self.batch)
        self.batch = 0
        super().add_noise()


class SummedTwice(SubjectOptimizer):
    """Folds every micro-batch in twice."""

    def accumulate(
        self, gradients: SubjectGradients, subject_count: int, *, finished: bool = True
    ) -> None:
        summed = [0 if p.summed_grad is None else p.summed_grad.clone() for p in self.params]
        super().accumulate(gradients, subject_count, finished=finished)
        if finished:
            for p, before in zip(self.params, summed, strict=True):
                p.summed_grad += p.summed_grad - before


class HalfTheNorm(SubjectOptimizer):
    """Takes norms over the first weight alone, so that the others add to what it allows."""

    def accumulate(
        self, gradients: SubjectGradients, subject_count: int, *, finished: bool = True
    ) -> None:
        class FirstWeight:
            def squared_norms(self) -> torch.Tensor:
                return gradients.squared_norms() / len(weights)

            def weighted_sum(
                self, factors: torch.Tensor, usable: torch.Tensor | None = None
            ) -> list[torch.Tensor]:
                return gradients.weighted_sum(factors, usable)

        weights = self.params
        super().accumulate(FirstWeight(), subject_count, finished=finished)


def _rows_as_subjects(examples: Sequence[Example]) -> Sequence[Example]:
    return [replace(e, subject=f"{e.subject}/{row}") for row, e in enumerate(examples)]


def _divisor_from_data(plan: TrainingPlan, examples: Sequence[Example]) -> TrainingPlan:
    found = len({example.subject for example in examples})
    return _with_phases(plan, nominal=found)


def _everybody_always(plan: TrainingPlan, _examples: Sequence[Example]) -> TrainingPlan:
    """Samples everybody, and keeps the promised divisor."""
    phases = tuple(
        phase.model_copy(
            update={
                "sampling_rate": Decimal(1),
                "learning_rate": phase.learning_rate / phase.sampling_rate,
            }
        )
        for phase in plan.phases
    )
    return plan.model_copy(update={"phases": phases})


def _with_phases(plan: TrainingPlan, *, nominal: int) -> TrainingPlan:
    privacy = plan.privacy.model_copy(update={"nominal_subjects": nominal})
    return plan.model_copy(update={"privacy": privacy})


@dataclass(frozen=True)
class Fault:
    """What is wrong with a trainer: its optimiser, whom it takes for a subject, or its plan."""

    optimizer: type[SubjectOptimizer] = SubjectOptimizer
    examples: Callable[[Sequence[Example]], Sequence[Example]] = list
    plan: Callable[[TrainingPlan, Sequence[Example]], TrainingPlan] = lambda plan, _: plan


FAULTS = {
    "no noise": Fault(NoNoise),
    "noise x 0.8": Fault(LessNoise),
    "no clipping": Fault(NoClipping),
    "no clipping, in a mean": Fault(MeanOfBatch),
    "summed twice": Fault(SummedTwice),
    "clipped by row": Fault(examples=_rows_as_subjects),
    "divisor from N": Fault(plan=_divisor_from_data),
}
"""The faults that a full-batch plan shows."""

SAMPLED_FAULTS = {
    "everybody always": Fault(plan=_everybody_always),
    "norm of one weight": Fault(HalfTheNorm),
}
"""Faults that need an adapter phase in which not everybody is sampled."""

RIGHT = Fault()


class FaultyTrainer(SiteTrainer):
    """The site's trainer with a fault."""

    def __init__(
        self,
        model: PlanModel,
        plan: TrainingPlan,
        examples: Sequence[Example],
        *,
        fault: Fault,
        **options: Any,
    ) -> None:
        self._fault = fault
        super().__init__(model, fault.plan(plan, examples), fault.examples(examples), **options)

    def train_round(
        self,
        round_index: int,
        global_state: Mapping[str, npt.NDArray[Any]],
        progress: Progress | None = None,
    ) -> RoundResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(private_sgd, "SubjectOptimizer", self._fault.optimizer)
            return super().train_round(round_index, global_state, progress)


class SeededTrainers:
    """Makes trainers with a fault; each has noise of its own, and all of them are repeatable."""

    def __init__(self, fault: Fault, engine: str, seed: int, *, same_noise: bool = False) -> None:
        self._fault = fault
        self._engine = engine
        self._seed = seed
        self._step = 0 if same_noise else 1
        self._made = 0

    def __call__(
        self, model: PlanModel, plan: TrainingPlan, examples: Sequence[Example]
    ) -> FaultyTrainer:
        self._made += self._step
        return FaultyTrainer(
            model,
            plan,
            examples,
            fault=self._fault,
            seed=1_000_000 * self._seed + self._made,
            settings=Settings(engine=self._engine, micro_batch_tokens=MICRO_BATCH_RECORDS),
        )
