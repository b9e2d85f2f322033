"""What a log asks of a keyring, and what a keyring asks of a key-management service.

* `KeyManager`: named data keys that can be destroyed. `audit.keyring.FileKeyring` is the default.
* `KeyWrapper`: a key-encryption key, the extension point for HashiCorp Vault transit, PKCS #11 or a
  cloud KMS. `LocalWrapper` is the default: a key in a file beside the keyring.
"""

from __future__ import annotations

from typing import Protocol

from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import NotFound


class KeyDestroyed(NotFound):
    """The key was destroyed on purpose; what it sealed can never be read again."""

    code = "key-destroyed"


class KeyManager(Protocol):
    """Named data keys, as the log uses them."""

    def generate_data_key(self, name: str) -> bytes:
        """The key of that name, made durably if there was none.

        Raises:
            KeyDestroyed: When it was destroyed.
        """
        ...

    def data_key(self, name: str) -> bytes:
        """The key of that name.

        Raises:
            KeyDestroyed: When it was destroyed.
            NotFound: When there never was one.
        """
        ...

    def destroy(self, name: str) -> bool:
        """Destroy a key durably and for ever. True when there was a key, False otherwise."""
        ...

    def rotate(self) -> int:
        """Replace the key-encryption key; the number of keys that were wrapped anew."""
        ...


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
