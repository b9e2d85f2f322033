"""What a log asks of a keyring, and what a keyring asks of whoever holds the key-encryption key.

* `DataKeys`: named data keys that can be destroyed; all that a log knows of a keyring.
* `KeyManager`: the key-encryption key, wherever it lives: a file beside the keyring (default),
  HashiCorp Vault transit, or, as the extension point, PKCS #11 or a cloud KMS.
* A wrapped key is bound to its context, so that two of them cannot be exchanged. `bind` and
  `unbind` do so in a way that survives a rewrap inside a service, which knows no context.

How to write and install a manager: docs/key-management.md. Decision record:
docs/adr/0010-key-management.md.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Protocol

from audit.envelope import KEY_BYTES
from audit.errors import FiduciaryError, NotFound, VerificationFailed


class KeyDestroyed(NotFound):
    """The key was destroyed on purpose; what it sealed can never be read again."""

    code = "key-destroyed"


class KeyringUnavailable(FiduciaryError):
    """The keyring's files, or the service that holds its key-encryption key, cannot be used."""

    code = "keyring-unavailable"


class DataKeys(Protocol):
    """Named data keys, as the log uses them. `audit.keyring.Keyring` is one."""

    def generate_data_key(self, name: str) -> bytes:
        """The key of that name, made durably if there was none.

        Raises:
            KeyDestroyed: When it was destroyed.
            KeyringUnavailable: When keys cannot be read or written now; nothing may be appended.
        """
        ...

    def data_key(self, name: str) -> bytes:
        """The key of that name.

        Raises:
            KeyDestroyed: When it was destroyed.
            NotFound: When there never was one.
            KeyringUnavailable: When keys cannot be read now.
        """
        ...

    def destroy(self, name: str) -> bool:
        """Destroy a key durably and for ever. True when there was a key, False otherwise."""
        ...


@dataclass(frozen=True)
class WrappedKey:
    """A data key that only one version of the key-encryption key opens.

    Attributes:
        key_id: Names that version, as `KeyManager.destroy` takes it; at most 200 characters.
        data: The wrapped key, as the manager made it.
    """

    key_id: str
    data: bytes


class KeyManager(Protocol):
    """The key-encryption key, in versions that follow each other, wherever it lives.

    Safe under threads. Every method but `unwrap` of a changed key raises `KeyringUnavailable`, with
    a fix, when the manager cannot do what it should: then nothing is appended to the log.
    """

    def generate_data_key(self, context: bytes) -> tuple[bytes, WrappedKey]:
        """A new random data key of 32 bytes, and itself wrapped under the newest version."""
        ...

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        """Encrypt `key`, 32 bytes, under the newest version, bound to `context`."""
        ...

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """Decrypt what was wrapped for the same context.

        Raises:
            VerificationFailed: When the wrapped key was changed, or is of another context.
            KeyringUnavailable: When its version was destroyed, or the manager cannot be used.
        """
        ...

    def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """The same data key, for the same context, under the newest version.

        Inside a key-management service, where it has such an operation: the data key does not
        leave it, and the context is then checked at the next `unwrap` only.

        Raises:
            VerificationFailed: When the wrapped key was changed.
            KeyringUnavailable: When its version was destroyed, or the manager cannot be used.
        """
        ...

    def rotate(self) -> str:
        """Make a new version durably, which wraps from now on; its `key_id`."""
        ...

    def destroy(self, key_id: str) -> None:
        """Destroy a version, durably and for ever: every older copy of keys under it is useless.

        Called only when nothing is wrapped with that version or an older one any more, so a manager
        may destroy the older ones too. The newest version may be destroyed when the keyring left
        this manager. No error when the version is gone already.
        """
        ...

    def close(self) -> None:
        """Forget keys and close connections."""
        ...


def bind(key: bytes, context: bytes) -> bytes:
    """What a service without associated data encrypts: SHA-256 of the context, then the key."""
    return hashlib.sha256(context).digest() + key


def unbind(plaintext: bytes, context: bytes) -> bytes:
    """The key that `bind` was given.

    Raises:
        VerificationFailed: When it was bound to another context.
    """
    digest, key = plaintext[: hashlib.sha256().digest_size], plaintext[-KEY_BYTES:]
    if len(plaintext) != hashlib.sha256().digest_size + KEY_BYTES or not hmac.compare_digest(
        digest, hashlib.sha256(context).digest()
    ):
        raise VerificationFailed("wrapped key is of another name: two were exchanged, or changed")
    return key
