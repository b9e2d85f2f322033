"""Rényi divergences of one training step for a group of subjects, in plain Python.

A step adds noise s, in units of the clipping norm, to a sum from which each of k subjects is
missing with probability 1 - q, on its own. With `count ~ Binomial(k, q)` of them present, the sum
has moved by at most `count`.

**Formal guarantees.** With P = N(0, s²) and Q = Σ P(count = j) N(j, s²), `group_divergences` gives
for each order a an upper bound on the larger of D(Q‖P) and D(P‖Q), and that bounds the step:

* *Q‖P.* For vectors v_J with ‖v_J‖ ≤ |J| and integers a, exp((a-1) D) is the mean, over a
  independent draws, of exp(Σ ⟨v_I, v_J⟩ / s²) over pairs; by Cauchy & Schwarz it is largest where
  all v have one direction and full length. What is left is the mean of exp((S² - Σ j²) / 2s²), S =
  Σ j: a power of the polynomial Σ P(j) exp(-j²/2s²) x^j, whose coefficients are computed in
  logarithms, as they are.
* *P‖Q.* Mixtures of Gaussians on a line dominate those of vectors of at most that length (Ganesh
  2024, arXiv 2401.10294), so only the line counts. r = Q/P is a sum of exponentials, so log r is
  convex, and r^(1-a) falls and is log-concave: on each interval it is at most its tangent in
  logarithms, and that at most its chord. The chord's integral against the normal density is exact.
  Beyond the last interval it is at most its value there, before the first at most P(0)^(1-a).
* Both are also at most those of noise s/k sampled at rate 1 - (1-q)^k, in closed form for every
  integer a (Mironov, Talwar & Zhang 2019, arXiv 1908.10530, Section 3.3): where orders or groups
  are too large for the sums above, this one is taken.

Rounding of floats is of the order of 1e-12 here; what is stated of it is rounded up by far more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

ORDERS: Final = (
    *range(2, 13), 14, 16, 18, 20, 22, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512,
)  # fmt: skip
"""Integers, for which there are closed forms. Small ε want large ones."""

_LARGEST_WORK: Final = 1000
"""Largest order times group whose polynomial is worth it: a second of work in the worst case."""

_LARGEST_ORDER: Final = 64

_INTERVALS_A_DEVIATION: Final = 20
_FIRST, _LAST = -37.0, 12.0
"""In standard deviations. The density before the first can still be told from zero."""


@lru_cache(maxsize=256)
def group_divergences(noise_multiplier: float, rate: float, subjects: int) -> tuple[float, ...]:
    """Upper bounds on the Rényi divergences of one step, at each of `ORDERS`.

    Args:
        noise_multiplier: s, above 0.
        rate: q, in (0, 1].
        subjects: k, at least 1.

    >>> group_divergences(2.0, 1.0, 2)[ORDERS.index(4)]
    2.0
    """
    one = noise_multiplier / subjects
    if rate == 1:
        return tuple(order / (2 * one**2) for order in ORDERS)
    joined = -math.expm1(subjects * math.log1p(-rate))
    coarse = [sampled_gaussian_divergence(one, joined, order) for order in ORDERS]
    if subjects == 1:
        return tuple(coarse)
    largest = max(2, min(_LARGEST_ORDER, _LARGEST_WORK // subjects))
    orders = [order for order in ORDERS if order <= largest]
    counts = _binomial_logs(subjects, rate)
    forward = _mixture_from_normal(noise_multiplier, counts, orders)
    backward = _normal_from_mixture(noise_multiplier, counts, orders)
    fine = [max(pair) for pair in zip(forward, backward, strict=True)]
    fine += [math.inf] * (len(ORDERS) - len(orders))
    return tuple(min(pair) for pair in zip(coarse, fine, strict=True))


def sampled_gaussian_divergence(noise_multiplier: float, rate: float, order: int) -> float:
    """Rényi divergence of one step for one subject, the larger of both directions.

    Args:
        noise_multiplier: Above 0.
        rate: In (0, 1].
        order: Integer, at least 2.

    >>> sampled_gaussian_divergence(2.0, 1.0, 4)
    0.5
    >>> round(sampled_gaussian_divergence(2.0, 0.1, 4), 6)
    0.006003
    """
    if rate == 1:
        return order / (2 * noise_multiplier**2)
    terms = [
        log_probability + count * (count - 1) / (2 * noise_multiplier**2)
        for count, log_probability in enumerate(_binomial_logs(order, rate))
    ]
    return max(0.0, _log_sum(terms) / (order - 1))


def _binomial_logs(trials: int, rate: float) -> list[float]:
    """Logarithms of the binomial probabilities of 0 to `trials`, for a rate below 1."""
    whole, hit, miss = math.lgamma(trials + 1), math.log(rate), math.log1p(-rate)
    return [
        whole
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * hit
        + (trials - count) * miss
        for count in range(trials + 1)
    ]


def _mixture_from_normal(noise: float, counts: Sequence[float], orders: list[int]) -> list[float]:
    """D(Q‖P) at each order, from powers of the polynomial of `counts`."""
    factor = 1 / (2 * noise**2)
    weights = [log - j * j * factor for j, log in enumerate(counts)]
    power, found = [0.0], []
    for order in range(1, orders[-1] + 1):
        power = [
            _log_sum(
                [
                    power[total - j] + weights[j]
                    for j in range(max(0, total - len(power) + 1), min(total, len(weights) - 1) + 1)
                ]
            )
            for total in range(len(power) + len(weights) - 1)
        ]
        if order in orders:
            moment = _log_sum([log + s * s * factor for s, log in enumerate(power)])
            found.append(max(0.0, moment / (order - 1)))
    return found


def _normal_from_mixture(noise: float, counts: Sequence[float], orders: list[int]) -> list[float]:
    """Upper bounds on D(P‖Q) at each order, from chords of tangents of log(P/Q)."""
    half = 0.5 / _INTERVALS_A_DEVIATION
    steps = round((_LAST - _FIRST) * _INTERVALS_A_DEVIATION)
    edges = [_FIRST + 2 * half * step for step in range(steps + 1)]
    pieces = []  # of each interval: log mass, mean offset from the middle, log r, slope of log r
    for low, high in pairwise(edges):
        middle, mass = (low + high) / 2, _normal_mass(low, high)
        offset = (_density(low) - _density(high)) / mass - middle
        pieces.append((math.log(mass), offset, *_log_ratio(noise, counts, middle)))
    last = _log_ratio(noise, counts, _LAST)[0]
    found = []
    for order in orders:
        power = order - 1
        terms = [
            math.log(_normal_mass(-math.inf, _FIRST)) - power * counts[0],
            math.log(_normal_mass(_LAST, math.inf)) - power * last,
        ]
        for log_mass, offset, log_ratio, slope in pieces:
            bend = power * slope * half  # of exp(-power * slope * u), over half an interval
            chord = math.cosh(bend) - math.sinh(bend) * max(-1.0, min(1.0, offset / half))
            terms.append(log_mass - power * log_ratio + math.log(chord))
        found.append(max(0.0, _log_sum(terms) / power))
    return found


def _log_ratio(noise: float, counts: Sequence[float], deviations: float) -> tuple[float, float]:
    """log(Q/P) at a point given in standard deviations, and its slope there."""
    terms = [log + (j * deviations - j * j / (2 * noise)) / noise for j, log in enumerate(counts)]
    whole = _log_sum(terms)
    mean = math.fsum(j * math.exp(term - whole) for j, term in enumerate(terms))
    return whole, mean / noise


def _normal_mass(low: float, high: float) -> float:
    """Mass of the standard normal distribution between two points, also far out."""
    if low > 0:
        low, high = -high, -low
    root = math.sqrt(2)
    return 0.5 * (math.erfc(-high / root) - math.erfc(-low / root))


def _density(point: float) -> float:
    return math.exp(-0.5 * point**2) / math.sqrt(2 * math.pi)


def _log_sum(logs: Sequence[float]) -> float:
    largest = max(logs)
    return largest + math.log(math.fsum(math.exp(log - largest) for log in logs))
