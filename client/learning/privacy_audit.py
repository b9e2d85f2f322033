"""An empirical audit of the trainer: does it leak as little as the plan promises?

The trainer itself trains a plan's phases on made-up subjects, of whom each is in or out by a fair
coin (`client.learning.canaries`). What it hands out tells how well "in" and "out" can be told
apart, that is a lower bound on ε (`client.learning.epsilon_bounds`), which must stay under the
promised one.

* No record of anybody is used; the audit costs no privacy budget.
* **Formal guarantees.** With a correct trainer `passes` is false with chance at most
  `1 - CONFIDENCE`, over coins, sampling and noise. The reverse does not hold: an audit that passes
  has failed to find a leak, it has not proven that there is none.
* The bounds "gaussian" and "scale" take each step for the Poisson-subsampled Gaussian mechanism at
  the plan's rate, and infer how little noise there is; "one-run" assumes nothing.
* Where a plan has more steps than `MAX_STEPS`, the first rounds of each phase are audited. The
  Gaussian bound takes the others to have noise that falls short by the same factor.

| fault of a trainer | what it does to a canary | which bound sees it |
|---|---|---|
| no noise, or too little | it moves far beside the noise | gaussian, one-run |
| no clipping, or not of the whole gradient | it moves further than the clipping norm | likewise |
| records clipped one by one | it moves once for each record | likewise |
| more of the subjects sampled than the plan says | it moves more often | likewise |
| a divisor from the private number of subjects | neighbours' noise differs in scale | scale |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final

from client.learning.accounting import Event, epsilon_of, events_of
from client.learning.canaries import (
    MAX_STEPS,
    SCALE_COORDINATES,
    CanaryScores,
    MakeTrainer,
    neighbours_noise,
    run_canaries,
    site_trainer,
)
from client.learning.epsilon_bounds import (
    MAX_EPSILON,
    noise_factor_bound,
    one_run_bound,
    scale_bound,
)
from client.learning.randomness import Keystream
from compliance.statements import Phase, Privacy

CONFIDENCE: Final = Decimal("0.99")
"""Of all bounds of an evaluation together: a false alarm is journalled, and would worry people."""

MAX_BOUNDS: Final = 5
"""Most bounds in an evaluation; each errs with chance `BOUND_ALPHA` at most."""

BOUND_ALPHA: Final = float(1 - CONFIDENCE) / MAX_BOUNDS

DEFAULT_CANARIES: Final = 4000
"""At ε = 8 they notice less than nine tenths of the noise, at ε = 3 less than four fifths."""

_ACCOUNTING_SLACK: Final = 0.001
"""By how much the accountant may overstate ε, which a lower bound must not."""

_NOISE_STEP: Final = 1.25
_LEAST_NOISE: Final = 1e-6


@dataclass(frozen=True)
class LowerBound:
    """A lower bound on ε.

    Attributes:
        method: `gaussian`, `one-run`, `scale`, `membership-one-run`, `membership-clopper-pearson`.
        epsilon: The bound, rounded down to four decimals; 0 tells nothing.
        confidence: Chance, at least, that the true ε is not below the bound.
    """

    method: str
    epsilon: Decimal
    confidence: Decimal

    @classmethod
    def of(cls, method: str, epsilon: float) -> LowerBound:
        """A bound that errs with chance `BOUND_ALPHA`."""
        rounded = Decimal(repr(float(epsilon))).quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)
        return cls(method, max(Decimal(0), rounded), 1 - (1 - CONFIDENCE) / MAX_BOUNDS)

    def to_json(self) -> dict[str, str]:
        """As canonical JSON holds it: decimals are text."""
        return {
            "method": self.method,
            "epsilon": f"{self.epsilon:f}",
            "confidence": f"{self.confidence:f}",
        }


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        engine: Whose gradients were audited, one of `private_sgd.ENGINES`.
        claimed: ε that the plan promises, at `delta`.
        delta: The plan's δ.
        confidence: Chance, at least, that every bound holds.
        bounds: Each method's bound.
        noise_at_most: Most noise that the canaries allow, over the promised noise; None for any.
        canaries: Their scores.
    """

    engine: str
    claimed: Decimal
    delta: Decimal
    confidence: Decimal
    bounds: tuple[LowerBound, ...]
    noise_at_most: Decimal | None
    canaries: CanaryScores

    @property
    def lower_bound(self) -> Decimal:
        """The best of the bounds."""
        return max(bound.epsilon for bound in self.bounds)

    @property
    def passes(self) -> bool:
        """Whether no bound contradicts the promise."""
        return self.lower_bound <= self.claimed

    def to_json(self) -> dict[str, Any]:
        """As canonical JSON holds it: text, integers and truth values."""
        included = int(self.canaries.included.sum())
        return {
            "engine": self.engine,
            "claimed": f"{self.claimed:f}",
            "delta": f"{self.delta:f}",
            "confidence": f"{self.confidence:f}",
            "lower_bound": f"{self.lower_bound:f}",
            "passes": self.passes,
            "bounds": [bound.to_json() for bound in self.bounds],
            "noise_at_most": None if self.noise_at_most is None else f"{self.noise_at_most:f}",
            "canaries": len(self.canaries.scores),
            "canaries_included": included,
            "steps": self.canaries.steps,
        }


def audit_mechanism(
    phases: Sequence[Phase],
    privacy: Privacy,
    *,
    engine: str = "one_backward",
    canaries: int = DEFAULT_CANARIES,
    make_trainer: MakeTrainer | None = None,
    coins: Keystream | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditResult:
    """Audit what a plan promises of its phases.

    Args:
        phases: The plan's; everything but their learning rates is audited as it is.
        privacy: The plan's promise, cap and public number of subjects.
        engine: One of `private_sgd.ENGINES`.
        canaries: How many, in all passes together; at least 20.
        make_trainer: What to audit instead of the site's trainer, for tests.
        coins: Who is in; for tests. By default a fresh keystream.
        progress: Told rounds done and rounds in all.

    Raises:
        ValueError: When there are fewer than 20 canaries.
    """
    if canaries < 20:
        raise ValueError(f"canaries must be at least 20, got {canaries}")
    make = site_trainer(engine) if make_trainer is None else make_trainer
    delta = float(privacy.delta)
    found = run_canaries(phases, privacy, canaries, make, coins or Keystream(), progress)
    factor = noise_factor_bound(found.scores, found.included, found.expected_effect, BOUND_ALPHA)
    one, other = neighbours_noise(phases, privacy, make)
    # A batch limit costs privacy in the accountant's worst case only, which a lower bound must not.
    events = [replace(event, cap=None) for event in events_of(phases)]
    bounds = (
        LowerBound.of("gaussian", epsilon_with_noise(events, factor, delta)),
        LowerBound.of("one-run", one_run_bound(found.scores, found.included, delta, BOUND_ALPHA)),
        LowerBound.of("scale", scale_bound(one, other, SCALE_COORDINATES, delta, BOUND_ALPHA)),
    )
    at_most = None if math.isinf(factor) else Decimal(f"{factor:.4f}")
    return AuditResult(engine, privacy.epsilon, privacy.delta, CONFIDENCE, bounds, at_most, found)


def epsilon_with_noise(events: Sequence[Event], factor: float, delta: float) -> float:
    """ε that a mechanism has at least when its noise is at most `factor` times what is stated.

    Args:
        events: The mechanism as promised.
        factor: At least 0; infinity for a mechanism that may have any noise.
        delta: In (0, 1).
    """
    if math.isinf(factor):
        return 0.0
    factor = max(factor, _LEAST_NOISE)
    noisy = [replace(event, noise_multiplier=event.noise_multiplier * factor) for event in events]
    epsilon = epsilon_of(noisy, delta)
    if math.isfinite(epsilon):
        return min(MAX_EPSILON, max(0.0, epsilon - _ACCOUNTING_SLACK))
    # The accountant does not go so far. More noise has a smaller ε, which is a lower bound too.
    return max(_one_test(noisy, delta), epsilon_with_noise(events, factor * _NOISE_STEP, delta))


def _one_test(events: Sequence[Event], delta: float) -> float:
    """ε that one simple test shows: whether a single step moved by at least the clipping norm."""
    from scipy.special import log_ndtr

    best = 0.0
    for event in events:
        gain = event.sampling_rate / 2 - delta
        if gain > 0:
            false_alarm = float(log_ndtr(-1 / event.noise_multiplier))
            best = max(best, math.log(gain) - false_alarm)
    return min(MAX_EPSILON, best)


__all__ = [
    "MAX_STEPS",
    "AuditResult",
    "CanaryScores",
    "LowerBound",
    "audit_mechanism",
    "epsilon_with_noise",
]
