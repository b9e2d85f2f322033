"""Micro-batches: every record once, whole subjects together, and fewer when memory runs out."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.learning.device_failures import OutOfMemory, is_out_of_memory
from client.learning.micro_batches import MicroBatches, Part

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


# --- records of different sizes -------------------------------------------------------------------

token_counts = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), max_size=7)


def sized(tokens: Sequence[Sequence[int]]) -> tuple[list[Part], dict[int, int]]:
    """Subjects with records of so many tokens, and the size of each record."""
    parts = parts_of([len(own) for own in tokens])
    sizes = {
        record: size
        for part, own in zip(parts, tokens, strict=True)
        for record, size in zip(part.records, own, strict=True)
    }
    return parts, sizes


def padded(batch: Sequence[Part], size_of: dict[int, int]) -> int:
    """Tokens of a micro-batch, padding and all."""
    sizes = [size_of[record] for part in batch for record in part.records]
    return len(sizes) * max(sizes)


@given(token_counts, st.integers(1, 60))
@settings(max_examples=300)
def test_tokens_are_limited_and_only_a_long_record_alone_exceeds(
    tokens: list[list[int]], limit: int
) -> None:
    parts, size_of = sized(tokens)
    done: list[Sequence[Part]] = []
    MicroBatches(limit, size_of.__getitem__).run(parts, done.append)
    assert_each_record_once(done, [len(own) for own in tokens])
    for batch in done:
        assert padded(batch, size_of) <= limit or sum(len(part.records) for part in batch) == 1
    for batch, following in pairwise(done):
        together = [*batch, following[0]]
        if all(len(part.records) * part.weight == 1 for part in together):
            assert padded(together, size_of) > limit, "whole subjects that fit go together"


def test_a_large_subject_comes_in_pieces_that_fit() -> None:
    parts, size_of = sized([[3], [4, 3, 20, 4, 4, 1], [2], [1, 1]])
    done: list[Sequence[Part]] = []
    MicroBatches(8, size_of.__getitem__).run(parts, done.append)
    assert [[size_of[r] for part in batch for r in part.records] for batch in done] == [
        [3],
        [4, 3],
        [20],
        [4, 4],
        [1],
        [2, 1, 1],
    ]
    assert [batch[0].finished for batch in done] == [True, False, False, False, True, True]


@given(token_counts.filter(bool), st.integers(40, 200), st.integers(40, 200))
def test_tokens_are_halved_until_they_fit(
    tokens: list[list[int]], limit: int, capacity: int
) -> None:
    """The device holds any one record; what fails is done again with half of its tokens."""
    parts, size_of = sized(tokens)
    batches = MicroBatches(limit, size_of.__getitem__)
    done: list[Sequence[Part]] = []
    failed: list[int] = []

    def work(batch: Sequence[Part]) -> None:
        taken = padded(batch, size_of)
        if failed:
            assert taken <= max(40, failed[-1] // 2)
        if taken > capacity:
            failed.append(taken)
            raise MemoryError
        done.append(batch)

    batches.run(parts, work)
    assert_each_record_once(done, [len(own) for own in tokens])
    assert batches.limit == (failed[-1] // 2 if failed else limit)
    assert len(failed) <= 3


def test_one_record_that_does_not_fit_is_not_halved() -> None:
    parts, size_of = sized([[50, 3]])
    tried: list[int] = []

    def work(batch: Sequence[Part]) -> None:
        tried.append(padded(batch, size_of))
        raise MemoryError

    with pytest.raises(OutOfMemory):
        MicroBatches(100, size_of.__getitem__).run(parts, work)
    assert tried == [100, 50]
