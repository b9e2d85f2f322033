"""Unlearning debt: never below the accountant's own figure for the group, and not far above it."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from client.learning.accounting import Event, epsilon_of
from compliance.rules.group_privacy import (
    ORDERS,
    group_divergences,
    sampled_gaussian_divergence,
)
from compliance.rules.unlearning import (
    ErasedAt,
    group_by_lemma,
    group_by_mechanism,
    stated,
    unlearning_debt,
)
from compliance.statements import TrainingPlan
from tests.compliance.federation import plan_body

DELTA = 1e-5


def plan(noise: float, rate: float, steps: int, **changes: Any) -> TrainingPlan:
    body = plan_body(("north", "south"), format="fiduciary.plan/3")
    body["phases"][0] |= {
        "rounds": 2,
        "steps_per_round": steps // 2,
        "sampling_rate": str(rate),
        "noise_multiplier": str(noise),
    }
    phase = changes.pop("phase", {})
    body["phases"][0] |= phase
    body["privacy"] |= changes.pop("privacy", {})
    return TrainingPlan.from_body({**body, **changes})


def masses_of(edges: Any, mean: float, noise: float) -> Any:
    """Normal masses between edges, of which none is lost to rounding far out."""
    upper = norm.sf(edges, mean, noise)
    return np.where(
        edges[:-1] > mean, upper[:-1] - upper[1:], np.diff(norm.cdf(edges, mean, noise))
    )


def accountant(
    noise: float, rate: float, steps: int, subjects: int, delta: float = DELTA, *, upper: bool
) -> float:
    """ε of a group by Google's privacy loss distributions, of what falls into narrow bins.

    Telling bins apart is never easier than telling values apart, and rounding losses down is
    optimistic: without `upper` this is below the truth. With it, losses are rounded up instead, and
    the bins are so narrow that they hide little.
    """
    edges = np.arange(-12 * noise, subjects + 12 * noise, noise / 60)
    counts = range(subjects + 1)
    chances = binom.pmf(counts, subjects, rate)
    plain = np.log(masses_of(edges, 0, noise))
    mixed = np.log(
        sum(p * masses_of(edges, j, noise) for j, p in zip(counts, chances, strict=True))
    )
    masses = [dict(enumerate(map(float, logs))) for logs in (plain, mixed)]
    return max(
        float(
            pld.from_two_probability_mass_functions(
                one, other, pessimistic_estimate=upper, value_discretization_interval=2e-3
            )
            .self_compose(steps)
            .get_epsilon_for_delta(delta)
        )
        for one, other in (masses, masses[::-1])
    )


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.1, 0.1, 10), (4.0, 0.5, 20), (2.0, 0.02, 200)]
)
@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_the_bound_is_never_below_the_accountant_and_not_far_above(
    noise: float, rate: float, steps: int, subjects: int
) -> None:
    bound = group_by_mechanism(plan(noise, rate, steps), subjects)
    assert bound.delta == DELTA
    assert bound.epsilon >= accountant(noise, rate, steps, subjects, upper=False)
    assert bound.epsilon <= 1.5 * accountant(noise, rate, steps, subjects, upper=True)


@pytest.mark.parametrize("subjects", [1, 2, 7])
def test_full_batches_are_one_gaussian(subjects: int) -> None:
    bound = group_by_mechanism(plan(12.0, 1, 10), subjects)
    exact = epsilon_of([Event(12.0 / subjects, 1.0, 10)], DELTA)
    assert exact <= bound.epsilon <= 1.15 * exact


@pytest.mark.parametrize("subjects", [2, 3])
def test_the_lemma_is_never_below_the_accountant(subjects: int) -> None:
    one = epsilon_of([Event(4.0, 0.1, 20)], 1e-8)
    lemma = group_by_lemma(one, 1e-8, subjects)
    assert lemma.says_something
    assert accountant(4.0, 0.1, 20, subjects, lemma.delta, upper=False) <= lemma.epsilon


def test_the_lemma_on_a_usual_promise_says_nothing_for_three() -> None:
    """Why the debt is computed from the mechanism: eps 8 at 1e-5 is vacuous already for three."""
    assert not group_by_lemma(8.0, DELTA, 3).says_something
    assert group_by_lemma(8.0, DELTA, 10_000).delta == 1.0


@settings(deadline=None, max_examples=10)
@given(
    noise=st.floats(0.6, 8),
    rate=st.floats(0.01, 0.9),
    subjects=st.integers(2, 5),
)
def test_the_fine_divergence_lies_between_one_subject_and_the_coarse_pair(
    noise: float, rate: float, subjects: int
) -> None:
    fine = group_divergences(noise, rate, subjects)
    joined = -math.expm1(subjects * math.log1p(-rate))
    for order, value in zip(ORDERS, fine, strict=True):
        assert value <= sampled_gaussian_divergence(noise / subjects, joined, order) * (1 + 1e-9)
        assert value >= sampled_gaussian_divergence(noise, rate, order) * (1 - 1e-9)


def test_more_subjects_owe_more_and_a_later_first_round_less() -> None:
    promised = plan(1.1, 0.1, 10)
    found = [group_by_mechanism(promised, count).epsilon for count in (0, 1, 2, 5, 30)]
    assert found == sorted(found)
    assert found[0] == 0
    assert len(set(found)) == 5
    later = group_by_mechanism(promised, 2, first_round=1).epsilon
    assert 0 < later < found[2]
    assert group_by_mechanism(promised, 2, first_round=2).epsilon == 0


def test_a_capped_batch_and_single_records_owe_more() -> None:
    plain = group_by_mechanism(plan(4, 0.1, 10), 2).epsilon
    limit = {"batch_limit": {"subjects": 10, "max_population": 1000}}
    capped = group_by_mechanism(plan(4, 0.1, 10, phase=limit), 2).epsilon
    assert capped == group_by_mechanism(plan(2, 0.1, 10), 2).epsilon > plain
    records = {"unit": "record", "max_records_per_subject": 3}
    assert (
        group_by_mechanism(plan(4, 0.1, 10, privacy=records), 2).epsilon
        == group_by_mechanism(plan(4, 0.1, 10), 6).epsilon
    )


def test_one_erased_subject_is_owed_what_was_spent_on_one() -> None:
    debt = unlearning_debt(plan(1.1, 0.1, 10), {"north": ErasedAt(1, 0, Decimal("2.36"))})
    assert debt.largest.epsilon == 2.36
    assert debt.together == debt.largest
    assert debt.by_site["north"].lemma.delta == DELTA


def test_sites_are_owed_apart_and_all_together() -> None:
    erased = {"north": ErasedAt(2, 0, Decimal(3)), "south": ErasedAt(1, 1, Decimal(3))}
    debt = unlearning_debt(plan(1.1, 0.1, 10), erased)
    north, south = debt.by_site["north"].bound, debt.by_site["south"].bound
    assert debt.subjects == 3
    assert debt.largest == north
    assert south.epsilon < north.epsilon < debt.together.epsilon <= north.epsilon + south.epsilon


def test_sites_that_share_one_noise_have_one_group() -> None:
    shared = plan(4, 0.1, 2, secure_aggregation=True, quorum=2, privacy={"noise_sites": 2})
    erased = {"north": ErasedAt(1, 0, Decimal(3)), "south": ErasedAt(2, 1, Decimal(3))}
    together = unlearning_debt(shared, erased).together
    assert together == group_by_mechanism(shared, 3)
    apart = unlearning_debt(plan(4, 0.1, 2), erased).together
    assert apart.epsilon < together.epsilon


def test_nobody_erased_is_nothing_owed() -> None:
    debt = unlearning_debt(plan(1.1, 0.1, 10), {})
    assert (debt.subjects, debt.largest.epsilon, debt.together.delta) == (0, 0, 0)


@given(st.floats(1e-30, 1e6))
def test_what_is_stated_is_never_below(value: float) -> None:
    assert float(stated(value)) >= value
