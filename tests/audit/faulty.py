"""Faults for stores: a write of a commit fails, before it is done or after, or kills the process.

`install_faulty_disk` stands between a file-backed log and the system, `FaultyConnection` between an
SQLite log and its database. Both count the writes of a commit and act on one of them.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from audit.sql_log import SqlLogStorage
from audit.sqlite_log import SqliteStore

CALLS: Final = ("pwrite", "ftruncate", "fdatasync", "fsync", "replace")
"""What a file-backed log changes the disk with."""


@dataclass
class Fault:
    """What happens at the n-th write, once.

    Attributes:
        at: Number of the write, from 1; 0 for none.
        after: Whether the write is done first.
        kill: Whether the process ends there, as with kill -9, instead of an error.
        stays_broken: Whether every later call fails too, as on a disk that is gone.
        seen: Number of writes so far.
    """

    at: int = 0
    after: bool = False
    kill: bool = False
    stays_broken: bool = False
    seen: int = 0

    @property
    def happened(self) -> bool:
        return self.at != 0 and self.seen >= self.at

    def around(self, call: Callable[[], Any], error: Callable[[], Exception]) -> Any:
        self.seen += 1
        if self.stays_broken and self.at and self.seen > self.at:
            raise error()
        if self.seen == self.at and not self.after:
            self._strike(error)
        result = call()
        if self.seen == self.at:
            self._strike(error)
        return result

    def _strike(self, error: Callable[[], Exception]) -> None:
        if self.kill:
            os._exit(9)
        raise error()


def disk_error() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def install_faulty_disk(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Put a fault between `os` and the disk."""
    for name in CALLS:
        real = getattr(os, name)

        def faulty(*arguments: Any, _real: Any = real, **options: Any) -> Any:
            return fault.around(lambda: _real(*arguments, **options), disk_error)

        patch.setattr(os, name, faulty)


class FaultyConnection:
    """An SQLite connection whose statements fail as `fault` says; otherwise the real one."""

    def __init__(self, connection: sqlite3.Connection, fault: Fault) -> None:
        self._connection = connection
        self._fault = fault

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        if query == "ROLLBACK" or query.startswith(("SELECT", "WITH")):
            return self._connection.execute(query, parameters)
        return self._around(lambda: self._connection.execute(query, parameters))

    def close(self) -> None:
        self._connection.close()

    def _around(self, call: Callable[[], Any]) -> Any:
        return self._fault.around(call, lambda: sqlite3.OperationalError("disk I/O error"))


def install_faulty_connection(store: SqliteStore, fault: Fault) -> None:
    """Put a fault between a store and its database."""
    faulty = FaultyConnection(store._connection, fault)
    store._connection = faulty  # type: ignore[assignment]
    store._storage = SqlLogStorage(faulty)
