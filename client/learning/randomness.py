"""Randomness for private training: a ChaCha20 keystream, uniforms and Poisson samples.

* The key comes from the operating system (`os.urandom`); nothing here touches the global state of
  `random`, `numpy` or `torch`, so a seed set elsewhere does not repeat the stream. A forked process
  takes a key of its own, and a stream cannot be copied or pickled.
* A seed makes the stream repeatable. It is for tests and benchmarks: whoever knows the seed can
  subtract the noise, so `Keystream.seeded` says when there is one, and a site does not hand out
  what came of it.
* Gaussian noise is made of these words by `client.learning.noise`.
"""

from __future__ import annotations

import hashlib
import os
from decimal import Decimal
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

_STREAM_BYTES = 2**38
"""A nonce's stream ends with its 32-bit block counter, where `cryptography` raises."""

_UNIFORM_BITS = 53


class Keystream:
    """An endless ChaCha20 keystream (RFC 8439), read as numbers.

    One key gives a stream for each 96-bit nonce; when one ends, the next nonce's begins.

    Args:
        seed: Bytes that fix the stream, for tests only. `None` takes a fresh 256-bit key from the
            operating system, and another one in a process that was forked.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._seed = seed
        self._start()

    @property
    def seeded(self) -> bool:
        """Whether the stream can be repeated: what it protects must not be handed out."""
        return self._seed is not None

    def _start(self) -> None:
        self._process = os.getpid()
        self._key = os.urandom(32) if self._seed is None else hashlib.sha256(self._seed).digest()
        self._nonce = -1
        self._left = 0

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keystream cannot be copied: both would give the same noise")

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` independent uniform 64-bit words, in an array of their own."""
        if self._seed is None and self._process != os.getpid():
            self._start()
        taken = bytearray(8 * count)
        rest = memoryview(taken)
        while rest:
            if not self._left:
                self._nonce += 1
                # The first four bytes are the block counter.
                nonce = bytes(4) + self._nonce.to_bytes(12, "little")
                cipher = Cipher(algorithms.ChaCha20(self._key, nonce), mode=None)
                self._encryptor, self._left = cipher.encryptor(), _STREAM_BYTES
            size = min(len(rest), self._left)
            self._encryptor.update_into(rest[:size], rest[:size])
            self._left -= size
            rest = rest[size:]
        return np.frombuffer(taken, dtype="<u8")

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` uniforms on the 53-bit grid of [0, 1)."""
        high_bits = self.words(count) >> np.uint64(64 - _UNIFORM_BITS)
        return high_bits.astype(np.float64) * 2.0**-_UNIFORM_BITS

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
