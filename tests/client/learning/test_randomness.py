"""The keystream is uniform, never repeats, and samples subjects at the stated rate."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from client.learning import randomness
from client.learning.randomness import Keystream

SAMPLES = 200_000


def test_words_are_uniform_and_streams_independent() -> None:
    one, other = Keystream(b"one"), Keystream(b"other")
    samples = [stream.uniform(SAMPLES) for stream in (one, one, other)]
    for sample in samples:
        assert kstest(sample, "uniform").pvalue > 1e-6
        assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 6 / math.sqrt(SAMPLES)
    correlations = np.corrcoef(samples) - np.eye(3)
    assert np.abs(correlations).max() < 6 / math.sqrt(SAMPLES)


def test_global_seeds_do_not_repeat_the_stream() -> None:
    samples = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        samples.append(Keystream().words(8).tolist())
    assert samples[0] != samples[1]


def test_a_seed_repeats_the_stream_on_every_machine() -> None:
    assert Keystream(b"seed").words(2).tolist() == Keystream(b"seed").words(2).tolist()
    assert Keystream(b"seed").words(2).tolist() == [
        12266041416166798825,
        13805144382151851095,
    ]  # as a plain Python ChaCha20 of RFC 8439 gives


def test_only_a_seeded_stream_says_so() -> None:
    assert Keystream(b"seed").seeded
    assert Keystream(b"").seeded
    assert not Keystream().seeded


def test_reads_of_any_size_give_one_stream() -> None:
    whole = Keystream(b"reads").words(1000).tolist()
    keystream = Keystream(b"reads")
    parts = [keystream.words(count) for count in (0, 1, 2, 500, 0, 497)]
    assert np.concatenate(parts).tolist() == whole


def test_words_are_the_readers_own() -> None:
    keystream = Keystream(b"own")
    first = keystream.words(4)
    kept = first.copy()
    first[:] = 0
    assert keystream.words(4).tolist() == Keystream(b"own").words(8)[4:].tolist()
    assert kept.tolist() == Keystream(b"own").words(4).tolist()


def test_the_stream_goes_on_with_the_next_nonce_when_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(randomness, "_STREAM_BYTES", 128)
    got = Keystream(b"long").words(40).tobytes()
    key = hashlib.sha256(b"long").digest()
    wanted = b"".join(
        Cipher(algorithms.ChaCha20(key, bytes(4) + index.to_bytes(12, "little")), mode=None)
        .encryptor()
        .update(bytes(128))
        for index in range(3)
    )
    assert got == wanted[: len(got)]
    assert len({got[start : start + 64] for start in range(0, len(got), 64)}) == 5


def test_a_stream_ends_no_later_than_the_cipher_allows() -> None:
    """`cryptography` refuses to encrypt past the counter: a longer stream would stop training."""
    assert randomness._STREAM_BYTES == 2**32 * 64
    last_block = (2**32 - 1).to_bytes(4, "little") + bytes(12)
    encryptor = Cipher(algorithms.ChaCha20(bytes(32), last_block), mode=None).encryptor()
    encryptor.update(bytes(64))


def test_processes_and_forks_have_streams_of_their_own() -> None:
    program = """
import os
from client.learning.randomness import Keystream
fresh, seeded = Keystream(), Keystream(b"seed")
fresh.words(1), seeded.words(1)
if os.fork():
    os.wait()
print(f"{fresh.words(1)[0]} {seeded.words(1)[0]}")
"""
    lines = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        lines += run.stdout.splitlines()
    fresh, seeded = zip(*(line.split() for line in lines), strict=True)
    assert len(set(fresh)) == 4
    assert len(set(seeded)) == 1


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("drawn", [0, 1])
def test_a_stream_cannot_be_copied(duplicate: Callable[[Keystream], Any], drawn: int) -> None:
    keystream = Keystream()
    keystream.words(drawn)
    with pytest.raises(TypeError, match="same noise"):
        duplicate(keystream)


@pytest.mark.parametrize("rate", ["0.5", "0.1", "0.003"])
def test_poisson_sampling_has_the_stated_rate(rate: str) -> None:
    sampled = Keystream().poisson_sample(SAMPLES, Decimal(rate))
    assert binomtest(len(sampled), SAMPLES, float(rate)).pvalue > 1e-9
    assert binomtest(len(sampled), SAMPLES, 1.5 * float(rate)).pvalue < 1e-9


def test_poisson_sampling_of_everyone_and_of_nobody() -> None:
    assert Keystream().poisson_sample(5, Decimal(1)).tolist() == [0, 1, 2, 3, 4]
    assert Keystream().poisson_sample(0, Decimal("0.5")).tolist() == []
    assert Keystream().poisson_sample(0, Decimal(1)).tolist() == []


@pytest.mark.parametrize("rate", ["0", "-0.1", "1.1"])
def test_rates_outside_the_range_are_refused(rate: str) -> None:
    with pytest.raises(ValueError, match="sampling_rate"):
        Keystream().poisson_sample(5, Decimal(rate))


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_choosing_gives_different_members(population: int, count: int) -> None:
    chosen = Keystream().choose(population, count).tolist()
    assert len(set(chosen)) == len(chosen) == min(population, count)
    assert all(0 <= member < population for member in chosen)


def test_choosing_favours_nobody() -> None:
    keystream = Keystream()
    counts = np.bincount(np.concatenate([keystream.choose(5, 2) for _ in range(5000)]), minlength=5)
    assert all(binomtest(int(count), 5000, 0.4).pvalue > 1e-9 for count in counts)
