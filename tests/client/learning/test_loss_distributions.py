"""The distributions are the package's own, and their bins follow what is composed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client.learning.gaussian_divergences import Curve
from client.learning.loss_distributions import (
    COARSEST_BIN,
    FINEST_HALVINGS,
    MAX_BINS_OF_STEP,
    Mechanism,
    bin_width,
    compose,
    loss_of_step,
    size_of_loss,
    truncation_probability,
)


@pytest.mark.parametrize(
    ("sigma", "rate", "width"),
    [
        (1.0, 0.01, 1e-3),
        (0.7, 0.004, 2.5e-4),
        (5.0, 0.5, 1e-3),
        (20.0, 0.001, 1e-4),
        (0.3, 0.9, 1e-3),
        (2.0, 1.0, 1e-3),
        (0.1, 1.0, 1e-3),
    ],
)
def test_a_step_is_the_packages_own(sigma: float, rate: float, width: float) -> None:
    ours = loss_of_step(Mechanism(sigma, rate), width)
    theirs = pld.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=width
    )
    epsilons = np.linspace(-1, 12, 60)
    difference = ours.get_delta_for_epsilon(epsilons) - theirs.get_delta_for_epsilon(epsilons)
    assert np.abs(difference).max() < 1e-11
    assert ours.get_epsilon_for_delta(1e-6) == pytest.approx(
        theirs.get_epsilon_for_delta(1e-6), abs=1e-6
    )


@pytest.mark.parametrize("truncation", [0.01, 0.4, 1.0])
def test_a_capped_step_mixes_two_steps(truncation: float) -> None:
    """δ of a labelled mixture is the mixture of the δ, at every ε."""
    capped = loss_of_step(Mechanism(1.5, 0.3, truncation), COARSEST_BIN)
    plain = loss_of_step(Mechanism(1.5, 0.3), COARSEST_BIN)
    replaced = loss_of_step(Mechanism(0.75, 0.3), COARSEST_BIN)
    for epsilon in (0.0, 0.2, 1.0, 3.0):
        expected = truncation * replaced.get_delta_for_epsilon(epsilon) + (
            1 - truncation
        ) * plain.get_delta_for_epsilon(epsilon)
        assert capped.get_delta_for_epsilon(epsilon) == pytest.approx(expected, abs=1e-12)


def test_the_guarantee_of_a_capped_step_holds_where_it_can_be_computed() -> None:
    """One number per subject, everybody at a bound: the true δ, by enumeration, is below ours."""
    from scipy.stats import binom, norm

    sigma, rate, cap, others = 1.3, 0.6, 3, 5
    mechanism = Mechanism(sigma, rate, truncation_probability(rate, cap, others + 1))
    ours = loss_of_step(mechanism, 1e-4)
    # The others contribute -1 each, the subject +1: the sum is decided by two counts.
    without: dict[float, float] = {}
    joining: dict[float, float] = {}
    for sampled in range(others + 1):
        chance = float(binom.pmf(sampled, others, rate))
        alone = -min(sampled, cap)
        enters = rate * min(1.0, cap / (sampled + 1))
        with_it = 1 - min(sampled, cap - 1)
        for table, value, weight in (
            (without, alone, 1.0),
            (joining, alone, 1 - enters),
            (joining, with_it, enters),
        ):
            table[value] = table.get(value, 0.0) + chance * weight
    outcomes = np.linspace(-12, 10, 200_001)
    step = outcomes[1] - outcomes[0]

    def density(table: dict[float, float]) -> Curve:
        rows = [weight * norm.pdf(outcomes, value, sigma) for value, weight in table.items()]
        return np.asarray(np.sum(rows, axis=0), dtype=np.float64)

    for first, second in ((without, joining), (joining, without)):
        for epsilon in (0.0, 0.3, 0.8, 1.5):
            gap = density(first) - math.exp(epsilon) * density(second)
            true_delta = float(np.clip(gap, 0, None).sum() * step)
            assert true_delta <= ours.get_delta_for_epsilon(epsilon) + 1e-9
    # And it is not vacuous: without the second pair the promise would be broken.
    plain = loss_of_step(Mechanism(sigma, rate), 1e-4)
    gap = density(joining) - density(without)
    assert float(np.clip(gap, 0, None).sum() * step) > plain.get_delta_for_epsilon(0.0)


def test_truncation_counts_the_others_only() -> None:
    assert truncation_probability(1.0, 10, 10) == 0.0
    assert truncation_probability(1.0, 9, 10) == 1.0
    assert truncation_probability(0.5, 1, 3) == pytest.approx(0.75)


@given(
    st.floats(0.6, 30),
    st.sampled_from([0.0005, 0.01, 0.2, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.6, 1.0]),
    st.integers(1, 500),
    st.sampled_from([1e-3, 1e-5, 1e-8]),
)
@settings(max_examples=25, deadline=None)
def test_the_width_of_bins_costs_less_than_a_thousandth(
    sigma: float, rate: float, truncation: float, count: int, delta: float
) -> None:
    mechanism = Mechanism(sigma, rate, truncation)
    assume(size_of_loss(mechanism) * count < 20)
    width = bin_width({mechanism: count}, delta)
    assume(width > COARSEST_BIN / 2**FINEST_HALVINGS)
    got = compose({mechanism: count}, delta)
    finer = compose({mechanism: count}, delta, width / 4)
    assert -1e-5 <= got - finer <= 0.0009


@pytest.mark.parametrize("mechanism", [Mechanism(0.09, 1.0), Mechanism(0.4, 0.003)])
def test_bins_stay_few_whatever_is_asked(mechanism: Mechanism) -> None:
    width = bin_width({mechanism: 10**9}, 1e-9)
    assert COARSEST_BIN / 2**FINEST_HALVINGS <= width <= COARSEST_BIN
    assert len(loss_of_step(mechanism, width)._pmf_remove.to_dense_pmf()._probs) < MAX_BINS_OF_STEP
