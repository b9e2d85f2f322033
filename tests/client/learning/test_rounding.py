"""What rounding adds to a step's sensitivity, where it adds most: all gradients point one way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from client.learning import subject_optimizer
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import ROUNDING_ALLOWANCE, SubjectOptimizer
from client.learning.tape import DenseGradients

NORM = 1.0


def summed(gradients: Tensor, micro_batch: int) -> Tensor:
    """The sum of clipped gradients as a step makes it."""
    weight = torch.nn.Parameter(torch.zeros(gradients.shape[1]))
    optimizer = SubjectOptimizer(
        torch.optim.SGD([weight], lr=1.0),
        noise_multiplier=1,
        max_grad_norm=NORM,
        public_divisor=1,
        keystream=None,
    )
    for some in torch.split(gradients, micro_batch):
        optimizer.accumulate(DenseGradients([some]), len(some))
    (trained,) = optimizer.params
    total: Tensor = trained.summed_grad
    return total.double()


def test_the_noise_is_that_of_the_larger_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def noted(total: Tensor, deviation: float, _: Keystream) -> Tensor:
        asked.append(deviation)
        return total.clone()

    monkeypatch.setattr(subject_optimizer, "add_noise", noted)
    optimizer = SubjectOptimizer(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=1.0),
        noise_multiplier=4.0,
        max_grad_norm=0.5,
        public_divisor=10,
        keystream=Keystream(b"rounding"),
    )
    optimizer.step()
    assert asked == [4.0 * 0.5 * (1 + ROUNDING_ALLOWANCE)]


@pytest.mark.parametrize("micro_batch", [16, 1000])
@pytest.mark.parametrize(("subjects", "weights"), [(1000, 2000), (10_000, 300)])
def test_rounding_stays_far_below_what_the_noise_allows_for(
    subjects: int, weights: int, micro_batch: int
) -> None:
    generator = torch.Generator().manual_seed(subjects + micro_batch)
    direction = torch.randn(weights, generator=generator)
    lengths = 1 + torch.rand(subjects, 1, generator=generator)
    gradients = lengths * direction  # all are clipped
    whole = summed(gradients, micro_batch)
    assert float(whole.norm()) == pytest.approx(subjects * NORM, rel=1e-4)
    for gone in (0, subjects // 2, subjects - 1):
        neighbour = summed(torch.cat([gradients[:gone], gradients[gone + 1 :]]), micro_batch)
        moved = float((whole - neighbour).norm())
        assert 0.99 * NORM < moved <= (1 + ROUNDING_ALLOWANCE / 10) * NORM
