"""Unlearning debt: what a model may still tell of the data subjects who were erased since.

A model was trained with a promise to each single subject. Of k subjects who are erased together the
question is that of a group: how well can the model be told from one that was trained without all of
them? That is *group privacy*, and its (ε, δ) is the debt of a release.

Two upper bounds, both from public facts alone (plan and manifest), in plain Python, because the
service has no accountant:

* **Lemma** (Vadhan 2017, "The Complexity of Differential Privacy", Lemma 2.2): k times (ε, δ)-DP is
  (kε, δ Σ exp(iε), i < k)-DP. It holds for whatever keeps the promise, and says nothing as soon as
  exp((k-1)ε) δ nears 1.
* **Mechanism**: of k subjects a binomial number is in each step's sample. Rényi divergences of such
  a step (`compliance.rules.group_privacy`) add up over steps, and become an ε at the plan's own δ
  (Balle et al. 2020, arXiv 1905.09982, Theorem 21).

**Formal guarantees.** Neighbours differ by k subjects of one site, all of whose records go.

* A step is at most the mixture of `group_privacy`, with the plan's noise multiplier and rate.
* A batch that is capped takes a uniform subset where more are sampled. Draw it of all who are
  sampled; of it, those who are not of the k, filled up with as many others as the k took places, is
  a uniform subset of the others, whichever of the k were sampled. So each of them moves the sum by
  at most two clipping norms against the very draw that the others would have had: half the noise.
* A plan that protects single records: k subjects are at most k·m records, m of each.
* A model that starts from another plan's rounds holds those too: mechanisms on the same subjects
  compose, so Rényi divergences of one order add up; by the lemma, ε and δ of the group do.
* Sites whose subjects are disjoint run mechanisms of their own: what all of them give out together
  composes, so Rényi divergences of one order add up. Where the sites share one noise
  (`noise_sites`), the erased of all sites are one group of that one mechanism.

The tight value (privacy loss distributions of mixtures of Gaussians, Ganesh 2024, arXiv 2401.10294)
needs an accountant; tests compare with it, and no bound here is below it.

| edge case | what happens |
|---|---|
| k = 0 | (0, 0): nothing is owed |
| k = 1 | the plan's own promise where that is less, since its accountant is tighter |
| q = 1 | the plain Gaussian mechanism: a/(2s²) |
| hardly any noise | ε is infinite or in the thousands, and no one may rely on it |
| lemma's δ of 1 or more | the lemma says nothing; it is stated as 1 |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Final

from compliance.rules.group_privacy import ORDERS, group_divergences
from compliance.statements import Phase, TrainingPlan

_STEP: Final = Decimal("0.0001")
"""ε and δ that are stated are rounded up; ε to a multiple of this."""

_SIGNIFICANT: Final = 6
"""Digits of a stated δ."""


@dataclass(frozen=True)
class Bound:
    """(ε, δ): an upper bound."""

    epsilon: float
    delta: float

    @property
    def says_something(self) -> bool:
        """Whether it bounds anything at all."""
        return math.isfinite(self.epsilon) and self.delta < 1


@dataclass(frozen=True)
class ErasedAt:
    """The erased subjects of one site whom one plan may have sampled.

    Attributes:
        subjects: How many different ones.
        first_round: The first round in which any of them may have been sampled.
        epsilon: What the site spent on one subject, at the plan's δ, as the manifest states it.
    """

    subjects: int
    first_round: int
    epsilon: Decimal


@dataclass(frozen=True)
class Held:
    """The rounds of an earlier plan that a model holds, and who of them was erased.

    Attributes:
        plan: The earlier plan.
        rounds: How many of its rounds.
        erased: By site; their ε is the plan's promise, of which so many rounds are at most all.
    """

    plan: TrainingPlan
    rounds: int
    erased: Mapping[str, ErasedAt]


@dataclass(frozen=True)
class SiteDebt:
    """What a release owes the erased subjects of one site, at the plan's δ and by the lemma."""

    subjects: int
    first_round: int
    bound: Bound
    lemma: Bound


@dataclass(frozen=True)
class Debt:
    """The unlearning debt of a release.

    Attributes:
        by_site: Of each site's erased subjects, taken alone.
        largest: The largest of those. It is what the model may tell of any group of erased subjects
            who belong to one site; sites' subjects are disjoint, so no site's group is larger.
        together: Of all erased subjects of all sites, as one group. Larger than the largest,
            because every site's update goes into the one model.
    """

    by_site: Mapping[str, SiteDebt]
    largest: Bound
    together: Bound

    @property
    def subjects(self) -> int:
        """Erased subjects in all."""
        return sum(site.subjects for site in self.by_site.values())


def group_by_lemma(epsilon: float, delta: float, subjects: int) -> Bound:
    """What (ε, δ) for one subject is for a group, whatever the mechanism.

    By induction: P ≤ exp(ε) P' + δ, k times over.

    >>> group_by_lemma(1.0, 1e-6, 3)
    Bound(epsilon=3.0, delta=1.1107337927389695e-05)
    >>> group_by_lemma(8.0, 1e-5, 3).says_something
    False
    """
    if subjects == 0:
        return Bound(0.0, 0.0)
    exponent = (subjects - 1) * epsilon + math.log(subjects) + math.log(delta)
    if exponent > 700:
        return Bound(subjects * epsilon, 1.0)
    total = delta * math.fsum(math.exp(i * epsilon) for i in range(subjects))
    return Bound(subjects * epsilon, min(1.0, total))


def group_by_mechanism(plan: TrainingPlan, subjects: int, first_round: int = 0) -> Bound:
    """What a plan's mechanism is for a group of subjects of one site, at the plan's δ.

    Args:
        plan: The plan.
        subjects: How many.
        first_round: Rounds before it had none of them.
    """
    group = ErasedAt(subjects, first_round, plan.privacy.epsilon)
    divergences = _divergences(Held(plan, plan.rounds, {}), group)
    return _at_delta(divergences, float(plan.privacy.delta))


def unlearning_debt(
    plan: TrainingPlan,
    erased: Mapping[str, ErasedAt],
    before: Sequence[Held] = (),
    subjects: Mapping[str, int] | None = None,
) -> Debt:
    """The debt of a release of a plan.

    Args:
        plan: The plan.
        erased: Of its own rounds, by site; sites without erased subjects are left out.
        before: What it starts from.
        subjects: Different erased subjects of each site, over all of these; needed where the plan
            starts from another.
    """
    delta = float(plan.privacy.delta)
    parts = (*before, Held(plan, plan.rounds, erased))
    sites: dict[str, SiteDebt] = {}
    for name in sorted({name for part in parts for name in part.erased}):
        theirs = [(part, part.erased[name]) for part in parts if name in part.erased]
        divergences = _sum(_divergences(part, group) for part, group in theirs)
        lemma = _composed(_by_promise(part.plan, group) for part, group in theirs)
        bound = _at_delta(divergences, delta)
        if lemma.delta <= delta and lemma.epsilon < bound.epsilon:
            bound = lemma
        of_own = theirs[-1][1] if theirs[-1][0] is parts[-1] and len(theirs) == 1 else None
        sites[name] = SiteDebt(
            theirs[-1][1].subjects if subjects is None else subjects[name],
            0 if of_own is None else of_own.first_round,
            bound,
            lemma,
        )
    if not sites:
        return Debt({}, Bound(0.0, 0.0), Bound(0.0, 0.0))
    largest = max((site.bound for site in sites.values()), key=lambda bound: bound.epsilon)
    together = largest
    if len(sites) > 1:
        together = _at_delta(_sum(_of_all_sites(part) for part in parts), delta)
    return Debt(sites, largest, together)


def stated(value: float) -> str:
    """An ε or δ as statements write it: rounded up, never below; `Infinity` where there is none.

    >>> stated(3.00001), stated(1.1107337927389695e-05), stated(math.inf)
    ('3.0001', '0.0000111074', 'Infinity')
    """
    if not math.isfinite(value):
        return "Infinity"
    exact = Decimal(repr(value))
    if exact and abs(exact) < 1:
        step = Decimal(1).scaleb(exact.adjusted() - _SIGNIFICANT + 1)
    else:
        step = _STEP
    return f"{exact.quantize(step, rounding=ROUND_CEILING).normalize():f}"


def _by_promise(plan: TrainingPlan, group: ErasedAt) -> Bound:
    """The lemma, on what was spent on one unit; a subject is several where records are the unit."""
    units = group.subjects
    if plan.privacy.unit == "record":
        units *= plan.privacy.max_records_per_subject
    return group_by_lemma(float(group.epsilon), float(plan.privacy.delta), units)


def _composed(bounds: Iterable[Bound]) -> Bound:
    """Basic composition."""
    listed = list(bounds)
    return Bound(
        math.fsum(bound.epsilon for bound in listed),
        min(1.0, math.fsum(bound.delta for bound in listed)),
    )


def _sum(parts: Iterable[Sequence[float]]) -> list[float]:
    """Rényi divergences of what composes, at each order."""
    return [math.fsum(values) for values in zip(*parts, strict=True)]


def _of_all_sites(part: Held) -> list[float]:
    """Rényi divergences of a part for the erased of all sites; nothing where nobody was."""
    groups = list(part.erased.values())
    if part.plan.privacy.noise_sites is None or not groups:
        return _sum([[0.0] * len(ORDERS), *(_divergences(part, group) for group in groups)])
    one = ErasedAt(
        subjects=sum(group.subjects for group in groups),
        first_round=min(group.first_round for group in groups),
        epsilon=part.plan.privacy.epsilon,
    )
    return _divergences(part, one)


def _divergences(part: Held, group: ErasedAt) -> list[float]:
    """Rényi divergence at each order of a part's rounds from the group's first on."""
    plan, subjects = part.plan, group.subjects
    if subjects == 0:
        return [0.0] * len(ORDERS)
    units = subjects
    if plan.privacy.unit == "record":
        units *= plan.privacy.max_records_per_subject
    total = [0.0] * len(ORDERS)
    for phase, rounds in _rounds_of(plan.phases, group.first_round, part.rounds):
        steps = rounds * phase.steps_per_round
        noise = float(phase.noise_multiplier) / (1 if phase.batch_limit is None else 2)
        step = group_divergences(noise, float(phase.sampling_rate), units)
        for index, divergence in enumerate(step):
            total[index] += steps * divergence
    return total


def _rounds_of(phases: Sequence[Phase], first: int, end: int) -> Iterable[tuple[Phase, int]]:
    """Each phase with how many of its rounds are from `first` on and before `end`."""
    begin = 0
    for phase in phases:
        left = min(begin + phase.rounds, end) - max(begin, first)
        begin += phase.rounds
        if left > 0:
            yield phase, left


def _at_delta(divergences: Sequence[float], delta: float) -> Bound:
    """The smallest ε at `delta` that the divergences of any order give."""
    if not any(divergences):
        return Bound(0.0, 0.0)
    epsilon = min(
        divergence
        + math.log((order - 1) / order)
        - (math.log(delta) + math.log(order)) / (order - 1)
        for order, divergence in zip(ORDERS, divergences, strict=True)
    )
    return Bound(max(0.0, epsilon), delta)
