"""What a privacy budget is made of: mechanism events, reservations, limits, and their sums.

* A budget is a list of mechanism events (noise, sampling rate, steps; unit, adjacency, cap), never
  a number: ε is computed from *all* events at once, by the PLD accountant, whenever somebody asks.
* ε are never added. The ε of two plans together is at most, and mostly less than, their sum.
* What a figure is, in the words of Rogers, Roth, Ullman & Vadhan 2016 (arXiv 1605.08294): the limit
  is enforced by a *filter*, which stops before a bound that was fixed ahead; what is spent is read
  off an *odometer*, which only tells. `FILTER`, `ODOMETER` and `ADAPTIVE` say what each proves.
* Pure data and pure decisions; `client.ledger` makes them durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from audit.errors import Refused
from audit.words import count_of
from client.budget_period import Period, PeriodBudget
from client.learning.accounting import (
    BatchCap,
    Event,
    batch_cap,
    event_of_subject,
    joined,
    reported_epsilon,
)
from compliance.statements import Phase, TrainingPlan

FILTER = (
    "filter: a plan is refused before it starts when spent, reserved and that plan together exceed "
    "the limit"
)
"""What enforces the limit. Composition is exact for plans that are fixed before earlier results are
seen; for plans chosen after that, see `ADAPTIVE`."""

ODOMETER = (
    "odometer: the exact epsilon of the rounds that started, as if all had been fixed beforehand; "
    "it tells, and stops nothing"
)
"""What `spent` is. It is not a bound at every moment at once, as the odometers of Whitehouse,
Ramdas, Rogers & Wu 2023 (arXiv 2203.05481) are, which cost more for it."""

ADAPTIVE = (
    "the same for plans that somebody chose after seeing what earlier plans gave out, by a filter "
    "that is proven for that"
)
"""What `adaptive` is: `client.learning.accounting.adaptive_epsilon`."""

POPULATION = "every data subject of this site, in whichever dataset and version"
"""Whose budget it is. A subject may be in several datasets, so there is one for all of them."""

Composer = Callable[[Iterable[Event], Decimal], Decimal]
"""ε at a δ of everything in the events, rounded up. The default is the PLD accountant."""

compose_epsilon: Composer = reported_epsilon


class RoundAlreadyStarted(Refused):
    """The round was started before; what it cost is spent, and it is not trained again."""

    code = "round-already-started"


class NoReservation(Refused):
    """The plan has no open reservation that holds this round."""

    code = "no-reservation"


class AlreadyEvaluated(Refused):
    """Another state was evaluated for this round already."""

    code = "already-evaluated"


@dataclass(frozen=True)
class RoundEvent:
    """The mechanism of one round: `steps` Poisson-subsampled Gaussian steps.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sampling_rate: Poisson rate of the plan's units in each step, in (0, 1].
        steps: Number of steps.
        cap: Bound on each step's batch, or None.
    """

    noise_multiplier: Decimal
    sampling_rate: Decimal
    steps: int
    cap: BatchCap | None = None

    @property
    def event(self) -> Event:
        """As the accountant takes it."""
        return Event(float(self.noise_multiplier), float(self.sampling_rate), self.steps, self.cap)


def rounds_of(phases: Iterable[Phase]) -> tuple[RoundEvent, ...]:
    """The mechanism of each round of a plan, from round 0."""
    return tuple(
        RoundEvent(
            phase.noise_multiplier, phase.sampling_rate, phase.steps_per_round, batch_cap(phase)
        )
        for phase in phases
        for _ in range(phase.rounds)
    )


@dataclass(frozen=True)
class Reservation:
    """Everything that a plan will do to the subjects of this site.

    Attributes:
        plan_id: Digest of the signed plan.
        plan_name: Its name, for people.
        purpose: What the records are used for.
        datasets: Names of the datasets that it trains on.
        unit: Whom the plan's promise protects: `subject` or `record`.
        adjacency: Which datasets count as neighbours.
        max_records_per_subject: Cap on a subject's records in a step.
        epsilon: What the plan promises to its unit, at `delta`.
        delta: The plan's δ.
        rounds: The mechanism of each round, from round 0.
    """

    plan_id: str
    plan_name: str
    purpose: str
    datasets: tuple[str, ...]
    unit: str
    adjacency: str
    max_records_per_subject: int
    epsilon: Decimal
    delta: Decimal
    rounds: tuple[RoundEvent, ...]

    @classmethod
    def of(cls, plan_id: str, plan: TrainingPlan, datasets: Sequence[str]) -> Reservation:
        """The reservation that a plan needs."""
        return cls(
            plan_id=plan_id,
            plan_name=plan.name,
            purpose=plan.purpose,
            datasets=tuple(datasets),
            unit=plan.privacy.unit,
            adjacency=plan.privacy.adjacency,
            max_records_per_subject=plan.privacy.max_records_per_subject,
            epsilon=plan.privacy.epsilon,
            delta=plan.privacy.delta,
            rounds=rounds_of(plan.phases),
        )

    @property
    def events(self) -> tuple[Event, ...]:
        """What the plan does to its unit, equal mechanisms joined."""
        return joined(round_event.event for round_event in self.rounds)

    @property
    def subject_events(self) -> tuple[Event, ...]:
        """What the plan does to a data subject: what the site's budget is spent on."""
        return tuple(
            event_of_subject(event, self.unit, self.max_records_per_subject)
            for event in self.events
        )

    @property
    def caps(self) -> tuple[BatchCap, ...]:
        """The different bounds on batches, in a fixed order."""
        return tuple(sorted({each.cap for each in self.rounds if each.cap is not None}))


@dataclass(frozen=True)
class Audit:
    """What the site's own audit of a plan found (`client.learning.privacy_audit`).

    Attributes:
        epsilon: The best lower bound, at least 0, at the plan's δ and for its unit.
        passes: Whether it does not contradict the plan's promise.
    """

    epsilon: Decimal
    passes: bool


@dataclass(frozen=True)
class Limits:
    """What the operator allows, from `policy.toml`.

    Attributes:
        max_epsilon_per_plan: Most that one plan may cost, at the plan's δ.
        max_epsilon_total: Most that everything at this site may cost together, at `delta`.
        delta: δ of the total and of the period.
        period: Limit of what starts within a stretch of time; None for no such limit.
    """

    max_epsilon_per_plan: Decimal
    max_epsilon_total: Decimal
    delta: Decimal
    period: Period | None = None


@dataclass(frozen=True)
class PlanBudget:
    """One plan's part of the budget. ε are at the plan's own δ, and for its own `unit`.

    Attributes:
        epsilon_of_subject: What is committed, for a whole data subject.
        caps: Bounds on its batches; each holds for a population that is public.
    """

    plan_id: str
    plan_name: str
    purpose: str
    datasets: tuple[str, ...]
    settled: bool
    rounds_reserved: int
    rounds_started: int
    rounds_released: int
    epsilon_spent: Decimal
    epsilon_committed: Decimal
    epsilon_promised: Decimal
    delta: Decimal
    unit: str
    epsilon_of_subject: Decimal
    caps: tuple[BatchCap, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "plan_id": self.plan_id,
            "plan_name": self.plan_name,
            "purpose": self.purpose,
            "datasets": list(self.datasets),
            "settled": self.settled,
            "rounds_reserved": self.rounds_reserved,
            "rounds_started": self.rounds_started,
            "rounds_released": self.rounds_released,
            "epsilon_spent": float(self.epsilon_spent),
            "epsilon_committed": float(self.epsilon_committed),
            "epsilon_promised": float(self.epsilon_promised),
            "delta": float(self.delta),
            "unit": self.unit,
            "epsilon_of_subject": float(self.epsilon_of_subject),
            "batch_limits": [vars(cap) for cap in self.caps],
        }


@dataclass(frozen=True)
class Budget:
    """The whole site's budget, at the policy's δ.

    Attributes:
        spent: ε of every round that was started, ever.
        committed: ε of those and of every round that is reserved.
        limit: `max_epsilon_total`, or None where no policy can be read.
        delta: δ of all three.
        plans: Each plan's part, oldest first. Their ε do not add up to the total.
        adaptive: `committed` for plans that were chosen after seeing earlier results; None without
            a limit.
        period: What the period's limit is about; None where no policy can be read.
    """

    spent: Decimal
    committed: Decimal
    limit: Decimal | None
    delta: Decimal
    plans: tuple[PlanBudget, ...]
    adaptive: Decimal | None = None
    period: PeriodBudget | None = None

    @property
    def reserved(self) -> Decimal:
        """By how much the open reservations raise ε."""
        return self.committed - self.spent

    @property
    def left(self) -> Decimal | None:
        """Limit less committed, at least 0. As ε compose, a further plan may cost a little more."""
        return None if self.limit is None else max(Decimal(0), self.limit - self.committed)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "epsilon_spent": float(self.spent),
            "epsilon_reserved": float(self.reserved),
            "epsilon_committed": float(self.committed),
            "epsilon_limit": None if self.limit is None else float(self.limit),
            "epsilon_left": None if self.left is None else float(self.left),
            "epsilon_adaptive": finite(self.adaptive),
            "period": None if self.period is None else self.period.to_json(),
            "delta": float(self.delta),
            "population": POPULATION,
            "unit": "subject",
            "adjacency": "add-remove-one",
            "kinds": {
                "epsilon_spent": ODOMETER,
                "epsilon_limit": FILTER,
                "epsilon_adaptive": ADAPTIVE,
            },
            "plans": [plan.to_json() for plan in self.plans],
        }


@dataclass(frozen=True)
class Cost:
    """What a plan would cost.

    Attributes:
        plan: ε of the plan alone, for its own unit, at its own δ.
        subject: The same for a whole data subject.
        total: ε of everything at this site with the plan, at the policy's δ.
        reserved: Whether the budget holds the plan already.
        period: ε of what counts for the period's limit with the plan; None without that limit.
    """

    plan: Decimal
    subject: Decimal
    total: Decimal
    reserved: bool
    period: Decimal | None = None

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "epsilon_plan": float(self.plan),
            "epsilon_of_subject": float(self.subject),
            "epsilon_total": float(self.total),
            "epsilon_period": None if self.period is None else float(self.period),
            "reserved": self.reserved,
        }


def finite(epsilon: Decimal | None) -> float | None:
    """As JSON can hold it: None where there is no finite ε."""
    return None if epsilon is None or not epsilon.is_finite() else float(epsilon)


def over_limit(reservation: Reservation, cost: Cost, limits: Limits) -> str | None:
    """Why a plan may not be afforded, or None when it may.

    Args:
        reservation: What the plan promises.
        cost: What it would cost in truth.
        limits: What the operator allows.
    """
    if cost.plan > reservation.epsilon:
        return (
            f"the plan promises epsilon {reservation.epsilon} but costs {cost.plan} "
            f"at delta {reservation.delta}"
        )
    if cost.subject > limits.max_epsilon_per_plan:
        whom = "" if reservation.unit == "subject" else "a data subject "
        return (
            f"the plan costs {whom}epsilon {cost.subject}, more than the "
            f"{limits.max_epsilon_per_plan} that the policy allows one plan"
        )
    if cost.total > limits.max_epsilon_total:
        # Without the sum: what other plans cost is not for this plan's author to know.
        return (
            f"with this plan the site would exceed the epsilon {limits.max_epsilon_total} at delta "
            f"{limits.delta} that its policy allows in all"
        )
    return None


def over_period(cost: Cost, limits: Limits) -> str | None:
    """Why a plan may not be afforded within the period, or None when it may.

    Args:
        cost: What it would cost in truth.
        limits: What the operator allows.
    """
    period = limits.period
    if period is None or cost.period is None or cost.period <= period.max_epsilon:
        return None
    return (
        f"with this plan the site would exceed the epsilon {period.max_epsilon} at delta "
        f"{limits.delta} that its policy allows within {count_of(period.days, 'day')}"
    )
