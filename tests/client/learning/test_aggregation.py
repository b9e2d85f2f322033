"""The coordinator's arithmetic: uniform, exact, and resumable from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.learning.aggregation import (
    AVERAGING_DEGREE,
    Iterate,
    advance,
    begin,
    combined_update,
    state_to_send,
)
from client.learning.plan_model import State
from compliance.statements import Aggregation
from tests.client.learning.conftest import MakePlan, phase


def state(*values: float) -> State:
    return {"a": np.array(values, np.float32), "b": np.array([[values[0]]], np.float32)}


def mean_update(updates: Sequence[State], like: State) -> State:
    return combined_update(Aggregation(), updates, like)


def test_sites_weigh_the_same() -> None:
    mean = mean_update([state(1, 2), state(3, 6), state(5, 1)], state(0, 0))
    assert mean["a"].tolist() == [3.0, 3.0]
    assert mean["b"].tolist() == [[3.0]]
    assert mean["a"].dtype == np.float32


@given(st.permutations([0.1, -7.5, 1e5, 3e-4]))
@settings(max_examples=24, deadline=None)
def test_the_order_of_sites_does_not_matter(values: list[float]) -> None:
    mean = mean_update([state(value) for value in values], state(0))
    assert (
        mean["a"].tolist()
        == mean_update([state(v) for v in sorted(values)], state(0))["a"].tolist()
    )


@pytest.mark.parametrize(
    "update",
    [
        {"a": np.zeros(2, np.float32)},
        {**state(0, 0), "c": np.zeros(1, np.float32)},
        {**state(0, 0), "a": np.zeros(3, np.float32)},
        {**state(0, 0), "a": np.zeros(2, np.float64)},
        {**state(0, 0), "a": np.array([0, np.nan], np.float32)},
    ],
)
def test_one_odd_update_is_refused(update: State) -> None:
    with pytest.raises(MalformedInput, match="malformed model state"):
        mean_update([state(0, 0), update], state(0, 0))


def test_no_update_is_refused() -> None:
    with pytest.raises(MalformedInput, match="no update"):
        mean_update([], state(0))


def test_current_moves_by_the_mean_and_the_average_follows(make_plan: MakePlan) -> None:
    plan = make_plan(phase(rounds=3))
    iterate = advance(begin(state(1, 1)), plan, [state(1, 0), state(3, 0)])
    assert iterate.round == 1
    assert iterate.current["a"].tolist() == [3.0, 1.0]
    assert iterate.average["a"].tolist() == [3.0, 1.0]  # the start itself has no weight
    iterate = advance(iterate, plan, [state(1, 1)])
    assert iterate.current["a"].tolist() == [4.0, 2.0]
    weight = (AVERAGING_DEGREE + 1) / (AVERAGING_DEGREE + 2)
    np.testing.assert_allclose(iterate.average["a"], [3 + weight, 1 + weight], rtol=1e-6)


def test_a_new_phase_starts_from_the_average_and_averages_afresh(make_plan: MakePlan) -> None:
    plan = make_plan(phase(rounds=2), phase("adapter", rounds=2))
    iterate = begin(state(0))
    for _ in range(2):
        iterate = advance(iterate, plan, [state(1)])
    assert iterate.average["a"][0] < iterate.current["a"][0] == 2
    sent = state_to_send(iterate, plan)
    assert sent["a"].tolist() == iterate.average["a"].tolist()
    after = advance(iterate, plan, [state(0.5)])
    assert after.current["a"].tolist() == pytest.approx([iterate.average["a"][0] + 0.5])
    assert after.average["a"].tolist() == after.current["a"].tolist()
    assert state_to_send(after, plan)["a"].tolist() == after.current["a"].tolist()


def test_rounds_beyond_the_plan_are_refused(make_plan: MakePlan) -> None:
    plan = make_plan(phase(rounds=1))
    iterate = advance(begin(state(0)), plan, [state(1)])
    with pytest.raises(MalformedInput, match="round 1 is not one of the plan's 1 round"):
        advance(iterate, plan, [state(1)])
    with pytest.raises(MalformedInput, match="round 1 is not one"):
        state_to_send(iterate, plan)


def test_a_checkpoint_resumes_to_the_same_bytes(make_plan: MakePlan) -> None:
    plan = make_plan(phase(rounds=6))
    straight = resumed = begin(state(0.3, -1))
    for number in range(6):
        updates = [state(number * 0.1, 1), state(-0.2, number)]
        straight = advance(straight, plan, updates)
        resumed = advance(Iterate.from_arrays(resumed.round, resumed.to_arrays()), plan, updates)
    for name, array in straight.to_arrays().items():
        assert resumed.to_arrays()[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("change", ["drop", "rename", "nan"])
def test_a_broken_checkpoint_is_refused(change: str) -> None:
    arrays = begin(state(1)).to_arrays()
    if change == "drop":
        del arrays["average/a"]
    elif change == "rename":
        arrays["elsewhere/a"] = arrays.pop("average/a")
    else:
        arrays["average/a"] = np.array([np.nan], np.float32)
    with pytest.raises(MalformedInput, match="malformed"):
        Iterate.from_arrays(1, arrays)


def test_advancing_leaves_its_inputs_alone(make_plan: MakePlan) -> None:
    first, update = begin(state(1, 2)), state(1, 1)
    advance(first, make_plan(phase(rounds=2)), [update])
    assert first.current["a"].tolist() == [1.0, 2.0]
    assert update["a"].tolist() == [1.0, 1.0]
