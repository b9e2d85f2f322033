"""Out of memory: fewer records at once, and the same sum; a device that fails: no update at all."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from audit.errors import FiduciaryError
from client.learning import private_sgd, subject_optimizer
from client.learning.data import Example
from client.learning.device_failures import DeviceLost, OutOfMemory, is_out_of_memory
from client.learning.micro_batches import MicroBatches, Part
from client.learning.private_sgd import ENGINES, SiteTrainer
from client.learning.subject_gradients import SubjectGradients, clip_and_sum
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import MakePlan, people, phase

engines = pytest.mark.parametrize("engine", sorted(ENGINES))


@pytest.fixture(autouse=True)
def one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many records at once in a probe as in an adapter phase, so that few tell enough."""
    monkeypatch.setattr(private_sgd, "PROBE_FACTOR", 1)


# --- which records, how often ---------------------------------------------------------------------

sizes = st.lists(st.integers(1, 9), max_size=7)


def parts_of(sizes: Sequence[int]) -> list[Part]:
    """Subjects with so many records each; record `100·s + r` is subject `s`'s `r`-th."""
    return [
        Part.whole([100 * subject + record for record in range(size)])
        for subject, size in enumerate(sizes)
    ]


def assert_each_record_once(done: Sequence[Sequence[Part]], sizes: Sequence[int]) -> None:
    """Every record once, in order; a subject in pieces alone, and finished with the last only."""
    parts = [part for batch in done for part in batch]
    assert all(part.records for part in parts)
    assert [record for part in parts for record in part.records] == [
        record for part in parts_of(sizes) for record in part.records
    ]
    for subject, found in groupby(parts, lambda part: part.records[0] // 100):
        own = list(found)
        assert [part.finished for part in own] == [False] * (len(own) - 1) + [True]
        assert {part.weight for part in own} == {1 / sizes[subject]}
        if len(own) > 1:
            assert all([part] in done for part in own)


@given(sizes, st.integers(1, 12))
def test_whole_subjects_as_far_as_the_limit_goes(sizes: list[int], limit: int) -> None:
    done: list[Sequence[Part]] = []
    MicroBatches(limit).run(parts_of(sizes), done.append)
    assert_each_record_once(done, sizes)
    counts = [sum(len(part.records) for part in batch) for batch in done]
    assert all(count <= limit for count in counts)
    for count, batch, following in zip(counts, done, done[1:], strict=False):
        first = following[0]
        if all(len(part.records) * part.weight == 1 for part in (*batch, first)):
            assert count + len(first.records) > limit, "two whole subjects that fit go together"


@given(sizes, st.integers(1, 12), st.sets(st.integers(0, 30), max_size=8))
@settings(max_examples=300)
def test_whatever_fails_each_record_is_done_once(
    sizes: list[int], limit: int, failing: set[int]
) -> None:
    """Any calls may run out of memory, also the ones that try again."""
    batches, done, calls, limits = MicroBatches(limit), [], 0, [limit]

    def work(batch: Sequence[Part]) -> None:
        nonlocal calls
        calls += 1
        limits.append(batches.limit)
        count = sum(len(part.records) for part in batch)
        assert count <= batches.limit
        if calls - 1 in failing and count > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        done.append(batch)

    batches.run(parts_of(sizes), work)
    assert_each_record_once(done, sizes)
    assert limits == sorted(limits, reverse=True)


@given(sizes.filter(bool), st.integers(1, 12), st.integers(1, 12))
def test_the_limit_settles_where_the_memory_ends(
    sizes: list[int], limit: int, capacity: int
) -> None:
    batches, done, failures = MicroBatches(limit), [], 0

    def work(batch: Sequence[Part]) -> None:
        nonlocal failures
        if sum(len(part.records) for part in batch) > capacity:
            failures += 1
            raise MemoryError
        done.append(batch)

    batches.run(parts_of(sizes), work)
    assert_each_record_once(done, sizes)
    assert failures <= 4, "each failure halves what is tried"


def test_when_not_even_one_record_fits_the_error_says_so() -> None:
    tried = []

    def work(batch: Sequence[Part]) -> None:
        tried.append(sum(len(part.records) for part in batch))
        raise MemoryError

    with pytest.raises(OutOfMemory, match="even one record") as caught:
        MicroBatches(8).run(parts_of([3, 5]), work)
    assert "max_tokens" in caught.value.fix
    assert tried == [8, 3, 1]


def test_another_error_is_not_tried_again() -> None:
    calls = []

    def work(batch: Sequence[Part]) -> None:
        calls.append(batch)
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        MicroBatches(8).run(parts_of([3, 5]), work)
    assert len(calls) == 1


def test_what_failed_is_freed_before_it_is_tried_again() -> None:
    """An error keeps the frames alive that it passed through, and with them their tensors."""
    held: list[weakref.ref[Tensor]] = []

    def work(batch: Sequence[Part]) -> None:
        assert all(tensor() is None for tensor in held)
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        if len(batch) > 1:
            raise MemoryError

    MicroBatches(8).run(parts_of([1, 1, 1, 1]), work)
    assert len(held) > 4


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        MicroBatches(0)


def test_memory_errors_are_known_as_torch_and_python_really_raise_them() -> None:
    for fail in (lambda: torch.empty(2**50), lambda: np.empty(2**50), lambda: bytearray(2**60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            fail()
        assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


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
def two_labels(make_plan: MakePlan, tiny_base: Any) -> tuple[TextClassifier, Any]:
    plan = make_plan(
        phase(max_grad_norm="1", noise_multiplier="1"),
        labels=("yes", "no"),
        privacy=make_plan().privacy.model_copy(update={"max_records_per_subject": 16}),
    )
    return TextClassifier.build(plan, tiny_base), plan


def of_one_size(records_of: Sequence[int]) -> list[Example]:
    """Like `people`, with labels of two; a subject's records have the same label."""
    return [
        Example(example.subject, example.text, int(example.subject.split("-")[1]) % 2)
        for example in people(records_of)
    ]


@engines
@pytest.mark.parametrize("where", WHERE)
def test_the_sum_is_exactly_the_undisturbed_one(
    two_labels: tuple[TextClassifier, Any],
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
    monkeypatch.setattr(model, "features", lambda _tokens: features.clone())
    zeros = {name: np.zeros_like(array) for name, array in model.get_state().items()}

    def run(at: set[int]) -> tuple[Tensor, Faults]:
        trainer = SiteTrainer(model, plan, examples, seed=4, engine=engine, micro_batch_records=4)
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
    model: TextClassifier, make_plan: MakePlan, engine: str, where: str
) -> None:
    """In the middle of the encoder: some layers have recorded, others have not."""
    plan = make_plan(phase("adapter", noise_multiplier="0.001", learning_rate="10"))
    examples = people([2, 3, 2, 4])
    state = model.get_state()
    layer = next(
        module
        for name, module in model.network.named_modules()
        if name.endswith("layer.1.attention.output.dense")
    )

    def run(at: set[int]) -> tuple[np.ndarray, Faults]:
        trainer = SiteTrainer(model, plan, examples, seed=4, engine=engine, micro_batch_records=4)
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
    texts = [example.text for example in people([1] * 9)]
    wanted = model.logits(texts)

    def fail(_layer: nn.Module, _inputs: object, output: Any) -> None:
        if len(output.last_hidden_state) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.network.encoder.register_forward_hook(fail)
    try:
        torch.testing.assert_close(model.logits(texts), wanted)
    finally:
        hook.remove()


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
    model: TextClassifier,
    make_plan: MakePlan,
    engine: str,
    where: str,
    error: Exception,
    expected: type[Exception],
) -> None:
    plan = make_plan(phase(noise_multiplier="1"))
    examples, state = people([2, 2, 2]), model.get_state()
    trainer = SiteTrainer(model, plan, examples, engine=engine, micro_batch_records=2)
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
