"""What one person adds to a release, without a bound: see `usual_code`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from client.learning.data import Example
from client.learning.noise import grid_step
from client.learning.passes import Settings
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Privacy
from tests.client.learning.conftest import MakePlan, people, phase, trained_weights
from tests.client.learning.usual_code import (
    DELTA,
    NOISE,
    NORM,
    OPACUS_WARNS,
    Network,
    Ours,
    Records,
    engines,
    movement,
    opacus,
    table,
)

D = TypeVar("D")

pytestmark = OPACUS_WARNS

# --- ghost clipping around the model's own loss is not clipped ------------------------------------


def is_bounded(release: Callable[[D], Tensor], whole: D, neighbours: Sequence[D]) -> bool:
    """Whether adding or removing one subject moves the release by at most the clipping norm.

    The noise is the same in all releases, so the difference has none. Ours is rounded to a grid
    after the noise was added, which moves each coordinate of a difference by a step at most.
    """
    released = release(whole)
    rounding = grid_step(NORM * NOISE) * math.sqrt(released.numel())
    return all(
        float((released - release(other)).double().norm()) <= NORM * (1 + 1e-4) + rounding
        for other in neighbours
    )


def ghost(records: Records, *, own_loss: bool) -> tuple[Tensor, float]:
    """One step in ghost mode; what was released, and the epsilon that Opacus states."""
    network = Network()
    engine, (module, optimizer, criterion, _) = opacus(
        network,
        records,
        criterion=nn.MSELoss(reduction="sum"),
        grad_sample_mode="ghost",
        poisson_sampling=False,
    )
    loss = module(records.x, records.y) if own_loss else criterion(module(records.x), records.y)
    loss.backward()
    optimizer.step()
    return movement(network), engine.get_epsilon(DELTA)


def neighbours_of(records: Records) -> list[Records]:
    return [records.without(subject) for subject in sorted(set(records.subjects))]


def test_ghost_clipping_with_the_models_own_loss_is_unbounded() -> None:
    whole = table()
    others = neighbours_of(whole)
    assert is_bounded(lambda r: ghost(r, own_loss=False)[0], whole, others), "as documented"
    assert not is_bounded(lambda r: ghost(r, own_loss=True)[0], whole, others)
    assert ghost(whole, own_loss=True)[1] == ghost(whole, own_loss=False)[1], "and nobody notices"


@engines
def test_the_models_own_loss_is_clipped_as_any(engine: str) -> None:
    whole = table()
    assert is_bounded(lambda r: Ours(engine).step(r), whole, neighbours_of(whole))


# --- clipping rows protects rows, not people ------------------------------------------------------

FIVE_EACH = (5, 5, 5)


def test_clipping_each_record_does_not_bound_a_person() -> None:
    """Group privacy makes epsilon 2.2 about 13.9 for people with five records."""

    def hooks(records: Records) -> Tensor:
        network = Network()
        _, (module, optimizer, _) = opacus(network, records, poisson_sampling=False)
        module(records.x, records.y).backward()
        optimizer.step()
        return movement(network)

    one_each, five_each = table(), table(FIVE_EACH)
    assert is_bounded(hooks, one_each, neighbours_of(one_each)), "the promise that Opacus makes"
    assert not is_bounded(hooks, five_each, neighbours_of(five_each))


@engines
def test_a_person_with_five_records_is_bounded(engine: str) -> None:
    whole = table(FIVE_EACH)
    assert is_bounded(lambda r: Ours(engine).step(r), whole, neighbours_of(whole))


@engines
def test_a_site_bounds_its_people(model: TextClassifier, make_plan: MakePlan, engine: str) -> None:
    plan = make_plan(
        phase("adapter", max_grad_norm=str(NORM), noise_multiplier="1", learning_rate="1"),
        privacy=Privacy(epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=1),
    )
    state = model.get_state()

    def release(examples: Sequence[Example]) -> Tensor:
        trainer = SiteTrainer(model, plan, examples, seed=2, settings=Settings(engine=engine))
        trainer.train_round(0, state)
        return torch.cat([weight.flatten() for weight in trained_weights(model, "adapter")])

    whole = people([3, 1, 4])
    others = [
        [example for example in whole if example.subject != gone]
        for gone in ("subject-0", "subject-1", "subject-2")
    ]
    assert is_bounded(release, whole, others)


# --- one record that is not finite ----------------------------------------------------------------


def survives(release: Callable[[Records], Tensor], whole: Records, victim: int) -> bool:
    """Whether a subject with a broken record counts for nothing, and all others as ever."""
    released = release(whole)
    return bool(released.isfinite().all()) and torch.allclose(
        released, release(whole.without(victim)), atol=1e-6
    )


def with_a_broken_record(value: float) -> Records:
    records = table((2, 1, 2))
    records.x[-1, 0] = value
    return records


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_broken_record_breaks_the_release(value: float) -> None:
    def hooks(records: Records) -> Tensor:
        network = Network()
        _, (module, optimizer, _) = opacus(network, records, poisson_sampling=False)
        module(records.x, records.y).backward()
        optimizer.step()
        return movement(network)

    assert not survives(hooks, with_a_broken_record(value), victim=2)


@engines
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_record_costs_its_own_subject_only(engine: str, value: float) -> None:
    assert survives(lambda r: Ours(engine).step(r), with_a_broken_record(value), victim=2)
