"""Masks: pseudorandom vectors over a ring of integers, from 256-bit seeds.

Formal guarantees:

* `add_mask` adds (or takes away) the keystream of AES-256 in counter mode (NIST SP 800-38A) under
  the seed, read as little-endian words of the vector's ring. A seed is used for one vector, so one
  counter per seed is safe; a vector under a mask whose seed is unknown is indistinguishable from a
  uniform one while AES-256 is a pseudorandom permutation (at most 2**64 blocks a seed).
* Seeds of 256 bits, unlike the 32 bits that Flower's `secaggplus` folds its shared secrets to.
* `pair_seed` is symmetric: both ends of an X25519 agreement (RFC 7748) get the same seed from HKDF
  (RFC 5869) with the session and both names in its context.

Adding and taking away modulo the ring is exact, so masks cancel to the last bit.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit.errors import MalformedInput

SEED_BYTES: Final = 32

Vector = npt.NDArray[np.unsignedinteger[Any]]
"""One dimension of little-endian `uint32` or `uint64`: elements of the ring modulo 2**32, 2**64."""

_CHUNK_BYTES: Final = 1 << 20
"""Keystream made at a time: memory stays flat however long the vector is."""


def add_mask(vector: Vector, seed: bytes, *, subtract: bool = False) -> None:
    """Add a seed's mask to a vector in place.

    Args:
        vector: Of the ring.
        seed: 32 bytes, used for no other vector.
        subtract: Take the mask away instead.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(_CHUNK_BYTES)
    buffer = bytearray(_CHUNK_BYTES + 15)
    words = _CHUNK_BYTES // vector.itemsize
    for start in range(0, len(vector), words):
        part = vector[start : start + words]
        made = stream.update_into(zeros[: part.nbytes], buffer)
        mask = np.frombuffer(buffer, dtype=vector.dtype, count=made // vector.itemsize)
        if subtract:
            np.subtract(part, mask, out=part)
        else:
            np.add(part, mask, out=part)


def pair_seed(own: X25519PrivateKey, other: bytes, context: bytes) -> bytes:
    """The seed that two sites share.

    Args:
        own: One's own private key.
        other: The other's public key, 32 bytes.
        context: What the seed is for: session and both names, the same at both ends.

    Raises:
        MalformedInput: When the other key is none (a point of small order included).
    """
    try:
        agreed = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise MalformedInput("malformed X25519 key") from error
    return HKDF(hashes.SHA256(), SEED_BYTES, salt=None, info=context).derive(agreed)
