"""Compressed documents: read within a limit, and only where the plan says so."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.arrays import arrays_digest, pack_arrays
from client.deflated import (
    MARK,
    deflate,
    inflate,
    is_deflated,
    largest_document,
    open_arrays,
)

ARRAYS = {"w": np.arange(1000, dtype=np.float32), "b": np.zeros((), np.float32)}
PACKED = pack_arrays(ARRAYS)


@given(st.binary(max_size=2000))
def test_a_document_comes_back(document: bytes) -> None:
    assert inflate(deflate(document), len(document)) == document
    assert deflate(document) == deflate(document)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_are_taken_for_a_document_beyond_the_limit(tail: bytes, limit: int) -> None:
    with contextlib.suppress(MalformedInput):
        assert len(inflate(MARK + tail, limit)) <= limit


def test_a_document_as_large_as_the_limit_is_read_and_a_larger_one_is_not() -> None:
    assert len(inflate(deflate(bytes(1000)), 1000)) == 1000
    with pytest.raises(MalformedInput, match="more than the 999 bytes"):
        inflate(deflate(bytes(1000)), 999)


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    """A gibibyte of zeros, a megabyte compressed, where a plan needs a tenth of a megabyte."""
    stream = zlib.compressobj(9)
    bomb = MARK + b"".join(stream.compress(bytes(1 << 20)) for _ in range(1024)) + stream.flush()
    limit = 100_000
    tracemalloc.start()
    try:
        with pytest.raises(MalformedInput, match="more than the 100000 bytes"):
            inflate(bomb, limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What was not read of the document may be copied once.
    assert peak < len(bomb) + 4 * limit


@pytest.mark.parametrize(
    "document",
    [
        b"",
        PACKED,
        MARK,
        MARK + b"no zlib",
        deflate(PACKED)[:-1],
        deflate(PACKED) + b"x",
        deflate(PACKED)[:-4] + b"abcd",
        MARK + zlib.compress(PACKED) + zlib.compress(PACKED),
    ],
)
def test_what_is_no_whole_document_is_malformed(document: bytes) -> None:
    with pytest.raises(MalformedInput, match="malformed arrays"):
        inflate(document, 10 * len(PACKED))


def test_no_plain_document_is_taken_for_a_compressed_one() -> None:
    assert is_deflated(deflate(PACKED))
    assert not is_deflated(PACKED)
    assert not is_deflated(pack_arrays({}))


def test_the_limit_has_room_for_every_form_of_the_arrays() -> None:
    odd = {f'"\\\x01 {number} é': np.zeros((3, 1, 1), np.float32) for number in range(200)}
    for arrays in ({}, ARRAYS, odd):
        assert len(pack_arrays(arrays)) <= largest_document(arrays)
    small = {name: array.astype(np.int8) for name, array in odd.items()}
    scales = np.zeros(len(small), np.float32)
    assert len(pack_arrays({**small, "#scales": scales})) <= largest_document(odd)


def test_the_limit_is_not_much_more_than_the_arrays() -> None:
    assert largest_document({"w": np.zeros(10**6, np.float32)}) < 4_002_000


def test_the_plan_says_whether_arrays_are_compressed_and_nobody_else() -> None:
    deflated = deflate(PACKED)
    assert open_arrays(ARRAYS, b"", "none", ARRAYS) == ARRAYS
    opened = open_arrays({}, deflated, "deflate", ARRAYS)
    assert arrays_digest(opened) == arrays_digest(ARRAYS)
    with pytest.raises(MalformedInput, match="the plan says no"):
        open_arrays({}, deflated, "none", ARRAYS)
    with pytest.raises(MalformedInput, match="not compressed"):
        open_arrays(ARRAYS, b"", "deflate", ARRAYS)
    with pytest.raises(MalformedInput, match="more than the"):
        open_arrays({}, deflated, "deflate", {"w": np.zeros(10, np.float32)})
