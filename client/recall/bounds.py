"""Limits of what a sample says of the whole, for samples of independent texts.

| of | by | errs |
|---|---|---|
| the share of texts that leak | Clopper & Pearson (1934), Biometrika 26, exact | 5 % |
| the mean share of a text's identifying characters that is found | Hoeffding (1963), JASA 58,
  Theorem 1, exact | 5 % |
| two-sided intervals of shares | Wilson (`client.learning.intervals`) | 5 % |
| two-sided intervals of ratios of sums | percentile bootstrap over texts | about 5 % |

The first two are one-sided and hold for every size of sample: they are what is demanded and told.
Identifiers of one text resemble each other, so the text, not the identifier, is what is counted.
Hoeffding's limit is for means of anything in [0, 1]; where nothing was missed it equals Clopper and
Pearson's.

| edge case | what the limit is |
|---|---|
| no text | nothing: recall at least 0, leaks at most 1 |
| every text without a miss | `1 - alpha ** (1 / n)` may leak |
| every text with a miss | leaks at most 1 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from client.learning.epsilon_bounds import binomial_interval

ALPHA: Final = 0.05
"""The chance with which a one-sided limit errs."""

BOOTSTRAP_RESAMPLES: Final = 2000
BOOTSTRAP_SEED: Final = 1979
"""Fixed, so that the same counts give the same interval."""

_CELLS_AT_ONCE: Final = 4_000_000
_BISECTIONS = 60


def share_at_most(hits: int, count: int, alpha: float = ALPHA) -> float:
    """Upper limit of a share of which `hits` of `count` were seen.

    >>> round(share_at_most(0, 59), 4)
    0.0495
    >>> share_at_most(0, 0)
    1.0
    """
    return binomial_interval(hits, count, alpha)[1] if count else 1.0


def mean_at_least(values: Sequence[float], alpha: float = ALPHA) -> float:
    """Lower limit of the mean of independent values in [0, 1].

    The mean `m` is refuted while `exp(-n KL(seen || m)) < alpha` (Chernoff-Hoeffding).

    >>> round(mean_at_least([1.0] * 59), 4)
    0.9505
    >>> mean_at_least([])
    0.0
    """
    if not values:
        return 0.0
    seen, count = math.fsum(values) / len(values), len(values)
    low, high = 0.0, seen
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        refuted = count * _divergence(seen, middle) > -math.log(alpha)
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _divergence(seen: float, mean: float) -> float:
    """Kullback-Leibler divergence of coins; infinite where the mean makes `seen` impossible."""
    total = 0.0
    for share, of in ((seen, mean), (1 - seen, 1 - mean)):
        if share > 0:
            total += share * math.log(share / of) if of > 0 else math.inf
    return total


def ratio_intervals(
    counts: Sequence[Sequence[int]], ratios: Sequence[tuple[int, int]]
) -> list[tuple[float, float]]:
    """95 % percentile bootstrap intervals of ratios of column sums, texts drawn with replacement.

    Args:
        counts: `(texts, columns)`.
        ratios: For each interval the columns of numerator and denominator.

    >>> ratio_intervals([(2, 2)] * 10, [(0, 1)])
    [(1.0, 1.0)]
    """
    import numpy as np

    table = np.asarray(counts, dtype=np.float64)
    draw = np.random.default_rng(BOOTSTRAP_SEED)
    weights = np.full(len(table), 1 / len(table))
    rows = max(1, _CELLS_AT_ONCE // len(table))
    sums = np.concatenate(
        [
            draw.multinomial(len(table), weights, size=min(rows, BOOTSTRAP_RESAMPLES - start))
            @ table
            for start in range(0, BOOTSTRAP_RESAMPLES, rows)
        ]
    )
    found = []
    for above, below in ratios:
        whole = sums[:, below] > 0
        values = np.where(whole, sums[:, above] / np.where(whole, sums[:, below], 1), 1.0)
        low, high = np.quantile(values, (0.025, 0.975))
        found.append((float(low), float(high)))
    return found
