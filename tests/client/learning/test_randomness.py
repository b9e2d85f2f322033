"""The keystream's samples have the distribution that the guarantee assumes, and no other."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest, norm

from client.learning.randomness import Keystream

SAMPLES = 200_000


def is_normal(sample: npt.NDArray[np.float64], deviation: float) -> bool:
    """Kolmogorov-Smirnov and a variance test; a false alarm has probability below 1e-8."""
    fits = kstest(sample / deviation, norm.cdf).pvalue > 1e-9
    ratio = float(np.mean((sample / deviation) ** 2))
    # The mean of n squared normals has standard deviation sqrt(2 / n).
    return bool(fits and abs(ratio - 1) < 6 * math.sqrt(2 / len(sample)))


def test_normal_samples_pass_and_other_scales_fail() -> None:
    sample = Keystream().normal(SAMPLES)
    assert is_normal(sample, 1.0)
    for wrong in (0.8, 0.97, 1.03, 2.0):
        assert not is_normal(sample * wrong, 1.0)


def test_other_distributions_of_the_same_variance_fail() -> None:
    uniform = (Keystream().uniform(SAMPLES) - 0.5) * math.sqrt(12)
    assert not is_normal(uniform, 1.0)


def test_tails_are_as_heavy_as_they_should_be() -> None:
    sample = np.abs(Keystream().normal(SAMPLES))
    for bound in (2.0, 3.0):
        expected = 2 * norm.sf(bound)
        assert binomtest(int((sample > bound).sum()), SAMPLES, expected).pvalue > 1e-9


def test_samples_are_independent_of_each_other_and_of_other_streams() -> None:
    one, other = Keystream(), Keystream()
    sample, rest, foreign = one.normal(SAMPLES), one.normal(SAMPLES), other.normal(SAMPLES)
    limit = 6 / math.sqrt(SAMPLES)
    assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < limit
    assert abs(np.corrcoef(sample, rest)[0, 1]) < limit
    assert abs(np.corrcoef(sample, foreign)[0, 1]) < limit
    assert abs(np.corrcoef(sample[: SAMPLES // 2], sample[SAMPLES // 2 :])[0, 1]) < limit


def test_global_seeds_do_not_repeat_the_noise() -> None:
    samples = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        samples.append(Keystream().normal(8).tolist())
    assert samples[0] != samples[1]


def test_a_seed_repeats_the_stream_on_every_machine() -> None:
    assert Keystream(b"seed").words(2).tolist() == Keystream(b"seed").words(2).tolist()
    assert Keystream(b"seed").words(2).tolist() == [
        12266041416166798825,
        13805144382151851095,
    ]  # as a plain Python ChaCha20 of RFC 8439 gives


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
