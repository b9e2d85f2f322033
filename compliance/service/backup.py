"""A copy of the service that is enough to be it again: made while it runs, restored whole or not.

* **What is in it**: the database as of one moment, in SQLite's format whatever it is kept in; the
  keyring; every file of the compliance folder: keys, settings, `trust.json`, releases, tokens.
* **In which order**: first a log entry `database.backed-up`, then the database, then the keyring,
  then the files. A data key is durable before what it seals, and a release before its row, so what
  is copied later holds all that was copied before needs.
* **The keyring** is copied under its write lock: no version of the key-encryption key that wraps a
  copied key can be destroyed meanwhile (`audit.key_rotation`).
* The file is written beside its name and gets it when it is whole and synced.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, cast

from sqlalchemy import Connection, MetaData, insert, select
from sqlalchemy.exc import SQLAlchemyError

from audit.checkpoint import read_checkpoint
from audit.durable import private_temporary, publish_durably
from audit.errors import Conflict, FiduciaryError, MalformedInput
from audit.keyring_file import DATABASE as KEYRING_DATABASE
from compliance.service.backup_file import Passphrase, Recipient, SealedWriter
from compliance.service.database import Database
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import Folder, load_registry
from compliance.service.in_use import LOCK_FILE
from compliance.service.migrations import move, present_revision
from compliance.service.registry import Registry
from compliance.service.schema import OPERATOR
from compliance.statements import format_time

MANIFEST: Final = "backup.json"
SNAPSHOT: Final = "database.sqlite"
MANIFEST_FORMAT: Final = "fiduciary.backup-manifest/1"

SIDECARS: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite keeps of a database, by the end of its name."""

_WORK: Final = ".backup-"
_ROWS: Final = 1000
_KEYRING_SECONDS: Final = 90.0


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        made_at: When.
        origin: Name of the log.
        entries: Number of entries of the log.
        revision: Of the database's tables.
        checkpoint: The signed head of the log.
    """

    made_at: str
    origin: str
    entries: int
    revision: str
    checkpoint: str

    def to_json(self) -> dict[str, Any]:
        """The backup's first file."""
        return {"format": MANIFEST_FORMAT, **vars(self)}


def back_up(
    folder: Folder,
    clock: Callable[[], datetime],
    target: Path,
    lock: Passphrase | Recipient,
) -> Backup:
    """Write a backup. The service may run.

    Raises:
        Conflict: When the target exists, or the database is of a version that cannot be copied.
        MalformedInput: When the target is inside the folder.
        VerificationFailed: When the log is not the one that was signed.
        ServiceUnavailable: When the database cannot be read or the backup not be recorded.
        FiduciaryError: When a file cannot be read or written.
    """
    if target.exists():
        raise Conflict(f"{target} exists already", fix="choose another name: none is overwritten")
    if target.resolve().is_relative_to(folder.path.resolve()):
        raise MalformedInput(
            f"{target} is inside the compliance folder", fix="choose a place on another disk"
        )
    registry = load_registry(folder, clock)
    try:
        with registry.reading() as session:
            if present_revision(session.connection()) is None:
                raise _unversioned()
        with registry.writing(None) as transaction:
            transaction.actor = OPERATOR
            named = type(lock).__name__.lower()
            transaction.record("database.backed-up", "log:entries", {"lock": named})
        with _work_folder(folder.path) as work:
            copy_to_sqlite(registry.database, work / SNAPSHOT)
            backup = _describe(registry, work / SNAPSHOT)
            keyring = _copy_keyring(folder.keyring, work / KEYRING_DATABASE)
            _write(registry, backup, work, keyring, target, lock)
    except SQLAlchemyError as error:
        raise ServiceUnavailable("the database cannot be copied", fix="try again") from error
    except (OSError, sqlite3.Error) as error:
        raise FiduciaryError(
            f"the backup cannot be written: {getattr(error, 'strerror', None) or error}",
            fix="check free space and permissions; nothing was left behind",
        ) from error
    finally:
        registry.close()
    return backup


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A private folder on the disk that holds the originals; those of killed backups go too."""
    for left in folder.glob(f"{_WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_WORK) as name:
        yield Path(name)


def copy_to_sqlite(database: Database, target: Path) -> None:
    """The database as of one moment, as one SQLite file.

    Raises:
        Conflict: When it is older than revisions and not SQLite.
        SQLAlchemyError: When it cannot be read.
    """
    with database.reading() as session:
        source = session.connection()
        driver = source.connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            with closing(sqlite3.connect(target)) as copy:
                driver.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            return
        revision = present_revision(source)
        if revision is None:
            raise _unversioned()
        copied = Database(f"sqlite:///{target.name}", target.parent)
        try:
            with copied.migrating() as connection:
                move(connection, revision)
                copy_rows(source, connection)
        finally:
            copied.close()
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")


def _unversioned() -> Conflict:
    return Conflict(
        "this database is older than revisions",
        fix="stop the service, copy folder and database, then: `compliance migrate`",
    )


def copy_rows(source: Connection, target: Connection) -> None:
    """Every row of every table, cell by cell, into the empty tables of the same revision.

    Raises:
        SQLAlchemyError: When a row cannot be read or stored.
    """
    there, here = MetaData(), MetaData()
    there.reflect(source)
    here.reflect(target)
    for table in there.sorted_tables:
        if table.name == "alembic_version":
            continue
        rows = source.execution_options(yield_per=_ROWS).execute(select(table))
        for part in rows.mappings().partitions():
            target.execute(insert(here.tables[table.name]), [dict(row) for row in part])


def _describe(registry: Registry, snapshot: Path) -> Backup:
    """What the copy holds, once its tree was compared with its signed head."""
    copied = Database(f"sqlite:///{snapshot.name}", snapshot.parent)
    try:
        with copied.reading() as session:
            storage = registry.storage(session)
            registry.log.check(storage)
            checkpoint = registry.log.checkpoint(storage)
            return Backup(
                made_at=format_time(registry.clock()),
                origin=registry.trust.origin,
                entries=read_checkpoint(checkpoint).size,
                revision=present_revision(session.connection()) or "",
                checkpoint=checkpoint,
            )
    finally:
        copied.close()
        for suffix in SIDECARS[1:]:
            snapshot.with_name(snapshot.name + suffix).unlink(missing_ok=True)


def _copy_keyring(folder: Path, target: Path) -> dict[str, bytes]:
    """Copy the keyring's database; what lies beside it comes back: small files, keys among them."""
    path = folder / KEYRING_DATABASE
    with (
        closing(sqlite3.connect(path, timeout=_KEYRING_SECONDS, isolation_level=None)) as lock,
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        lock.execute("BEGIN IMMEDIATE")
        source.backup(copy)
        return {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if path.is_file() and not path.name.startswith(KEYRING_DATABASE)
        }


def _write(
    registry: Registry,
    backup: Backup,
    work: Path,
    keyring: dict[str, bytes],
    target: Path,
    lock: Passphrase | Recipient,
) -> None:
    temporary = private_temporary(target)
    try:
        with temporary.open("wb") as file:
            writer = SealedWriter(file, lock)
            stream = cast("IO[bytes]", writer)  # of which tarfile uses `write` alone
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                _add(archive, MANIFEST, json.dumps(backup.to_json(), indent=2).encode("utf-8"))
                _add(archive, SNAPSHOT, work / SNAPSHOT)
                _add(archive, f"keyring/{KEYRING_DATABASE}", work / KEYRING_DATABASE)
                for name, content in keyring.items():
                    _add(archive, f"keyring/{name}", content)
                for name, path in _other_files(registry):
                    _add(archive, name, path)
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        publish_durably(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _other_files(registry: Registry) -> Iterator[tuple[str, Path]]:
    """The folder's files, but the database and the keyring, by their names in it."""
    folder = registry.folder
    stored = registry.database.engine.url.database or ""
    database = {Path(f"{stored}{suffix}") for suffix in SIDECARS}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        first = name.parts[0]
        beside = first in ("keyring", LOCK_FILE) or first.startswith(_WORK)
        if path.is_file() and not beside and path not in database and path.suffix != ".partial":
            yield name.as_posix(), path


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    info = tarfile.TarInfo(name)
    info.mode = 0o600
    if isinstance(content, bytes):
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        return
    with content.open("rb") as file:
        status = os.fstat(file.fileno())
        info.size, info.mode = status.st_size, status.st_mode & 0o644
        archive.addfile(info, file)
