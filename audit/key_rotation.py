"""A new key-encryption key for a keyring, without ever losing a key, and the end of the old one.

1. Under the write lock, in one transaction: the manager makes a new version, which wraps from now
   on; all others are listed as retiring; rotations are counted.
2. Each key under a retiring version is wrapped anew, in batches. A service rewraps inside itself.
3. When nothing is wrapped with them any more, the retiring versions are destroyed.

**Why nothing is lost.** A wrapped key is stored only if the count of rotations is what it was
before the key was wrapped, checked in the transaction that stores it. So after step 1 no key under
an old version can appear any more, in whatever process, and step 2 comes to an end with none left.

**Why a crash does no harm.** Old versions live until step 3, and each key says which version opens
it. Whatever was left is done by the next rotation. Step 3 alone is beyond undoing, and everything
that it needs is durable by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from audit.errors import Conflict, VerificationFailed
from audit.key_manager import KeyringUnavailable, WrappedKey
from audit.key_managers import KeyManagers, ManagerSettings
from audit.keyring_file import KeyringFile, KeyRow, key_context

Progress = Callable[[int, int], None]
"""Told the number of keys done, and of all."""

_BATCH: Final = 256
"""Keys in one transaction: its few milliseconds are what a destruction waits for."""


def renew_wrapping(
    file: KeyringFile,
    managers: KeyManagers,
    settings: ManagerSettings | None,
    progress: Progress,
) -> int:
    """Wrap every key anew under a new version, perhaps of another manager; destroy the old ones.

    Args:
        file: The stored keys.
        managers: The managers of the same folder.
        settings: Another manager to wrap from now on, or None.
        progress: Called now and then.

    Returns:
        The number of keys that were wrapped anew.

    Raises:
        KeyringUnavailable: When a manager fails.
        VerificationFailed: When a stored key was changed.
        Conflict: When another rotation began meanwhile.
    """
    with file.transaction():
        file.begin_rotation(managers.rotate(settings))
        rotations = file.rotations()
        retiring = file.retiring()
    done = _rewrap(file, managers, retiring, rotations, progress)
    _destroy_retired(file, managers, retiring, rotations)
    return done


def _rewrap(
    file: KeyringFile,
    managers: KeyManagers,
    retiring: tuple[str, ...],
    rotations: int,
    progress: Progress,
) -> int:
    under = file.versions()
    total = sum(under.get(version, 0) for version in retiring)
    done, last = 0, ("", "")
    progress(done, total)
    while rows := file.keys_under(retiring, last, _BATCH):
        # Outside of any lock, because a service may take its time.
        try:
            renewed = [(row, _rewrapped(managers, row)) for row in rows]
        except KeyringUnavailable as error:
            if file.rotations() == rotations:
                raise
            raise _other_rotation() from error  # which destroyed what was to be rewrapped here
        if not file.replace(renewed, rotations):
            raise _other_rotation()
        done += len(rows)
        last = (rows[-1].kind, rows[-1].name)
        progress(done, total)
    return done


def _rewrapped(managers: KeyManagers, row: KeyRow) -> WrappedKey:
    try:
        return managers.rewrap(row.wrapped, key_context(row.kind, row.name))
    except VerificationFailed as error:
        raise VerificationFailed(
            f"the stored {row.kind} key {row.name} was changed: {error}",
            fix="restore the keyring from a backup, or destroy that key; then rotate again",
        ) from error


def _other_rotation() -> Conflict:
    return Conflict("another rotation of this keyring began", fix="let it end, or rotate again")


def _destroy_retired(
    file: KeyringFile, managers: KeyManagers, retiring: tuple[str, ...], rotations: int
) -> None:
    retired = [version for version in retiring if version not in file.versions()]
    for version in retired:
        managers.destroy(version)
    with file.transaction():
        if file.rotations() == rotations:
            file.end_retirement(retired)
    # A transaction of its own: a manager must not be forgotten while a version of it may still be
    # listed as retiring, whatever becomes of the commit above.
    with file.transaction():
        if file.rotations() == rotations:
            managers.forget_unused({*file.retiring(), file.wrapping_key(), *file.versions()})
