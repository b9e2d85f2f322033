"""Losses of classifiers against torch's own, the paper's formula and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from client.learning.losses import IGNORED, classification_losses

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)


def batch(rows: int = 12, labels: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(rows, labels, generator=generator)
    return logits, torch.randint(labels, (rows,), generator=generator)


def by_the_paper(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Lin et al. 2017, equation 4: `-(1 - p)^gamma log p`, in float64."""
    log_p = log_softmax(logits.double(), 1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p


def test_without_options_it_is_cross_entropy() -> None:
    logits, targets = batch()
    losses = classification_losses(logits, targets)
    assert torch.equal(losses, cross_entropy(logits, targets, reduction="none"))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss_and_its_gradient_are_the_papers(gamma: float) -> None:
    logits, targets = batch()
    logits.requires_grad_(True)
    losses = classification_losses(logits, targets, focal_gamma=gamma)
    wanted = by_the_paper(logits, targets, gamma)
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-7)
    (got,) = torch.autograd.grad(losses.sum(), logits)
    (expected,) = torch.autograd.grad(wanted.sum(), logits)
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_differences() -> None:
    """The factor's own gradient is part of it."""
    logits, targets = batch(rows=3)
    logits.requires_grad_(True)
    losses = classification_losses(logits, targets, focal_gamma=2.0)
    (got,) = torch.autograd.grad(losses.sum(), logits)
    step = 1e-4
    for place in range(logits.numel()):
        ends = []
        for sign in (1, -1):
            moved = logits.detach().double().clone()
            moved.view(-1)[place] += sign * step
            ends.append(float(by_the_paper(moved, targets, 2.0).sum()))
        assert float(got.view(-1)[place]) == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), abs=1e-4
        )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("margin", [20.0, 100.0, 1e4])
def test_a_record_that_is_surely_right_has_a_loss_and_gradient_near_0(
    gamma: float, margin: float
) -> None:
    """In float32 its probability is 1, where powers below 1 have infinite slopes."""
    logits = torch.tensor([[margin, 0.0]], requires_grad=True)
    losses = classification_losses(logits, torch.tensor([0]), focal_gamma=gamma)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert 0 <= float(losses.detach()) < 1e-6
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert float(logits.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_record_that_is_surely_wrong_keeps_its_whole_loss(gamma: float) -> None:
    logits = torch.tensor([[0.0, 300.0]], requires_grad=True)
    losses = classification_losses(logits, torch.tensor([0]), focal_gamma=gamma)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert float(losses.detach()) == pytest.approx(300)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_weights_follow_the_true_class(gamma: float) -> None:
    logits, targets = batch()
    weights = torch.tensor([1.0, 0.5, 0.25, 0.05])
    plain = classification_losses(logits, targets, focal_gamma=gamma)
    weighted = classification_losses(logits, targets, weights, gamma)
    torch.testing.assert_close(weighted, plain * weights[targets])
    if not gamma:
        expected = cross_entropy(logits, targets, weight=weights, reduction="none")
        torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 0.25, 0.05])])
def test_what_has_no_label_has_no_loss_and_no_gradient(
    gamma: float, weights: Tensor | None
) -> None:
    logits, targets = batch()
    ignored = torch.arange(len(targets)) % 3 == 0
    logits.requires_grad_(True)
    losses = classification_losses(
        logits, targets.masked_fill(ignored, IGNORED), weights, focal_gamma=gamma
    )
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not losses[ignored].any()
    assert not logits.grad[ignored].any()
    told = classification_losses(logits, targets, weights, gamma)[~ignored]
    torch.testing.assert_close(losses[~ignored], told)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_rows_loss_is_its_own(gamma: float) -> None:
    """Clipping by subject rests on it: no row's loss looks at another row."""
    logits, targets = batch()
    together = classification_losses(logits, targets, torch.ones(4), gamma)
    for row in range(len(targets)):
        alone = classification_losses(logits[[row]], targets[[row]], torch.ones(4), gamma)
        assert torch.equal(alone[0], together[row])


def test_half_precision_logits_have_full_losses() -> None:
    logits, targets = batch()
    losses = classification_losses(logits.bfloat16(), targets, focal_gamma=1.0)
    assert losses.dtype == torch.float32
    wanted = by_the_paper(logits.bfloat16().float(), targets, 1.0).float()
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-7)
