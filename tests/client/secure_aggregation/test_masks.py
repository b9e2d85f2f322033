"""Masks are the keystream of AES-256, exact, and the same at both ends."""

from __future__ import annotations

import numpy as np
import pytest
from Crypto.Cipher import AES
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.errors import MalformedInput
from client.secure_aggregation.masks import add_mask, pair_seed

SEED = bytes(range(32))


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("length", [0, 1, 3, 4, 262_143, 262_144, 262_145, 600_001])
def test_a_mask_is_another_implementation_s_keystream(dtype: str, length: int) -> None:
    vector = np.zeros(length, dtype)
    add_mask(vector, SEED)
    cipher = AES.new(SEED, AES.MODE_CTR, nonce=b"", initial_value=0)
    assert vector.tobytes() == cipher.encrypt(bytes(vector.nbytes))


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_what_was_added_is_taken_away_to_the_last_bit(dtype: str) -> None:
    generator = np.random.default_rng(1)
    vector = generator.integers(0, np.iinfo(dtype).max, 300_000, dtype=dtype, endpoint=True)
    masked = vector.copy()
    add_mask(masked, SEED)
    assert (masked != vector).mean() > 0.999
    add_mask(masked, SEED, subtract=True)
    assert (masked == vector).all()


def test_both_ends_have_the_same_seed_and_other_contexts_another() -> None:
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = [key.public_key().public_bytes_raw() for key in (one, other)]
    seed = pair_seed(one, public[1], b"context")
    assert seed == pair_seed(other, public[0], b"context")
    assert seed != pair_seed(other, public[0], b"another")
    assert len(seed) == 32


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), bytes(31)])
def test_a_key_that_would_give_a_known_seed_is_refused(key: bytes) -> None:
    """Points of small order agree on zero with everybody (RFC 7748 section 6.1)."""
    with pytest.raises(MalformedInput, match="malformed X25519 key"):
        pair_seed(X25519PrivateKey.generate(), key, b"")


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        add_mask(np.zeros(1, "<u4"), bytes(16))
