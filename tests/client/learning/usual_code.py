"""Small tables of people and a network, and a private step as it is usually written, and as ours.

The usual code is Opacus 1.6 called as its tutorials call it. `test_holes_in_*` show how it loses
privacy in silence: it raises nothing and counts its epsilon as ever. Each section there has one
check, which fails on the usual code and passes on ours with either engine; numbers are issues of
https://github.com/meta-pytorch/opacus.

Models are tiny and learning rates are 1, so that a step's movement is what was released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from client.learning.clipped_sums import ENGINES
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import SubjectOptimizer

OPACUS_WARNS = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Optimal order is the"),
]
engines = pytest.mark.parametrize("engine", sorted(ENGINES))

NORM, NOISE, DELTA = 0.5, 1.0, 1e-5


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
