"""ε is neither understated nor far off: against closed forms, Opacus and published figures."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from audit.errors import MalformedInput
from client.learning.accounting import (
    Event,
    epsilon_of,
    events_of,
    reported_epsilon,
    solve_noise_multipliers,
)
from tests.client.learning.conftest import phase

DELTA = 1e-5


def gaussian_epsilon(sigma: float, steps: int, delta: float) -> float:
    """Closed form for the Gaussian mechanism: Balle & Wang 2018 (arXiv 1805.06530), Theorem 8."""
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        return float(
            norm.cdf(mu / 2 - epsilon / mu)
            - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
            - delta
        )

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize(
    ("sigma", "steps"), [(1.0, 1), (4.65, 60), (10.8, 60), (2.0, 3), (50.0, 10), (0.6, 1)]
)
def test_full_batches_have_the_closed_form(sigma: float, steps: int) -> None:
    exact = gaussian_epsilon(sigma, steps, DELTA)
    got = epsilon_of([Event(sigma, 1.0, steps)], DELTA)
    assert exact <= got <= exact + 2e-3


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "published"),
    [
        # Abadi et al. 2016, section 3.2: moments accountant, sigma 4, q 0.01, 10,000 steps.
        (4.0, 0.01, 10_000, 1.26),
        # TensorFlow Privacy's tutorial: sigma 1.3, 250 of 60,000, 3,600 steps, by RDP.
        (1.3, 250 / 60_000, 3_600, 1.18),
    ],
)
def test_published_figures_are_upper_bounds_and_not_far(
    sigma: float, rate: float, steps: int, published: float
) -> None:
    got = epsilon_of([Event(sigma, rate, steps)], DELTA)
    assert 0.7 * published < got <= published + 0.005


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.0, 0.02, 300), (2.0, 0.2, 60), (0.8, 0.01, 100), (3.0, 0.5, 40)]
)
def test_opacus_agrees(sigma: float, rate: float, steps: int) -> None:
    got = epsilon_of([Event(sigma, rate, steps)], DELTA)
    rdp, prv = RDPAccountant(), PRVAccountant()
    rdp.history = prv.history = [(sigma, rate, steps)]
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 256))
    assert got <= rdp.get_epsilon(DELTA, alphas=orders)
    # PRV adds its error bound of 0.01.
    assert got - 0.005 <= prv.get_epsilon(DELTA) <= got + 0.03


def test_different_phases_compose_exactly_and_below_their_sum() -> None:
    probe, adapter = Event(5.0, 0.6, 60), Event(1.2, 0.2, 10)
    together = epsilon_of([probe, adapter], DELTA)
    assert together == epsilon_of([adapter, probe], DELTA)
    assert together < epsilon_of([probe], DELTA) + epsilon_of([adapter], DELTA)
    assert together > max(epsilon_of([probe], DELTA), epsilon_of([adapter], DELTA))
    prv = PRVAccountant()
    prv.history = [(5.0, 0.6, 60), (1.2, 0.2, 10)]
    assert together - 0.01 <= prv.get_epsilon(DELTA) <= together + 0.05


def test_two_full_batch_phases_have_a_closed_form_too() -> None:
    got = epsilon_of([Event(4.0, 1.0, 10), Event(8.0, 1.0, 40)], DELTA)
    exact = gaussian_epsilon(4.0, 20, DELTA)  # 10/16 + 40/64 = 20/16
    assert exact <= got <= exact + 5e-3


def test_splitting_an_event_changes_nothing() -> None:
    split = [Event(2.0, 0.3, 7), Event(2.0, 0.3, 5), Event(2.0, 0.3, 0)]
    assert epsilon_of(split, DELTA) == epsilon_of([Event(2.0, 0.3, 12)], DELTA)


@given(st.floats(0.7, 20), st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 50), st.floats(1.05, 3))
@settings(max_examples=25, deadline=None)
def test_more_noise_costs_less_and_more_steps_cost_more(
    sigma: float, rate: float, steps: int, factor: float
) -> None:
    base = epsilon_of([Event(sigma, rate, steps)], DELTA)
    assert epsilon_of([Event(sigma * factor, rate, steps)], DELTA) <= base
    assert epsilon_of([Event(sigma, rate, steps + 5)], DELTA) >= base


def test_nothing_done_costs_nothing() -> None:
    assert epsilon_of([], DELTA) == 0.0
    assert epsilon_of([Event(1.0, 0.5, 0)], DELTA) == 0.0
    assert reported_epsilon([], DELTA) == 0


def test_reported_epsilon_is_rounded_up() -> None:
    events = [Event(4.65, 1.0, 60)]
    exact, reported = epsilon_of(events, DELTA), reported_epsilon(events, DELTA)
    assert Decimal(repr(exact)) <= reported < Decimal(repr(exact)) + Decimal("0.0001")
    assert reported == reported.quantize(Decimal("0.0001"))


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(1e-6, 1.0, 1000), (1e-300, 0.5, 1), (0.01, 0.001, 10), (1.0, 1.0, 10**8), (1.0, 0.5, 10**8)],
)
def test_hopeless_noise_is_refused_at_once_rather_than_reported(
    sigma: float, rate: float, steps: int
) -> None:
    """A hostile plan must not make a site compute a distribution of petabytes."""
    with pytest.raises(MalformedInput, match="no finite epsilon"):
        reported_epsilon([Event(sigma, rate, steps)], DELTA)


def test_whatever_a_plan_may_promise_can_be_accounted_for() -> None:
    assert epsilon_of([Event(0.095, 1.0, 1)], DELTA) == pytest.approx(99.4, abs=0.5)


@pytest.mark.parametrize("epsilon", ["0.3", "3", "8"])
def test_solved_noise_keeps_the_promise_and_wastes_little(epsilon: str) -> None:
    phases = (
        phase(noise_multiplier="2", rounds=5, steps_per_round=4),
        phase("adapter", noise_multiplier="1", sampling_rate="0.2", rounds=3),
    )
    solved = solve_noise_multipliers(phases, Decimal(epsilon), Decimal("0.00001"))
    spent = reported_epsilon(events_of(solved), Decimal("0.00001"))
    assert Decimal(epsilon) * Decimal("0.98") < spent <= Decimal(epsilon)
    assert float(solved[0].noise_multiplier / solved[1].noise_multiplier) == pytest.approx(
        2, rel=2e-3
    )
    kept = {"noise_multiplier"}
    for before, after in zip(phases, solved, strict=True):
        assert before.model_dump(exclude=kept) == after.model_dump(exclude=kept)
        # Rounded, so that a statement can hold it, and never down.
        assert after.noise_multiplier == after.noise_multiplier.quantize(Decimal("0.001"))


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf])
def test_a_target_that_is_no_target_is_refused(epsilon: float) -> None:
    with pytest.raises(MalformedInput, match="epsilon must be above 0"):
        solve_noise_multipliers([phase()], epsilon, DELTA)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(MalformedInput, match="cannot be reached in the steps asked"):
        solve_noise_multipliers([phase(rounds=10_000, steps_per_round=10_000)], 1e-4, DELTA)


def test_the_rounds_done_so_far_are_counted_phase_by_phase() -> None:
    phases = (
        phase(rounds=2, steps_per_round=3, noise_multiplier="2"),
        phase("adapter", rounds=2, steps_per_round=5, sampling_rate="0.5"),
    )
    counted = [[event.steps for event in events_of(phases, rounds)] for rounds in range(6)]
    assert counted == [[], [3], [6], [6, 5], [6, 10], [6, 10]]
    assert events_of(phases) == events_of(phases, 4)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(0, 1, 1), (-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 0, 1), (1, 1.1, 1), (1, 1, -1)],
)
def test_events_out_of_range_are_refused(sigma: float, rate: float, steps: int) -> None:
    with pytest.raises(ValueError, match="must"):
        Event(sigma, rate, steps)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 2])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must lie"):
        epsilon_of([Event(1.0, 1.0, 1)], delta)
