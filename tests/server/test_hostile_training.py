"""A small real training with one hostile site of five: what each rule leaves of the model."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pytest

from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import resolve_base_model
from client.learning.metrics import accuracy
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model
from compliance.statements import TrainingPlan
from server.replies import norm_bound, norm_of
from tests.client.learning.conftest import phase
from tests.client.learning.tasks_records.plans import people, row, table_plan

SITES: Final = ("a", "b", "c", "d", "e")
SUBJECTS: Final = 20
PHASE: Final[dict[str, Any]] = {
    "rounds": 4,
    "max_grad_norm": "1",
    "learning_rate": "10",
    "noise_multiplier": "0.5",
}
ROBUST: Final = ("trimmed-mean", "median", "krum")


def longest_opposite(update: State, plan: TrainingPlan, number: int) -> State:
    """The site's own update turned round, as long as the coordinator accepts."""
    scale = -(1 - 1e-6) * norm_bound(plan, number, update) / norm_of(update)
    return {name: (scale * array).astype(np.float32) for name, array in update.items()}


@cache
def accuracy_of(rule: str, *, attacked: bool) -> float:
    plan = table_plan(
        "tabular:linear",
        phase("full", **PHASE),
        sites=SITES,
        quorum=5,
        aggregation={"rule": rule, "tolerated": 0 if rule == "mean" else 1},
    )
    model = build_model(plan, resolve_base_model("tabular:linear"), seed=0)
    trainers = [
        SiteTrainer(
            model,
            plan,
            people([1] * SUBJECTS, lambda at, label, s=site: row(100 * s + at, label)),
            seed=site,
        )
        for site in range(1, 6)
    ]
    iterate = begin(model.get_state())
    for number in range(plan.rounds):
        state = state_to_send(iterate, plan)
        updates = [trainer.train_round(number, state).update for trainer in trainers]
        assert all(norm_of(update) < norm_bound(plan, number, state) for update in updates)
        if attacked:
            updates[2] = longest_opposite(updates[2], plan, number)
        iterate = advance(iterate, plan, updates)
    held_out = people([1] * 100, lambda at, label: row(10_000 + at, label))
    return accuracy(trainers[0].evaluate(iterate.average, held_out).everybody.confusion)


def test_one_hostile_site_destroys_a_mean() -> None:
    assert accuracy_of("mean", attacked=False) >= 0.9
    assert accuracy_of("mean", attacked=True) <= 0.5


@pytest.mark.parametrize("rule", ROBUST)
def test_the_other_rules_learn_as_if_it_were_not_there(rule: str) -> None:
    assert accuracy_of(rule, attacked=False) >= 0.9
    assert accuracy_of(rule, attacked=True) >= 0.9
