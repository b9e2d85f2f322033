"""Data keys that can be destroyed: each wrapped by a key-encryption key.

* A data key (32 random bytes) seals what the log says of one subject, or of one action in one
  month. It is stored only wrapped (AES-256-GCM under the key-encryption key, bound to its name).
* `destroy` is durable when it returns and leaves a tombstone: the name can never get a key again,
  so nothing is sealed later under a key that somebody believes gone.
* A key is durable before `generate_data_key` returns: no payload outlives its key by a crash.
* `secret` holds named 32-byte HMAC secrets (pseudonyms, surrogates) in the same way.
* `audit.key_manager` says what the log needs of a keyring.

**What destroying guarantees.** When `destroy` returns, no file of the keyring holds the wrapped key
(SQLite's secure delete overwrites it and the rollback journal is gone). Copies that were made
before (backups of the keyring, snapshots, free disk blocks) still hold it, wrapped; `rotate`
replaces the key-encryption key and removes the old one, which makes such copies useless.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from audit.canonical import canonical_bytes
from audit.durable import (
    private_temporary,
    publish_durably,
    remove_durably,
    sync_directory,
    write_durably,
)
from audit.envelope import KEY_BYTES, NONCE_BYTES, Envelope, seal, unseal
from audit.errors import Conflict, MalformedInput, NotFound
from audit.key_manager import KeyDestroyed, KeyringUnavailable

__all__ = ["KeyDestroyed", "Keyring", "KeyringUnavailable"]

MAX_KEY_NAME_LENGTH: Final = 300

_DATABASE: Final = "keyring.sqlite"
_FORMAT: Final = "fiduciary.keyring/1"
_BUSY_TIMEOUT_SECONDS: Final = 30.0
_READ_ATTEMPTS: Final = 5
_NAME: Final = re.compile(r"[!-~]+", re.ASCII)
_SCHEMA: Final = """
CREATE TABLE keyring_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE keyring_keys (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    wrapped BLOB,
    wrapping_key TEXT,
    created_at TEXT NOT NULL,
    destroyed_at TEXT,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
"""


class Keyring:
    """A keyring in one directory: `keyring.sqlite` and the key-encryption key, all 0600.

    Safe under threads and processes. Keys are read from the file at each use, so a key that another
    process destroyed is gone here too.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        """Use `create` or `open`."""
        self._directory = directory
        self._connection = connection
        self._lock = threading.RLock()
        self._wrappers: dict[str, LocalWrapper] = {}

    @classmethod
    def create(cls, directory: Path) -> Keyring:
        """Make a new, empty keyring.

        Args:
            directory: Made with mode 0700 if it does not exist.

        Raises:
            Conflict: When it holds a keyring already.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / _DATABASE
        temporary = private_temporary(path)
        try:
            with cls(directory, _connect(temporary)) as keyring, keyring._transaction():
                for statement in _SCHEMA.split(";"):
                    keyring._connection.execute(statement)
                keyring._set_meta("format", _FORMAT)
                keyring._set_meta("wrapping_key", keyring._new_wrapper().identifier)
            publish_durably(temporary, path)
        except FileExistsError as error:
            raise Conflict(
                f"{directory} holds a keyring already", fix="choose an empty folder"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(directory.parent)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> Keyring:
        """Open a keyring.

        Raises:
            NotFound: When there is none.
            MalformedInput: When the file is something else.
        """
        path = directory / _DATABASE
        if not path.is_file():
            raise NotFound(f"no keyring in {directory}")
        try:
            connection = _connect(path)
        except sqlite3.Error as error:
            raise MalformedInput(f"{path} is not a keyring: {error}") from error
        try:
            row = connection.execute(
                "SELECT value FROM keyring_meta WHERE name = 'format'"
            ).fetchone()
        except sqlite3.Error:
            row = None
        if row is None or row[0] != _FORMAT:
            connection.close()
            raise MalformedInput(f"{path} is not a keyring of format {_FORMAT}")
        keyring = cls(directory, connection)
        keyring._remove_retired_wrappers()
        return keyring

    def close(self) -> None:
        """Release the file; forget the key-encryption key."""
        with self._lock:
            self._wrappers.clear()
            self._connection.close()

    def __enter__(self) -> Keyring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate_data_key(self, name: str) -> bytes:
        """The data key `name`, made durably if there was none.

        Raises:
            KeyDestroyed: When it was destroyed: a name never gets a second key.
        """
        return self._get_or_make("data", name)

    def data_key(self, name: str) -> bytes:
        """The data key `name`.

        Raises:
            KeyDestroyed: When it was destroyed.
            NotFound: When there never was one.
        """
        return self._get("data", _check_name(name))

    def secret(self, name: str) -> bytes:
        """The 32-byte HMAC secret `name`, made durably at first use.

        Raises:
            KeyDestroyed: When it was destroyed.
        """
        return self._get_or_make("secret", name)

    def destroy(self, name: str) -> bool:
        """Destroy the data key `name`, durably and for ever; see the module's guarantee.

        A name that never had a key gets a tombstone too: it cannot get one later.

        Returns:
            True when there was a key.
        """
        return self._destroy("data", _check_name(name))

    def destroy_secret(self, name: str) -> bool:
        """Destroy the HMAC secret `name`: pseudonyms made with it can never be linked again."""
        return self._destroy("secret", _check_name(name))

    def names(self) -> Iterator[str]:
        """Names of the data keys that exist, in order."""
        with self._lock, _translated():
            rows = self._connection.execute(
                "SELECT name FROM keyring_keys WHERE kind = 'data' AND wrapped IS NOT NULL"
                " ORDER BY name"
            ).fetchall()
        return iter([row[0] for row in rows])

    def rotate(self) -> int:
        """Wrap every key anew under a new key-encryption key and remove the old one.

        The log is not touched. A crash at any point leaves every key readable.

        Returns:
            The number of keys.
        """
        with self._transaction():
            new = self._new_wrapper()
            rows = self._connection.execute(
                "SELECT kind, name, wrapped, wrapping_key FROM keyring_keys"
                " WHERE wrapped IS NOT NULL"
            ).fetchall()
            for kind, name, wrapped, old in rows:
                key = self._wrapper(old).unwrap(wrapped, _context(kind, name))
                self._connection.execute(
                    "UPDATE keyring_keys SET wrapped = ?, wrapping_key = ?"
                    " WHERE kind = ? AND name = ?",
                    (new.wrap(key, _context(kind, name)), new.identifier, kind, name),
                )
            self._set_meta("wrapping_key", new.identifier)
        self._remove_retired_wrappers()
        return len(rows)

    def _get(self, kind: str, name: str) -> bytes:
        for _ in range(_READ_ATTEMPTS):
            with self._lock, _translated():
                row = self._connection.execute(
                    "SELECT wrapped, wrapping_key, destroyed_at FROM keyring_keys"
                    " WHERE kind = ? AND name = ?",
                    (kind, name),
                ).fetchone()
            if row is None:
                raise NotFound(f"no {kind} key named {name}")
            wrapped, identifier, destroyed_at = row
            if wrapped is None:
                raise KeyDestroyed(
                    f"the {kind} key {name} was destroyed at {destroyed_at}; what it sealed cannot"
                    " be read again"
                )
            try:
                wrapper = self._wrapper(identifier)
            except FileNotFoundError:
                continue  # another process rotated between the two reads
            return wrapper.unwrap(wrapped, _context(kind, name))
        raise KeyringUnavailable(
            f"the key-encryption key {identifier} of {self._directory} is missing",
            fix="restore the folder from a backup; without that file no key can be unwrapped",
        )

    def _get_or_make(self, kind: str, name: str) -> bytes:
        _check_name(name)
        try:
            return self._get(kind, name)
        except KeyDestroyed:
            raise
        except NotFound:
            key = secrets.token_bytes(KEY_BYTES)
        with self._transaction():
            wrapper = self._wrapper(self._meta("wrapping_key"))
            self._connection.execute(
                "INSERT OR IGNORE INTO keyring_keys (kind, name, wrapped, wrapping_key, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (kind, name, wrapper.wrap(key, _context(kind, name)), wrapper.identifier, _now()),
            )
        return self._get(kind, name)  # the winner's, where two processes made one

    def _destroy(self, kind: str, name: str) -> bool:
        with self._transaction():
            existing = self._connection.execute(
                "SELECT wrapped IS NOT NULL FROM keyring_keys WHERE kind = ? AND name = ?",
                (kind, name),
            ).fetchone()
            self._connection.execute(
                "INSERT INTO keyring_keys (kind, name, created_at, destroyed_at)"
                " VALUES (?, ?, ?, ?) ON CONFLICT (kind, name) DO UPDATE SET"
                " wrapped = NULL, wrapping_key = NULL,"
                " destroyed_at = coalesce(destroyed_at, excluded.destroyed_at)",
                (kind, name, _now(), _now()),
            )
        return bool(existing and existing[0])

    def _wrapper(self, identifier: str) -> LocalWrapper:
        with self._lock:
            if identifier not in self._wrappers:
                key = (self._directory / identifier).read_bytes()
                self._wrappers[identifier] = LocalWrapper(identifier, key)
            return self._wrappers[identifier]

    def _new_wrapper(self) -> LocalWrapper:
        """A new key-encryption key on disk. Call it inside a transaction, see below."""
        identifier = f"kek-{secrets.token_hex(8)}.key"
        key = secrets.token_bytes(KEY_BYTES)
        write_durably(self._directory / identifier, key, replace=False)
        self._wrappers[identifier] = LocalWrapper(identifier, key)
        return self._wrappers[identifier]

    def _remove_retired_wrappers(self) -> None:
        """Remove key-encryption keys that nothing is wrapped with.

        Done under the write lock, as is making one: a key that another process has just written and
        not committed yet would look retired.
        """
        if len(list(self._directory.glob("kek-*.key"))) < 2:
            return
        with self._transaction():
            used = {self._meta("wrapping_key")} | {
                row[0]
                for row in self._connection.execute(
                    "SELECT DISTINCT wrapping_key FROM keyring_keys WHERE wrapped IS NOT NULL"
                )
            }
            for path in self._directory.glob("kek-*.key"):
                if path.name not in used:
                    remove_durably(path)
                    self._wrappers.pop(path.name, None)

    def _meta(self, name: str) -> str:
        row = self._connection.execute(
            "SELECT value FROM keyring_meta WHERE name = ?", (name,)
        ).fetchone()
        return str(row[0])

    def _set_meta(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO keyring_meta VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # A rollback journal, not a write-ahead log: a WAL would keep old pages, and with them a
        # destroyed key, until some later checkpoint. EXTRA also syncs the directory after the
        # journal is removed; otherwise a power failure could bring a destroyed key back.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA secure_delete = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, PermissionError) as error:
        raise KeyringUnavailable(
            f"keyring cannot be used: {error}", fix="check the folder's disk space and permissions"
        ) from error


def _context(kind: str, name: str) -> bytes:
    """Binds a wrapped key to its name, so that two keys cannot be exchanged in the file."""
    return canonical_bytes({"format": _FORMAT, "kind": kind, "name": name})


def _check_name(name: str) -> str:
    if len(name) > MAX_KEY_NAME_LENGTH or not _NAME.fullmatch(name):
        raise MalformedInput(
            f"malformed key name: expected 1 to {MAX_KEY_NAME_LENGTH} visible ASCII characters"
        )
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
