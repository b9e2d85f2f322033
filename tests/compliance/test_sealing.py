"""Sealed data keys open for one release and one recipient, and for nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import MalformedInput, VerificationFailed
from compliance.sealing import open_data_key, seal_data_key
from tests.compliance.federation import DIGEST

KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER_DIGEST = "sha256:" + "1" * 64


@given(st.binary(min_size=32, max_size=32))
def test_what_was_sealed_opens(data_key: bytes) -> None:
    sealed = seal_data_key(data_key, PUBLIC, release_id=DIGEST, recipient="desk")
    assert len(sealed) == 80
    assert open_data_key(sealed, KEY, release_id=DIGEST, recipient="desk") == data_key


@pytest.mark.parametrize(
    ("key", "release_id", "recipient"),
    [
        (X25519PrivateKey.generate(), DIGEST, "desk"),
        (KEY, OTHER_DIGEST, "desk"),
        (KEY, DIGEST, "compliance"),
    ],
)
def test_it_opens_for_nothing_else(key: X25519PrivateKey, release_id: str, recipient: str) -> None:
    sealed = seal_data_key(bytes(32), PUBLIC, release_id=DIGEST, recipient="desk")
    with pytest.raises(VerificationFailed, match="does not open"):
        open_data_key(sealed, key, release_id=release_id, recipient=recipient)


@given(st.integers(0, 79), st.integers(1, 255))
def test_an_altered_octet_is_noticed(index: int, difference: int) -> None:
    sealed = bytearray(seal_data_key(bytes(32), PUBLIC, release_id=DIGEST, recipient="desk"))
    # The highest bit of an X25519 public key is ignored by definition (RFC 7748, section 5).
    if (index, difference) == (31, 128):
        return
    sealed[index] ^= difference
    with pytest.raises(VerificationFailed):
        open_data_key(bytes(sealed), KEY, release_id=DIGEST, recipient="desk")


@given(st.binary(max_size=200))
def test_noise_does_not_open(noise: bytes) -> None:
    with pytest.raises(VerificationFailed):
        open_data_key(noise, KEY, release_id=DIGEST, recipient="desk")


def test_keys_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(MalformedInput, match="32 bytes, not 16"):
        seal_data_key(bytes(16), PUBLIC, release_id=DIGEST, recipient="desk")
    for public in (b"", bytes(31), bytes(32)):
        with pytest.raises(MalformedInput, match="usable X25519"):
            seal_data_key(bytes(32), public, release_id=DIGEST, recipient="desk")
