"""The vault's SQLite file: one writer at a time, and durable when a transaction ends."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from audit.errors import Conflict, VerificationFailed
from client.vault.tables import configure

BUSY_TIMEOUT_SECONDS = 30
"""A batch of an ingest takes a fraction of a second; longer means that something hangs."""


class VaultFile:
    """An open file. `connection` reads; `transaction` writes."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, making an empty one where there is none.

        Raises:
            VerificationFailed: When it is no vault, or one of another format.
            Conflict: When another process keeps it locked.
        """
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        file = cls(connection, path)
        with file.closed_on_failure():
            configure(connection)
        return file

    def close(self) -> None:
        """Close it."""
        self.connection.close()

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Close the file when what is done with it fails, and say why it cannot be used.

        Raises:
            VerificationFailed: When the file is damaged, or none of SQLite's.
            Conflict: When another process keeps it locked, or the disk is full.
        """
        try:
            yield
        except sqlite3.OperationalError as error:
            self.close()
            raise _busy(error) from error
        except sqlite3.DatabaseError as error:
            self.close()
            raise VerificationFailed(
                f"the vault {self.path.name} cannot be read: {error}",
                fix="restore the site folder from its last backup",
            ) from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable write transaction; an exception rolls it back.

        Raises:
            Conflict: When another process keeps the vault locked, or the disk is full.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise _busy(error) from error
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def truncate_write_ahead_log(self) -> None:
        """Empty the -wal file, so that deleted rows do not linger in it as ciphertext."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _busy(error: sqlite3.OperationalError) -> Conflict:
    return Conflict(
        f"the vault cannot be used now: {error}",
        fix="wait for other commands of this site to end, and check the disk's free space",
    )
