"""Faults for stores: a write of a commit fails, before it is done or after, or kills the process,
or the power fails.

`install_faulty_disk` stands between a file-backed log and the system, `FaultyConnection` between an
SQLite log and its database. Both count the writes of a commit and act on one of them.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from audit.sql_log import SqlLogStorage
from audit.sqlite_log import SqliteStore

CALLS: Final = ("pwrite", "ftruncate", "fdatasync", "fsync", "replace", "unlink")
"""What a file-backed log changes the disk with."""


@dataclass
class Fault:
    """What happens at the n-th write, once.

    Attributes:
        at: Number of the write, from 1; 0 for none.
        after: Whether the write is done first.
        half: Whether half of it is done, where it writes bytes.
        kill: Whether the process ends there, as with kill -9, instead of an error.
        stays_broken: Whether every later call fails too, as on a disk that is gone.
        seen: Number of writes so far.
    """

    at: int = 0
    after: bool = False
    half: bool = False
    kill: bool = False
    stays_broken: bool = False
    seen: int = 0

    @property
    def happened(self) -> bool:
        return self.at != 0 and self.seen >= self.at

    def around(
        self,
        call: Callable[[], Any],
        error: Callable[[], Exception],
        half: Callable[[], Any] = lambda: None,
    ) -> Any:
        self.seen += 1
        if self.stays_broken and self.at and self.seen > self.at:
            raise error()
        if self.seen == self.at and not self.after:
            if self.half:
                half()
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

        def faulty(*arguments: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            def half() -> None:
                if _name == "pwrite":
                    descriptor, data, start = arguments
                    _real(descriptor, data[: len(data) // 2], start)

            return fault.around(lambda: _real(*arguments, **options), disk_error, half)

        patch.setattr(os, name, faulty)
    real_fdopen = os.fdopen

    def fdopen(*arguments: Any, **options: Any) -> Any:
        return _FaultyFile(real_fdopen(*arguments, **options), fault)

    patch.setattr(os, "fdopen", fdopen)


class _FaultyFile:
    """A buffered file whose flush fails as `fault` says; otherwise the real one."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file = file
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def flush(self) -> None:
        self._fault.around(self._file.flush, disk_error)


class PowerFailure:
    """What a folder may hold when the power fails: only what was synced is sure to be there.

    It is told of every change of the folder through `os`. A file's bytes are sure as they were when
    it was synced; a name is sure as it was when the folder was synced. Everything later may have
    reached the disk or not.

    Args:
        folder: The folder. What it holds now is sure.
        patch: Puts it between `os` and the disk.
        changed: Called after every change.
    """

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, changed: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._changed = changed
        self._looking = False
        self._names = self._present()
        self._contents = {
            inode: (folder / name).read_bytes() for name, inode in self._names.items()
        }
        for name in CALLS:
            patch.setattr(os, name, partial(self._call, name, getattr(os, name)))

    def states(self, where: Path) -> Iterator[Path]:
        """Folders as they may be found afterwards, made under `where`."""
        present = self._present()
        written = {inode: (self._folder / name).read_bytes() for name, inode in present.items()}
        head_only = self._names | {name: present[name] for name in ("head",) if name in present}
        for names in (self._names, head_only, present):
            for half in (0, 1, 2):
                found = where / f"found-{len(list(where.iterdir()))}"
                found.mkdir()
                (found / "lock").touch()
                for name, inode in names.items():
                    sure = self._contents.get(inode, b"")
                    late = written.get(inode, sure)
                    # Not what was written since, half of it, or all of it.
                    end = len(sure) + half * max(0, len(late) - len(sure)) // 2
                    (found / name).write_bytes(sure if half == 0 else late[:end])
                yield found

    def _call(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        if name in ("fsync", "fdatasync"):
            self._synced(arguments[0])
        if not self._looking:
            self._looking = True
            try:
                self._changed()
            finally:
                self._looking = False
        return result

    def _synced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path == self._folder:
            self._names = self._present()
        elif path.parent == self._folder:
            self._contents[status.st_ino] = path.read_bytes()

    def _present(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._folder.iterdir()}


class FaultyConnection:
    """An SQLite connection whose statements fail as `fault` says; otherwise the real one."""

    def __init__(self, connection: sqlite3.Connection, fault: Fault) -> None:
        self._connection = connection
        self._fault = fault

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        if query.startswith(("SELECT", "WITH")):
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
