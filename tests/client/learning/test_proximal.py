"""FedProx's pull: after clipping and noise, towards the round's start, and nothing in one step."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from client.learning.accounting import events_of
from client.learning.base_model import resolve_base_model
from client.learning.canaries import _as_canaries_train
from client.learning.data import Example
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model
from compliance.statements import TrainingPlan
from tests.client.learning.conftest import phase
from tests.client.learning.tasks_records.plans import people, row, table_plan

RATE: Final = 0.5
PULL: Final = 0.4
"""mu: a step goes `RATE * PULL` of the way back."""


def plan_with(mu: float, steps: int, **changes: Any) -> TrainingPlan:
    fields = {"learning_rate": str(RATE), "steps_per_round": steps, **changes}
    return table_plan("tabular:linear", phase("full", proximal=Decimal(str(mu)), **fields))


def site(label: int, count: int = 12) -> list[Example]:
    """Subjects of one diagnosis only: the least that sites can have in common."""
    return people([1] * count, lambda at, _: row(100 * label + at, label))


def trained(plan: TrainingPlan, examples: list[Example], state: State | None = None) -> State:
    model = build_model(plan, resolve_base_model("tabular:linear"), seed=0)
    start = model.get_state() if state is None else state
    return SiteTrainer(model, plan, examples, seed=3).train_round(0, start).update


def flat(update: State) -> npt.NDArray[np.float64]:
    return np.concatenate([update[name].ravel() for name in sorted(update)]).astype(np.float64)


def start_of(plan: TrainingPlan) -> State:
    return build_model(plan, resolve_base_model("tabular:linear"), seed=0).get_state()


def test_a_round_of_one_step_is_the_same_to_the_last_bit() -> None:
    changes = {"noise_multiplier": "1"}
    with_pull = trained(plan_with(1.9, 1, **changes), site(0))
    without = trained(plan_with(0, 1, **changes), site(0))
    for name, array in without.items():
        assert with_pull[name].tobytes() == array.tobytes()
    assert any(array.any() for array in without.values())


def test_the_noise_is_neither_more_nor_less_nor_other_noise() -> None:
    """Hardly anybody is sampled: what moves is noise, and each step's is known without a pull."""
    changes = {"sampling_rate": "0.000001", "noise_multiplier": "1", "learning_rate": str(RATE)}
    moved = [flat(trained(plan_with(0, steps, **changes), site(0))) for steps in (1, 2, 3)]
    noises = np.diff(np.stack([np.zeros_like(moved[0]), *moved]), axis=0)
    expected = np.zeros_like(moved[0])
    for noise in noises:
        expected = (1 - RATE * PULL) * expected + noise
    pulled = flat(trained(plan_with(PULL, 3, **changes), site(0)))
    np.testing.assert_allclose(pulled, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.linalg.norm(pulled - moved[2]) > 0.1 * np.linalg.norm(pulled)


@pytest.mark.parametrize("norm", ["0.01", "100"])
def test_what_is_clipped_is_the_gradient_alone(norm: str) -> None:
    """The second step's clipped sum is that of a first step from the same weights."""
    changes = {"max_grad_norm": norm}
    start = start_of(plan_with(0, 1))
    first = trained(plan_with(PULL, 1, **changes), site(0))
    both = flat(trained(plan_with(PULL, 2, **changes), site(0)))
    there = {name: start[name] + first[name] for name in start}
    alone = flat(trained(plan_with(0, 1, **changes), site(0), there))
    second = both - (1 - RATE * PULL) * flat(first)
    np.testing.assert_allclose(second, alone, atol=1e-5 * float(np.linalg.norm(alone)))
    if norm == "0.01":  # 12 subjects over a divisor of 10
        assert np.linalg.norm(second) <= RATE * 0.01 * 12 / 10 * (1 + 1e-4)


def test_sites_that_differ_drift_apart_less_the_stronger_the_pull() -> None:
    drifts, lengths = [], []
    for mu in (0.0, 0.02, 0.2):
        changes = {"learning_rate": "5", "max_grad_norm": "1"}
        one, other = (flat(trained(plan_with(mu, 30, **changes), site(kind))) for kind in (0, 1))
        drifts.append(float(np.linalg.norm(one - other)))
        lengths.append(float(np.linalg.norm(one)))
    assert drifts[2] < 0.7 * drifts[1] < 0.7 * drifts[0]
    assert lengths[2] < lengths[1] < lengths[0]


def test_a_pull_costs_no_privacy() -> None:
    with_pull, without = plan_with(1, 5), plan_with(0, 5)
    assert events_of(with_pull.phases) == events_of(without.phases)


def test_canaries_are_audited_without_the_pull() -> None:
    (audited,) = _as_canaries_train(plan_with(1, 5).phases)
    assert audited.proximal == 0
    assert audited.steps_per_round == 5
