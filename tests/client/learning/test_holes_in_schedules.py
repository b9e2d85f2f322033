"""Steps, rates and scales that follow private numbers or miscount: see `usual_code`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from client.learning.accounting import events_of
from client.learning.passes import Settings
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Privacy
from tests.client.learning.conftest import MakePlan, people, phase
from tests.client.learning.usual_code import NOISE, NORM, OPACUS_WARNS, engines

pytestmark = OPACUS_WARNS

# --- steps and noise scale that tell how many people there are (#571, #819) -----------------------

COORDINATES = (200, 33)
"""So many that the scale of their noise is measured to one per cent."""


def looks_the_same(
    train: Callable[[int], tuple[int, Tensor]], population: int, neighbour: int
) -> bool:
    """Whether neighbouring datasets have the same number of steps and the same scale of noise.

    `train` takes the number of people, all of them alike, and tells its steps and what it released.
    """
    steps, released = train(population)
    others_steps, others = train(neighbour)
    ratio = float(released.double().norm() / others.double().norm())
    return steps == others_steps and abs(ratio - 1) < 0.05


def opacus_of_so_many(population: int) -> tuple[int, Tensor]:
    """An epoch with batches of ten or so, over people whose gradients are all zero."""
    layer = nn.Linear(COORDINATES[1], COORDINATES[0], bias=False)
    before = layer.weight.detach().clone()
    data = TensorDataset(torch.zeros(population, COORDINATES[1]))
    module, optimizer, loader = PrivacyEngine(accountant="rdp").make_private(
        module=layer,
        optimizer=torch.optim.SGD(layer.parameters(), lr=1.0),
        data_loader=DataLoader(data, batch_size=10, generator=torch.Generator().manual_seed(5)),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        noise_generator=torch.Generator().manual_seed(6),
    )
    steps = 0
    for (x,) in loader:
        optimizer.zero_grad()
        module(x).sum().backward()
        optimizer.step()
        steps += 1
    return steps, layer.weight.detach() - before


@pytest.mark.parametrize(
    ("population", "neighbour"),
    [(100, 99), (100, 101)],
    ids=["scale: int(N * rate) is 10 or 9", "schedule: 10 or 11 steps"],
)
def test_a_rate_from_the_private_population_tells_neighbours_apart(
    population: int, neighbour: int
) -> None:
    assert looks_the_same(opacus_of_so_many, 100, 100)
    assert not looks_the_same(opacus_of_so_many, population, neighbour)


@pytest.fixture(scope="module")
def many_labels(make_plan: MakePlan, tiny_base: Path) -> tuple[TextClassifier, Any]:
    plan = make_plan(
        phase(
            steps_per_round=10,
            sampling_rate="0.1",
            noise_multiplier="1000",  # nothing else is to be seen
            learning_rate="1",
        ),
        labels=tuple(f"label {number}" for number in range(COORDINATES[0])),
        privacy=Privacy(epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=100),
    )
    return TextClassifier.build(plan, tiny_base), plan


@engines
@pytest.mark.parametrize("neighbour", [99, 101, 0])
def test_schedule_and_scale_are_public(
    many_labels: tuple[TextClassifier, Any], engine: str, neighbour: int
) -> None:
    """Even a site with nobody at all looks like one with a hundred people."""
    model, plan = many_labels
    state = model.get_state()
    start = model.network.head.weight.detach().clone()

    def train(population: int) -> tuple[int, Tensor]:
        settings = Settings(engine=engine)
        trainer = SiteTrainer(model, plan, people([1] * population), seed=9, settings=settings)
        result = trainer.train_round(0, state)
        return result.steps, model.network.head.weight.detach() - start

    try:
        assert looks_the_same(train, 100, neighbour)
    finally:
        model.set_state(state)


# --- a step less than was accounted for -----------------------------------------------------------


@dataclass(frozen=True)
class Accounted:
    """What was taken beside what was promised and accounted."""

    steps: int
    rate_of_steps: float
    rate_accounted: float


def adds_up(train: Callable[[int], Accounted], steps: int) -> bool:
    """Whether `steps` steps at a rate of `1 / steps` are taken and accounted as just that."""
    done = train(steps)
    return done.steps == steps and done.rate_of_steps == done.rate_accounted


def opacus_epoch(steps: int) -> Accounted:
    """An epoch over as many records as it has steps, batches of one."""
    layer = nn.Linear(1, 1)
    engine = PrivacyEngine(accountant="rdp")
    module, optimizer, loader = engine.make_private(
        module=layer,
        optimizer=torch.optim.SGD(layer.parameters(), lr=1.0),
        data_loader=DataLoader(TensorDataset(torch.zeros(steps, 1)), batch_size=1),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
    )
    module(torch.zeros(1, 1)).sum().backward()
    optimizer.step()
    ((_, rate, _),) = engine.accountant.history
    return Accounted(sum(1 for _ in loader), loader.sample_rate, rate)


def test_the_whole_number_of_one_over_the_rate_is_a_step_short() -> None:
    assert sum(int(1 / (1 / n)) != n for n in range(1, 1001)) == 70
    assert adds_up(opacus_epoch, 92)
    assert not adds_up(opacus_epoch, 93)


@engines
@pytest.mark.parametrize("steps", [92, 93, 99, 105])
def test_a_round_takes_the_steps_that_its_plan_says(
    model: TextClassifier, make_plan: MakePlan, engine: str, steps: int
) -> None:
    rate = (Decimal(1) / steps).quantize(Decimal("1e-17"), rounding=ROUND_UP)
    assert int(1 / float(rate)) < steps

    def train(steps: int) -> Accounted:
        plan = make_plan(phase(steps_per_round=steps, sampling_rate=rate))
        settings = Settings(engine=engine)
        trainer = SiteTrainer(model, plan, people([1] * 3), seed=1, settings=settings)
        result = trainer.train_round(0, model.get_state())
        (event,) = events_of(plan.phases)
        assert event.steps == result.steps
        return Accounted(result.steps, float(plan.phases[0].sampling_rate), event.sampling_rate)

    assert adds_up(train, steps)
