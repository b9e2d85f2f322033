"""What travels: what the other side cannot have, and nothing that it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from audit.errors import MalformedInput
from client.learning.aggregation import advance_by, begin, state_to_send
from client.learning.base_model import resolve_base_model
from client.learning.plan_model import HISTOGRAM, State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model
from client.learning.travelling import (
    check_names,
    chosen,
    completed,
    names_in_task,
    names_in_update,
)
from compliance.statements import StartsFrom, TrainingPlan
from tests.client.learning.conftest import MakePlan, phase
from tests.client.learning.tasks_records.plans import people as people_of
from tests.client.learning.tasks_records.plans import row, table_plan

HEAD = frozenset({"head.weight", "head.bias"})
NAMES = HEAD | {"encoder.weight", HISTOGRAM}


@pytest.fixture
def plan(make_plan: MakePlan) -> TrainingPlan:
    phases = (
        phase("histogram", rounds=1),
        phase("probe", rounds=2),
        phase("full", rounds=2),
    )
    return make_plan(*phases, class_weights="histogram")


def test_a_task_holds_what_rounds_before_it_may_have_moved(plan: TrainingPlan) -> None:
    counted = frozenset({HISTOGRAM})
    trained = [names_in_task(plan, "train", number, NAMES) for number in range(5)]
    assert trained == [frozenset(), counted, counted | HEAD, counted | HEAD, NAMES]
    measured = [names_in_task(plan, "evaluate", number, NAMES) for number in range(5)]
    assert measured == [counted, counted | HEAD, counted | HEAD, NAMES, NAMES]


def test_of_a_plan_that_starts_from_a_model_everything_travels(plan: TrainingPlan) -> None:
    """A site that comes in any round has the base model alone."""
    start = StartsFrom.after(f"sha256:{'1' * 64}", plan, 3, f"sha256:{'2' * 64}")
    later = TrainingPlan.model_validate(
        {**plan.model_dump(), "starts_from": start, "phases": plan.phases[1:]}
    )
    for number in range(later.rounds):
        assert names_in_task(later, "train", number, NAMES) == NAMES
        assert names_in_task(later, "evaluate", number, NAMES) == NAMES
    assert names_in_update(later, 0, NAMES) == HEAD


def test_an_update_holds_what_its_phase_trains(plan: TrainingPlan) -> None:
    updates = [names_in_update(plan, number, NAMES) for number in range(5)]
    everything = NAMES - {HISTOGRAM}
    assert updates == [frozenset({HISTOGRAM}), HEAD, HEAD, everything, everything]


def test_a_round_beyond_the_plan_has_no_names(plan: TrainingPlan) -> None:
    for number in (5, -1):
        with pytest.raises(MalformedInput, match="not one of the plan's 5 rounds"):
            names_in_task(plan, "train", number, NAMES)
        with pytest.raises(MalformedInput, match="not one of the plan's 5 rounds"):
            names_in_update(plan, number, NAMES)


def test_any_other_names_are_refused() -> None:
    check_names(HEAD, HEAD)
    with pytest.raises(MalformedInput, match=r"'head.bias' is missing in this round"):
        check_names({"head.weight"}, HEAD)
    with pytest.raises(MalformedInput, match=r"'more' is not needed in this round"):
        check_names({*HEAD, "more"}, HEAD)


def test_what_was_not_sent_did_not_move() -> None:
    like = {"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.float32)}
    whole = completed({"b": like["b"]}, like)
    assert list(whole) == ["a", "b"]
    assert not whole["a"].any()
    assert whole["a"].shape == (2, 2)
    assert whole["a"].dtype == np.float32
    assert whole["b"] is like["b"]


def assert_same(one: State, other: State) -> None:
    """Equal numbers; only a zero may have lost its sign, when zero was added to it."""
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("server", ["average", "momentum", "adam"])
def test_a_site_that_merges_has_the_coordinator_s_very_state(server: Any) -> None:
    """A whole run, in which the site keeps nothing but its own build of the model."""
    noisy = {"noise_multiplier": "1"}
    plan = table_plan(
        "tabular:mlp",
        phase("histogram", rounds=1, **noisy),
        phase("full", rounds=3, **noisy),
        class_weights="histogram",
        aggregation={"server": server},
    )
    base = resolve_base_model("tabular:mlp")
    ours, theirs = build_model(plan, base).get_state(), build_model(plan, base)
    initial: State = theirs.get_state()
    trainer = SiteTrainer(theirs, plan, people_of([1] * 8, row))
    iterate = begin(ours)
    travelled = []
    for number in range(plan.rounds):
        sent = state_to_send(iterate, plan)
        task = chosen(sent, names_in_task(plan, "train", number, sent))
        merged = {**initial, **task}
        assert_same(merged, sent)
        result = trainer.train_round(number, merged)
        update = chosen(result.update, names_in_update(plan, number, result.update))
        travelled.append((len(task), len(update)))
        iterate = advance_by(iterate, plan, completed(update, sent))
        average = iterate.average
        task = chosen(average, names_in_task(plan, "evaluate", number, average))
        assert_same({**initial, **task}, average)
    weights = len(initial) - 1
    assert travelled == [(0, 1), (1, weights), (weights + 1, weights), (weights + 1, weights)]
