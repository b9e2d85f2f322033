"""Records of one data set through a plan's model: inputs for training, results for evaluation.

* What lies below the trained part is computed without gradients, together for all records that
  will need it, in order of their length, and kept (`client.learning.frozen`).
* `Settings` are a site's own: device, precision and memory decide speed, never the guarantee.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.data import Example
from client.learning.frozen import DEFAULT_LIMIT_BYTES, FrozenValues
from client.learning.micro_batches import MicroBatches, Part
from client.learning.plan_model import EncodedRecord, PlanModel

INFERENCE_FACTOR: Final = 4
"""How much larger a micro-batch without gradients is."""

CPU_TOKENS: Final = 1024
"""Of a micro-batch: what a core's caches hold. More is slower (docs/performance.md)."""

GPU_TOKENS: Final = 16384
"""Of a micro-batch: enough to keep a GPU busy; halved where its memory is smaller."""

PROBE_FACTOR: Final = 16
"""How much larger a micro-batch of a probe is: it has features instead of a network's insides."""

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How a site computes.

    Attributes:
        engine: How per-subject gradients are computed: `one_backward` or `hooks`.
        device: As torch names it, such as `cpu` or `cuda:0`.
        devices: Where several share out each step's subjects, instead of `device`; what one device
            does alone, the first does. See `client.learning.parallel`.
        precision: `bf16` computes forward and backward pass in bfloat16 where torch's autocast
            does; norms and sums are float32, noise float64, in either case.
        micro_batch_tokens: Tokens in memory at once, fewer when they do not fit.
        cache_bytes: How much of frozen layers' outputs is kept.
    """

    engine: str = "one_backward"
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch_tokens: int = CPU_TOKENS
    cache_bytes: int = DEFAULT_LIMIT_BYTES

    @property
    def first_device(self) -> torch.device:
        """Where one process computes."""
        return torch.device(self.devices[0] if self.devices else self.device)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Where forward passes run."""
        is_bf16 = self.precision == "bf16"
        with torch.autocast(self.first_device.type, torch.bfloat16, enabled=is_bf16):
            yield


class Passes:
    """Some examples as a model reads them.

    Args:
        model: The plan's model.
        examples: Whose order gives records their numbers.
        settings: The site's.
        records: The examples as the model reads them, where they were encoded already.
        frozen: What frozen layers made of these very examples, where that is known already.
    """

    def __init__(
        self,
        model: PlanModel,
        examples: Sequence[Example],
        settings: Settings,
        records: Sequence[EncodedRecord] | None = None,
        frozen: FrozenValues | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        self.examples = tuple(examples)
        self.records = model.encode(self.examples) if records is None else list(records)
        self._frozen = FrozenValues(settings.cache_bytes) if frozen is None else frozen

    def size(self, record: int) -> int:
        """How much of a micro-batch a record takes."""
        return self.records[record].size

    def inputs(self, kind: str, records: Sequence[int]) -> tuple[Tensor, ...]:
        """What the module of a phase is called with for some records."""
        encoded = [self.records[record] for record in records]
        if kind == "histogram":
            shares = [self._model.shares(record) for record in encoded]
            return (torch.tensor(shares, device=self._model.device),)
        return self._model.inputs(kind, encoded, self._below(kind, records))

    def results_of(self, kind: str, records: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Of each record, what evaluation needs, in their order."""
        return self._of_outputs(kind, records, self._model.results)

    def losses(self) -> list[float]:
        """Each record's loss under the model's present state."""

        def losses(outputs: Any, encoded: Sequence[EncodedRecord]) -> list[float]:
            told: list[float] = self._model.losses(outputs, encoded).double().tolist()
            return told

        return self._of_outputs(self._model.kind_of_state(), range(len(self.records)), losses)

    def prepare(self, kind: str, records: Sequence[int]) -> None:
        """Compute what lies below a phase for records that will need it, as far as it is kept."""
        if not self._model.keeps_below(kind) or self._frozen.is_full:
            return
        missing = [record for record in records if not self._frozen.has(kind, record)]
        self._in_batches(INFERENCE_FACTOR, missing, lambda chosen: self._below(kind, chosen))

    def _of_outputs(
        self,
        kind: str,
        records: Sequence[int],
        read: Callable[[Any, Sequence[EncodedRecord]], Sequence[T]],
    ) -> list[T]:
        """What `read` makes of the module's outputs for each record, in their order."""
        module = self._model.trained_module(kind)
        found: dict[int, T] = {}

        def run(chosen: list[int]) -> None:
            encoded = [self.records[record] for record in chosen]
            with torch.no_grad(), self._settings.autocast():
                read_of = read(module(*self.inputs(kind, chosen)), encoded)
            found.update(zip(chosen, read_of, strict=True))

        self.prepare(kind, records)
        self._in_batches(PROBE_FACTOR if kind == "probe" else INFERENCE_FACTOR, records, run)
        return [found[record] for record in records]

    def _below(self, kind: str, records: Sequence[int]) -> list[Tensor] | None:
        if not self._model.keeps_below(kind):
            return None
        return self._frozen.of(kind, records, lambda missing: self._compute(kind, missing))

    def _compute(self, kind: str, records: Sequence[int]) -> list[Tensor]:
        training = self._model.network.training
        self._model.network.eval()
        try:
            with torch.no_grad(), self._settings.autocast():
                values = self._model.below(kind, [self.records[record] for record in records])
        finally:
            self._model.network.train(training)
        return [value.float() for value in values]

    def _in_batches(
        self, factor: int, records: Sequence[int], run: Callable[[list[int]], object]
    ) -> None:
        batches = MicroBatches(factor * self._settings.micro_batch_tokens, self.size)

        def work(parts: Sequence[Part]) -> None:
            run([record for part in parts for record in part.records])

        batches.run([Part.whole([r]) for r in sorted(records, key=self.size)], work)
