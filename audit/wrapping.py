"""Key-encryption keys: what wraps the data keys of a keyring.

`KeyWrapper` is the extension point for a key-management service (HashiCorp Vault transit, PKCS #11,
a cloud KMS). `LocalWrapper` is the default: a key in a file beside the keyring.
"""

from __future__ import annotations

from typing import Protocol

from audit.envelope import NONCE_BYTES, Envelope, seal, unseal


class KeyWrapper(Protocol):
    """A key-encryption key, wherever it lives."""

    @property
    def identifier(self) -> str:
        """Names the key-encryption key and its version."""
        ...

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Encrypt `key`, bound to `context`."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt what `wrap` made for the same context.

        Raises:
            VerificationFailed: When wrapped key or context differ.
        """
        ...


class LocalWrapper:
    """A key-encryption key in memory, read from a 32-byte file with mode 0600."""

    def __init__(self, identifier: str, key: bytes) -> None:
        self._identifier = identifier
        self._key = key

    @property
    def identifier(self) -> str:
        """Name of the file that holds the key."""
        return self._identifier

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Nonce, ciphertext and tag of AES-256-GCM."""
        envelope = seal(self._key, key, context)
        return envelope.nonce + envelope.ciphertext

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key that `wrap` was given.

        Raises:
            VerificationFailed: When wrapped key or context differ.
        """
        envelope = Envelope(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:])
        return unseal(self._key, envelope, context)
