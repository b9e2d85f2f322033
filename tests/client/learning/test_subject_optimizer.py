"""One subject, one clipped contribution; noise of exactly the promised scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from client.learning.clipped_sums import ENGINES
from client.learning.hooks import HooksModule
from client.learning.randomness import Keystream
from client.learning.subject_gradients import clip_and_sum
from client.learning.subject_optimizer import SubjectOptimizer
from client.learning.tape import DenseGradients


def make(
    layer: nn.Module, *, noise: float = 1e-12, norm: float = 1.0, divisor: float = 1.0
) -> SubjectOptimizer:
    return SubjectOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0),
        noise_multiplier=noise,
        max_grad_norm=norm,
        public_divisor=divisor,
        keystream=Keystream(b"test"),
    )


def test_clipping_equals_clipping_one_subject_at_a_time() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(9, 4, 3) * 3, torch.randn(9, 5) * 3]
    gradients[0][:4] *= 0.01
    gradients[1][:4] *= 0.01
    expected = [torch.zeros(4, 3), torch.zeros(5)]
    for subject in range(9):
        norm = math.sqrt(sum(float(g[subject].double().pow(2).sum()) for g in gradients))
        for total, g in zip(expected, gradients, strict=True):
            total += g[subject] * min(1.0, 2.0 / norm)
    for got, want in zip(clip_and_sum(DenseGradients(gradients), 2.0), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_an_unusable_subject_counts_as_zero_and_spares_the_others(bad: float) -> None:
    gradients = [torch.ones(3, 2), torch.ones(3, 4)]
    gradients[1][1, 2] = bad
    others = [g[[0, 2]] for g in gradients]
    wanted = clip_and_sum(DenseGradients(others), 1.0)
    for got, want in zip(clip_and_sum(DenseGradients(gradients), 1.0), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_zero_and_empty_gradients_stay_zero() -> None:
    assert clip_and_sum(DenseGradients([torch.zeros(2, 3)]), 1.0)[0].tolist() == [0.0, 0.0, 0.0]
    assert clip_and_sum(DenseGradients([torch.zeros(0, 3)]), 1.0)[0].tolist() == [0.0, 0.0, 0.0]


extreme = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(st.lists(extreme, min_size=3, max_size=3), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_one_subject_moves_the_sum_by_at_most_the_clipping_norm(rows: list[list[float]]) -> None:
    gradients = torch.tensor(rows, dtype=torch.float32)
    whole = clip_and_sum(DenseGradients([gradients]), 0.5)[0]
    without = clip_and_sum(DenseGradients([gradients[1:]]), 0.5)[0]
    assert torch.isfinite(whole).all()
    assert float((whole - without).double().norm()) <= 0.5 * (1 + 1e-5)


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_subjects_records_are_summed_before_clipping(engine: str) -> None:
    layer = nn.Linear(1, 1, bias=False)
    wrapped = ENGINES[engine](layer)
    optimizer = make(layer, norm=1.0)
    # Subject 0 has gradients 3 and -2.5: clipped one by one they would cancel to 0.
    wrapped.group(torch.tensor([0, 1, 0]), 2)
    wrapped.backward(wrapped(torch.tensor([[3.0], [0.2], [-2.5]], requires_grad=True)).sum())
    before = layer.weight.detach().clone()
    optimizer.accumulate(wrapped.collect(), 2)
    optimizer.step()
    torch.testing.assert_close(before - layer.weight.detach(), torch.tensor([[0.7]]))


def test_a_subject_in_pieces_is_clipped_once_at_the_end(engine: str) -> None:
    layer = nn.Linear(1, 1, bias=False)
    wrapped = ENGINES[engine](layer)
    optimizer = make(layer, norm=1.0)
    before = layer.weight.detach().clone()
    for value, finished in ((3.0, False), (-2.5, False), (0.2, True)):
        wrapped.group(torch.tensor([0]), 1)
        wrapped.backward(wrapped(torch.tensor([[value]], requires_grad=True)).sum())
        optimizer.accumulate(wrapped.collect(), 1, finished=finished)
    optimizer.step()
    torch.testing.assert_close(before - layer.weight.detach(), torch.tensor([[0.7]]))


def test_a_step_with_a_subject_half_done_is_refused(engine: str) -> None:
    layer = nn.Linear(1, 1, bias=False)
    wrapped = ENGINES[engine](layer)
    optimizer = make(layer)
    wrapped.group(torch.tensor([0]), 1)
    wrapped.backward(wrapped(torch.ones(1, 1, requires_grad=True)).sum())
    optimizer.accumulate(wrapped.collect(), 1, finished=False)
    with pytest.raises(ValueError, match="last records are missing"):
        optimizer.step()
    wrapped.group(torch.tensor([0, 1]), 2)
    wrapped.backward(wrapped(torch.ones(2, 1, requires_grad=True)).sum())
    with pytest.raises(ValueError, match="the only one of its micro-batch"):
        optimizer.accumulate(wrapped.collect(), 2)
    assert optimizer.steps == 0
    optimizer.zero_grad()  # and with it the subject is forgotten
    with pytest.raises(ValueError, match="behind the clipping"):
        optimizer.step(lambda: 0.0)
    optimizer.step()
    assert optimizer.steps == 1


def test_a_weight_without_gradients_of_its_own_is_refused(engine: str) -> None:
    layer = nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1))
    wrapped = ENGINES[engine](layer)
    wrapped.group(torch.tensor([0]), 1)
    wrapped.backward(layer[0](torch.ones(1, 2)).sum())  # the second layer takes no part
    with pytest.raises(ValueError, match=r"1\.weight: trains, but got no gradient"):
        wrapped.collect()


def test_a_record_count_that_disagrees_is_refused() -> None:
    layer = nn.Linear(2, 1)
    wrapped = HooksModule(layer)
    wrapped.group(torch.tensor([0, 1]), 2)
    wrapped.backward(wrapped(torch.ones(3, 2, requires_grad=True)).sum())
    with pytest.raises(ValueError, match="gradients of 2 records, got 3"):
        wrapped.collect()


def test_what_autograd_summed_without_clipping_never_reaches_the_weights(engine: str) -> None:
    layer = nn.Linear(2, 1, bias=False)
    wrapped = ENGINES[engine](layer)
    optimizer = make(layer, norm=1e-6)
    before = layer.weight.detach().clone()
    wrapped.group(torch.arange(4), 4)
    wrapped.backward(wrapped(torch.full((4, 2), 100.0, requires_grad=True)).sum())
    optimizer.accumulate(wrapped.collect(), 4)
    optimizer.step()
    assert float((layer.weight.detach() - before).norm()) < 1e-5


def step_of_noise(noise: float, norm: float, divisor: float) -> np.ndarray:
    layer = nn.Linear(400, 250, bias=False)
    optimizer = make(layer, noise=noise, norm=norm, divisor=divisor)
    before = layer.weight.detach().double()
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.steps == 1
    return (before - layer.weight.detach().double()).flatten().numpy()


def has_scale(sample: np.ndarray, deviation: float) -> bool:
    ratio = float(np.mean((sample / deviation) ** 2))
    return abs(ratio - 1) < 6 * math.sqrt(2 / sample.size)


def test_an_empty_batch_is_a_step_of_noise_with_the_promised_scale() -> None:
    sample = step_of_noise(noise=2.0, norm=0.5, divisor=100.0)
    assert has_scale(sample, 2.0 * 0.5 / 100)


@pytest.mark.parametrize("wrong", [0.8, 0.95, 1.05, 0.5, 2.0])
def test_a_wrong_noise_scale_would_be_noticed(wrong: float) -> None:
    sample = step_of_noise(noise=2.0 * wrong, norm=0.5, divisor=100.0)
    assert not has_scale(sample, 2.0 * 0.5 / 100)


@pytest.mark.parametrize("name", ["noise", "norm", "divisor"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_parameters_that_would_void_the_guarantee_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        make(nn.Linear(1, 1), **{name: value})


def test_a_closure_is_refused() -> None:
    optimizer = make(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_an_attached_accountant_counts_every_step() -> None:
    from opacus.accountants import RDPAccountant

    optimizer = make(nn.Linear(2, 2), noise=1.5)
    accountant = RDPAccountant()
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.25))
    for _ in range(3):
        optimizer.step()
    assert accountant.history == [(1.5, 0.25, 3)]


def test_opacus_memory_manager_is_refused() -> None:
    with pytest.raises(ValueError, match="call `step` once"):
        make(nn.Linear(1, 1)).signal_skip_step()
