"""What one micro-batch contributes to a private step: each subject's gradient, never the records'.

* `SubjectGradients` is what an engine (`client.learning.one_backward`, `client.learning.hooks`)
  makes of a backward pass: the norm of each subject's gradient, and sums of them weighted by
  subject. A gradient of a subject need not exist anywhere in memory.
* `clip_and_sum` is the whole of clipping: nothing else decides what a subject may contribute.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

NORM_FLOOR = 1e-6
"""Added to a norm before dividing by it, as in Opacus: a zero gradient stays zero."""


class SubjectGradients(Protocol):
    """The gradients of `subject_count` subjects over all trained weights, in the weights' order."""

    def squared_norms(self) -> Tensor:
        """`(subjects,)`: squared L2 norm over all weights together, never understated."""
        ...

    def weighted_sum(self, factors: Tensor, usable: Tensor | None = None) -> list[Tensor]:
        """`Σ_s factors[s]·g_s`, one tensor a weight.

        Args:
            factors: `(subjects,)`.
            usable: `(subjects,)` booleans: whose gradient counts at all. Others may hold NaN, which
                a factor of zero would not remove. None when all do.
        """
        ...


def rows(values: Tensor, usable: Tensor | None) -> Tensor:
    """`values` with zeros in the rows that are not usable, whatever they held."""
    if usable is None:
        return values
    return values.masked_fill(~usable.view(-1, *[1] * (values.dim() - 1)), 0.0)


def clip_and_sum(gradients: SubjectGradients, max_grad_norm: float) -> list[Tensor]:
    """`Σ_s clip(g_s, C)`, one tensor a weight, with norms taken over all weights together.

    A subject whose gradient is not finite, or whose norm overflows, counts as zero.

    Args:
        gradients: Of the subjects of one micro-batch, each whole.
        max_grad_norm: C, above 0.
    """
    norms = gradients.squared_norms().sqrt()
    usable = torch.isfinite(norms)
    factors = (max_grad_norm / (norms + NORM_FLOOR)).clamp(max=1.0)
    if bool(usable.all()):
        return gradients.weighted_sum(factors)
    return gradients.weighted_sum(torch.where(usable, factors, torch.zeros_like(factors)), usable)


def check_records_are_independent(model: nn.Module) -> None:
    """Refuse a model in which one record's output depends on others of its batch.

    Clipping could then not bound what a subject adds: measured, 14 times the clipping norm.

    Raises:
        NotImplementedError: With the name of such a layer, also when none of its weights train.
    """
    for name, layer in model.named_modules():
        mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm) or (
            isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
        )
        if mixes:
            raise NotImplementedError(
                f"{name or 'the model'}: a {type(layer).__name__} mixes the records of a batch;"
                " use GroupNorm or LayerNorm instead"
            )


def add_by_subject(records: Tensor, subject_of_record: Tensor, subject_count: int) -> Tensor:
    """Sum `(records, *shape)` into `(subjects, *shape)`.

    Args:
        records: On any device.
        subject_of_record: `(records,)` integers, on the CPU.
        subject_count: How many subjects.
    """
    if subject_count == len(subject_of_record) and torch.equal(
        subject_of_record, torch.arange(subject_count)
    ):
        return records  # one record each, in order: nothing to add up
    total = records.new_zeros((subject_count, *records.shape[1:]))
    summed: Tensor = total.index_add_(0, subject_of_record.to(records.device), records)
    return summed
