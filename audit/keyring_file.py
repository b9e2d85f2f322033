"""The file of a keyring: wrapped keys by kind and name, and tombstones of destroyed ones.

* When `destroy` returns, no file holds the wrapped key: SQLite overwrites it (`secure_delete`), and
  the rollback journal is gone (`synchronous=EXTRA`), so that a power failure cannot bring it back.
* A key is stored only if no rotation began since it was wrapped (`store_new`, `replace`); why that
  makes it safe to destroy an old key-encryption key, `audit.key_rotation` explains.
* Format 2 keeps, beside the keys, `wrapping_key` (the version made last), `rotations` (their
  number) and `retiring` (JSON: versions that are still to be destroyed). Format 1 had the first
  only; it becomes format 2 when it is opened. Wrapped keys are the same in both.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from audit.canonical import canonical_bytes
from audit.durable import remove_durably
from audit.errors import MalformedInput
from audit.key_manager import KeyringUnavailable, WrappedKey

DATABASE: Final = "keyring.sqlite"
FORMAT: Final = "fiduciary.keyring/2"

_FIRST_FORMAT: Final = "fiduciary.keyring/1"
_BUSY_TIMEOUT_SECONDS: Final = 90.0
"""Longer than a key manager may take to make a new version, which is done under the write lock."""

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


class Row(NamedTuple):
    """What the file says of one name.

    Attributes:
        wrapped: None when the key was destroyed.
        destroyed_at: When, in UTC.
    """

    wrapped: WrappedKey | None
    destroyed_at: str | None


class KeyRow(NamedTuple):
    """A stored key."""

    kind: str
    name: str
    wrapped: WrappedKey


class KeyringFile:
    """One SQLite file. Safe under threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the file; an empty one wants `create_tables`.

        Raises:
            MalformedInput: When it is no SQLite file.
        """
        self._path = path
        self._lock = threading.RLock()
        try:
            self._connection = _connect(path)
        except sqlite3.Error as error:
            raise MalformedInput(f"{path} is not a keyring: {error}") from error

    def create_tables(self, wrapping_key: str) -> None:
        """Make an empty file a keyring without keys.

        Args:
            wrapping_key: The version of the key-encryption key that there is.
        """
        with self.transaction():
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            self._set_meta("format", FORMAT)
            self._set_meta("wrapping_key", wrapping_key)
            self._set_meta("rotations", "0")
            self._set_meta("retiring", "[]")

    def check_format(self) -> None:
        """See that the file is a keyring, and migrate format 1.

        Raises:
            MalformedInput: When it is something else.
        """
        try:
            found = self._connection.execute(
                "SELECT value FROM keyring_meta WHERE name = 'format'"
            ).fetchone()
        except sqlite3.Error:
            found = None
        if found == (_FIRST_FORMAT,):
            self._migrate_first_format()
        elif found != (FORMAT,):
            raise MalformedInput(
                f"{self._path} is not a keyring of format {FORMAT}",
                fix="if a newer version of this program made it, use that version",
            )

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; commit at the end, or roll back."""
        with self._lock, _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def row(self, kind: str, name: str) -> Row | None:
        """What is stored now, whoever wrote it; None when there never was such a name."""
        with self._lock, _translated():
            found = self._connection.execute(
                "SELECT wrapped, wrapping_key, destroyed_at FROM keyring_keys"
                " WHERE kind = ? AND name = ?",
                (kind, name),
            ).fetchone()
        if found is None:
            return None
        wrapped, key_id, destroyed_at = found
        return Row(None if wrapped is None else WrappedKey(key_id, wrapped), destroyed_at)

    def store_new(self, rows: Iterable[KeyRow], rotations: int) -> bool:
        """Store keys together, but for names that have one or had one.

        Args:
            rows: The new keys.
            rotations: `rotations` before the keys were wrapped.

        Returns:
            False when a rotation began since: wrap them anew.
        """
        with self.transaction():
            if self.rotations() != rotations:
                return False
            self._connection.executemany(
                "INSERT OR IGNORE INTO keyring_keys (kind, name, wrapped, wrapping_key, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    (row.kind, row.name, row.wrapped.data, row.wrapped.key_id, _now())
                    for row in rows
                ),
            )
        return True

    def replace(self, renewed: Iterable[tuple[KeyRow, WrappedKey]], rotations: int) -> bool:
        """Replace wrapped keys by the same under another version, except where they changed.

        A key that was destroyed in the meantime stays so.

        Returns:
            False when a rotation began since `rotations` was read; then nothing was replaced.
        """
        with self.transaction():
            if self.rotations() != rotations:
                return False
            for row, new in renewed:
                self._connection.execute(
                    "UPDATE keyring_keys SET wrapped = ?, wrapping_key = ?"
                    " WHERE kind = ? AND name = ? AND wrapped = ?",
                    (new.data, new.key_id, row.kind, row.name, row.wrapped.data),
                )
        return True

    def destroy(self, kind: str, name: str) -> bool:
        """Replace a key by a tombstone, durably. True when there was a key."""
        with self.transaction():
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

    def names(self, kind: str) -> list[str]:
        """Names that have a key, in order."""
        return [
            row[0]
            for row in self._select(
                "SELECT name FROM keyring_keys WHERE kind = ? AND wrapped IS NOT NULL"
                " ORDER BY name",
                kind,
            )
        ]

    def versions(self) -> dict[str, int]:
        """Number of keys under each version of the key-encryption key."""
        return dict(
            self._select(
                "SELECT wrapping_key, count(*) FROM keyring_keys WHERE wrapped IS NOT NULL"
                " GROUP BY wrapping_key ORDER BY wrapping_key"
            )
        )

    def destroyed(self) -> int:
        """Number of names whose key was destroyed."""
        return int(self._select("SELECT count(*) FROM keyring_keys WHERE wrapped IS NULL")[0][0])

    def keys_under(
        self, versions: Iterable[str], after: tuple[str, str], limit: int
    ) -> list[KeyRow]:
        """Keys under one of some versions, in order, behind a kind and name."""
        rows = self._select(
            "SELECT kind, name, wrapped, wrapping_key FROM keyring_keys WHERE wrapped IS NOT NULL"
            " AND wrapping_key IN (SELECT value FROM json_each(?)) AND (kind, name) > (?, ?)"
            " ORDER BY kind, name LIMIT ?",
            json.dumps(list(versions)),
            *after,
            limit,
        )
        return [KeyRow(kind, name, WrappedKey(key_id, data)) for kind, name, data, key_id in rows]

    def wrapping_key(self) -> str:
        """The version of the key-encryption key that was made last."""
        return self._meta("wrapping_key")

    def rotations(self) -> int:
        """How many rotations began."""
        return int(self._meta("rotations"))

    def retiring(self) -> tuple[str, ...]:
        """Versions that are still to be destroyed."""
        return tuple(json.loads(self._meta("retiring")))

    def begin_rotation(self, newest: str) -> None:
        """Note a new version, and that all others are to retire. Within a transaction."""
        old = {*self.retiring(), self.wrapping_key(), *self.versions()} - {newest}
        self._set_meta("retiring", json.dumps(sorted(old)))
        self._set_meta("wrapping_key", newest)
        self._set_meta("rotations", str(self.rotations() + 1))

    def end_retirement(self, destroyed: Iterable[str]) -> None:
        """Note that versions were destroyed. Within a transaction."""
        self._set_meta("retiring", json.dumps(sorted({*self.retiring()} - {*destroyed})))

    def _migrate_first_format(self) -> None:
        with self.transaction():
            if self._meta("format") == FORMAT:
                return  # another process was faster
            # Format 1 left superseded files to its next start. Nothing is wrapped with them, and
            # one that lies beside the present one would be taken for a version.
            used = {self.wrapping_key(), *self.versions()}
            for path in self._path.parent.glob("kek-*.key"):
                if path.name not in used:
                    remove_durably(path)
            self._set_meta("rotations", "0")
            self._set_meta("retiring", "[]")
            self._set_meta("format", FORMAT)

    def _select(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._lock, _translated():
            return self._connection.execute(statement, parameters).fetchall()

    def _meta(self, name: str) -> str:
        rows = self._select("SELECT value FROM keyring_meta WHERE name = ?", name)
        if not rows:
            raise KeyringUnavailable(
                f"{self._path} lacks {name}", fix="restore the keyring from a backup"
            )
        return str(rows[0][0])

    def _set_meta(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO keyring_meta VALUES (?, ?)", (name, value))


def key_context(kind: str, name: str) -> bytes:
    """Binds a wrapped key to its name, so that two keys cannot be exchanged in the file.

    It has the format's first number for ever: a rewrap inside a service could not change it.
    """
    return canonical_bytes({"format": _FIRST_FORMAT, "kind": kind, "name": name})


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
