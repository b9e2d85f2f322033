"""ε of a privacy loss distribution at a δ, as `dp-accounting` computes it, for all bins at once.

The package walks through the bins one by one in Python, which was a tenth of a site's processor
time in a round. The sums here are taken in the same order; a test compares with its own result.
"""

from __future__ import annotations

import math
from typing import Any


def epsilon_of_delta(loss: Any, delta: float) -> float:
    """The smallest ε ≥ 0 whose hockey-stick divergence is at most `delta`; infinite where none is.

    Args:
        loss: A `PrivacyLossDistribution`.
        delta: In (0, 1).
    """
    both = (loss._pmf_remove,) if loss._symmetric else (loss._pmf_remove, loss._pmf_add)
    return max(_epsilon(part.to_dense_pmf(), delta) for part in both)


def _epsilon(part: Any, delta: float) -> float:
    import numpy as np

    if part._infinity_mass > delta:
        return math.inf
    probabilities = part._probs[::-1]
    losses = (part._lower_loss + np.arange(part.size))[::-1] * part._discretization
    # Mass beyond each bin, under one data set and the other: before it is added, and after.
    upper = np.cumsum(np.concatenate(([part._infinity_mass], probabilities)))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        lower = np.cumsum(np.concatenate(([0.0], np.exp(-losses) * probabilities)))
        reached = np.log((upper - delta) / lower)
    found = (upper[:-1] > delta) & (lower[:-1] > 0) & (reached[:-1] >= losses)
    # Where exp(-loss) is too small for a float, the loss itself is the answer.
    vanishing = (upper[1:] >= delta) & (lower[1:] == 0)
    first, vanished = _first(found), _first(vanishing)
    if vanished < first:
        return max(0.0, float(losses[vanished]))
    if upper[first] <= lower[first] + delta:
        return 0.0
    return float(reached[first])


def _first(marks: Any) -> int:
    """Index of the first mark; where there is none, the number of marks."""
    return int(marks.argmax()) if marks.any() else len(marks)
