"""Whether a service runs on a folder and its database, so that nobody moves the tables under it.

* A service shares two locks for as long as it runs: of a file in its folder, and on PostgreSQL one
  in the database, which each of its connections holds. So a service elsewhere is noticed, too, and
  a connection that is made again holds it again.
* Whoever moves the tables has both alone, or is refused; a service that starts meanwhile likewise.
* They are the operating system's and the server's: gone when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Connection, Engine
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from audit.errors import Conflict, FiduciaryError

LOCK_FILE: Final = "service.lock"

_KEY: Final = 0x6669_6475_7365_7276
"""Of the lock in the database: another one than the writers' (`audit.sql_log`)."""

_SHARE: Final = f"SELECT pg_try_advisory_lock_shared({_KEY})"
_TAKE: Final = f"SELECT pg_try_advisory_lock({_KEY})"
_LET_GO: Final = f"SELECT pg_advisory_unlock({_KEY})"

_PATIENCE: Final = 3.0
"""Seconds: PostgreSQL ends the session of a service that has just stopped a moment after it."""


def share_folder(folder: Path) -> IO[str]:
    """Say that a service runs on a folder, until what is returned is closed.

    Raises:
        Conflict: When its database is being moved.
        FiduciaryError: When the lock's file cannot be made.
    """
    return _lock(folder, fcntl.LOCK_SH, _being_moved())


def share_database(connection: Any, _record: object) -> None:
    """Say so in PostgreSQL, for a connection of the driver, until that ends.

    Raises:
        Conflict: When the database is being moved.
    """
    cursor = connection.cursor()
    (is_shared,) = cursor.execute(_SHARE).fetchone()
    cursor.close()
    connection.commit()
    if not is_shared:
        raise _being_moved()


@contextmanager
def alone(folder: Path, engine: Engine) -> Iterator[None]:
    """Inside the block no service runs on a folder, nor on its database.

    Raises:
        Conflict: When one does.
        FiduciaryError: When the lock's file cannot be made.
    """
    serves = Conflict(
        "the service is running on this folder, or elsewhere on its database: nothing was changed",
        fix="stop it (`docker compose stop`, or end `compliance start`), then repeat the command",
    )
    with _lock(folder, fcntl.LOCK_EX, serves):
        if engine.dialect.name == "sqlite":
            yield
            return
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            _take(connection, serves)
            try:
                yield
            finally:
                connection.exec_driver_sql(_LET_GO)


def _take(connection: Connection, taken: Conflict) -> None:
    for attempt in Retrying(
        retry=retry_if_exception_type(Conflict),
        stop=stop_after_delay(_PATIENCE),
        wait=wait_fixed(0.05),
        reraise=True,
    ):
        with attempt:
            if not connection.exec_driver_sql(_TAKE).scalar_one():
                raise taken


def _lock(folder: Path, kind: int, taken: Conflict) -> IO[str]:
    path = folder / LOCK_FILE
    try:
        file = path.open("a")
    except OSError as error:
        raise FiduciaryError(
            f"cannot write {path}: {error.strerror}",
            fix="run the command as the user whose folder it is",
        ) from error
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise taken from None
    return file


def _being_moved() -> Conflict:
    return Conflict(
        "the database is being moved to another revision", fix="wait for `compliance migrate`"
    )
