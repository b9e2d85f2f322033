"""The subjects of a step on one device: their clipped gradients, summed.

It is all of a step but sampling, noise and the step itself, which stay in the process that has the
keystream (`client.learning.private_sgd`), however many devices compute
(`client.learning.parallel`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from client.learning.hooks import HooksModule
from client.learning.micro_batches import MicroBatches, Part
from client.learning.one_backward import OneBackwardModule
from client.learning.passes import PROBE_FACTOR, Passes, Settings
from client.learning.plan_model import PlanModel
from client.learning.subject_gradients import SubjectGradients
from client.learning.subject_optimizer import SubjectOptimizer


class Engine(Protocol):
    """A wrapped model that gives the subjects' gradients of each backward pass.

    Attributes:
        weights: What trains, in the order in which `collect` gives gradients.
    """

    weights: list[nn.Parameter]

    def group(self, subject_of_record: Tensor, subject_count: int) -> None:
        """Say whose the records of the next forward pass are, best in a tensor on the CPU."""
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


class ClippedSums:
    """Sums of subjects' clipped gradients, on the model's device, for the steps of one round.

    Args:
        model: Has the state that the round starts from.
        kind: Of the phase.
        passes: The records.
        settings: Of this device.

    Raises:
        NotImplementedError: When what trains cannot be clipped.
        MalformedInput: As `PlanModel.set_trainable` does.
    """

    def __init__(self, model: PlanModel, kind: str, passes: Passes, settings: Settings) -> None:
        self._model = model
        self._kind = kind
        self._passes = passes
        self._settings = settings
        self._engine = ENGINES[settings.engine](model.set_trainable(kind))
        model.network.train()
        factor = PROBE_FACTOR if kind in ("probe", "histogram") else 1
        self._stated_limit = factor * settings.micro_batch_tokens
        self._micro_batches = MicroBatches(self._stated_limit, passes.size)

    @property
    def weights(self) -> list[nn.Parameter]:
        """What trains, in the order of the gradients."""
        return self._engine.weights

    def add(self, chosen: Sequence[Sequence[int]], optimizer: SubjectOptimizer) -> None:
        """Fold subjects into the optimiser's sum of this step.

        Args:
            chosen: The records that the step uses of each subject, at least one.
            optimizer: Of `weights`.
        """
        size = self._passes.size
        chosen = sorted(chosen, key=lambda records: max(map(size, records)))
        self._passes.prepare(self._kind, [record for records in chosen for record in records])

        def accumulate(parts: Sequence[Part]) -> None:
            records = [record for part in parts for record in part.records]
            subjects = [slot for slot, part in enumerate(parts) for _ in part.records]
            weights = torch.tensor(
                [part.weight for part in parts for _ in part.records], device=self._model.device
            )
            self._engine.group(torch.tensor(subjects), len(parts))
            with self._settings.autocast():
                outputs = self._engine(*self._passes.inputs(self._kind, records))
            losses = self._losses(outputs, records)
            self._engine.backward((losses * weights).sum())
            optimizer.accumulate(self._engine.collect(), len(parts), finished=parts[-1].finished)

        self._micro_batches.run([Part.whole(records) for records in chosen], accumulate)

    @property
    def shrunken_limit(self) -> int | None:
        """To what micro-batches had to shrink because memory ran out; None where they did not."""
        limit = self._micro_batches.limit
        return None if limit == self._stated_limit else limit

    def close(self) -> None:
        """Give the model back as it was."""
        self._engine.close()
        self._model.network.eval()

    def _losses(self, outputs: Any, records: Sequence[int]) -> Tensor:
        if self._kind == "histogram":
            shares: Tensor = -outputs  # the step downhill adds what was counted
            return shares
        return self._model.losses(outputs, [self._passes.records[record] for record in records])
