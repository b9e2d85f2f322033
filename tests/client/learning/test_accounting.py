"""ε is neither understated nor far off: against closed forms, Opacus and published figures."""

from __future__ import annotations

import math
import warnings
from decimal import Decimal

import pytest
from dp_accounting import TruncatedSubsampledGaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opacus.accountants import IAccountant, PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from audit.errors import MalformedInput
from client.learning.accounting import (
    BatchCap,
    Event,
    adaptive_epsilon,
    epsilon_of,
    events_of,
    joined,
    reported_epsilon,
    solve_noise_multipliers,
)
from client.learning.loss_distributions import TOLERANCE, bin_width, compose
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


@given(
    sigma=st.floats(0.5, 50), steps=st.integers(1, 200), delta=st.sampled_from([1e-3, 1e-5, 1e-8])
)
@settings(max_examples=40, deadline=None)
def test_full_batches_have_the_closed_form_whatever_the_noise(
    sigma: float, steps: int, delta: float
) -> None:
    assume(steps / sigma**2 < 40)
    exact = gaussian_epsilon(sigma, steps, delta)
    got = epsilon_of([Event(sigma, 1.0, steps)], delta)
    assert exact - 1e-6 <= got <= exact + 1e-3


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "published"),
    [
        # Abadi et al. 2016 (arXiv 1607.00133), section 3.2: moments accountant.
        (4.0, 0.01, 10_000, 1.26),
        # Opacus, examples/mnist_README.md: the RDP accountant of Mironov, Talwar & Zhang 2019
        # (arXiv 1908.10530), sampled Gaussian, 15, 45 and 60 epochs of 240 steps.
        (1.3, 250 / 60_000, 3_600, 1.19),
        (0.7, 250 / 60_000, 10_800, 7.10),
        (1.1, 250 / 60_000, 14_400, 3.01),
        # TensorFlow Privacy, tutorials/README.md: RDP too, batches of 256 for 60, 30, 10 epochs.
        (1.12, 256 / 60_000, 14_062, 2.92),
        (0.6, 256 / 60_000, 7_031, 9.74),
        (1.2, 256 / 60_000, 2_343, 1.20),
        # Opacus 1.6, tests/accountants_test.py, test_rdp_accountant.
        (1.5, 0.04, 2_250, 7.32911117143),
    ],
)
def test_published_figures_of_looser_accountants_are_upper_bounds_and_not_far(
    sigma: float, rate: float, steps: int, published: float
) -> None:
    got = epsilon_of([Event(sigma, rate, steps)], DELTA)
    assert 0.65 * published < got <= published + 0.005


@pytest.mark.parametrize(
    ("events", "delta", "published", "tolerance"),
    [
        # Opacus 1.6, tests/accountants_test.py, test_prv_accountant: an upper bound, 0.01 wide.
        ([Event(1.5, 0.04, 2_249)], 1e-5, 6.777395712 - 0.01, 2e-3),
        # dp-accounting 0.6, pld_privacy_accountant_test.py, test_poisson_subsampled_gaussian.
        ([Event(0.5, 0.2, 1), Event(0.5, 0.2, 2)], 0.15594, 1.0, 1e-3),
    ],
)
def test_published_figures_of_numerical_accountants_are_met(
    events: list[Event], delta: float, published: float, tolerance: float
) -> None:
    assert epsilon_of(events, delta) == pytest.approx(published, abs=tolerance)


# What one event of a plan may be; few mechanisms, so that Opacus' accountants stay affordable.
EVENTS = st.builds(
    Event,
    st.sampled_from([0.8, 1.5, 6.0, 20.0]),
    st.sampled_from([0.004, 0.1, 0.4, 1.0]),
    st.integers(1, 60),
)
ORDERS = [1.25, 1.5, 1.75, *range(2, 33), *range(36, 257, 20)]


def by_opacus(
    accountant: IAccountant, events: list[Event], delta: float, **options: object
) -> float:
    """ε of the same events by another accountant."""
    accountant.history = [(one.noise_multiplier, one.sampling_rate, one.steps) for one in events]
    with warnings.catch_warnings():  # RDP warns where its best order is the first or the last
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, **options))


@given(st.lists(EVENTS, min_size=1, max_size=4), st.sampled_from([1e-3, 1e-5, 1e-7]))
@settings(max_examples=25, deadline=None)
def test_the_renyi_accountant_of_opacus_is_an_upper_bound(
    events: list[Event], delta: float
) -> None:
    # TOLERANCE is what our own bins may add.
    assert epsilon_of(events, delta) <= TOLERANCE + by_opacus(
        RDPAccountant(), events, delta, alphas=ORDERS
    )


@given(st.lists(EVENTS, min_size=1, max_size=2))
@settings(max_examples=10, deadline=None)
def test_the_prv_accountant_of_opacus_agrees(events: list[Event]) -> None:
    got = epsilon_of(events, DELTA)
    assume(got < 15)
    # What it gives is an upper bound: its estimate plus `eps_error`, 0.01; the estimate itself may
    # be off by as much (Gopi, Lee & Wutschitz 2021, arXiv 2106.02848, Theorem 1).
    assert got - TOLERANCE <= by_opacus(PRVAccountant(), events, DELTA) <= got + 0.02


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


def test_a_thousand_rounds_of_ten_plans_are_within_a_thousandth() -> None:
    """What `bench/ledger.py` times on a ledger file; a grid eight times as fine is the truth."""
    events = [Event(6 + 1.37 * plan, rate, 100) for plan, rate in enumerate(RATES_OF_TEN_PLANS)]
    steps = {event.mechanism: event.steps for event in events}
    got = epsilon_of(events, DELTA)
    exact = compose(steps, DELTA, bin_width(steps, DELTA) / 8)
    assert exact - 1e-6 <= got <= exact + 0.001
    assert float(reported_epsilon(events, DELTA)) <= exact + 0.001
    full = [Event(20 + 1.37 * plan, 1.0, 100) for plan in range(10)]
    noise = sum(100 / event.noise_multiplier**2 for event in full) ** -0.5
    assert abs(float(reported_epsilon(full, DELTA)) - gaussian_epsilon(noise, 1, DELTA)) <= 0.001


RATES_OF_TEN_PLANS = (0.02, 0.05, 0.1, 0.2, 0.5, 0.3, 0.07, 1.0, 0.6, 0.15)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(20, 0.01, 10_000), (5, 0.001, 10_000), (20, 0.001, 1_000)]
)
def test_many_steps_that_each_tell_little_are_not_overstated(
    sigma: float, rate: float, steps: int
) -> None:
    """Bins of 1e-3 tell 0.211 for 0.160, 0.125 for 0.060 and 0.0164 for 0.0034 here."""
    event = Event(sigma, rate, steps)
    got = epsilon_of([event], DELTA)
    assert got <= compose({event.mechanism: steps}, DELTA, 8e-6) + 0.001
    assert got <= TOLERANCE + by_opacus(RDPAccountant(), [event], DELTA, alphas=[2, 40, 120, 400])


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


@pytest.mark.parametrize("steps", [10_000, 4096 * 3, 10**6, 10**8])
def test_steps_beyond_counting_are_composed_like_few(steps: int) -> None:
    """So many small steps are as good as one Gaussian (central limit): mu = q sqrt(T) / sigma."""
    sigma, rate = 100.0 * math.sqrt(steps / 10_000), 0.5
    limit = gaussian_epsilon(sigma / rate, steps, DELTA)
    assert limit - 1e-3 <= epsilon_of([Event(sigma, rate, steps)], DELTA) <= limit + 0.01


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


# --- capped batches -----------------------------------------------------------------------------


@given(
    sigma=st.sampled_from([0.8, 1.5, 4.0]),
    rate=st.sampled_from([0.02, 0.2, 0.7, 1.0]),
    steps=st.integers(1, 40),
    population=st.integers(2, 400),
    share=st.floats(0.01, 1),
)
@settings(max_examples=40, deadline=None)
def test_a_cap_never_makes_it_look_more_private(
    sigma: float, rate: float, steps: int, population: int, share: float
) -> None:
    cap = BatchCap(max(1, int(share * population)), population)
    plain = epsilon_of([Event(sigma, rate, steps)], DELTA)
    capped = epsilon_of([Event(sigma, rate, steps, cap)], DELTA)
    replaced = epsilon_of([Event(sigma / 2, rate, steps)], DELTA)
    assert plain - TOLERANCE <= capped <= replaced + TOLERANCE


def test_a_cap_that_is_never_reached_costs_nothing() -> None:
    for rate in (0.3, 1.0):
        plain = epsilon_of([Event(1.2, rate, 20)], DELTA)
        assert epsilon_of([Event(1.2, rate, 20, BatchCap(100, 100))], DELTA) == plain
    rare = epsilon_of([Event(1.2, 0.3, 20, BatchCap(90, 100))], DELTA)  # 2e-36 likely
    assert rare == pytest.approx(epsilon_of([Event(1.2, 0.3, 20)], DELTA), abs=1e-6)


def test_a_cap_that_is_always_reached_replaces_a_subject_in_each_step() -> None:
    always = epsilon_of([Event(3.0, 1.0, 5, BatchCap(10, 100))], DELTA)
    assert always == pytest.approx(gaussian_epsilon(1.5, 5, DELTA), abs=1e-3)


def test_a_tighter_cap_and_a_larger_population_cost_more() -> None:
    caps = [BatchCap(70, 100), BatchCap(60, 100), BatchCap(55, 100), BatchCap(55, 110)]
    costs = [epsilon_of([Event(2.0, 0.5, 10, cap)], DELTA) for cap in caps]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0] + 0.1


@pytest.mark.parametrize("population", [105, 110, 120])
def test_the_packages_own_account_of_each_population_stays_below_ours(population: int) -> None:
    """Ours holds for every population up to 120; theirs conditions on the true one."""
    ours = epsilon_of([Event(1.0, 0.1, 10, BatchCap(16, 120))], DELTA)
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    event = TruncatedSubsampledGaussianDpEvent(population, 0.1, 16, 1.0)
    accountant.compose(event, 10)
    theirs = accountant.get_epsilon(DELTA)
    plain = epsilon_of([Event(1.0, 0.1, 10)], DELTA)
    assert plain < theirs < ours


@pytest.mark.parametrize(
    ("subjects", "population", "message"),
    [
        (0, 10, "at least 1"),
        (11, 10, "batch of 11 subjects must not be larger than the population of at most 10"),
    ],
)
def test_a_cap_that_is_none_is_refused(subjects: int, population: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchCap(subjects, population)


def test_joining_keeps_caps_apart() -> None:
    cap, other = BatchCap(5, 10), BatchCap(6, 10)
    events = [Event(2.0, 0.5, 1), Event(2.0, 0.5, 2, cap), Event(2.0, 0.5, 3, other)]
    assert joined([*events, *events]) == (
        Event(2.0, 0.5, 2),
        Event(2.0, 0.5, 4, cap),
        Event(2.0, 0.5, 6, other),
    )
    assert epsilon_of(events, DELTA) > epsilon_of([Event(2.0, 0.5, 6)], DELTA)


# --- plans that were chosen after earlier results ------------------------------------------------


@given(st.lists(EVENTS, min_size=1, max_size=4), st.sampled_from([1, 8, 30]))
@settings(max_examples=20, deadline=None)
def test_a_bound_for_adaptively_chosen_plans_is_no_lower(events: list[Event], limit: int) -> None:
    adaptive = float(adaptive_epsilon(events, limit, DELTA))
    assert adaptive >= epsilon_of(events, DELTA) - TOLERANCE
    if all(event.sampling_rate == 1 for event in events):
        assert adaptive == float(reported_epsilon(events, DELTA))


def test_the_renyi_filter_has_one_order_that_follows_from_the_limit_alone() -> None:
    """Of T Gaussians the divergence of order a is a T / (2 sigma²): here of almost full batches."""
    limit, delta = 8.0, 1e-5
    log_delta = math.log(1 / delta)
    order = 1 + math.sqrt(log_delta) / (math.sqrt(log_delta + limit) - math.sqrt(log_delta))
    divergence = order * 20 / (2 * 6.0**2)
    exact = divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    got = float(adaptive_epsilon([Event(6.0, 1 - 1e-9, 20)], limit, delta))
    assert exact <= got <= exact + 2e-4
    capped = adaptive_epsilon([Event(6.0, 1 - 1e-9, 20, BatchCap(10, 20))], limit, delta)
    assert float(capped) == pytest.approx(
        float(adaptive_epsilon([Event(3.0, 1 - 1e-9, 20)], limit, delta))
    )


def test_without_a_finite_epsilon_there_is_no_adaptive_one() -> None:
    assert adaptive_epsilon([Event(0.01, 0.5, 10)], 10, DELTA) == Decimal("Infinity")
    assert adaptive_epsilon([], 10, DELTA) == 0
