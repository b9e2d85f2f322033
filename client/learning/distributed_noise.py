"""Distributed noise: each site adds a share, and the sum over honest sites carries the promise.

A plan with `privacy.noise_sites = h` lets each site add noise of the deviation `sigma * C /
sqrt(h)` instead of `sigma * C`. The coordinator learns only sums (`client.secure_aggregation`) over
at least a quorum of sites, which the plan's format demands to be at least `h`. So accuracy comes
near that of one site with all the data: the noise of a sum over `n` sites is `sqrt(n / h)` times
what one such site would add, and not `sqrt(n)` times.

Formal guarantees. Let `c` sites, and whoever they tell, share what they know with the coordinator,
and let every sum be over at least `h + c` sites, of which the others add their share as they should
and tell nobody its value. Then

* what is learned of a round is `S + N` and public functions of it, with `S` a sum to which one
  subject contributes at most `C` in norm, and `N` Gaussian of at least the deviation `sigma * C`:
  the mechanism that the plan states, and that the ledger accounts for;
* **rounding each site's vector to the ring costs nothing.** Let `u` be a site's deviation in units
  of the ring. The sum of `n` independently rounded Gaussians has, at each lattice point, the
  density of `S + N + U` there, where `U` is a sum of `n` uniforms on a unit: the Fourier transform
  of its probabilities is the product of the sites' periodised transforms, and terms with unequal
  shifts are below `exp(-(pi * u)**2)` (Poisson summation, as for sums of discrete Gaussians in
  Kairouz, Liu & Steinke 2021, arXiv 2102.06387, section 3.2). That is the probability of
  `round(S + N + U')` with `U'` of `n - 1` uniforms: a public, randomised function of `S + N`. With
  `u >= MINIMUM_UNITS` what is left out is below 1e-270;
* **nothing is cut.** Cutting a number to the ring's range is public post-processing of one site's
  own promise, and not of the sum's. So a site takes no smaller range than the plan's, and where one
  of its numbers lies outside, it takes no part in the sum. That takes noise of more than ten
  deviations, or more than four times the plan's nominal subjects who all pull at one number; that
  it happened is seen;
* **one step a round** is all there may be, which the plan's format demands. A second step would
  start from weights that only a share of the noise protects, and the sum of both would be the
  mechanism of neither.

What it rests on, unlike everything else in `client.learning`:

* on other sites. With fewer than `h` honest ones in a sum, the promise is that of the noise that is
  there: `sigma * sqrt(honest / h)`. A site's policy must allow it (`allow_distributed_noise`);
* on secure aggregation: who saw a single update would see it with `sigma / sqrt(h)`;
* on the site's own trainer adding its share: the privacy audit trains with all of the noise;
* on real arithmetic between the noise and the ring: float32 rounds weights in between, far below
  the noise, which is not part of the proof.
"""

from __future__ import annotations

import math
from typing import Final

from compliance.statements import TrainingPlan

MINIMUM_UNITS: Final = 8.0
"""Least deviation of a site's share in units of the ring."""


def noise_share(plan: TrainingPlan) -> float:
    """What part of the noise's deviation each site adds, in (0, 1]; 1 where nothing is shared.

    >>> from decimal import Decimal
    >>> from compliance.statements import Privacy
    >>> privacy = Privacy(epsilon=1, delta=Decimal("1e-5"), nominal_subjects=9, noise_sites=4)
    >>> noise_share(TrainingPlan.model_construct(privacy=privacy))
    0.5
    """
    sites = plan.privacy.noise_sites
    return 1.0 if sites is None else 1 / math.sqrt(sites)


def units_of_noise(plan: TrainingPlan, round_index: int, unit: float) -> float:
    """The deviation of a site's share of the noise in one coordinate, in units of the ring.

    The head of an encoder is stored in another form than it trains, by a linear map that never
    shortens more than its inverse lengthens; `MINIMUM_UNITS` leaves room for that only where units
    are as fine as `client.secure_aggregation.fixed_point` makes them.

    Args:
        plan: The plan.
        round_index: From 0.
        unit: What a unit is worth.

    Raises:
        MalformedInput: When the plan has no such round.
    """
    phase = plan.phase_of(round_index)
    divisor = float(phase.sampling_rate) * plan.privacy.nominal_subjects
    step = float(phase.learning_rate) * float(phase.max_grad_norm) / divisor
    return step * float(phase.noise_multiplier) * noise_share(plan) / unit
