"""Privacy accounting: ε of a plan by Google's privacy loss distributions (PLD), and sigma for an ε.

* Authority: `dp-accounting` PLD, neighbours differ by adding or removing one data subject.
* Phases with different mechanisms are composed exactly, by convolving their loss distributions;
  ε are never added, and Gaussian-DP approximations are never used (they understate ε).
* `sampling_rate == 1` is the plain Gaussian mechanism, T steps of which are one with sigma / √T.
* Results are pessimistic: the discretisation rounds losses up, and so are sigma and a reported ε
  rounded up.

`client.learning.loss_distributions` has the distributions and what they guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from audit.errors import MalformedInput
from audit.words import count_of
from client.learning.loss_distributions import (
    Mechanism,
    compose,
    size_of_loss,
    truncation_probability,
)
from compliance.statements import Phase, TrainingPlan

MAX_SIZE_OF_LOSS = 200.0
"""A hostile plan with hardly any noise must not make a site allocate without bound. A plan may
promise at most ε = 100, which is a mean loss of about 60."""

NOISE_STEP = Decimal("0.001")
"""Noise multipliers are rounded up to a multiple of this."""

EPSILON_STEP = Decimal("0.0001")
"""A reported ε is rounded up to a multiple of this."""


@dataclass(frozen=True, order=True)
class BatchCap:
    """A bound on a batch: of more sampled subjects, a uniform subset of this size is taken.

    Args:
        subjects: Most subjects in a batch, at least 1.
        max_population: Public bound on the subjects that are sampled from. ε holds for every
            population up to it, so that it does not depend on a site's true number of subjects.

    Raises:
        ValueError: When a batch would be larger than the population: such a cap bounds nothing.
    """

    subjects: int
    max_population: int

    def __post_init__(self) -> None:
        if self.subjects < 1:
            raise ValueError(f"a batch's cap must be at least 1, got {self.subjects}")
        if self.subjects > self.max_population:
            raise ValueError(
                f"a batch of {count_of(self.subjects, 'subject')} must not be larger than the"
                f" population of at most {self.max_population}"
            )


@dataclass(frozen=True)
class Event:
    """`steps` Poisson-subsampled Gaussian mechanisms.

    Args:
        noise_multiplier: sigma, standard deviation of the noise over the clipping norm; above 0.
        sampling_rate: Poisson rate of each step, in (0, 1].
        steps: Number of steps, at least 0.
        cap: Bound on each step's batch ("truncated Poisson"), or None.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    cap: BatchCap | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(f"noise_multiplier must be above 0, got {self.noise_multiplier}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must lie in (0, 1], got {self.sampling_rate}")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")

    @property
    def mechanism(self) -> Mechanism:
        """One of its steps."""
        truncation = (
            0.0
            if self.cap is None
            else truncation_probability(
                self.sampling_rate, self.cap.subjects, self.cap.max_population
            )
        )
        return Mechanism(self.noise_multiplier, self.sampling_rate, truncation)


def joined(events: Iterable[Event]) -> tuple[Event, ...]:
    """Equal mechanisms as one event with all their steps, in a fixed order.

    >>> joined([Event(2.0, 0.5, 3), Event(2.0, 0.5, 4)])
    (Event(noise_multiplier=2.0, sampling_rate=0.5, steps=7, cap=None),)
    """
    steps: dict[tuple[float, float, tuple[BatchCap, ...]], int] = {}
    for event in events:
        cap = () if event.cap is None else (event.cap,)
        key = (event.noise_multiplier, event.sampling_rate, cap)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(
        Event(noise, rate, count, *cap) for (noise, rate, cap), count in sorted(steps.items())
    )


def events_of(phases: Iterable[Phase], rounds: int | None = None) -> tuple[Event, ...]:
    """The mechanism of a plan's first `rounds` rounds (all of them by default)."""
    left = math.inf if rounds is None else rounds
    events = []
    for phase in phases:
        taken = int(min(left, phase.rounds))
        left -= taken
        if taken:
            events.append(
                Event(
                    noise_multiplier=float(phase.noise_multiplier),
                    sampling_rate=float(phase.sampling_rate),
                    steps=taken * phase.steps_per_round,
                    cap=batch_cap(phase),
                )
            )
    return tuple(events)


def batch_cap(phase: Phase) -> BatchCap | None:
    """A phase's batch limit as the accountant takes it."""
    limit = phase.batch_limit
    return None if limit is None else BatchCap(limit.subjects, limit.max_population)


def event_of_subject(event: Event, unit: str, max_records_per_subject: int) -> Event:
    """What a plan's event is to a whole data subject, whatever unit the plan protects.

    A plan that protects subjects: the event itself. A plan that protects single records samples
    each record at rate q, clips it to C, and adds noise of sigma·C; of a subject at most k records
    are in it (`max_records_per_subject`). Then each step is at worst the Poisson-subsampled
    Gaussian mechanism with noise multiplier sigma/k and sampling rate 1 - (1 - q)^k.

    **Formal guarantees.** Neighbours differ by all records, m ≤ k, of one subject. Let P be the
    step's output without and Q with them, given which records of others were sampled: that choice
    has the same law on both sides, so divergences of the mixtures over it are at most those given
    it (joint convexity of the hockey-stick divergence). In units of C, and with s for sigma, P is
    N(0, s²). The subject's sampled records are a random set J that is empty with probability
    (1 - q)^m; their clipped gradients add up to some v_J with ‖v_J‖ ≤ |J| ≤ k. So Q is the
    mixture, over non-empty J, of `(1 - p) N(0, s²) + p N(v_J, s²)` with p = 1 - (1 - q)^m. In both
    orders:

    * the divergence of Q and P is at most the largest over J (joint convexity);
    * it grows with ‖v_J‖: scaling down and adding noise makes the pair of a shorter shift from
      that of a longer one (data processing), so ‖v_J‖ = k is worst;
    * it grows with p: the mixture of rate p' < p is a mixture of that of rate p and of N(0, s²)
      (convexity), so m = k is worst.

    What is left is a pair that dominates the step (Zhu, Dong & Wang 2022, arXiv 2106.08567), so the
    steps' pairs compose. It takes every sampled subject to have brought all k records, in the same
    direction: far from tight, and never too low.

    | edge case | what happens |
    |---|---|
    | k = 1 | the event itself: a record is then all that a subject brings |
    | q = 1 | the plain Gaussian mechanism with sigma/k |
    | a capped batch | refused: a plan that protects records has none |

    Args:
        event: As the plan states it.
        unit: Whom the plan protects: `subject` or `record`.
        max_records_per_subject: k, at least 1.

    Raises:
        ValueError: When a capped batch holds single records.

    >>> event_of_subject(Event(4.0, 0.5, 10), "record", 2)
    Event(noise_multiplier=2.0, sampling_rate=0.75, steps=10, cap=None)
    """
    if unit == "subject" or max_records_per_subject == 1:
        return event
    if event.cap is not None:
        raise ValueError("no bound is known for a capped batch of single records")
    # What is lost to rounding here, 1e-16, is far less than what the accountant rounds up.
    rate = event.sampling_rate
    if rate < 1:
        rate = -math.expm1(max_records_per_subject * math.log1p(-rate))
    return Event(event.noise_multiplier / max_records_per_subject, rate, event.steps)


def epsilon_of(events: Iterable[Event], delta: float | Decimal) -> float:
    """ε at `delta` of everything in `events`, for adding or removing one subject.

    The order of the events does not matter. Where noise is so small that ε would be in the hundreds
    the answer is infinity, which is also an upper bound.

    >>> round(epsilon_of([Event(noise_multiplier=1.0, sampling_rate=1.0, steps=1)], 1e-5), 2)
    4.38
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
    steps: dict[Mechanism, int] = {}
    for event in joined(events):
        if event.steps:
            mechanism = event.mechanism
            steps[mechanism] = steps.get(mechanism, 0) + event.steps
    if not steps:
        return 0.0
    if any(
        size_of_loss(mechanism) * count > MAX_SIZE_OF_LOSS for mechanism, count in steps.items()
    ):
        return math.inf
    return compose(steps, float(delta))


def reported_epsilon(events: Iterable[Event], delta: float | Decimal) -> Decimal:
    """`epsilon_of`, rounded up to four decimals, as statements hold it.

    Raises:
        MalformedInput: When no finite ε holds at `delta`.
    """
    epsilon = epsilon_of(events, delta)
    if not math.isfinite(epsilon):
        raise MalformedInput(
            f"no finite epsilon holds at delta {delta}", fix="raise the plan's noise_multiplier"
        )
    return _rounded_up(epsilon)


def epsilon_of_subject(plan: TrainingPlan) -> Decimal | None:
    """ε of a whole plan for a data subject, by the bound of sites' ledgers; None for no finite one.

    Args:
        plan: Whichever unit it protects.
    """
    privacy = plan.privacy
    events = [
        event_of_subject(event, privacy.unit, privacy.max_records_per_subject)
        for event in events_of(plan.phases)
    ]
    try:
        return reported_epsilon(events, privacy.delta)
    except MalformedInput:
        return None


def _rounded_up(epsilon: float) -> Decimal:
    value = Decimal(repr(epsilon))
    return value.quantize(EPSILON_STEP, rounding=ROUND_CEILING) if value.is_finite() else value


def adaptive_epsilon(
    events: Iterable[Event], limit: float | Decimal, delta: float | Decimal
) -> Decimal:
    """The least limit whose filter would have let `events` pass, had each been chosen at will.

    `epsilon_of` composes mechanisms that are fixed before any of them runs. Whoever chooses a
    mechanism after seeing what earlier ones gave out needs a *privacy filter* (Rogers, Roth, Ullman
    & Vadhan 2016, arXiv 1605.08294), and composing exactly is one only where the mechanisms are
    totally ordered (Regehr et al. 2026, arXiv 2602.15815). So:

    * Plain Gaussian mechanisms: `epsilon_of` itself (Koskela, Tobaben & Honkela 2022, arXiv
      2209.15596).
    * With subsampling: the Rényi filter (Feldman & Zrnic 2021, arXiv 2008.11193), which adds Rényi
      divergences of one order. The order is fixed beforehand: it follows from `limit` and `delta`.

    Args:
        events: What ran or may run.
        limit: The filter's ε, above 0.
        delta: In (0, 1).

    Returns:
        Rounded up to four decimals; infinity where no finite ε holds.

    >>> adaptive_epsilon([Event(1.0, 0.1, 100)], 10, 1e-5), reported_epsilon(
    ...     [Event(1.0, 0.1, 100)], 1e-5
    ... )
    (Decimal('8.3481'), Decimal('7.0467'))
    """
    events = joined(events)
    if all(event.mechanism.joins for event in events):
        return _rounded_up(epsilon_of(events, delta))
    if not math.isfinite(epsilon_of(events, delta)):
        return Decimal("Infinity")
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=[_filter_order(float(limit), float(delta))])
    for event in events:
        # A capped step is at most as bad as one in which a subject always replaces another.
        noise = event.noise_multiplier / (2 if event.mechanism.truncation else 1)
        gaussian = GaussianDpEvent(noise)
        accountant.compose(PoissonSampledDpEvent(event.sampling_rate, gaussian), event.steps)
    return _rounded_up(float(accountant.get_epsilon(float(delta))))


def _filter_order(limit: float, delta: float) -> float:
    """The best order for Gaussian mechanisms that use up `limit` (Mironov, arXiv 1702.07476).

    Of their zero-concentrated divergence `r`: `r + 2 √(r log(1/δ)) = limit`.
    """
    log_delta = math.log(1 / delta)
    spread = math.sqrt(log_delta + limit) - math.sqrt(log_delta)
    return 1 + math.sqrt(log_delta) / spread


def solve_noise_multipliers(
    phases: Sequence[Phase], epsilon: float | Decimal, delta: float | Decimal
) -> tuple[Phase, ...]:
    """Scale the phases' noise multipliers together until the plan costs at most `epsilon`.

    The multipliers that come in are relative: a phase that comes in with twice another's sigma goes
    out with twice its sigma (up to rounding, which is always up).

    Args:
        phases: The plan's phases, with relative noise multipliers.
        epsilon: Target, above 0, for all phases together.
        delta: In (0, 1).

    Raises:
        MalformedInput: When the target cannot be reached with noise multipliers below 10,000.
    """
    if not 0 < epsilon < math.inf:
        raise MalformedInput(f"epsilon must be above 0, got {epsilon}", fix="state a positive ε")
    target = float(epsilon)
    low, high = 0.0, 1.0
    while epsilon_of(events_of(_scaled(phases, high)), delta) > target:
        low, high = high, high * 2
        if high * max(float(phase.noise_multiplier) for phase in phases) > _MAX_NOISE:
            raise MalformedInput(
                f"epsilon {epsilon} at delta {delta} cannot be reached in the steps asked",
                fix="ask for fewer steps, a smaller sampling rate, or a larger epsilon",
            )
    while high - low > _SCALE_TOLERANCE * high:
        middle = (low + high) / 2
        if middle == 0 or epsilon_of(events_of(_scaled(phases, middle)), delta) > target:
            low = middle
        else:
            high = middle
    return _scaled(phases, high)


_MAX_NOISE = 10_000.0
_SCALE_TOLERANCE = 2e-4


def _scaled(phases: Sequence[Phase], scale: float) -> tuple[Phase, ...]:
    return tuple(
        phase.model_copy(
            update={
                "noise_multiplier": max(
                    NOISE_STEP,
                    (phase.noise_multiplier * Decimal(repr(scale))).quantize(
                        NOISE_STEP, rounding=ROUND_CEILING
                    ),
                )
            }
        )
        for phase in phases
    )
