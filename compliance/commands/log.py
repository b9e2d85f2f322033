"""Commands about the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    Json,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import (
    document,
    print_entries,
)


def log(
    after: Annotated[int, typer.Option(min=-1, help="Only entries after this position.")] = -1,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many entries.")] = 100,
    actor: Annotated[str | None, typer.Option(help="Only entries by this actor.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action.")] = None,
    object_: Annotated[
        str | None, typer.Option("--object", help="Only entries about this, `kind:id`.")
    ] = None,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Print the signed checkpoint instead.")
    ] = False,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Show the audit log, decrypted: who did what, when, and what was refused.

    This asks the service. To check the log without trusting the service, use `audit verify` on its
    database.

    Examples: `compliance log --action request.refused` · `compliance log --actor site:hospital-a`
    """
    with service(trust, token_file, folder) as client:
        if checkpoint:
            note = client.checkpoint()
            print_json({"checkpoint": note}) if json else typer.echo(note, nl=False)
            return
        entries = client.log_entries(
            after=after, limit=limit, actor=actor, action=action, object=object_
        )
    print_json([document(entry) for entry in entries]) if json else print_entries(entries)
