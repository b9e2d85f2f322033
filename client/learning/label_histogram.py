"""How common each label is, counted with noise, so that rare labels can weigh more in the loss.

* The histogram is a phase of the plan like any other: one step of the same mechanism
  (`client.learning.subject_optimizer`), in which a subject's "gradient" is minus the mean share of
  each label among its records. Its norm is at most 1, so a clipping norm of 1 changes nothing.
* It is in the state that sites send and get. The weights are computed from it by everybody alike:
  that is post-processing, and costs nothing.
* The commonest labels weigh less, none weighs more than 1: a weight above 1 would be clipped away.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

SMALLEST_WEIGHT: Final = 0.05
"""Of the commonest label beside the rarest, however rare that is."""


class LabelHistogram(nn.Module):
    """Counts shares of labels: after one step at rate 1 its weight is the noisy mean share.

    Args:
        label_count: Number of labels.
    """

    def __init__(self, label_count: int) -> None:
        super().__init__()
        self.counts = nn.Linear(max(1, label_count), 1, bias=False)
        nn.init.zeros_(self.counts.weight)

    def forward(self, shares: Tensor) -> Tensor:
        """Minus each record's loss, `(records,)`, of shares `(records, labels)`."""
        counted: Tensor = self.counts(shares)
        return counted.squeeze(1)

    def class_weights(self) -> Tensor:
        """`(labels,)` in (0, 1]: inverse to how common a label seems, the rarest has 1."""
        counted = self.counts.weight.detach()[0].clamp(min=0)
        # A label that noise shows as absent counts as the rarest that is told apart from it.
        counted = torch.maximum(counted, counted.max() * SMALLEST_WEIGHT)
        # All or none are above 0. Asking which would make a GPU wait in every micro-batch.
        return torch.where(counted > 0, counted.min() / counted, 1.0)
