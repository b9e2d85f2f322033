"""Numbers as ring elements: sums are exact, never wrap, and stay bounded whatever is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from client.secure_aggregation.fixed_point import (
    FixedPoint,
    join_counts,
    split_counts,
    split_vector,
)
from tests.client.site.documents import make_plan

ANY = st.floats(-1e30, 1e30, width=64)


@given(
    sites=st.integers(1, 40),
    bound=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_sum_of_the_largest_numbers_does_not_wrap(sites: int, bound: float, seed: int) -> None:
    form = FixedPoint.covering(bound, sites)
    assert bound <= form.bound < 2.001 * bound
    signs = np.random.default_rng(seed).choice([-1e300, 1e300], 7)
    total = np.zeros(7, "<u4")
    for _ in range(sites):
        total += form.encode({"w": signs})
    decoded = form.decode(total, {"w": signs})["w"]
    assert np.allclose(decoded, np.sign(signs) * form.bound * sites, rtol=1e-6)


@given(
    values=st.lists(
        st_numpy.arrays(np.float64, 4, elements=st.floats(-1, 1)), min_size=1, max_size=9
    )
)
def test_a_sum_is_right_to_half_a_unit_a_site(values: list[npt.NDArray[Any]]) -> None:
    form = FixedPoint.covering(1.0, len(values))
    total = np.zeros(4, "<u4")
    for value in values:
        total += form.encode({"w": value})
    error = np.abs(form.decode(total, {"w": values[0]})["w"] - np.sum(values, axis=0))
    assert (error <= len(values) * form.unit / 2 * (1 + 1e-9)).all()


@given(words=st_numpy.arrays(np.dtype("<u4"), 6), sites=st.integers(1, 100))
def test_whatever_is_sent_the_mean_stays_within_the_bound(
    words: npt.NDArray[Any], sites: int
) -> None:
    form = FixedPoint.covering(3.0, sites)
    mean = form.decode(words, {"w": words})["w"] / sites
    # A sum is a 32-bit number: half a range of `sites * limit` units, and a rest of division.
    assert (np.abs(mean) <= form.bound * (1 + (sites + 1) / form.limit)).all()


def test_arrays_travel_in_the_order_of_their_names() -> None:
    form = FixedPoint.covering(1.0, 2)
    arrays = {"b": np.array([[0.5], [1.0]]), "a": np.array([-1.0])}
    vector = form.encode(arrays)
    assert (vector == form.encode({"a": arrays["a"], "b": arrays["b"]})).all()
    back = form.decode(vector, arrays)
    assert list(back) == ["a", "b"]
    assert back["b"].shape == (2, 1)
    assert np.allclose(back["b"], arrays["b"], atol=form.unit)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match="w is not finite"):
        FixedPoint.covering(1.0, 2).encode({"w": np.array([0.0, value])})


def test_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 numbers"):
        split_vector(np.zeros(2), {"a": np.zeros(1), "b": np.zeros(2)})


def test_nothing_is_an_empty_vector() -> None:
    assert FixedPoint.covering(1.0, 2).encode({}).shape == (0,)
    assert join_counts({}).shape == (0,)


@given(st_numpy.arrays(np.int64, (2, 3), elements=st.integers(0, 2**52)))
def test_counts_come_back_as_they_were(counts: npt.NDArray[Any]) -> None:
    like = {"scores": counts, "a": counts[:1]}
    total = join_counts(like) + join_counts(like)
    back = split_counts(total, like)
    assert (back["scores"] == 2 * counts).all()
    assert (back["a"] == 2 * counts[:1]).all()


def test_the_bound_follows_from_the_plan_alone() -> None:
    """lr 0.5, 2 steps, norm 1, sigma 2, divisor 0.5 * nominal subjects."""
    plan = make_plan()
    divisor = 0.5 * plan.privacy.nominal_subjects
    form = FixedPoint.of(plan, 0)
    needed = 2 * 0.5 * (4 + 10 * 2 / divisor)
    assert needed <= form.bound < 2.001 * needed
    assert form.sites == 2
    assert FixedPoint.of(plan, 0, stretch=16.0).exponent == form.exponent + 4
    deviation = 2 * 0.5 / divisor * np.sqrt(2)  # of a coordinate's noise over the round
    assert deviation / form.unit > 15_000
