"""ε of a δ is the package's own, where the walk ends at once, on its way, and not at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st

from client.learning.epsilon_of_delta import epsilon_of_delta
from client.learning.loss_distributions import Mechanism, loss_of_step


def distribution(part: Any) -> Any:
    return pld.PrivacyLossDistribution(part)


def part(lower: int, masses: list[float], infinite: float, width: float = 0.5) -> Any:
    return pld_pmf.DensePLDPmf(width, lower, np.array(masses), infinite, True)


@pytest.mark.parametrize("count", [1, 3, 200, 4000])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.3])
@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(0.6, 0.01),
        Mechanism(5.0, 0.5),
        Mechanism(30.0, 1.0),
        Mechanism(1.5, 0.3, truncation=0.4),
    ],
)
def test_it_is_the_packages_own(mechanism: Mechanism, delta: float, count: int) -> None:
    loss = loss_of_step(mechanism, 1e-3).self_compose(count)
    assert epsilon_of_delta(loss, delta) == pytest.approx(
        loss.get_epsilon_for_delta(delta), rel=1e-9, abs=1e-9
    )


@settings(max_examples=300, deadline=None)
@given(
    masses=st.lists(st.floats(0, 1), min_size=1, max_size=12),
    lower=st.integers(-8, 8),
    infinite=st.sampled_from([0.0, 1e-9, 0.2]),
    delta=st.sampled_from([1e-12, 1e-9, 1e-3, 0.1, 0.5]),
    width=st.sampled_from([0.1, 1.0, 400.0]),
)
def test_it_is_the_packages_own_of_any_masses(
    masses: list[float], lower: int, infinite: float, delta: float, width: float
) -> None:
    """Also where exp(-loss) is nothing, or beyond what a float holds."""
    total = sum(masses) or 1.0
    shares = [mass / total * (1 - infinite) for mass in masses]
    loss = distribution(part(lower, shares, infinite, width))
    try:
        theirs = loss.get_epsilon_for_delta(delta)
    except OverflowError:  # the package's own limit
        assert not math.isnan(epsilon_of_delta(loss, delta))
        return
    assert epsilon_of_delta(loss, delta) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_more_infinite_mass_than_delta_has_no_epsilon() -> None:
    assert epsilon_of_delta(distribution(part(0, [0.5], 0.5)), 1e-3) == math.inf


def test_the_worse_order_of_neighbours_counts() -> None:
    better, worse = part(0, [0.9, 0.1], 0.0), part(0, [0.1, 0.9], 0.0)
    both = pld.PrivacyLossDistribution(better, worse)
    alone = epsilon_of_delta(distribution(worse), 0.01)
    assert epsilon_of_delta(both, 0.01) == alone > epsilon_of_delta(distribution(better), 0.01)
