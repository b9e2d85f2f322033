"""Privacy loss distributions (PLD) of the mechanisms that training uses, by Google's accountant.

* A distribution describes the worst pair of neighbouring data sets, which differ by adding or
  removing one data subject; discretised, it is never better than the mechanism (Doroshenko et al.
  2022, arXiv 2207.04380, Algorithm 1, "connect the dots").
* The δ of a step are evaluated here for all bins at once, ten times as fast; what becomes of them
  (Algorithm 1, convolution, ε of a δ) is `dp-accounting`'s. A test compares with its own result.
* What a sum of n steps is cut to depends on n through one multiplication (`SelfComposition`), so a
  site that asks after every round computes the rest once.
* The width of a bin follows from what is composed (`bin_width`): a fixed one overstates ε several
  times where a step tells very little, and takes seconds where it need not be fine.

**Formal guarantees.** q is the sampling rate, S the Poisson sample of the *other* subjects, and the
noise multiplier is the standard deviation in units of the clipping norm.

A step without a cap is dominated by the pair `N(0, σ²)`, `(1-q) N(0, σ²) + q N(1, σ²)`, in both
orders (Zhu, Dong & Wang 2022, arXiv 2106.08567).

A capped step takes a uniform subset of `cap` subjects when more were sampled. Whether |S| ≥ cap
does not depend on the subject in question. If not, the step is as without a cap. If so, the subject
enters with probability `q cap / (|S| + 1) ≤ q`, in place of another, and the sum moves by at most
two clipping norms: the pair `N(0, σ²)`, `(1-q) N(0, σ²) + q N(2, σ²)` dominates. By joint convexity
of the hockey-stick divergence, the mixture of both pairs with weight P(|S| ≥ cap) on the second
dominates the step. That weight grows with the population, and with it the divergence: what is
computed for the largest population that is allowed holds for every smaller one, and the promise
does not depend on how many subjects a site truly has. (`dp-accounting` conditions on the true
number instead: "Tighter Privacy Analysis for Truncated Poisson Sampling", arXiv 2508.15089.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from client.learning.epsilon_of_delta import epsilon_of_delta
from client.learning.self_composition import SelfComposition

COARSEST_BIN = 1e-3
"""Widest bin, in nats of privacy loss."""

FINEST_HALVINGS = 7
"""Bins are `COARSEST_BIN` halved up to this often: below 8e-6 rounding of floats shows."""

TOLERANCE = 5e-4
"""By how much the width of the bins may raise ε, as estimated; measured, it is less than 0.001."""

MAX_BINS_OF_STEP = 2**19
MAX_BINS_OF_SUM = 2**21
"""Bounds on time and memory whatever a plan asks for; beyond them ε is overstated, never under."""

TAIL_LOG_MASS = -50.0
"""Log of the mass beyond a distribution's range, which counts as an infinite loss."""

TAIL_OF_SUM = 1e-15
"""Mass that a sum of losses may move to an infinite loss (the package's default)."""

STEPS_AT_ONCE = 4096
"""The package's Chernoff bounds have orders of at least one over the number of bins: right for a
deviation that grows to about a hundred times that of a step."""

_NO_LOSS = 1e-9


@dataclass(frozen=True, order=True)
class Mechanism:
    """One step: noise, sampling rate, and how likely a cap replaces subjects.

    Args:
        noise_multiplier: sigma over the clipping norm, above 0.
        sampling_rate: Poisson rate, in (0, 1].
        truncation: Probability that the other subjects fill the batch, in [0, 1].
    """

    noise_multiplier: float
    sampling_rate: float
    truncation: float = 0.0

    @property
    def joins(self) -> bool:
        """Whether steps join to one Gaussian: sigma becomes sigma / √steps."""
        return self.sampling_rate == 1 and self.truncation in (0.0, 1.0)


def truncation_probability(sampling_rate: float, cap: int, max_population: int) -> float:
    """Chance that the other `max_population - 1` subjects fill a batch of `cap`.

    >>> truncation_probability(0.5, 4, 4)
    0.0
    >>> truncation_probability(0.5, 2, 3)
    0.25
    """
    from scipy.stats import binom

    return float(binom.sf(cap - 1, max_population - 1, sampling_rate))


def size_of_loss(mechanism: Mechanism) -> float:
    """About a step's mean privacy loss: exact for full batches, half the CLT's variance otherwise.

    Decides whether a distribution is worth computing, and how finely; it is never reported.
    """
    sigma, rate, capped = (
        mechanism.noise_multiplier,
        mechanism.sampling_rate,
        mechanism.truncation,
    )
    plain = (1 - capped) * _size(sigma, rate) if capped < 1 else 0.0
    return plain + (capped * _size(sigma / 2, rate) if capped else 0.0)


def _size(noise_multiplier: float, sampling_rate: float) -> float:
    if noise_multiplier < _NO_LOSS:
        return math.inf
    if sampling_rate == 1:
        return 0.5 / noise_multiplier**2
    exponent = noise_multiplier**-2
    return 0.5 * sampling_rate**2 * math.expm1(exponent) if exponent < 700 else math.inf


def bin_width(steps: Mapping[Mechanism, int], delta: float) -> float:
    """Width of the bins that keeps ε at `delta` within about `TOLERANCE` of the exact value.

    Connecting the dots moves a loss to the ends of its bin: a step's variance grows by about a
    sixth of a squared width (at most a quarter), and its mean by half of that. Over n steps ε grows
    by the mean, and by the normal quantile of δ times the growth of the standard deviation.

    Args:
        steps: How often each mechanism is run; with a finite `size_of_loss`.
        delta: In (0, 1).
    """
    mean = sum(size_of_loss(mechanism) * count for mechanism, count in steps.items())
    deviation = math.sqrt(2 * mean)
    count = sum(1 if mechanism.joins else count for mechanism, count in steps.items())
    quantile = math.sqrt(2 * math.log(1 / delta))
    wanted = math.sqrt(12 * TOLERANCE / (count * (1 + quantile / deviation)))
    noise = min(
        m.noise_multiplier / (math.sqrt(steps[m]) if m.joins else 1) / (2 if m.truncation else 1)
        for m in steps
    )
    widest_step = 20 / noise + 1 / noise**2
    whole = 2 * mean + 16 * deviation
    wanted = max(wanted, widest_step / MAX_BINS_OF_STEP, whole / MAX_BINS_OF_SUM)
    halvings = math.ceil(math.log2(max(1.0, COARSEST_BIN / wanted)))
    return float(COARSEST_BIN / 2 ** min(halvings, FINEST_HALVINGS))


def compose(steps: Mapping[Mechanism, int], delta: float, width: float | None = None) -> float:
    """ε at `delta` of running every mechanism as often as `steps` says, in any order.

    Args:
        steps: Counts, at least 1 each.
        delta: In (0, 1).
        width: Width of the bins; `bin_width` by default.
    """
    width = bin_width(steps, delta) if width is None else width
    return _epsilon(tuple(sorted(steps.items())), delta, width)


@lru_cache(maxsize=1024)
def _epsilon(steps: tuple[tuple[Mechanism, int], ...], delta: float, width: float) -> float:
    composed: Any = None
    for mechanism, count in steps:
        loss = _loss_of(mechanism, count, width)
        composed = loss if composed is None else composed.compose(loss)
    return 0.0 if composed is None else epsilon_of_delta(composed, delta)


@lru_cache(maxsize=128)
def _loss_of(mechanism: Mechanism, count: int, width: float) -> Any:
    if mechanism.joins:
        one = Mechanism(mechanism.noise_multiplier / math.sqrt(count), 1.0, mechanism.truncation)
        return loss_of_step(one, width)
    if count <= STEPS_AT_ONCE:
        return _step_to_repeat(mechanism, width).repeated(count, TAIL_OF_SUM)
    import numpy as np

    with np.errstate(over="ignore"):  # as in `SelfComposition.of`
        return _repeated(loss_of_step(mechanism, width), count, TAIL_OF_SUM)


@lru_cache(maxsize=128)
def _step_to_repeat(mechanism: Mechanism, width: float) -> SelfComposition:
    return SelfComposition.of(loss_of_step(mechanism, width))


def _repeated(loss: Any, count: int, tail: float) -> Any:
    """A loss added to itself, in powers of `STEPS_AT_ONCE`.

    With few bins and many steps the package's arrays grow with the steps instead of their root.
    """
    if count <= STEPS_AT_ONCE:
        return loss.self_compose(count, tail_mass_truncation=tail)
    many, rest = divmod(count, STEPS_AT_ONCE)
    power = loss.self_compose(STEPS_AT_ONCE, tail_mass_truncation=tail / (2 * many))
    whole = _repeated(power, many, tail / 2)
    return whole.compose(loss.self_compose(rest, tail_mass_truncation=tail)) if rest else whole


@lru_cache(maxsize=128)
def loss_of_step(mechanism: Mechanism, width: float) -> Any:
    """The `PrivacyLossDistribution` of one step, with bins of `width`."""
    sigma, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    if mechanism.truncation == 1:
        return _gaussian(sigma / 2, rate, width)
    if not mechanism.truncation:
        return _gaussian(sigma, rate, width)
    replaced, joined = _gaussian(sigma / 2, rate, width), _gaussian(sigma, rate, width)
    return replaced.compute_mixture(joined, mechanism.truncation)


def _gaussian(sigma: float, rate: float, width: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.pld import privacy_loss_mechanism as mechanisms

    adjacencies = [mechanisms.AdjacencyType.REMOVE]
    if rate < 1:
        adjacencies.append(mechanisms.AdjacencyType.ADD)
    return pld.PrivacyLossDistribution(
        *(_connected(sigma, rate, width, adjacency) for adjacency in adjacencies)
    )


def _connected(sigma: float, rate: float, width: float, adjacency: Any) -> Any:
    """As `dp_accounting.pld.from_gaussian_mechanism`, with δ of all bins at once."""
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld import privacy_loss_mechanism as mechanisms

    from client.learning.gaussian_divergences import (
        delta_of_adding,
        delta_of_removing,
        epsilons_of_bins,
    )

    bounds = mechanisms.GaussianPrivacyLoss(
        sigma,
        sampling_prob=rate,
        adjacency_type=adjacency,
        log_mass_truncation_bound=TAIL_LOG_MASS,
    ).connect_dots_bounds()
    lower = math.floor(bounds.epsilon_lower / width)
    upper = math.ceil(bounds.epsilon_upper / width)
    removing = adjacency == mechanisms.AdjacencyType.REMOVE
    deltas = (delta_of_removing if removing else delta_of_adding)(
        sigma, rate, epsilons_of_bins(lower, upper, width)
    )
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(width, lower, upper, deltas)
