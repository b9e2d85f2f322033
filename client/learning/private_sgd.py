"""Subject-level DP-SGD at one site.

* A step Poisson-samples *subjects* at the plan's rate, takes at most `max_records_per_subject` of
  each (chosen afresh at random), averages the loss over a subject's records, clips the subject's
  gradient once, adds noise and divides by `sampling_rate * nominal_subjects`, which is public.
* Where a plan protects single records, each record is sampled, clipped and noised as a subject is,
  and of a subject no more than `max_records_per_subject` ever train
  (`client.learning.accounting.event_of_subject` says what that is to the subject).
* A round takes exactly `steps_per_round` steps whatever the data is, so neighbouring datasets have
  the same schedule and the same scale.
* The promise is about the *updates*. What else a site tells (evaluation counts, refusals, digests
  of its data) is said in docs/privacy.md.
* Losses and counts of the training data never leave: a `RoundResult` holds the update and numbers
  that the plan already tells.

The formal statement and the edge cases are in `client.learning.subject_optimizer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from audit.errors import MalformedInput
from client.learning.clipped_sums import ClippedSums
from client.learning.data import Example, check_examples
from client.learning.device_failures import device_failures_named
from client.learning.evaluation import Evaluation
from client.learning.observations import Observations
from client.learning.parallel import Ranks
from client.learning.passes import Passes, Settings
from client.learning.plan_model import PlanModel, State
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import SubjectOptimizer
from compliance.statements import Phase, TrainingPlan

DEFAULT_SETTINGS: Final = Settings()

Progress = Callable[[int, int], None]
"""Called with steps done and steps in all, after each step."""


class Sums(Protocol):
    """Sums of clipped gradients for the steps of one round, on one device or several."""

    @property
    def weights(self) -> list[nn.Parameter]:
        """What trains."""
        ...

    def add(self, chosen: Sequence[Sequence[int]], optimizer: SubjectOptimizer) -> None:
        """Fold subjects, given by their records, into the optimiser's sum of this step."""
        ...

    @property
    def shrunken_limit(self) -> int | None:
        """To what micro-batches had to shrink because memory ran out; None where they did not."""
        ...


@dataclass(frozen=True)
class RoundResult:
    """What one round of training hands out.

    `update` is local minus global weights. `seeded` says that the noise was repeatable, as only
    tests and benchmarks may have it.
    """

    round: int
    update: State
    steps: int
    seeded: bool


class SiteTrainer:
    """Trains one plan on one site's examples.

    Args:
        model: The plan's model; the trainer changes its weights, and its device.
        plan: Phases, sampling and privacy.
        examples: Training examples of the site, held-out subjects excluded.
        seed: Makes sampling and noise repeatable, for tests and benchmarks only.
        settings: How the site computes.

    Raises:
        MalformedInput: When a label lies outside the plan, or the site has more subjects than a
            batch limit of the plan allows for.
        DeviceLost: When there is no such device.
    """

    def __init__(
        self,
        model: PlanModel,
        plan: TrainingPlan,
        examples: Sequence[Example],
        seed: int | None = None,
        *,
        settings: Settings = DEFAULT_SETTINGS,
    ) -> None:
        check_examples(examples, len(plan.labels))
        self._model = model
        self._plan = plan
        self._settings = settings
        self._keystream = Keystream(None if seed is None else f"site-trainer {seed}".encode())
        self._seeded = seed is not None
        with device_failures_named():
            model.to(settings.first_device)
            self._passes = Passes(model, examples, settings)
        self._records_of = _units(plan, examples)
        self.observed = Observations()
        """Of the present or last round; for the operator alone."""
        _check_population(plan, len(self._records_of))
        self._evaluated: Passes | None = None
        self._ranks: Ranks | None = None

    @device_failures_named()
    def train_round(
        self,
        round_index: int,
        global_state: Mapping[str, npt.NDArray[Any]],
        progress: Progress | None = None,
    ) -> RoundResult:
        """Train one round from `global_state`.

        Args:
            round_index: From 0, over all phases of the plan.
            global_state: As `PlanModel.get_state` gives it.
            progress: Told after each step.

        Raises:
            MalformedInput: When the plan has no such round or the state does not fit.
            OutOfMemory: When not even one record fits into memory.
            DeviceLost: When the device fails. As with every error, there is no update then.
        """
        phase = self._plan.phase_of(round_index)
        self._model.set_state(global_state)
        start = self._model.get_state()
        self.observed = Observations()
        with self._summing(phase) as sums:
            optimizer = SubjectOptimizer(
                torch.optim.SGD(sums.weights, lr=float(phase.learning_rate)),
                noise_multiplier=float(phase.noise_multiplier),
                max_grad_norm=float(phase.max_grad_norm),
                public_divisor=float(phase.sampling_rate * self._plan.privacy.nominal_subjects),
                keystream=self._keystream,
            )
            for step in range(phase.steps_per_round):
                self._step(sums, optimizer, phase)
                if progress is not None:
                    progress(step + 1, phase.steps_per_round)
            steps = optimizer.steps
        local = self._model.get_state()
        update = {name: local[name] - start[name] for name in local}
        return RoundResult(round=round_index, update=update, steps=steps, seeded=self._seeded)

    def close(self) -> None:
        """End the processes of further devices, and with them what they hold of the records."""
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    @contextlib.contextmanager
    def _summing(self, phase: Phase) -> Iterator[Sums]:
        if len(self._settings.devices) < 2:
            sums = ClippedSums(self._model, phase.kind, self._passes, self._settings)
            with contextlib.closing(sums):
                yield sums
            return
        try:
            if self._ranks is None:
                self._ranks = Ranks(self._model, self._passes, self._records_of, self._settings)
            self._ranks.begin(phase.kind, float(phase.max_grad_norm))
            yield self._ranks
        except BaseException:
            self.close()  # they are somewhere within a step: the next round starts anew
            raise

    def _step(self, sums: Sums, optimizer: SubjectOptimizer, phase: Phase) -> None:
        optimizer.zero_grad()
        chosen = [self._records_to_use(unit) for unit in self._sample(phase)]
        sums.add(chosen, optimizer)
        optimizer.step()
        self.observed.records += sum(map(len, chosen))
        self.observed.unusable_subjects = optimizer.unusable_subjects
        self.observed.micro_batch_limit = sums.shrunken_limit

    def _sample(self, phase: Phase) -> list[int]:
        """Units of one step: subjects, or records where the plan protects them."""
        sampled = self._keystream.poisson_sample(len(self._records_of), phase.sampling_rate)
        if phase.batch_limit is not None and len(sampled) > phase.batch_limit.subjects:
            kept = self._keystream.choose(len(sampled), phase.batch_limit.subjects)
            sampled = sampled[kept]
        return [int(subject) for subject in sampled]

    def _records_to_use(self, unit: int) -> list[int]:
        records = self._records_of[unit]
        cap = self._plan.privacy.max_records_per_subject
        if len(records) > cap:
            records = records[self._keystream.choose(len(records), cap)]
        return [int(record) for record in records]

    @device_failures_named()
    def evaluate(
        self, state: Mapping[str, npt.NDArray[Any]], held_out: Sequence[Example]
    ) -> Evaluation[Any]:
        """Counts of held-out examples under `state`, with slices by their groups.

        Raises:
            MalformedInput: When the state does not fit, a label lies outside the plan, or the
                model gives scores that are not finite.
            OutOfMemory: When not even one record fits into memory.
            DeviceLost: When the device fails.
        """
        check_examples(held_out, len(self._plan.labels))
        self._model.set_state(state)
        if self._evaluated is None or self._evaluated.examples != tuple(held_out):
            self._evaluated = Passes(self._model, held_out, self._settings)
        passes, kind = self._evaluated, self._model.kind_of_state()
        return self._model.evaluation(
            passes.examples, passes.records, lambda rows: passes.results_of(kind, rows)
        )


def _units(plan: TrainingPlan, examples: Sequence[Example]) -> list[npt.NDArray[np.int64]]:
    """Of each unit of privacy, its records: what is sampled, clipped and noised as one.

    Where a plan protects single records, each is a unit, and of each subject only the first
    `max_records_per_subject` train at all: the site's ledger takes no subject to have more.
    A further record of such a subject displaces at most one other.
    """
    records_of: dict[str, list[int]] = {}
    for record, example in enumerate(examples):
        records_of.setdefault(example.subject, []).append(record)
    by_subject = [records_of[subject] for subject in sorted(records_of)]
    if plan.privacy.unit == "subject":
        return [np.array(records) for records in by_subject]
    most = plan.privacy.max_records_per_subject
    return [np.array([record]) for records in by_subject for record in records[:most]]


def _check_population(plan: TrainingPlan, subjects: int) -> None:
    for phase in plan.phases:
        if phase.batch_limit is not None and subjects > phase.batch_limit.max_population:
            raise MalformedInput(
                f"the plan's batch limit holds for at most {phase.batch_limit.max_population} "
                "subjects, and this site has more",
                fix="ask for a plan with a larger max_population",
            )
