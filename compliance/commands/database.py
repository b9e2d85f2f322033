"""Commands about the service's database, on its own machine: they need the folder, no service."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import MalformedInput, NotFound
from audit.options import Json
from audit.terminal import print_json
from audit.words import count_of
from compliance.commands.options import DEFAULT_FOLDER, FolderArgument, read_public_key
from compliance.presentation import print_fields, say

RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="REVISION",
        help="A revision, later or earlier. Without it: the one that this version works on.",
        show_default=False,
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")
]

BackupArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The backup.", show_default=False)
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="PATH",
        help="File with the passphrase, of 12 characters or more. Without it you are asked.",
        show_default=False,
    ),
]


def backup(
    file: BackupArgument,
    folder: FolderArgument = DEFAULT_FOLDER,
    passphrase_file: PassphraseOption = None,
    recipient: Annotated[
        str | None,
        typer.Option(
            "--recipient",
            metavar="KEY",
            help="Instead of a passphrase: an X25519 public key in base64, or a file that holds it,"
            " as `server release keygen` makes one. This machine cannot read the backup then.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Copy everything that makes the service itself into one encrypted file. It may be running.

    The database as of one moment, the keyring, all keys, settings, tokens and releases: whoever can
    open the file can be the service. Each backup is an entry in the audit log. A file that exists
    is not overwritten.

    Exit codes: 0 made, 3 a key file is open to others, 4 a file is missing, 5 wrong key or place, 6
    the log does not verify, 7 the database cannot be read, 9 the file exists.

    Example: `compliance backup /mnt/backups/2026-11-26.backup --recipient backup-key.pub`
    """
    from compliance.service.backup import back_up
    from compliance.service.backup_file import Passphrase, Recipient
    from compliance.service.folder import Folder

    lock = (
        Passphrase(_passphrase(passphrase_file, confirm=True))
        if recipient is None
        else Recipient(read_public_key(recipient))
    )
    made = back_up(Folder(folder), _clock, file, lock)
    size_bytes = file.stat().st_size
    if json:
        print_json({"file": str(file), "size_bytes": size_bytes, **asdict(made)})
        return
    print_fields(
        {
            "backup": str(file),
            "size": f"{size_bytes:,} bytes",
            "log": f"{made.origin}, {count_of(made.entries, 'entry')}",
            "database": f"revision {made.revision}",
        }
    )
    say(f"\nTry it: [bold]compliance restore {escape(str(file))} ANOTHER-FOLDER[/]")


def restore(
    file: BackupArgument,
    folder: FolderArgument = DEFAULT_FOLDER,
    passphrase_file: PassphraseOption = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="PATH",
            help="The X25519 private key of the backup's recipient, as PEM.",
            show_default=False,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="An empty database instead of the one in the backup's settings.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A checkpoint of the log that somebody else kept, a site or an auditor: a backup"
            " that is older is refused.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a compliance folder and its database of a backup, whole or not at all.

    Before anything is left in place: the file is whole, its keys belong to its `trust.json`, its
    log verifies from the first entry on, and every release is what was announced. Nothing that
    exists is overwritten. Stop the old service for good first: two of them would write two
    histories.

    What was done after the backup is lost, and whoever saw it knows: a site that cosigned a later
    head of the log does not cosign this one. Ask one for its checkpoint and give it with
    `--checkpoint`.

    Exit codes: 0 restored, 4 no such file, 5 no backup, 6 it does not verify, does not open, or is
    older than the checkpoint, 7 the database cannot be filled, 9 folder or database is not empty.

    Example: `compliance restore 2026-11-26.backup /srv/compliance --key-file backup-key.pem`
    """
    from audit.hpke import load_private_key
    from compliance.service.backup_file import Passphrase, RecipientKey
    from compliance.service.restore import restore as make_again

    if not file.is_file():
        raise NotFound(f"there is no backup at {file}", fix="check the path")
    lock = (
        Passphrase(_passphrase(passphrase_file, confirm=False))
        if key_file is None
        else RecipientKey(load_private_key(key_file))
    )
    known = None if checkpoint is None else checkpoint.read_text("utf-8")
    made = make_again(file, folder, lock, _clock, database_url=database_url, known=known)
    if json:
        print_json({"folder": str(folder), **asdict(made)})
        return
    print_fields(
        {
            "folder": str(folder),
            "log": f"{made.origin}, verified: {count_of(made.entries, 'entry')}",
            "database": f"revision {made.revision}",
            "as of": made.made_at,
        }
    )
    say(f"\nStart it: [bold]compliance start {escape(str(folder))}[/]")


def migrate(
    folder: FolderArgument = DEFAULT_FOLDER,
    target: RevisionOption = None,
    dry_run: DryRunOption = False,
    json: Json = False,
) -> None:
    """Bring the database's tables to the revision that this version works on.

    Make a backup and stop the service first: while one runs on the folder or its database nothing
    is changed. `--dry-run` may be asked at any time. All steps are one transaction, together with
    an entry in the audit log: the database is of the new revision afterwards, or as it was.
    `compliance start` never does this by itself. Going back with `--to`, for an older version of
    the service, deletes what only later revisions can hold.

    Exit codes: 0 done or nothing to do, 4 there is no such revision, 6 the log does not verify, 7
    the database cannot be changed, 9 the service is running, or the database is of a version that
    this one does not know.

    Examples: `compliance migrate --dry-run` · `compliance migrate /srv/compliance --to 0001`
    """
    from compliance.service.folder import Folder, load_registry
    from compliance.service.schema import migrate as move
    from compliance.service.schema import newest_revision, plan_migration

    registry = load_registry(Folder(folder), _clock)
    try:
        done = plan_migration(registry, target) if dry_run else move(registry, target)
    finally:
        registry.close()
    works_on = newest_revision()
    if json:
        print_json(
            {
                **asdict(done),
                "undoes": done.undoes,
                "works_on": works_on,
                "done": bool(done.steps) and not dry_run,
            }
        )
        return
    print_fields(
        {
            "present revision": done.present if dry_run else done.target,
            "target revision": done.target,
            "this version works on": works_on,
        }
    )
    verb = ("would be " if dry_run else "") + ("undone" if done.undoes else "made")
    say(
        f"{escape(', '.join(done.steps))} {verb}"
        if done.steps
        else "the database is at that revision already; nothing to do"
    )


def _clock() -> datetime:
    return datetime.now(UTC)


def _passphrase(path: Path | None, *, confirm: bool) -> str:
    if path is not None:
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotFound(f"there is no passphrase in {path}", fix="check the path") from error
    if not sys.stdin.isatty():
        raise MalformedInput(
            "there is no passphrase, and nobody to ask", fix="give --passphrase-file"
        )
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
