"""Ways to lose privacy in silence, each as people really write it, and why it cannot happen here.

A section has one check. It fails on the usual code, which raises nothing and counts its epsilon as
ever, and passes on ours with either engine. The usual code is Opacus 1.6 called as its tutorials
call it; numbers are issues of https://github.com/meta-pytorch/opacus.

Models are tiny and learning rates are 1, so that a step's movement is what was released.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from client.learning.accounting import events_of
from client.learning.data import Example
from client.learning.noise import grid_step
from client.learning.plan_model import quiet_transformers
from client.learning.private_sgd import ENGINES, SiteTrainer
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import SubjectOptimizer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Privacy
from tests.client.learning.conftest import MakePlan, people, phase

pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Optimal order is the"),
]
engines = pytest.mark.parametrize("engine", sorted(ENGINES))

NORM, NOISE, DELTA = 0.5, 1.0, 1e-5
D = TypeVar("D")


@dataclass(frozen=True)
class Records:
    """A table of people: `x` is `(records, 4)`, `y` `(records,)`."""

    subjects: tuple[int, ...]
    x: Tensor
    y: Tensor

    def without(self, subject: int) -> Records:
        """The neighbouring table."""
        kept = [row for row, owner in enumerate(self.subjects) if owner != subject]
        return Records(tuple(self.subjects[row] for row in kept), self.x[kept], self.y[kept])


def table(records_of: Sequence[int] = (1, 1, 1, 1, 1)) -> Records:
    """The last subject is unlike all others."""
    generator = torch.Generator().manual_seed(7)
    subjects = tuple(s for s, count in enumerate(records_of) for _ in range(count))
    x = torch.randn(len(subjects), 4, generator=generator)
    y = torch.randn(len(subjects), generator=generator)
    last = [row for row, owner in enumerate(subjects) if owner == len(records_of) - 1]
    x[last], y[last] = 30.0, -30.0
    return Records(subjects, x, y)


class Network(nn.Module):
    """Two layers. Given labels, it returns its loss as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        output: Tensor = self.layers(x).squeeze(1)
        return output if y is None else mse_loss(output, y, reduction="sum")


def movement(network: nn.Module) -> Tensor:
    """By how much a `Network`'s weights have moved."""
    pairs = zip(network.parameters(), Network().parameters(), strict=True)
    return torch.cat([(new.detach() - old.detach()).flatten() for new, old in pairs])


def opacus(
    network: nn.Module, records: Records, **options: Any
) -> tuple[PrivacyEngine, tuple[Any, ...]]:
    """`PrivacyEngine.make_private` with noise that is the same every time."""
    engine = PrivacyEngine(accountant="rdp")
    made = engine.make_private(
        module=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        data_loader=DataLoader(TensorDataset(records.x, records.y), batch_size=len(records.x)),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        loss_reduction="sum",
        noise_generator=torch.Generator().manual_seed(11),
        **options,
    )
    return engine, made


class Ours:
    """A step of an engine and the optimiser, as `SiteTrainer` makes it."""

    def __init__(self, engine: str, seed: bytes | None = b"noise") -> None:
        self.network = Network()
        self.engine = ENGINES[engine](self.network)
        self.optimizer = SubjectOptimizer(
            torch.optim.SGD(self.engine.weights, lr=1.0),
            noise_multiplier=NOISE,
            max_grad_norm=NORM,
            public_divisor=1.0,
            keystream=Keystream(seed),
        )

    def backward(self, records: Records) -> int:
        """Forward with the model's own loss, and backward; returns the number of subjects."""
        names = sorted(set(records.subjects))
        owners = torch.tensor([names.index(subject) for subject in records.subjects])
        self.engine.group(owners, len(names))
        self.engine.backward(self.engine(records.x, records.y))
        return len(names)

    def step(self, records: Records) -> Tensor:
        """A whole step; returns what was released."""
        subjects = self.backward(records)
        self.optimizer.accumulate(self.engine.collect(), subjects)
        self.optimizer.step()
        return movement(self.network)


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
        SiteTrainer(model, plan, examples, seed=2, engine=engine).train_round(0, state)
        weights = [p.detach().flatten() for p in model.set_trainable("adapter")]
        return torch.cat(weights)

    whole = people([3, 1, 4])
    others = [
        [example for example in whole if example.subject != gone]
        for gone in ("subject-0", "subject-1", "subject-2")
    ]
    assert is_bounded(release, whole, others)


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
        trainer = SiteTrainer(model, plan, people([1] * population), seed=9, engine=engine)
        result = trainer.train_round(0, state)
        return result.steps, model.network.head.weight.detach() - start

    try:
        assert looks_the_same(train, 100, neighbour)
    finally:
        model.set_state(state)


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
        trainer = SiteTrainer(model, plan, people([1] * 3), seed=1, engine=engine)
        result = trainer.train_round(0, model.get_state())
        (event,) = events_of(plan.phases)
        assert event.steps == result.steps
        return Accounted(result.steps, float(plan.phases[0].sampling_rate), event.sampling_rate)

    assert adds_up(train, steps)


# --- noise that a seed repeats --------------------------------------------------------------------


def is_fresh(release: Callable[[], Tensor]) -> bool:
    """Whether the noise differs where somebody has set all the usual seeds, to compare runs."""
    released = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            released.append(release())
    return not torch.equal(*released)


def test_noise_follows_the_seed_unless_one_has_a_package_without_wheels() -> None:
    with pytest.raises(ImportError, match="torchcsprng"):
        PrivacyEngine(secure_mode=True)

    def hooks() -> Tensor:
        network, records = Network(), table()
        module, optimizer, _ = PrivacyEngine().make_private(
            module=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
            data_loader=DataLoader(TensorDataset(records.x, records.y), batch_size=5),
            noise_multiplier=NOISE,
            max_grad_norm=NORM,
            loss_reduction="sum",
            poisson_sampling=False,
        )
        module(records.x, records.y).backward()
        optimizer.step()
        return movement(network)

    assert not is_fresh(hooks)


@engines
def test_noise_follows_no_seed(engine: str) -> None:
    assert is_fresh(lambda: Ours(engine, seed=None).step(table()))


# --- the inner optimiser's step ------------------------------------------------------------------


def is_accounted(network: nn.Module, steps_accounted: int) -> bool:
    """Whether weights that moved have moved by accounted steps."""
    return steps_accounted > 0 or not bool(movement(network).any())


def test_the_inner_optimisers_step_trains_without_being_counted() -> None:
    network, records = Network(), table()
    engine, (module, optimizer, _) = opacus(network, records, poisson_sampling=False)
    module(records.x, records.y).backward()
    optimizer.original_optimizer.step()
    assert not is_accounted(network, len(engine.accountant))
    assert engine.get_epsilon(DELTA) == 0


@engines
def test_the_inner_optimisers_step_finds_nothing_to_step_with(engine: str) -> None:
    ours = Ours(engine)
    subjects = ours.backward(table())
    ours.optimizer.original_optimizer.step()
    assert is_accounted(ours.network, ours.optimizer.steps)
    gradients = ours.engine.collect()
    ours.optimizer.original_optimizer.step()
    assert is_accounted(ours.network, ours.optimizer.steps)
    ours.optimizer.accumulate(gradients, subjects)
    ours.optimizer.original_optimizer.step()
    assert is_accounted(ours.network, ours.optimizer.steps)
    assert ours.optimizer.steps == 0
    ours.optimizer.step()
    assert bool(movement(ours.network).any())
    assert is_accounted(ours.network, ours.optimizer.steps)


# --- LoRA under DP that trains nothing (#820) -----------------------------------------------------


def trains_just(model: nn.Module, before: dict[str, Tensor], *intended: str) -> bool:
    """Whether all weights whose names hold one of `intended` have moved, and no others."""
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return moved == {name for name in before if any(part in name for part in intended)}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("inference_mode", [False, True])
def test_lora_that_was_loaded_to_go_on_may_train_nothing(inference_mode: bool) -> None:
    """`PeftModel.from_pretrained` loads adapters frozen unless told otherwise.

    The loss falls (the head learns) and epsilon is spent. In #820 it was a matter of when the model
    was moved to the device; the symptoms were the same.
    """
    import peft
    import transformers

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=30,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                initializer_range=0.3,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        model: Any = peft.get_peft_model(
            base,
            peft.LoraConfig(r=2, target_modules=["query", "value"], inference_mode=inference_mode),
        )
    model.base_model.model.classifier.requires_grad_(True)
    model.train()
    ids = torch.arange(2, 26).view(8, 3)
    labels = torch.arange(8) % 2
    before = weights_of(model)
    engine = PrivacyEngine(accountant="rdp")
    module, optimizer, _ = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5),
        data_loader=DataLoader(TensorDataset(ids, labels), batch_size=8),
        noise_multiplier=0.1,
        max_grad_norm=1.0,
        noise_generator=torch.Generator().manual_seed(2),
        poisson_sampling=False,
    )
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert engine.get_epsilon(DELTA) > 0
    intended = ("lora_", "classifier")
    assert trains_just(model, before, *intended) is not inference_mode


@engines
def test_an_adapter_phase_trains_what_it_says(
    model: TextClassifier, make_plan: MakePlan, engine: str
) -> None:
    """With noise far below the gradients: what moved has learnt."""
    before = weights_of(model.network)
    plan = make_plan(phase("adapter", learning_rate="5"))
    trainer = SiteTrainer(model, plan, people([2] * 4), engine=engine)
    trainer.train_round(0, model.get_state())
    assert trains_just(model.network, before, "head.weight", ".lora_B.")
