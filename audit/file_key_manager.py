"""The default key manager: each version of the key-encryption key is a file beside the keyring.

* `kek-VERSION-RANDOM.key`, 32 random bytes, mode 0600. The highest version wraps. The random part
  keeps a version of a restored backup apart from one that was made since.
* `kek-RANDOM.key`, without a version, is the oldest: keyrings of format 1 have one.
* A version exists durably before anything is wrapped with it.
* Wrapped keys are nonce, ciphertext and tag of AES-256-GCM, the context as associated data.

Whoever copies the whole folder has the key-encryption key too: see docs/key-management.md.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

from audit.durable import remove_durably, write_durably
from audit.envelope import KEY_BYTES, NONCE_BYTES, Envelope, seal, unseal
from audit.errors import VerificationFailed
from audit.key_manager import KeyringUnavailable, WrappedKey

FILE_KEY_PREFIX: Final = "kek-"

_FILE: Final = re.compile(r"kek-(?:(\d{6,})-)?[0-9a-f]{16}\.key", re.ASCII)
_READ_ATTEMPTS: Final = 5


class FileKeyManager:
    """A key-encryption key in files of one folder; a `key_id` is a file's name.

    Safe under threads and processes, except that two processes must not `rotate` at once: the
    keyring calls it under its write lock.
    """

    def __init__(self, directory: Path) -> None:
        """A manager over a folder, which may hold no version yet.

        Args:
            directory: The keyring's folder.
        """
        self._directory = directory
        self._keys: dict[str, bytes] = {}

    def generate_data_key(self, context: bytes) -> tuple[bytes, WrappedKey]:
        """See `KeyManager`."""
        key = secrets.token_bytes(KEY_BYTES)
        return key, self.wrap(key, context)

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        """See `KeyManager`."""
        for _ in range(_READ_ATTEMPTS):
            versions = self.versions()
            if not versions:
                break
            try:
                envelope = seal(self._read(versions[-1]), key, context)
            except FileNotFoundError:
                continue  # another process rotated and destroyed between the two reads
            return WrappedKey(versions[-1], envelope.nonce + envelope.ciphertext)
        raise KeyringUnavailable(
            f"{self._directory} holds no key-encryption key",
            fix="restore the folder from a backup",
        )

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """See `KeyManager`."""
        try:
            key = self._read(wrapped.key_id)
        except FileNotFoundError as error:
            raise KeyringUnavailable(
                f"the key-encryption key {wrapped.key_id} of {self._directory} is missing",
                fix="restore the folder from a backup; without that file no key can be unwrapped",
            ) from error
        if len(wrapped.data) < NONCE_BYTES:
            raise VerificationFailed("wrapped key does not open: it was cut off")
        envelope = Envelope(wrapped.data[:NONCE_BYTES], wrapped.data[NONCE_BYTES:])
        return unseal(key, envelope, context)

    def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:
        """See `KeyManager`."""
        return self.wrap(self.unwrap(wrapped, context), context)

    def rotate(self) -> str:
        """See `KeyManager`."""
        versions = self.versions()
        number = _version_number(versions[-1]) + 1 if versions else 1
        key_id = f"{FILE_KEY_PREFIX}{number:06d}-{secrets.token_hex(8)}.key"
        key = secrets.token_bytes(KEY_BYTES)
        write_durably(self._directory / key_id, key, replace=False)
        return key_id

    def destroy(self, key_id: str) -> None:
        """See `KeyManager`; removes older versions too."""
        for version in self.versions():
            if _order(version) <= _order(key_id):
                self._keys.pop(version, None)
                remove_durably(self._directory / version)

    def versions(self) -> list[str]:
        """Versions on disk, oldest first."""
        names = [path.name for path in self._directory.glob(f"{FILE_KEY_PREFIX}*.key")]
        found = sorted((name for name in names if _FILE.fullmatch(name)), key=_order)
        for forgotten in tuple(self._keys):
            if forgotten not in found:  # destroyed by another process
                self._keys.pop(forgotten, None)
        return found

    def close(self) -> None:
        """See `KeyManager`."""
        self._keys.clear()

    def _read(self, key_id: str) -> bytes:
        key = self._keys.get(key_id)
        if key is None:
            if not _FILE.fullmatch(key_id):
                raise FileNotFoundError(key_id)
            try:
                key = (self._directory / key_id).read_bytes()
            except PermissionError as error:
                raise KeyringUnavailable(
                    f"{self._directory / key_id} cannot be read",
                    fix="run as the user who owns the folder",
                ) from error
            if len(key) != KEY_BYTES:
                raise KeyringUnavailable(
                    f"{self._directory / key_id} has {len(key)} bytes, expected {KEY_BYTES}",
                    fix="restore the folder from a backup",
                )
            self._keys[key_id] = key
        return key


def _version_number(key_id: str) -> int:
    match = _FILE.fullmatch(key_id)
    return int(match.group(1) or 0) if match else 0


def _order(key_id: str) -> tuple[int, str]:
    return _version_number(key_id), key_id
