"""Losses of classifiers: cross-entropy, weighted by class, or focal.

Focal loss (Lin et al. 2017, arXiv 1708.02002, equation 5) multiplies a record's cross-entropy by
`(1 - p)^gamma`, `p` the probability of the true label: what is right already says less. Both use
nothing of any other record.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100
"""Target of what has no label, as in torch."""


def classification_losses(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, focal_gamma: float = 0.0
) -> Tensor:
    """Loss of each row.

    Args:
        logits: `(rows, labels)`.
        targets: `(rows,)` labels, or `IGNORED`, whose loss is 0.
        class_weights: `(labels,)`, or None for all alike.
        focal_gamma: At least 0; 0 is cross-entropy.

    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> round(float(classification_losses(logits, torch.tensor([1]))), 4)
    0.6931
    >>> round(float(classification_losses(logits, torch.tensor([1]), focal_gamma=2.0)), 4)
    0.1733
    """
    losses = cross_entropy(logits.float(), targets, reduction="none", ignore_index=IGNORED)
    if focal_gamma:
        # The factor's own gradient is part of the loss. A loss of 0 has a factor of 0.
        losses = losses * (-torch.expm1(-losses)).clamp(min=1e-12) ** focal_gamma
    if class_weights is not None:
        losses = losses * class_weights[targets.clamp(min=0)]
    return losses
