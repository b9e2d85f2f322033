"""`audit verify-export`: check an exported part of a log, offline and without a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from audit.export_file import verify_export
from audit.keys import VerifyKey
from audit.options import Json, read_text
from audit.presentation import print_fields, progress_bar, say
from audit.terminal import print_json
from audit.words import count_of

_MAX_KEY_BYTES: Final = 10_000
"""A verifier key is one line of about 100 characters."""


def verify_export_command(
    export: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A JSON Lines file of `compliance log --format jsonl`.",
            show_default=False,
        ),
    ],
    key: Annotated[
        str,
        typer.Option(
            "--key",
            metavar="VKEY",
            help="Verifier key of the log, from its owner: name+hash+base64, or a file that holds"
            " it.",
            envvar="FIDUCIARY_LOG_KEY",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Check exported log entries, without the service that exported them.

    Verified means that every entry is in the log that the key signs, that its clear fields are
    shown as the log has them, and that every statement it quotes is the one that the log names. The
    rest of a decrypted payload is the exporter's word, and so is that the file leaves nothing out,
    unless it holds the whole log.

    Exit codes: 0 verified, 5 the file is no export or was cut off, 6 it does not verify.

    Example: `audit verify-export entries.jsonl --key "$LOG_KEY"`
    """
    if "+" not in key and Path(key).is_file():
        key = read_text(Path(key), _MAX_KEY_BYTES)
    with progress_bar("verifying", quiet=json) as progress:
        verified = verify_export(export, VerifyKey.parse(key.strip()), progress=progress)
    if json:
        print_json(
            {
                "verified": True,
                "origin": verified.checkpoint.origin,
                "signed_entries": verified.checkpoint.size,
                "entries": verified.entries,
                "statements": verified.statements,
                "forgotten": verified.forgotten,
                "whole": verified.whole,
                "filters": verified.filters,
            }
        )
        return
    say(f"[bold green]verified[/] {escape(str(export))}: {count_of(verified.entries, 'entry')}")
    filters = ", ".join(f"{name} {value}" for name, value in verified.filters.items())
    print_fields(
        {
            "log": verified.checkpoint.origin,
            "signed": f"{count_of(verified.checkpoint.size, 'entry')}",
            "statements": f"{verified.statements}, each the one that its entry names",
            "forgotten": verified.forgotten,
            "asked for": filters or "every entry",
        }
    )
    if not verified.whole:
        say(
            "[yellow]not shown:[/] that these are all the entries that were asked for. `audit"
            " verify` checks a whole log."
        )
