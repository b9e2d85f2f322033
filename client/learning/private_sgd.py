"""Subject-level DP-SGD at one site.

* A step Poisson-samples *subjects* at the plan's rate, takes at most `max_records_per_subject` of
  each (chosen afresh at random), averages the loss over a subject's records, clips the subject's
  gradient once, adds noise and divides by `sampling_rate * nominal_subjects`, which is public.
* A round takes exactly `steps_per_round` steps whatever the data is, so neighbouring datasets have
  the same schedule and the same scale.
* The promise is about the *updates*. What else a site tells (evaluation counts, refusals, digests
  of its data) is said in docs/privacy.md.
* Losses and counts of the training data never leave: a `RoundResult` holds the update and numbers
  that the plan already tells.

The formal statement and the edge cases are in `client.learning.subject_optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audit.errors import MalformedInput
from client.learning.data import Example, check_examples
from client.learning.device_failures import device_failures_named
from client.learning.evaluation import Evaluation
from client.learning.hooks import HooksModule
from client.learning.micro_batches import MicroBatches, Part
from client.learning.one_backward import OneBackwardModule
from client.learning.passes import PROBE_FACTOR, Passes, Settings
from client.learning.plan_model import PlanModel, State
from client.learning.randomness import Keystream
from client.learning.subject_gradients import SubjectGradients
from client.learning.subject_optimizer import SubjectOptimizer
from compliance.statements import Phase, TrainingPlan

DEFAULT_SETTINGS: Final = Settings()

Progress = Callable[[int, int], None]
"""Called with steps done and steps in all, after each step."""


class Engine(Protocol):
    """A wrapped model that gives the subjects' gradients of each backward pass.

    Attributes:
        weights: What trains, in the order in which `collect` gives gradients.
    """

    weights: list[nn.Parameter]

    def group(self, subject_of_record: Tensor, subject_count: int) -> None:
        """Say whose the records of the next forward pass are."""
        ...

    def __call__(self, *inputs: Any) -> Any:
        """The model's output."""
        ...

    def backward(self, loss: Tensor) -> None:
        """One backward pass of the sum of the records' losses."""
        ...

    def collect(self) -> SubjectGradients:
        """The subjects' gradients of the backward pass that was just made."""
        ...

    def close(self) -> None:
        """Undo everything that wrapping did to the model."""
        ...


ENGINES: Final[Mapping[str, Callable[[nn.Module], Engine]]] = {
    "one_backward": OneBackwardModule,
    "hooks": HooksModule,
}
"""By the name of their `grad_sample_mode`. They compute the same; `hooks` is Opacus' own."""


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
            model.to(torch.device(settings.device))
            self._passes = Passes(model, examples, settings)
        records_of: dict[str, list[int]] = {}
        for record, example in enumerate(examples):
            records_of.setdefault(example.subject, []).append(record)
        self._records_of = [np.array(records_of[subject]) for subject in sorted(records_of)]
        _check_population(plan, len(self._records_of))
        self._evaluated: Passes | None = None

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
        module = self._model.set_trainable(phase.kind)
        self._model.network.train()
        engine = ENGINES[self._settings.engine](module)
        try:
            optimizer = SubjectOptimizer(
                torch.optim.SGD(engine.weights, lr=float(phase.learning_rate)),
                noise_multiplier=float(phase.noise_multiplier),
                max_grad_norm=float(phase.max_grad_norm),
                public_divisor=float(phase.sampling_rate * self._plan.privacy.nominal_subjects),
                keystream=self._keystream,
            )
            factor = PROBE_FACTOR if phase.kind in ("probe", "histogram") else 1
            micro_batches = MicroBatches(
                factor * self._settings.micro_batch_tokens, self._passes.size
            )
            for step in range(phase.steps_per_round):
                self._step(engine, optimizer, phase, micro_batches)
                if progress is not None:
                    progress(step + 1, phase.steps_per_round)
            steps = optimizer.steps
        finally:
            engine.close()
            self._model.network.eval()
        local = self._model.get_state()
        update = {name: local[name] - start[name] for name in local}
        return RoundResult(round=round_index, update=update, steps=steps, seeded=self._seeded)

    def _step(
        self,
        engine: Engine,
        optimizer: SubjectOptimizer,
        phase: Phase,
        micro_batches: MicroBatches,
    ) -> None:
        optimizer.zero_grad()
        chosen = [self._records_to_use(subject) for subject in self._sample(phase)]
        chosen.sort(key=lambda records: max(map(self._passes.size, records)))
        self._passes.prepare(phase.kind, [record for records in chosen for record in records])

        def accumulate(parts: Sequence[Part]) -> None:
            records = [record for part in parts for record in part.records]
            subjects = [slot for slot, part in enumerate(parts) for _ in part.records]
            device = self._model.device
            weights = torch.tensor(
                [part.weight for part in parts for _ in part.records], device=device
            )
            engine.group(torch.tensor(subjects, device=device), len(parts))
            with self._settings.autocast():
                outputs = engine(*self._passes.inputs(phase.kind, records))
            losses = self._losses(phase.kind, outputs, records)
            engine.backward((losses * weights).sum())
            optimizer.accumulate(engine.collect(), len(parts), finished=parts[-1].finished)

        micro_batches.run([Part.whole(records) for records in chosen], accumulate)
        optimizer.step()

    def _losses(self, kind: str, outputs: Any, records: Sequence[int]) -> Tensor:
        if kind == "histogram":
            shares: Tensor = -outputs  # the step downhill adds what was counted
            return shares
        return self._model.losses(outputs, [self._passes.records[record] for record in records])

    def _sample(self, phase: Phase) -> list[int]:
        """Subjects of one step."""
        sampled = self._keystream.poisson_sample(len(self._records_of), phase.sampling_rate)
        if phase.batch_limit is not None and len(sampled) > phase.batch_limit.subjects:
            kept = self._keystream.choose(len(sampled), phase.batch_limit.subjects)
            sampled = sampled[kept]
        return [int(subject) for subject in sampled]

    def _records_to_use(self, subject: int) -> list[int]:
        records = self._records_of[subject]
        cap = self._plan.privacy.max_records_per_subject
        if len(records) > cap:
            records = records[self._keystream.choose(len(records), cap)]
        return [int(record) for record in records]

    @device_failures_named()
    def evaluate(
        self, state: Mapping[str, npt.NDArray[Any]], held_out: Sequence[Example]
    ) -> Evaluation:
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


def _check_population(plan: TrainingPlan, subjects: int) -> None:
    for phase in plan.phases:
        if phase.batch_limit is not None and subjects > phase.batch_limit.max_population:
            raise MalformedInput(
                f"the plan's batch limit holds for at most {phase.batch_limit.max_population} "
                "subjects, and this site has more",
                fix="ask for a plan with a larger max_population",
            )
