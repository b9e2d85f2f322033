"""Lower bounds on ε from the scores of an attack, each with the confidence that it states.

A privacy proof gives an upper bound on ε, an attack a lower one. Where the lower one is above what
was promised, the promise is broken: by the proof, or by the code that was to carry it out.

* `alpha` is the chance that a bound lies above the true ε; its confidence is `1 - alpha`.
* `one_run_bound` assumes nothing about the scores but that fair, independent coins chose who is in:
  Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846), Algorithm 1 and Appendix D.
* `noise_factor_bound` assumes that scores are Gaussian sums, as a trainer's updates are in the
  direction of a canary that nobody else touches. It is several times as sharp.
* `scale_bound` compares two neighbours' noise where neither puts anything else.
* `clopper_pearson_bound` turns true and false positives into ε, as Jagielski, Ullman & Oprea 2020
  (arXiv 2006.07709) do. It takes subjects for independent trials.
* Several bounds hold together with confidence one less the sum of their `alpha`.

| edge case | what the bound is |
|---|---|
| nobody in, or nobody out | 0: nothing can be told |
| fewer than two scores on either side | 0 |
| scores that are all equal | 0 |
| no noise at all | as large as it can be stated, never infinite |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
"""Higher says "in"."""

Included = npt.NDArray[np.bool_]

MAX_EPSILON: Final = 100.0
"""Bounds stop here: no plan may promise more, so that more would tell nothing."""

GUESS_SHARES: Final = (0.03, 0.1, 0.3)
"""Shares of the scores, from either end, that are guessed; the best counts, at a third of alpha."""

_BISECTIONS = 24


def noise_factor_bound(
    scores: Scores, included: Included, expected_effect: float, alpha: float
) -> float:
    """How much noise there is at most, as a multiple of what was promised; infinity for any.

    The mean shift between canaries that are in and out, over the standard deviation of those that
    are out, is `expected_effect` over the factor. Its lower confidence limit is the delta method's
    (both means and the deviation are estimated; scores that are in may vary more).

    Args:
        scores: `(canaries,)`.
        included: `(canaries,)`.
        expected_effect: The shift in standard deviations that the promised noise gives, above 0.
        alpha: In (0, 1).

    Returns:
        0 when there is a shift and no noise.
    """
    inside, outside = scores[included], scores[~included]
    if len(inside) < 2 or len(outside) < 2:
        return math.inf
    shift = float(inside.mean() - outside.mean())
    variance = float(outside.var(ddof=1))
    if variance == 0:
        return 0.0 if shift > 0 else math.inf
    effect = shift / math.sqrt(variance)
    error = math.sqrt(
        float(inside.var(ddof=1)) / variance / len(inside)
        + 1 / len(outside)
        + effect**2 / (2 * (len(outside) - 1))
    )
    from scipy.special import ndtri

    least = effect + float(ndtri(alpha)) * error
    return math.inf if least <= 0 else expected_effect / least


def one_run_bound(scores: Scores, included: Included, delta: float, alpha: float) -> float:
    """ε at `delta` that so many right guesses refute, whatever the scores' distribution.

    The highest scores are guessed in, the lowest out, and the rest is abstained from.

    Args:
        scores: `(m,)`.
        included: `(m,)`; each by its own fair coin.
        delta: In [0, 1).
        alpha: In (0, 1).
    """
    count = len(scores)
    order = np.argsort(scores, kind="stable")
    best = 0.0
    for share in GUESS_SHARES:
        each = int(share * count)
        if each == 0 or scores[order[0]] == scores[order[-1]]:
            continue
        right = int(included[order[-each:]].sum() + (~included[order[:each]]).sum())

        def refuted(epsilon: float, each: int = each, right: int = right) -> bool:
            chance = chance_of_guesses(count, 2 * each, right, epsilon, delta)
            return chance <= alpha / len(GUESS_SHARES)

        best = max(best, _largest(refuted))
    return best


def chance_of_guesses(
    canaries: int, guesses: int, right: int, epsilon: float, delta: float
) -> float:
    """Most that the chance of so many right guesses can be under (ε, δ): arXiv 2305.08846, App. D.

    Args:
        canaries: m, each in by a fair coin.
        guesses: r, at most m.
        right: v, at most r.
        epsilon: At least 0.
        delta: In [0, 1).

    >>> round(chance_of_guesses(100, 10, 10, 0.0, 0.0) * 2**10, 6)
    1.0
    """
    from scipy.stats import binom

    accuracy = 1 / (1 + math.exp(-epsilon))
    chance = float(binom.sf(right - 1, guesses, accuracy))
    if delta > 0 and right > 0:
        fewer = np.arange(1, right + 1)
        nearly = np.cumsum(binom.pmf(right - fewer, guesses, accuracy))  # P[v > W >= v - i]
        chance += 2 * canaries * delta * float((nearly / fewer).max())
    return min(1.0, chance)


def scale_bound(one: Scores, other: Scores, coordinates: int, delta: float, alpha: float) -> float:
    """ε at `delta` from two neighbours' noise: Gaussian, centred, perhaps of another scale.

    An F interval gives the least ratio of the variances that the samples allow. Two products of
    `coordinates` normals whose variances have that ratio are told apart by their squared length,
    which is chi-squared under both.

    Args:
        one: Noise of one neighbour's updates, in any unit.
        other: The other neighbour's, in the same unit.
        coordinates: How many such values one training run gives.
        delta: In (0, 1).
        alpha: In (0, 1).
    """
    from scipy.stats import chi2, f

    if len(one) < 2 or len(other) < 2:
        return 0.0
    squares = float((one**2).mean()), float((other**2).mean())
    if min(squares) == 0:
        return MAX_EPSILON if max(squares) > 0 else 0.0
    wide, narrow = (one, other) if squares[0] > squares[1] else (other, one)
    observed = max(squares) / min(squares)
    ratio = observed / float(f.isf(alpha / 2, len(wide), len(narrow)))
    if ratio <= 1:
        return 0.0

    def refuted(epsilon: float) -> bool:
        # Outcomes whose loss, log(wide / narrow), is above ε are those longer than this.
        length = 2 * (epsilon + coordinates / 2 * math.log(ratio)) / (1 - 1 / ratio)
        lost = chi2.sf(length / ratio, coordinates) - math.exp(epsilon) * chi2.sf(
            length, coordinates
        )
        return bool(lost > delta)

    return _largest(refuted)


def clopper_pearson_bound(scores: Scores, included: Included, delta: float, alpha: float) -> float:
    """ε at `delta` from an attack's true and false positives, by exact binomial intervals.

    Every other score chooses threshold and direction, and the rest is what the interval is of.
    """
    chosen_on, tested_on = (slice(start, None, 2) for start in (0, 1))
    choices = (
        [
            (threshold, sign)
            for threshold in np.quantile(scores[chosen_on], np.linspace(0.01, 0.99, 99))
            for sign in (1.0, -1.0)
        ]
        if len(scores[chosen_on])
        else []
    )

    def counts(part: slice, threshold: float, sign: float) -> tuple[int, int, int, int]:
        """Hits and size of the guessed side, then false ones and size of the other."""
        guessed = sign * scores[part] > sign * threshold
        members = included[part] if sign > 0 else ~included[part]
        return (
            int((guessed & members).sum()),
            int(members.sum()),
            int((guessed & ~members).sum()),
            int((~members).sum()),
        )

    def of(choice: tuple[float, float], part: slice, error: float) -> float:
        hits, members, false, others = counts(part, *choice)
        if members == 0 or others == 0:
            return 0.0
        gain = binomial_interval(hits, members, error)[0] - delta
        loss = binomial_interval(false, others, error)[1]
        return math.log(gain / loss) if gain > loss else 0.0

    best = max(choices, key=lambda choice: of(choice, chosen_on, alpha / 2), default=None)
    return 0.0 if best is None else min(MAX_EPSILON, of(best, tested_on, alpha / 2))


def binomial_interval(hits: int, count: int, alpha: float) -> tuple[float, float]:
    """Clopper & Pearson's limits of a proportion, each of which errs with chance `alpha`.

    >>> low, high = binomial_interval(0, 100, 0.025)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    from scipy.special import betaincinv

    low = float(betaincinv(hits, count - hits + 1, alpha)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - alpha)) if hits < count else 1.0
    return low, high


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest ε that is refuted, rounded down; 0 when none is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, MAX_EPSILON
    if refuted(high):
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
