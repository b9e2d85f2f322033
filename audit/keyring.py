"""Data keys that can be destroyed: each wrapped by a key-encryption key.

* A data key (32 random bytes) seals what the log says of one subject, or of one action in one
  month. It is stored only wrapped, by the key manager that the folder names (`audit.key_managers`):
  a file in the same folder by default, or HashiCorp Vault.
* `destroy` is durable when it returns and leaves a tombstone: the name can never get a key again,
  so nothing is sealed later under a key that somebody believes gone. It asks no key manager.
* A key is durable before `generate_data_key` returns: no payload outlives its key by a crash.
* `secret` holds named 32-byte HMAC secrets (pseudonyms, surrogates) in the same way.
* `rotate` and `move` wrap every key anew and then destroy the old key-encryption key. The log is
  not touched, services may run, and a crash at any point leaves every key readable.

**What destroying guarantees.** When `destroy` returns, no file of the keyring holds the wrapped
key. Copies that were made before (backups of the keyring, snapshots, free disk blocks) still hold
it, wrapped; `rotate` replaces the key-encryption key and destroys the old one, which makes such
copies useless. Copies that hold the old key-encryption key too are beyond reach: with a file in the
same folder that is each copy of the whole folder, with Vault none (docs/key-management.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.durable import private_temporary, publish_durably, sync_directory
from audit.errors import Conflict, MalformedInput, NotFound
from audit.key_cache import KeyCache
from audit.key_manager import KeyDestroyed, KeyringUnavailable, WrappedKey
from audit.key_managers import KeyManagers, ManagerSettings
from audit.key_rotation import Progress, renew_wrapping
from audit.keyring_file import DATABASE, KeyringFile, KeyRow, key_context

MAX_KEY_NAME_LENGTH: Final = 300

_ATTEMPTS: Final = 5
_NAME: Final = re.compile(r"[!-~]+", re.ASCII)


@dataclass(frozen=True)
class KeyringStatus:
    """What a keyring holds.

    Attributes:
        managers: The key manager that wraps, then those whose keys a move has not reached yet.
        versions: Number of keys under each version of the key-encryption key.
        destroyed: Number of names whose key was destroyed.
        retiring: Versions that a rotation which did not end has yet to destroy.
    """

    managers: tuple[ManagerSettings, ...]
    versions: dict[str, int]
    destroyed: int
    retiring: tuple[str, ...]


class Keyring:
    """A keyring in one directory: `keyring.sqlite` and what `audit.key_managers` keeps beside it.

    Safe under threads and processes. The row is read at each use, so a key that another process
    destroyed is gone here at once; only the unwrapping is remembered (`audit.key_cache`).
    """

    def __init__(self, directory: Path, file: KeyringFile) -> None:
        """Use `create` or `open`."""
        self._directory = directory
        self._file = file
        self._managers = KeyManagers(directory)
        self._cache = KeyCache()

    @classmethod
    def create(cls, directory: Path) -> Keyring:
        """Make a new, empty keyring, whose key-encryption key is a file.

        Args:
            directory: Made with mode 0700 if it does not exist.

        Raises:
            Conflict: When it holds a keyring already.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / DATABASE
        exists = Conflict(f"{directory} holds a keyring already", fix="choose an empty folder")
        if path.exists():
            raise exists
        temporary = private_temporary(path)
        try:
            with cls(directory, KeyringFile(temporary)) as keyring:
                keyring._file.create_tables(keyring._managers.rotate())
            publish_durably(temporary, path)
        except FileExistsError as error:
            raise exists from error
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(directory.parent)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> Keyring:
        """Open a keyring, of an earlier format too. Contacts no service.

        Raises:
            NotFound: When there is none.
            MalformedInput: When the file is something else.
        """
        path = directory / DATABASE
        if not path.is_file():
            raise NotFound(f"no keyring in {directory}", fix="check the path")
        file = KeyringFile(path)
        try:
            file.check_format()
        except BaseException:
            file.close()
            raise
        return cls(directory, file)

    def close(self) -> None:
        """Release the file; forget all keys."""
        self._cache.clear()
        self._managers.close()
        self._file.close()

    def __enter__(self) -> Keyring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate_data_key(self, name: str) -> bytes:
        """The data key `name`, made durably if there was none.

        Raises:
            KeyDestroyed: When it was destroyed: a name never gets a second key.
            KeyringUnavailable: When the key manager or the file cannot be used.
        """
        return self._get_or_make("data", name)

    def make_data_keys(self, names: Collection[str]) -> None:
        """Make those of the data keys that there never were, durably, in one write to the disk.

        Raises:
            KeyringUnavailable: When the key manager or the file cannot be used; none was made.
        """
        self._make("data", [_check_name(name) for name in names])

    def data_key(self, name: str) -> bytes:
        """The data key `name`.

        Raises:
            KeyDestroyed: When it was destroyed.
            NotFound: When there never was one.
            KeyringUnavailable: When the key manager or the file cannot be used.
            VerificationFailed: When the stored key was changed or exchanged.
        """
        return self._get("data", _check_name(name))

    def secret(self, name: str) -> bytes:
        """The 32-byte HMAC secret `name`, made durably at first use.

        Raises:
            KeyDestroyed: When it was destroyed.
            KeyringUnavailable: When the key manager or the file cannot be used.
        """
        return self._get_or_make("secret", name)

    def destroy(self, name: str) -> bool:
        """Destroy the data key `name`, durably and for ever; see the module's guarantee.

        A name that never had a key gets a tombstone too: it cannot get one later.

        Returns:
            True when there was a key.
        """
        return self._destroy("data", name)

    def destroy_secret(self, name: str) -> bool:
        """Destroy the HMAC secret `name`: pseudonyms made with it can never be linked again."""
        return self._destroy("secret", name)

    def names(self) -> Iterator[str]:
        """Names of the data keys that exist, in order."""
        return iter(self._file.names("data"))

    def status(self) -> KeyringStatus:
        """What there is. Contacts no service."""
        file = self._file
        return KeyringStatus(
            self._managers.settings, file.versions(), file.destroyed(), file.retiring()
        )

    def rotate(self, progress: Progress | None = None) -> int:
        """Wrap every key anew under a new key-encryption key, and destroy the old one.

        Also ends a rotation or a move that was interrupted.

        Args:
            progress: Told the number of keys done and of all, now and then.

        Returns:
            The number of keys.

        Raises:
            KeyringUnavailable: When the key manager fails. Every key stays readable; rotate again.
            VerificationFailed: When a stored key was changed; it is named, and nothing destroyed.
            Conflict: When another rotation began meanwhile, which does all that this one would.
        """
        return renew_wrapping(self._file, self._managers, None, progress or _silent)

    def move(self, settings: ManagerSettings, progress: Progress | None = None) -> int:
        """Wrap every key with another key manager, and destroy the old key-encryption key.

        Running services follow by themselves. Interrupted, it is ended by the same call, or by
        `rotate`; until then each key is unwrapped by the manager that wrapped it.

        Args:
            settings: The manager; it must be ready for use.
            progress: As for `rotate`.

        Returns:
            The number of keys.

        Raises:
            KeyringUnavailable: As `rotate`; when the new manager does not work, nothing changed.
            VerificationFailed: As `rotate`.
            Conflict: As `rotate`.
        """
        return renew_wrapping(self._file, self._managers, settings, progress or _silent)

    def _get(self, kind: str, name: str) -> bytes:
        failed: WrappedKey | None = None
        while True:
            drops = self._cache.drops
            row = self._file.row(kind, name)
            if row is None:
                raise NotFound(f"no {kind} key named {name}")
            if row.wrapped is None:
                self._cache.drop((kind, name))
                raise KeyDestroyed(
                    f"the {kind} key {name} was destroyed at {row.destroyed_at}; what it sealed"
                    " cannot be read again"
                )
            key = self._cache.get((kind, name), row.wrapped)
            if key is not None:
                return key
            try:
                key, seconds = self._managers.unwrap(row.wrapped, key_context(kind, name))
            except KeyringUnavailable:
                if row.wrapped == failed:
                    raise
                failed = row.wrapped  # perhaps another process rotated: look at the row once more
                continue
            self._cache.put((kind, name), row.wrapped, key, seconds, drops)
            return key

    def _get_or_make(self, kind: str, name: str) -> bytes:
        try:
            return self._get(kind, _check_name(name))
        except KeyDestroyed:
            raise
        except NotFound:
            self._make(kind, [name])
            return self._get(kind, name)  # the winner's, where two processes made one

    def _make(self, kind: str, names: Collection[str]) -> None:
        for _ in range(_ATTEMPTS):
            rotations = self._file.rotations()
            missing = [name for name in names if self._file.row(kind, name) is None]
            if not missing:
                return
            drops = self._cache.drops
            made = {
                name: self._managers.generate_data_key(key_context(kind, name)) for name in missing
            }
            rows = [KeyRow(kind, name, wrapped) for name, (_, wrapped, _) in made.items()]
            if self._file.store_new(rows, rotations):
                for name, (key, wrapped, seconds) in made.items():
                    # Served only if the row turns out to hold just these bytes.
                    self._cache.put((kind, name), wrapped, key, seconds, drops)
                return
        raise KeyringUnavailable(
            f"{self._directory} is rotated faster than a key can be made", fix="try again"
        )

    def _destroy(self, kind: str, name: str) -> bool:
        existed = self._file.destroy(kind, _check_name(name))
        self._cache.drop((kind, name))
        return existed


def _check_name(name: str) -> str:
    if len(name) > MAX_KEY_NAME_LENGTH or not _NAME.fullmatch(name):
        raise MalformedInput(
            f"malformed key name: expected 1 to {MAX_KEY_NAME_LENGTH} visible ASCII characters"
        )
    return name


def _silent(_done: int, _total: int) -> None:
    """No progress is shown."""
