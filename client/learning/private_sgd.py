"""Subject-level DP-SGD at one site.

* A step Poisson-samples *subjects* at the plan's rate, takes at most `max_records_per_subject` of
  each (chosen afresh at random), averages the loss over a subject's records, clips the subject's
  gradient once, adds noise and divides by `sampling_rate * nominal_subjects`, which is public.
* Where a plan protects single records, each record is sampled, clipped and noised as a subject is,
  and of a subject no more than `max_records_per_subject` ever train
  (`client.learning.accounting.event_of_subject` says what that is to the subject).
* A round takes exactly `steps_per_round` steps whatever the data is, so neighbouring datasets have
  the same schedule and the same scale.
* With FedProx (Li et al. 2020, arXiv 1812.06127) a step also draws the weights `w` back to those
  that the round began with, `w0`: `w - rate * (g + mu * (w - w0))`, with `g` the clipped and noised
  gradient at `w`. **Formal guarantees:** the pull reads `w`, which earlier noised steps made, and
  `w0`, `mu` and the rate, which the plan and the coordinator gave; no record. It touches neither
  what is clipped nor what is noised: it is post-processing, and the ε of a plan does not depend on
  `mu`. In a round of one step `w` is `w0`, and the pull is exactly zero.
* The promise is about the *updates*. What else a site tells (evaluation counts, refusals, digests
  of its data) is said in docs/privacy.md.
* Where a plan distributes its noise, an update holds this site's share alone, and is summed
  securely before anybody sees it (`client.learning.distributed_noise`).
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
from torch import Tensor, nn

from audit.errors import MalformedInput
from client.learning.clipped_sums import ClippedSums
from client.learning.data import Example, check_examples
from client.learning.device_failures import device_failures_named
from client.learning.evaluation import Evaluation
from client.learning.frozen import FrozenValues
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
        frozen: What frozen layers made of the training and of the held-out examples, where a plan
            with the same base model, task, labels and adapter was trained on them before.
        noise_share: What part of the noise's deviation this site adds, in (0, 1]. Below 1 an update
            must not be seen by itself (`client.learning.distributed_noise`).

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
        frozen: tuple[FrozenValues, FrozenValues] | None = None,
        noise_share: float = 1.0,
    ) -> None:
        if not 0 < noise_share <= 1:
            raise ValueError(f"noise_share must be above 0 and at most 1, got {noise_share}")
        self._noise_share = noise_share
        check_examples(examples, len(plan.labels))
        self._model = model
        self._plan = plan
        self._settings = settings
        self._keystream = _keystream(seed)
        self._seeded = seed is not None
        with device_failures_named():
            model.to(settings.first_device)
            self._passes = Passes(model, examples, settings, frozen=frozen and frozen[0])
        self._records_of = _units(plan, examples)
        self.observed = Observations()
        """Of the present or last round; for the operator alone."""
        _check_population(plan, len(self._records_of))
        self._evaluated: Passes | None = None
        self._frozen_held_out = frozen and frozen[1]
        self._ranks: Ranks | None = None

    def reseed(self, seed: int) -> None:
        """Begin another repeatable stream; for tests, benchmarks and simulations only.

        Raises:
            ValueError: When the noise is not repeatable: it must not become so.
        """
        if not self._seeded:
            raise ValueError("a trainer with fresh noise keeps it fresh")
        self._keystream = _keystream(seed)

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
                noise_multiplier=float(phase.noise_multiplier) * self._noise_share,
                max_grad_norm=float(phase.max_grad_norm),
                public_divisor=float(phase.sampling_rate * self._plan.privacy.nominal_subjects),
                keystream=self._keystream,
            )
            anchors = _anchors(sums, phase)
            for step in range(phase.steps_per_round):
                self._step(sums, optimizer, phase, anchors)
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

    def _step(
        self, sums: Sums, optimizer: SubjectOptimizer, phase: Phase, anchors: Sequence[Tensor]
    ) -> None:
        optimizer.zero_grad()
        chosen = [self._records_to_use(unit) for unit in self._sample(phase)]
        sums.add(chosen, optimizer)
        if anchors:  # the gradients of this step are summed: they are those of the weights before
            _pull_back(sums.weights, anchors, float(phase.learning_rate * phase.proximal))
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
            # They belong to the first held-out examples; others get values of their own.
            frozen, self._frozen_held_out = self._frozen_held_out, None
            self._evaluated = Passes(self._model, held_out, self._settings, frozen=frozen)
        passes, kind = self._evaluated, self._model.kind_of_state()
        return self._model.evaluation(
            passes.examples, passes.records, lambda rows: passes.results_of(kind, rows)
        )


def _anchors(sums: Sums, phase: Phase) -> list[Tensor]:
    """The weights that a round begins with, where its steps draw back to them."""
    if not phase.proximal or phase.steps_per_round == 1:
        return []
    return [weight.detach().clone() for weight in sums.weights]


@torch.no_grad()
def _pull_back(weights: Sequence[Tensor], anchors: Sequence[Tensor], share: float) -> None:
    """Take `share`, in [0, 1], of the way from the weights to their anchors."""
    for weight, anchor in zip(weights, anchors, strict=True):
        weight.lerp_(anchor, share)


def _keystream(seed: int | None) -> Keystream:
    return Keystream(None if seed is None else f"site-trainer {seed}".encode())


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
