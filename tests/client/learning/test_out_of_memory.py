"""Out of memory: fewer records at once, and the same sum; a device that fails: no update at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audit.errors import FiduciaryError
from client.learning import clipped_sums, subject_optimizer
from client.learning.clipped_sums import ENGINES
from client.learning.data import Example
from client.learning.device_failures import DeviceLost, OutOfMemory
from client.learning.passes import Passes, Settings
from client.learning.plan_model import EncodedRecord
from client.learning.private_sgd import SiteTrainer
from client.learning.subject_gradients import SubjectGradients, clip_and_sum
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import TrainingPlan
from tests.client.learning.conftest import MakePlan, people, phase

engines = pytest.mark.parametrize("engine", sorted(ENGINES))


class OneSize(TextClassifier):
    """Its micro-batches are so many records, however long they are: so few of them tell enough."""

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        return [replace(record, size=1) for record in super().encode(examples)]


@pytest.fixture
def one_size(tiny_base: Path, make_plan: MakePlan) -> OneSize:
    return OneSize.build(make_plan(), tiny_base)


def settings_of(engine: str, records: int) -> Settings:
    """So many records at once."""
    return Settings(engine=engine, micro_batch_tokens=records)


@pytest.fixture(autouse=True)
def one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many records at once in a probe as in an adapter phase."""
    monkeypatch.setattr(clipped_sums, "PROBE_FACTOR", 1)


# --- the released sum -----------------------------------------------------------------------------


class Faults:
    """Makes the memory run out in a layer, as a device does: in the middle of a pass.

    Args:
        where: `forward`, `backward` or `clip`.
        at: Numbers of the passes of several records, from 0 and counting repeated ones, in which it
            happens; None for all passes.
        error: What is raised.
    """

    def __init__(self, where: str, at: set[int] | None, error: Exception | None = None) -> None:
        self.where = where
        self.at = at
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.passes = -1
        self.records = 0
        self.raised = 0

    def meet(self, where: str) -> None:
        """Raise, when it is time to."""
        is_time = self.at is None or (self.passes in self.at and self.records > 1)
        if where == self.where and is_time:
            self.raised += 1
            raise self.error


class _Fault(torch.autograd.Function):
    """Passes everything on, and meets the faults in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, faults: Faults) -> Tensor:
        ctx.faults = faults
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        ctx.faults.meet("backward")
        return dy, None


@contextmanager
def faulty(model: TextClassifier, layer: nn.Module, faults: Faults) -> Iterator[Faults]:
    """`layer`'s output meets the faults in each pass that trains."""

    def count(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            faults.passes += 1
            faults.records = len(inputs[0])

    def fail(_layer: nn.Module, _inputs: object, output: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return output
        faults.meet("forward")
        return _Fault.apply(output, faults)  # type: ignore[no-untyped-call]

    def clip(gradients: SubjectGradients, max_grad_norm: float) -> list[Tensor]:
        total = clip_and_sum(gradients, max_grad_norm)
        faults.meet("clip")  # as late as memory can run out
        return total

    whole = model.network.head if layer is model.network.head else model.network
    hooks = [whole.register_forward_pre_hook(count), layer.register_forward_hook(fail)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subject_optimizer, "clip_and_sum", clip)
        yield faults
    for hook in hooks:
        hook.remove()


WHERE = ("forward", "backward", "clip")
RECORDS = (1, 2, 2, 1, 8, 1, 4)
"""Of seven subjects; with four records at once, the one with eight comes in pieces. Means over so
many records are exact."""


def exact_features(count: int) -> Tensor:
    """Of which every gradient, norm, factor and sum is a float32 without rounding.

    At a head of zeros with two labels a record's gradient has four entries of half of `size`, so
    its norm is `size`: a power of two, or small enough not to be clipped to 1.
    """
    features = torch.zeros(count, 33)
    for record in range(count):
        size = (64.0, 0.25, 128.0, 0.5)[record % 4]
        features[record, [record % 16, 16 + record % 16]] = size
    return features


@pytest.fixture(scope="module")
def two_labels(make_plan: MakePlan, tiny_base: Path) -> tuple[TextClassifier, TrainingPlan]:
    plan = make_plan(
        phase(max_grad_norm="1", noise_multiplier="1"),
        labels=("yes", "no"),
        privacy=make_plan().privacy.model_copy(update={"max_records_per_subject": 16}),
    )
    return OneSize.build(plan, tiny_base), plan


def of_one_size(records_of: Sequence[int]) -> list[Example]:
    """Like `people`, with labels of two; a subject's records have the same label."""
    return [
        Example(example.subject, example.text, int(example.subject.split("-")[1]) % 2)
        for example in people(records_of)
    ]


@engines
@pytest.mark.parametrize("where", WHERE)
def test_the_sum_is_exactly_the_undisturbed_one(
    two_labels: tuple[TextClassifier, TrainingPlan],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    where: str,
) -> None:
    """At every micro-batch in turn, and also where the repetition fails again."""
    model, plan = two_labels
    examples = of_one_size(RECORDS)
    subject_of = {example.subject: n for n, example in enumerate(examples)}
    features = exact_features(len(examples))
    for row, example in enumerate(examples):  # a subject's records alike: their mean is exact
        features[row] = features[subject_of[example.subject]]
    row_of = {tuple(record.content): row for row, record in enumerate(model.encode(examples))}
    monkeypatch.setattr(
        model,
        "below",
        lambda _kind, records: [features[row_of[tuple(record.content)]] for record in records],
    )
    zeros = {name: np.zeros_like(array) for name, array in model.get_state().items()}

    def run(at: set[int]) -> tuple[Tensor, Faults]:
        trainer = SiteTrainer(model, plan, examples, seed=4, settings=settings_of(engine, 4))
        with faulty(model, model.network.head, Faults(where, at)) as faults:
            assert trainer.train_round(0, zeros).steps == 1
        return model.network.head.weight.detach().clone(), faults

    undisturbed, counted = run(set())
    batches = counted.passes + 1
    assert float(undisturbed.abs().max()) > 0
    failures = 0
    for at in [{k} for k in range(batches)] + [{k, k + 1} for k in range(batches)]:
        weight, faults = run(at)
        failures += faults.raised
        assert torch.equal(weight, undisturbed), at
    assert failures >= {"forward": 10, "backward": 10, "clip": 8}[where]


@engines
@pytest.mark.parametrize("where", WHERE)
def test_a_pass_that_fails_halfway_leaves_nothing_behind(
    one_size: OneSize, make_plan: MakePlan, engine: str, where: str
) -> None:
    """In the middle of the encoder: some layers have recorded, others have not."""
    model = one_size
    plan = make_plan(phase("adapter", noise_multiplier="0.001", learning_rate="10"))
    examples = people([2, 3, 2, 4])
    state = model.get_state()
    layer = next(
        module
        for name, module in model.network.named_modules()
        if name.endswith("layer.1.attention.output.dense")
    )

    def run(at: set[int]) -> tuple[np.ndarray, Faults]:
        trainer = SiteTrainer(model, plan, examples, seed=4, settings=settings_of(engine, 4))
        with faulty(model, layer, Faults(where, at)) as faults:
            update = trainer.train_round(0, state).update
        return np.concatenate([update[name].ravel() for name in sorted(update)]), faults

    undisturbed, counted = run(set())
    one_subject = 10 * 0.1 / 10  # learning rate, clipping norm, divisor
    for k in range(counted.passes + 1):
        update, faults = run({k})
        assert faults.raised == 1
        assert float(np.linalg.norm(update - undisturbed)) < 1e-4 * one_subject, k


class Twice(nn.Module):
    """Uses its layer twice, and meets faults in between."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.faults = faults

    def forward(self, x: Tensor) -> Tensor:
        between = _Fault.apply(self.layer(x), self.faults)  # type: ignore[no-untyped-call]
        output: Tensor = self.layer(between)
        return output


@engines
def test_a_layer_used_twice_that_failed_in_between_starts_anew(engine: str) -> None:
    faults = Faults("backward", at=None)
    model = Twice(faults)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    wrapped = ENGINES[engine](model)

    def gradients(records: Tensor) -> list[Tensor]:
        wrapped.group(torch.arange(len(records)), len(records))
        wrapped.backward(wrapped(records).square().sum())
        return wrapped.collect().weighted_sum(torch.ones(len(records)))

    with pytest.raises(torch.OutOfMemoryError):
        gradients(x)
    faults.at = set()
    got = gradients(x[:2])
    wrapped.close()
    wanted = torch.autograd.grad(model(x[:2]).square().sum(), wrapped.weights)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_inference_goes_on_with_fewer_records(model: TextClassifier) -> None:
    examples = people([1] * 9)
    rows = range(len(examples))
    wanted = Passes(model, examples, Settings()).results_of("adapter", rows)
    held: list[int] = []

    def fail(_layer: nn.Module, _inputs: object, output: Any) -> None:
        held.append(len(output.last_hidden_state))
        if held[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.network.encoder.register_forward_hook(fail)
    try:
        got = Passes(model, examples, Settings()).results_of("adapter", rows)
    finally:
        hook.remove()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert held[0] == 9, "all of them are tried at first"
    assert set(held[-4:]) <= {1, 2}


# --- no update ------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DeviceLost),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLost),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceLost),
        (RuntimeError("shape mismatch"), RuntimeError),
    ],
)
def test_a_round_that_fails_hands_out_nothing_and_the_next_one_is_as_ever(
    one_size: OneSize,
    make_plan: MakePlan,
    engine: str,
    where: str,
    error: Exception,
    expected: type[Exception],
) -> None:
    model = one_size
    plan = make_plan(phase(noise_multiplier="1"))
    examples, state = people([2, 2, 2]), model.get_state()
    trainer = SiteTrainer(model, plan, examples, settings=settings_of(engine, 2))
    with faulty(model, model.network.head, Faults(where, None, error)) as faults:
        with pytest.raises(expected) as caught:
            trainer.train_round(0, state)
        if expected is OutOfMemory:
            assert faults.raised == 2, "two records, then one"
        else:
            assert faults.raised == 1, "not tried again"
    if isinstance(caught.value, FiduciaryError):
        assert caught.value.fix
        assert str(error) not in str(caught.value) or not str(error)
    assert trainer.train_round(0, state).steps == 1


def test_a_failure_behind_the_micro_batches_is_named_too(
    model: TextClassifier, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SiteTrainer(model, make_plan(), people([1]))
    state = model.get_state()
    failures: list[tuple[Callable[[], Exception], type[Exception]]] = [
        (lambda: MemoryError(), OutOfMemory),
        (lambda: torch.AcceleratorError("CUDA error: no device"), DeviceLost),
    ]
    for make, expected in failures:

        def fail(*_: object, make: Callable[[], Exception] = make) -> None:
            raise make()

        with monkeypatch.context() as patched:
            patched.setattr(model, "set_state", fail)
            with pytest.raises(expected):
                trainer.train_round(0, state)
            with pytest.raises(expected):
                trainer.evaluate(state, people([1]))
