"""Making a service of a backup again, whole or not at all, once it was shown to be itself.

What must hold before anything is left in place:

* the file is whole and was not changed (`backup_file`);
* its keys belong to its `trust.json`, and its keyring opens what its log holds;
* its log verifies from the first entry to the last, against heads that its key signed, and holds
  the history of a checkpoint that somebody else kept, if the operator gives one;
* every release that waits or may be downloaded has its content, and it is what was announced.

**What a backup cannot bring back** is what was done after it was made. A log that goes on from
there is another history than the one that was lost: whoever kept a later head, a site above all,
does not cosign it and says so ("shrunk", "forked" or "rewritten", `audit.witness`). Nothing can or
should prevent that; docs/adr/0032-database.md says what an operator does. The restored log itself
says that it was restored, from when and how far.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from sqlalchemy import URL, Connection, Engine, create_engine, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from audit.checkpoint import read_checkpoint
from audit.errors import Conflict, FiduciaryError, MalformedInput, VerificationFailed
from audit.statement import SignedStatement
from audit.verifier import verify_log
from audit.words import count_of
from compliance.service.backup import (
    MANIFEST,
    MANIFEST_FORMAT,
    SIDECARS,
    SNAPSHOT,
    Backup,
    copy_rows,
)
from compliance.service.backup_file import Passphrase, RecipientKey, SealedReader
from compliance.service.database import ServiceSession
from compliance.service.errors import ServiceUnavailable
from compliance.service.folder import Folder, load_registry, partial_folder
from compliance.service.migrations import move, present_revision, revisions
from compliance.service.registry import Registry, Transaction
from compliance.service.schema import OPERATOR
from compliance.service.settings import read_settings
from compliance.service.tables import ReleaseRow, StatementRow

_WITH_CONTENT: Final = ("candidate", "approved")
_PIECE_BYTES: Final = 1 << 20


def restore(
    file: Path,
    target: Path,
    lock: Passphrase | RecipientKey,
    clock: Callable[[], datetime],
    *,
    database_url: str | None = None,
    known: str | None = None,
) -> Backup:
    """Make a compliance folder, and its database, of a backup.

    Args:
        file: The backup.
        target: The folder; it must not hold anything.
        lock: What opens the backup.
        clock: The present time.
        database_url: An empty database to use instead of the one in the backup's settings.
        known: A checkpoint of the log that somebody else kept: a witness, an auditor, a receipt.

    Raises:
        NotFound: When there is no such backup.
        Conflict: When the folder or the database is not empty, or the version is not known.
        MalformedInput: When it is no backup.
        VerificationFailed: When something of what the module lists does not hold.
        FiduciaryError: When it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(
            f"{target} exists already and is not empty",
            fix="choose another folder, or move that one away: nothing is overwritten",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as stream, partial_folder(target) as partial:
            unpacked = _unpack(SealedReader(stream, lock), partial)
            folder = Folder(partial)
            if database_url is not None:
                settings = read_settings(folder.settings)
                changed = settings.model_copy(update={"database_url": database_url})
                folder.settings.write_text(changed.to_toml(), encoding="utf-8")
            registry = load_registry(folder, clock)
            try:
                _prove(registry, partial / SNAPSHOT, unpacked, known)
                _put_in_place(registry, unpacked, partial, target)
            finally:
                registry.close()
    except SQLAlchemyError as error:
        raise ServiceUnavailable(
            f"the database cannot be filled: {type(error).__name__}; nothing was left in it",
            fix="check its address (--database-url), and that it is empty",
        ) from error
    except OSError as error:
        raise FiduciaryError(
            f"cannot restore: {error.strerror or error}",
            fix="check the file's name, free space and permissions; nothing was left behind",
        ) from error
    return unpacked


def _unpack(reader: SealedReader, folder: Path) -> Backup:
    """Write the backup's files.

    Raises:
        MalformedInput: When they are not those of a compliance folder.
        VerificationFailed: When the backup is not whole.
    """
    try:
        stream = cast("IO[bytes]", reader)  # of which tarfile uses `read` alone
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or name.is_absolute() or ".." in name.parts:
                    raise MalformedInput("malformed backup: it holds what no backup holds")
                path = folder.joinpath(*name.parts)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    shutil.copyfileobj(content, file, _PIECE_BYTES)
                    os.fchmod(file.fileno(), member.mode & 0o644)
                    file.flush()
                    os.fsync(file.fileno())
    except tarfile.TarError as error:
        raise MalformedInput("malformed backup: it holds no archive") from error
    while reader.read(_PIECE_BYTES):  # to the end: only the last chunk shows that it is whole
        pass
    for part in ("releases", "tokens"):  # which may have been empty
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    return _manifest(folder / MANIFEST)


def _manifest(path: Path) -> Backup:
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if document.pop("format") != MANIFEST_FORMAT:
            raise MalformedInput("malformed backup: its manifest is of another format")
        backup = Backup(**document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedInput("malformed backup: it has no manifest") from error
    path.unlink()
    return backup


def _prove(registry: Registry, snapshot: Path, backup: Backup, known: str | None) -> None:
    if backup.revision not in revisions():
        raise Conflict(
            f"the backup is of revision {backup.revision}, which this version does not know",
            fix="restore it with the version of fiduciary that made it",
        )
    if known is not None and read_checkpoint(known).size > backup.entries:
        raise VerificationFailed(
            f"the backup holds {count_of(backup.entries, 'entry')} of the log, and the given"
            f" checkpoint is of {read_checkpoint(known).size}: it is older than what others saw",
            fix="find a later backup; docs/adr/0032-database.md says what it means to go on",
        )
    report = verify_log(snapshot, registry.trust.log_key, known=known)
    if not report.ok or report.origin != registry.trust.origin:
        problem = report.problems[0] if report.problems else f"it is the log {report.origin}"
        raise VerificationFailed(
            f"the backup's log does not verify: {problem}", fix="use an earlier backup"
        )
    engine = _open(snapshot)
    try:
        with Session(engine) as session:
            if present_revision(session.connection()) != backup.revision:
                raise VerificationFailed(
                    "the backup's database is not of the revision that it says",
                    fix="use another backup",
                )
            storage = registry.storage(session)
            registry.log.check(storage)
            registry.log.read(storage, storage.size() - 1)  # the keyring is this log's
            for release_id, envelope in session.execute(
                select(ReleaseRow.release_id, StatementRow.envelope)
                .join(StatementRow, StatementRow.digest == ReleaseRow.release_id)
                .where(ReleaseRow.state.in_(_WITH_CONTENT))
            ):
                _check_content(registry, release_id, envelope)
    finally:
        engine.dispose()


def _check_content(registry: Registry, release_id: str, envelope: str) -> None:
    manifest = SignedStatement.from_json(json.loads(envelope))
    announced = manifest.body.get("ciphertext_digest")
    path = registry.content.path_of(release_id)
    found = "missing"
    if path.is_file():
        with path.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if found != announced:
        raise VerificationFailed(
            f"the content of release {release_id} is not in the backup as it was announced",
            fix="use another backup",
        )


def _put_in_place(registry: Registry, backup: Backup, partial: Path, target: Path) -> None:
    snapshot = partial / SNAPSHOT
    stored = Path(registry.database.engine.url.database or "")
    if registry.database.engine.dialect.name == "sqlite" and stored.is_relative_to(partial):
        snapshot.replace(stored)
        with registry.database.migrating() as connection:
            record_restored(registry, connection, backup)
        registry.close()  # which leaves one file
        partial.replace(target)
        return
    engine = _open(snapshot)
    moved, existed = False, stored.exists()
    try:
        with registry.database.migrating() as connection:
            _check_empty(connection)
            move(connection, backup.revision)
            with engine.connect() as source:
                copy_rows(source, connection)
            record_restored(registry, connection, backup)
            engine.dispose()
            snapshot.unlink()
            partial.replace(target)
            moved = True
    except BaseException:
        if moved:  # and the commit failed: without its database the folder is none
            target.replace(partial)
        if registry.database.engine.dialect.name == "sqlite" and not existed:
            registry.database.close()
            for suffix in SIDECARS:
                Path(f"{stored}{suffix}").unlink(missing_ok=True)
        raise
    finally:
        engine.dispose()


def _check_empty(connection: Connection) -> None:
    if inspect(connection).get_table_names():
        raise Conflict(
            "the database is not empty",
            fix="give an empty one: `--database-url`; nothing is overwritten",
        )


def _open(snapshot: Path) -> Engine:
    return create_engine(URL.create("sqlite", database=str(snapshot)), hide_parameters=True)


def record_restored(registry: Registry, connection: Connection, backup: Backup) -> None:
    """Make sure that what was stored is the log, and put into it that it was restored."""
    with ServiceSession(connection, join_transaction_mode="create_savepoint") as session:
        transaction = Transaction(registry, session, None)
        registry.log.check(transaction.storage)
        transaction.actor = OPERATOR
        transaction.record(
            "database.restored",
            "log:entries",
            {"backup_made_at": backup.made_at, "entries": backup.entries},
        )
        session.commit()
