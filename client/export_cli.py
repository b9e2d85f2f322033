"""`client data export`: de-identified records out of the vault, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit.options import Json
from audit.terminal import out, print_json
from audit.words import count_of
from client.options import FolderOption
from client.site import Site


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A new JSON Lines file.", show_default=False),
    ],
    reason: Annotated[
        str,
        typer.Option("--reason", help="Why; goes into the journal.", show_default=False),
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Write a dataset's de-identified records to a new file, one JSON object on each line.

    Subjects are pseudonyms; who objected or asked for restriction is left out. The file is in clear
    and outside of the vault: a later erasure does not reach it, so delete it when it has served.
    The journal tells when and why it was made.

    Exit codes: 4 no such dataset or folder, 5 no reason given, 6 a row was altered, 9 the file
    exists.

    Example: `client data export messages messages.jsonl --reason "review of the labels"`
    """
    from client.export import export as write
    from client.vault import Vault

    with Site.open(folder) as site, Vault.open(site.paths, site.keyring) as vault:
        records = write(vault, name, file, site.journal, site.principal, reason)
    if json:
        print_json({"exported": name, "records": records, "file": str(file)})
    else:
        out().print(f"{count_of(records, 'record')} of {name} in {file}", highlight=False)
