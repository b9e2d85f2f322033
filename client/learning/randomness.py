"""Randomness for private training: a ChaCha20 keystream, Poisson samples and Gaussian noise.

* The key comes from the operating system (`os.urandom`); nothing here touches the global state of
  `random`, `numpy` or `torch`, so neither a seed set elsewhere nor a fork repeats the noise.
* Gaussian samples are Box-Muller over 53-bit uniforms. Each value that is handed out is the sum of
  four independent samples divided by two, the guard of Holohan & Braghin (arXiv 2107.10138, §5.1)
  that Opacus calls `secure_mode`: an attacker who inverts the floating-point sampler faces 2**159
  candidates instead of 2**53.
* A seed makes the stream repeatable. It is for tests and benchmarks: whoever knows the seed can
  subtract the noise, so `RoundResult.seeded` says when one was used and a site must refuse it.
"""

from __future__ import annotations

import hashlib
import math
import os
from decimal import Decimal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

_UNIFORM_BITS = 53
_GUARD_TERMS = 4


class Keystream:
    """An endless ChaCha20 keystream (RFC 8439 block function, 64-bit counter), read as numbers.

    Args:
        seed: Bytes that fix the stream, for tests only. `None` takes a fresh 256-bit key from the
            operating system.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        key = os.urandom(32) if seed is None else hashlib.sha256(seed).digest()
        self._encryptor = Cipher(algorithms.ChaCha20(key, b"\0" * 16), mode=None).encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` independent uniform 64-bit words."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` uniforms on the 53-bit grid of [0, 1)."""
        high_bits = self.words(count) >> np.uint64(64 - _UNIFORM_BITS)
        return high_bits.astype(np.float64) * 2.0**-_UNIFORM_BITS

    def normal(self, count: int) -> npt.NDArray[np.float64]:
        """`count` independent standard normal samples (mean 0, variance 1), guarded as above."""
        return np.asarray(
            self._box_muller(_GUARD_TERMS * count).reshape(_GUARD_TERMS, count).sum(0)
        ) / (math.sqrt(_GUARD_TERMS))

    def _box_muller(self, count: int) -> npt.NDArray[np.float64]:
        half = (count + 1) // 2
        # 1 - u lies in (0, 1], so that the logarithm is finite.
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
        angle = (2.0 * math.pi) * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def poisson_sample(self, population: int, sampling_rate: Decimal) -> npt.NDArray[np.int64]:
        """Include each of `population` members independently with probability `sampling_rate`.

        The comparison is between 64-bit integers, so that the true rate is at most the stated one
        and lower by less than 2**-64.

        Args:
            population: Number of members, at least 0.
            sampling_rate: In (0, 1].

        Returns:
            Sorted indices of the members included; possibly none.
        """
        if not 0 < sampling_rate <= 1:
            raise ValueError(f"sampling_rate must lie in (0, 1], got {sampling_rate}")
        if sampling_rate == 1:
            return np.arange(population, dtype=np.int64)
        threshold = np.uint64(int(sampling_rate * 2**64))
        return np.flatnonzero(self.words(population) < threshold).astype(np.int64)

    def choose(self, population: int, count: int) -> npt.NDArray[np.int64]:
        """`count` of `population` members without replacement, uniformly, sorted."""
        order = np.argsort(self.words(population), kind="stable")
        return np.sort(order[:count]).astype(np.int64)
