"""Per-subject gradients by Opacus' hooks: the oracle for `client.learning.one_backward`.

Opacus keeps the gradient of every record in memory, which is slower and larger, and knows some
layers that `one_backward` does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from opacus import GradSampleModule
from torch import Tensor, nn

from audit.words import count_of
from client.learning.subject_gradients import (
    SubjectGradients,
    add_by_subject,
    check_records_are_independent,
)
from client.learning.tape import DenseGradients


class HooksModule:
    """A model whose trained weights get Opacus' gradients of each record.

    Args:
        module: The model; which weights train must be settled.

    Raises:
        NotImplementedError: When Opacus does not know a trained layer, or a layer mixes records.
    """

    def __init__(self, module: nn.Module) -> None:
        check_records_are_independent(module)
        self._spreading = [
            layer.register_forward_pre_hook(self._spread)
            for layer in module.modules()
            if isinstance(layer, nn.Embedding) and layer.weight.requires_grad
        ]
        self._hooked = GradSampleModule(module, loss_reduction="sum", strict=False)
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self._names = {id(p): name for name, p in module.named_parameters()}
        self._group: tuple[Tensor, int] | None = None

    def group(self, subject_of_record: Tensor, subject_count: int) -> None:
        """Say whose the records of the next forward pass are, and forget passes without an end.

        Opacus would count a pass that ran out of memory halfway as part of the next one.
        """
        self._group = subject_of_record.cpu(), subject_count
        for weight in self.weights:
            weight.grad = None
            weight.grad_sample = None  # type: ignore[attr-defined]
            weight._forward_counter = 0  # type: ignore[attr-defined]
            vars(weight).pop("_current_grad_sample", None)
        for module in self._hooked.modules():
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)

    def __call__(self, *inputs: Any) -> Any:
        """The model's output."""
        return self._hooked(*inputs)

    def backward(self, loss: Tensor) -> None:
        """One backward pass of the sum of the records' losses."""
        with _quiet():
            loss.backward()  # type: ignore[no-untyped-call]
        for weight in self.weights:
            weight.grad = None  # autograd's own sum is not clipped: nobody may step with it

    def collect(self) -> SubjectGradients:
        """The subjects' gradients of the backward pass that was just made.

        Raises:
            ValueError: When a weight got none, or shapes disagree.
        """
        if self._group is None:
            raise ValueError("no `group` since the last `collect`")
        subject_of_record, subject_count = self._group
        self._group = None
        per_weight = []
        for weight in self.weights:
            records: Any = weight.grad_sample  # type: ignore[attr-defined]
            name = self._names[id(weight)]
            if records is None:
                raise ValueError(f"{name}: trains, but got no gradient")
            weight.grad_sample = None  # type: ignore[attr-defined]
            if len(records) != len(subject_of_record):
                raise ValueError(
                    f"{name}: expected gradients of {count_of(len(subject_of_record), 'record')},"
                    f" got {len(records)}"
                )
            per_weight.append(
                add_by_subject(records.to(weight.dtype), subject_of_record, subject_count)
            )
        return DenseGradients(per_weight)

    def close(self) -> None:
        """Undo everything that wrapping did to the model."""
        self._hooked.cleanup()
        for handle in self._spreading:
            handle.remove()

    def _spread(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """One row of positions for all records, as transformers look them up, is a row for each.

        Opacus would see the gradient of one record, summed over all.
        """
        (indices,) = inputs
        if self._group is None or indices.dim() != 2 or len(indices) != 1:
            return None
        return (indices.expand(len(self._group[0]), -1),)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """A layer whose input needs no gradient: its hook sees the output's, which Opacus uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        yield
