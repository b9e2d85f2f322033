"""What a log asks of a keyring, and what a keyring asks of whoever holds the key-encryption key.

* `DataKeys`: named data keys that can be destroyed; all that a log knows of a keyring.
* `KeyManager`: the key-encryption key, wherever it lives. The extension point for HashiCorp Vault
  transit, PKCS #11 or a cloud KMS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from audit.errors import FiduciaryError, NotFound


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
    """A data key that only a version of the key-encryption key opens.

    Attributes:
        key_id: Names that version, as `KeyManager.destroy` takes it.
        data: The wrapped key, as the manager made it.
    """

    key_id: str
    data: bytes


class KeyManager(Protocol):
    """The key-encryption key, in versions, wherever it lives."""

    def generate_data_key(self, context: bytes) -> tuple[bytes, WrappedKey]:
        """A new random data key of 32 bytes, and itself wrapped under the newest version."""
        ...

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        """Encrypt `key` under the newest version, bound to `context`."""
        ...

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """Decrypt what was wrapped for the same context.

        Raises:
            VerificationFailed: When wrapped key or context differ.
            KeyringUnavailable: When the version is gone, or the manager cannot be used.
        """
        ...

    def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """The same data key under the newest version.

        In a key-management service the data key does not leave it.

        Raises:
            VerificationFailed: When the wrapped key differs.
            KeyringUnavailable: When the version is gone, or the manager cannot be used.
        """
        ...

    def rotate(self) -> str:
        """Make a new version, which wraps from now on; its key_id."""
        ...

    def destroy(self, key_id: str) -> None:
        """Destroy a version that nothing is wrapped with any more.

        Makes older copies of keys that it wrapped useless. No error when it is gone already.
        """
        ...
