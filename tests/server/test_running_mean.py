"""The mean that does not depend on the order of its updates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.arrays import arrays_digest
from client.learning.plan_model import MAX_WEIGHT
from compliance.statements import Aggregation
from server.running_mean import MAX_UPDATES, RunningMean, Updates
from tests.server.conftest import plan_of

LIKE = {
    "a": np.zeros((2, 3), np.float32),
    "b": np.zeros(0, np.float32),
    "c": np.zeros(1, np.float32),
}


def update_of(values: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
    flat = np.asarray(values, dtype=np.float32)
    return {"a": flat[:6].reshape(2, 3), "b": flat[:0], "c": flat[6:7]}


def mean_of(updates: Iterable[dict[str, npt.NDArray[np.float32]]]) -> RunningMean:
    mean = RunningMean(LIKE)
    for update in updates:
        mean.add(update)
    return mean


numbers = st.floats(min_value=-MAX_WEIGHT, max_value=MAX_WEIGHT, width=32)
updates_of = st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=1, max_size=5)


@settings(deadline=None)
@given(updates_of)
def test_every_order_gives_the_same_bytes_and_the_exact_mean(rows: list[list[float]]) -> None:
    updates = [update_of(row) for row in rows]
    mean = mean_of(updates).value()
    for order in itertools.islice(itertools.permutations(updates), 24):
        assert arrays_digest(mean_of(order).value()) == arrays_digest(mean)
    exact = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    got = np.concatenate([mean["a"].reshape(-1), mean["c"]])
    np.testing.assert_allclose(got, np.asarray(exact, np.float32), rtol=2**-23, atol=2**-84)


def test_a_sum_in_float64_would_depend_on_the_order() -> None:
    """What the integers are for: the small number is lost beside the large ones, or not."""
    big, small = update_of([2.0**19] * 7), update_of([2.0**-35] * 7)
    less = update_of([-(2.0**19)] * 7)
    in_float64 = (2.0**19 + 2.0**-35) - 2.0**19, (2.0**19 - 2.0**19) + 2.0**-35
    assert in_float64[0] != in_float64[1]
    for order in itertools.permutations([big, small, less]):
        value = mean_of(order).value()["c"][0]
        assert value == np.float32(2.0**-35 / 3)


def test_a_thousand_of_the_largest_updates_do_not_overflow() -> None:
    mean, largest = RunningMean(LIKE), update_of([-MAX_WEIGHT] * 7)
    for _ in range(MAX_UPDATES):
        mean.add(largest)
    np.testing.assert_array_equal(mean.value()["a"], -MAX_WEIGHT)
    with pytest.raises(MalformedInput, match="more than 1000"):
        mean.add(largest)


@pytest.mark.parametrize(
    "wrong",
    [
        update_of([math.nan] * 7),
        update_of([math.inf] * 7),
        update_of([1.5 * MAX_WEIGHT] * 7),
        {"a": np.zeros((2, 3), np.float32)},
        {**update_of([0] * 7), "a": np.zeros((3, 2), np.float32)},
    ],
)
def test_what_does_not_fit_changes_nothing(wrong: dict[str, npt.NDArray[np.float32]]) -> None:
    mean = RunningMean(LIKE)
    mean.add(update_of([0.5] * 7))
    with pytest.raises(MalformedInput):
        mean.add(wrong)
    assert mean.count == 1
    np.testing.assert_array_equal(mean.value()["a"], 0.5)


def test_no_update_has_no_mean() -> None:
    with pytest.raises(MalformedInput, match="no update"):
        RunningMean(LIKE).value()


def test_a_rule_that_compares_updates_gets_them_all_by_name() -> None:
    plan = plan_of(quorum=2, sites=("a", "b", "c"))
    robust = Aggregation.model_construct(rule="median", tolerated=1)
    ones, threes = update_of([1] * 7), update_of([3] * 7)
    for order in ("ab", "ba"):
        mean = Updates(plan, LIKE)
        every = Updates(plan.model_copy(update={"aggregation": robust}), LIKE)
        for site in order:
            for gathering in (mean, every):
                gathering.add(site, {"a": ones, "b": threes}[site])
        (only,) = mean.values()
        np.testing.assert_array_equal(only["a"], 2)
        assert [float(update["c"][0]) for update in every.values()] == [1, 3]
