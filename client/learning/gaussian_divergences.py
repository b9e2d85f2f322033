"""δ of the subsampled Gaussian mechanism at many ε at once.

Apart from `client.learning.loss_distributions` because it needs numpy and scipy to be imported: the
commands say what they do on a machine without them.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Curve: TypeAlias = npt.NDArray[np.float64]


def epsilons_of_bins(lower: int, upper: int, width: float) -> Curve:
    """The privacy losses `lower * width` to `upper * width`."""
    return np.arange(lower, upper + 1, dtype=np.float64) * np.float64(width)


def delta_of_removing(sigma: float, rate: float, epsilons: Curve) -> Curve:
    """Hockey-stick divergence of `(1 - q) N(0, σ²) + q N(-1, σ²)` from `N(0, σ²)` at each ε."""
    losses = _without_sampling(rate, epsilons)
    outcomes = -0.5 - losses * sigma**2
    joined = (1 - rate) * ndtr(outcomes / sigma) + rate * ndtr((outcomes + 1) / sigma)
    delta: Curve = np.clip(joined - np.exp(epsilons) * ndtr(outcomes / sigma), 0.0, 1.0)
    return delta


def delta_of_adding(sigma: float, rate: float, epsilons: Curve) -> Curve:
    """Hockey-stick divergence of `N(0, σ²)` from `(1 - q) N(0, σ²) + q N(1, σ²)` at each ε."""
    losses = -_without_sampling(rate, -epsilons)
    outcomes = 0.5 - losses * sigma**2
    joined = (1 - rate) * ndtr(outcomes / sigma) + rate * ndtr((outcomes - 1) / sigma)
    delta: Curve = np.clip(ndtr(outcomes / sigma) - np.exp(epsilons) * joined, 0.0, 1.0)
    return delta


def _without_sampling(rate: float, losses: Curve) -> Curve:
    """`log(1 + (exp(loss) - 1) / q)`; -inf where no outcome has so small a loss."""
    if rate == 1:
        return losses
    excess = losses - math.log1p(-rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = losses - math.log(rate) + np.log(-np.expm1(-excess))
    return np.where(excess > 0, kept, -np.inf)
