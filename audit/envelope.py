"""Authenticated encryption of small payloads: AES-256-GCM with associated data.

**Formal guarantees** (NIST SP 800-38D): without the key a payload is unreadable and any change to
nonce, ciphertext or associated data is detected. Nonces are 96 random bits, so a key may seal at
most 2**32 payloads; a data key belongs to one subject, or to one action in one month, and stays far
below that. The length of the plaintext is not hidden.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.errors import MalformedInput, VerificationFailed

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


@dataclass(frozen=True)
class Envelope:
    """A sealed payload.

    Attributes:
        nonce: 12 bytes.
        ciphertext: As long as the plaintext, and the 16-byte tag.
    """

    nonce: bytes
    ciphertext: bytes


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> Envelope:
    """Encrypt `plaintext` and bind it to `associated_data`.

    Args:
        key: 32 bytes.
        plaintext: Any bytes.
        associated_data: What the envelope belongs to; needed again, unchanged, to open it.

    Raises:
        MalformedInput: When the key does not have 32 bytes.
    """
    nonce = os.urandom(NONCE_BYTES)
    return Envelope(nonce, make_cipher(key).encrypt(nonce, plaintext, associated_data))


def unseal(key: bytes, envelope: Envelope, associated_data: bytes) -> bytes:
    """Decrypt an envelope.

    Raises:
        VerificationFailed: When key, nonce, ciphertext or associated data is not the one it was
            sealed with.
        MalformedInput: When key or nonce have another length.
    """
    if len(envelope.nonce) != NONCE_BYTES:
        raise MalformedInput(f"malformed envelope: nonce of {len(envelope.nonce)} bytes")
    try:
        return make_cipher(key).decrypt(envelope.nonce, envelope.ciphertext, associated_data)
    except InvalidTag as error:
        raise VerificationFailed(
            "envelope does not open: its ciphertext, its place or its key was changed"
        ) from error


def make_cipher(key: bytes) -> AESGCM:
    """The cipher of a key, for whoever seals many payloads under it.

    Raises:
        MalformedInput: When the key does not have 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise MalformedInput(f"malformed key: expected {KEY_BYTES} bytes, got {len(key)}")
    return AESGCM(key)
