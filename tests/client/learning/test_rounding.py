"""What rounding adds to a step's sensitivity, where it adds most: all gradients point one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from client.learning import subject_optimizer
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import ROUNDING_ALLOWANCE, SubjectOptimizer
from client.learning.tape import Dense, Product, TapeGradients, Use

NORM = 1.0


def summed(uses: Sequence[Use], shape: Sequence[int]) -> Tensor:
    """The sum of clipped gradients of one weight as a step makes it, a use a micro-batch."""
    weight = torch.nn.Parameter(torch.zeros(*shape))
    optimizer = SubjectOptimizer(
        torch.optim.SGD([weight], lr=1.0),
        noise_multiplier=1,
        max_grad_norm=NORM,
        public_divisor=1,
        keystream=None,
    )
    for use in uses:
        optimizer.accumulate(TapeGradients([[use]]), len(use.squared_norms()))
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

    def of(chosen: Tensor) -> Tensor:
        some = torch.split(gradients[chosen], micro_batch)
        return summed([Dense(part) for part in some], [weights])

    assert float(of(torch.arange(subjects)).norm()) == pytest.approx(subjects * NORM, rel=1e-4)
    assert 0.99 * NORM < farthest(of, subjects) <= (1 + ROUNDING_ALLOWANCE / 10) * NORM


@pytest.mark.parametrize("cancel", [False, True])
def test_rows_that_cancel_move_neighbours_no_further(cancel: bool) -> None:
    """Their products are rounded by more than the gradient; its norm is then overstated by more."""
    subjects, rows, width = 1000, 32, 24
    generator = torch.Generator().manual_seed(rows)
    left, right = (torch.randn(rows, width, generator=generator) for _ in range(2))
    if cancel:
        left[rows // 2 :] = left[: rows // 2]
        right[rows // 2 :] *= 0.02
        right[rows // 2 :] -= right[: rows // 2]
    sizes = float((left.norm(dim=1) * right.norm(dim=1)).sum())
    assert (sizes > 100 * float((left.T @ right).norm())) == cancel

    def of(chosen: Tensor) -> Tensor:
        uses = [
            Product(
                left.expand(len(some), -1, -1),
                right.expand(len(some), -1, -1),
                torch.Size((width, width)),
                transposed=False,
            )
            for some in torch.split(chosen, 100)
        ]
        return summed(uses, [width, width])

    assert 0.5 * NORM < farthest(of, subjects) <= (1 + ROUNDING_ALLOWANCE / 10) * NORM


def farthest(of: Callable[[Tensor], Tensor], subjects: int) -> float:
    """How far a subject moves the sum of those that `of` is given."""
    everybody = torch.arange(subjects)
    whole = of(everybody)
    return max(
        float((whole - of(everybody[everybody != gone])).norm())
        for gone in (0, subjects // 2, subjects - 1)
    )
