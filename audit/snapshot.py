"""A stored log, opened so that looking at it changes nothing.

* The file is never written to. What SQLite needs to read it decides how it is opened:

  | beside the file | it is | opened |
  |---|---|---|
  | `-wal` and `-shm` | in use, or left by a process that died | `mode=ro`, one read transaction |
  | `-wal` or `-journal` alone | a copy of a log in use | a private copy of both files |
  | neither | at rest | `immutable=1`, and checked afterwards not to have changed |

* The file may be hostile: views and virtual tables are refused, functions in its schema are not
  trusted, and no value above `MAX_VALUE_BYTES` is read.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit.errors import Conflict, MalformedInput, NotFound

MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
"""A leaf of the largest payload: 8 MiB in base64, and its clear fields."""

DatabaseDamage: Final = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises: SQLite's driver cannot decode some of its own messages."""

_MAGIC: Final = b"SQLite format 3\x00"
_TABLES: Final = ("log_checkpoints", "log_entries", "log_meta")
_HASHES: Final = ("log_nodes", "log_hashes")
"""Of the present format, and of the first."""

_BUSY_TIMEOUT_SECONDS: Final = 30.0


@contextmanager
def open_snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection on which every read sees the same state of the log.

    Args:
        path: SQLite file of a log: at rest, in use, or a copy with or without its `-wal` file.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is no SQLite file, or holds no log.
        Conflict: When it was changed while it was read at rest.
    """
    if not path.is_file():
        raise NotFound(f"no log at {path}", fix="check the path")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise MalformedInput(f"{path} is not an SQLite file")
    if _beside(path, "-shm").exists() and _beside(path, "-wal").exists():
        with _connection(path, "mode=ro") as connection:
            yield connection
        return
    sidecars = [
        sidecar
        for suffix in ("-wal", "-journal")
        if (sidecar := _beside(path, suffix)).exists() and sidecar.stat().st_size
    ]
    if sidecars:
        with tempfile.TemporaryDirectory(prefix="fiduciary-audit-") as directory:
            copy = Path(directory) / "log.sqlite"
            shutil.copyfile(path, copy)
            for sidecar in sidecars:
                suffix = sidecar.name.removeprefix(path.name)
                shutil.copyfile(sidecar, _beside(copy, suffix))
            with _connection(copy, "mode=rw") as connection:
                yield connection
        return
    before = path.stat()
    with _connection(path, "immutable=1") as connection:
        yield connection
    after = path.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise Conflict(f"{path} was changed while it was read", fix="run the command again")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _connection(path: Path, options: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?{options}",
        uri=True,
        timeout=_BUSY_TIMEOUT_SECONDS,
        isolation_level=None,
    )
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.text_factory = _text
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("BEGIN")
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name LIKE 'log!_%'"
                " ESCAPE '!'"
            ).fetchall()
        except DatabaseDamage as error:
            raise MalformedInput(f"{path} cannot be read as a log: {error}") from error
        tables = {name for name, sql in rows if str(sql).upper().startswith("CREATE TABLE")}
        missing = set(_TABLES) - tables
        if tables.isdisjoint(_HASHES):
            missing.add(_HASHES[0])
        if missing:
            raise MalformedInput(
                f"{path} holds no log: no table {', '.join(sorted(missing))}",
                fix="give the journal of a site or the database of the compliance service",
            )
        try:
            yield connection
        except DatabaseDamage as error:
            raise MalformedInput(f"{path} is damaged: {error}", fix="run: audit verify") from error
    finally:
        connection.close()


def _text(data: bytes) -> str:
    """Damaged text must reach the verifier, which names it, and not stop SQLite's driver."""
    return data.decode("utf-8", "surrogateescape")
