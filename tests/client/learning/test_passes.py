"""How records go through a model decides speed and memory, never results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from client.learning.data import Example
from client.learning.frozen import DEFAULT_LIMIT_BYTES
from client.learning.passes import Passes, Settings
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import (
    MakePlan,
    base_features,
    logits_of,
    people,
    phase,
)

EXAMPLES = people([2, 1, 3, 1])
ROWS = range(len(EXAMPLES))
OF_FEATURES = 33 * 4 + 28
"""Bytes that one record's features take."""


def random_state(model: TextClassifier) -> State:
    """Head and adapter anywhere."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(scale=0.25, size=array.shape).astype(np.float32)
        for name, array in model.get_state().items()
    }


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """How many records went through a module, call by call."""
    seen: list[int] = []

    def count(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        first: Tensor = args[0] if args else next(iter(options.values()))
        seen.append(len(first))

    hook = module.register_forward_pre_hook(count, with_kwargs=True)
    yield seen
    hook.remove()


@pytest.mark.parametrize("kind", ["probe", "adapter"])
@pytest.mark.parametrize("tokens", [1, 17, 4096])
@pytest.mark.parametrize("cache_bytes", [0, 3 * OF_FEATURES, DEFAULT_LIMIT_BYTES])
def test_results_depend_on_neither_batches_nor_cache(
    model: TextClassifier, kind: str, tokens: int, cache_bytes: int
) -> None:
    model.set_state(random_state(model))
    texts = [example.text for example in EXAMPLES]
    if kind == "probe":
        expected = model.network.head(base_features(model, texts)).detach().numpy()
    else:
        expected = logits_of(model, texts).numpy()
    settings = Settings(micro_batch_tokens=tokens, cache_bytes=cache_bytes)
    passes = Passes(model, EXAMPLES, settings)
    for rows in (list(ROWS), [4, 0, 4, 2], []):
        told = passes.results_of(kind, rows)
        assert len(told) == len(rows)
        for row, logits in zip(rows, told, strict=True):
            np.testing.assert_allclose(logits, expected[row], rtol=1e-4, atol=1e-4)


def test_losses_are_each_records_own(model: TextClassifier) -> None:
    state = random_state(model)
    targets = torch.tensor([example.label for example in EXAMPLES])
    for adapted in (True, False):
        model.set_state({n: a if adapted or "lora" not in n else a * 0 for n, a in state.items()})
        logits = logits_of(model, [example.text for example in EXAMPLES])
        expected = cross_entropy(logits, targets, reduction="none")
        for tokens in (1, 4096):
            told = Passes(model, EXAMPLES, Settings(micro_batch_tokens=tokens)).losses()
            np.testing.assert_allclose(told, expected, rtol=1e-3, atol=1e-4)


def test_what_lies_below_is_computed_once_for_all_rounds(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    plan = make_plan(phase(rounds=2, steps_per_round=3, sampling_rate="0.5"))
    with counted(model.network.encoder) as seen:
        trainer = SiteTrainer(model, plan, EXAMPLES, seed=3)
        for number in range(2):
            trainer.train_round(number, model.get_state())
        assert 0 < sum(seen) <= len(EXAMPLES)
        told = sum(seen)
        trainer.evaluate(model.get_state(), EXAMPLES[:3])
        trainer.evaluate(model.get_state(), EXAMPLES[:3])
        assert sum(seen) == told + 3


def test_without_a_cache_it_is_computed_each_time_and_no_more_often(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    """A full cache is no reason to compute in advance what will be computed again."""
    plan = make_plan(phase(rounds=1, steps_per_round=3))
    for cache_bytes, records in ((0, 3 * 7), (2 * OF_FEATURES + 5, 7 + 3 * 5)):
        with counted(model.network.encoder) as seen:
            trainer = SiteTrainer(model, plan, EXAMPLES, settings=Settings(cache_bytes=cache_bytes))
            trainer.train_round(0, model.get_state())
        assert sum(seen) == records


def test_records_of_a_length_are_computed_together(model: TextClassifier) -> None:
    """In order of length, so that hardly anything is padding."""
    examples = [Example(str(n), "rain " * (1 + 7 * (n % 2)), 0) for n in range(16)]
    shapes: list[tuple[int, ...]] = []

    def note(_module: nn.Module, _args: object, options: dict[str, Any]) -> None:
        shapes.append(tuple(options["input_ids"].shape))

    hook = model.network.encoder.register_forward_pre_hook(note, with_kwargs=True)
    Passes(model, examples, Settings(micro_batch_tokens=8)).prepare("probe", [*ROWS, 15, 14, 9])
    hook.remove()
    padded = sum(records * length for records, length in shapes)
    assert padded == sum((3, 10)[n % 2] for n in {*ROWS, 15, 14, 9})
    assert len(shapes) < 10


def test_gradients_and_modes_are_left_as_they_were(model: TextClassifier) -> None:
    passes = Passes(model, EXAMPLES, Settings())
    for training in (True, False):
        model.network.train(training)
        (features,) = passes.inputs("probe", list(ROWS))
        assert not features.requires_grad
        assert model.network.training is training
        assert model.network.encoder.training is training


# --- bfloat16 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["probe", "adapter"])
def test_bf16_results_are_close_and_really_are_bf16(model: TextClassifier, kind: str) -> None:
    model.set_state(random_state(model))
    full = np.stack(Passes(model, EXAMPLES, Settings()).results_of(kind, ROWS))
    half = np.stack(Passes(model, EXAMPLES, Settings(precision="bf16")).results_of(kind, ROWS))
    assert half.dtype == np.float32
    off = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-5 < off < 0.03


@pytest.mark.parametrize("engine", ["one_backward", "hooks"])
@pytest.mark.parametrize("kind", ["probe", "adapter"])
def test_a_bf16_step_is_close_and_its_sums_are_float32(
    model: TextClassifier, make_plan: MakePlan, kind: str, engine: str
) -> None:
    plan = make_plan(phase(kind))
    state = random_state(model)

    def step(precision: Any) -> np.ndarray:
        settings = Settings(precision=precision, engine=engine)
        update = SiteTrainer(model, plan, EXAMPLES, settings=settings).train_round(0, state).update
        assert {array.dtype for array in update.values()} == {np.dtype(np.float32)}
        assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}
        return np.concatenate([update[name].ravel() for name in sorted(update)])

    full, half = step("fp32"), step("bf16")
    off = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-5 < off < 0.05


def test_a_bf16_step_is_bounded_by_the_clipping_norm(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    """Norms are taken of what is summed, so that rounding does not loosen them."""
    plan = make_plan(phase("adapter", learning_rate="1", max_grad_norm="0.01"))
    state = random_state(model)
    settings = Settings(precision="bf16")
    SiteTrainer(model, plan, people([3]), settings=settings).train_round(0, state)
    model_state = {n: p.detach().clone() for n, p in model.weights("adapter").items()}
    model.set_state(state)
    moved = sum(
        float((weight.detach() - model_state[name]).double().square().sum())
        for name, weight in model.weights("adapter").items()
    )
    assert 0.9 * 0.001 < moved**0.5 <= 0.001 * (1 + 1e-3)
