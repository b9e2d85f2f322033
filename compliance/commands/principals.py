"""Commands about who may call the service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.markup import escape

from audit.durable import write_durably
from audit.errors import MalformedInput
from audit.options import Json
from audit.terminal import print_json
from compliance.access_views import DEFAULT_OVERLAP_HOURS, MAX_OVERLAP_HOURS
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import (
    document,
    print_fields,
    print_principals,
    roles_and_sites,
    say,
)
from compliance.statements import format_time
from compliance.wire import ASSIGNABLE_ROLES, Role


def list_principals(
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List who may call the service, and who no longer may.

    Example: `compliance principals list`
    """
    with service(trust, token_file, folder) as client:
        found = client.principals()
    print_json([document(view) for view in found]) if json else print_principals(found)


def add_principal(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.", show_default=False)],
    role: Annotated[
        list[str],
        typer.Option("--role", help="coordinator, officer, auditor or consumer; repeat for more."),
    ],
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            help="The roles hold for this site alone; repeat for more. For officer and auditor.",
            show_default="all sites",
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Ends after so many days.", show_default="never")
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Add a principal and print its token, this once: the service keeps only a hash.

    A name is given once and never to somebody else. Sites are not added here: they enrol with the
    coordinator's kit. Where another officer could confirm it, a new officer's token does nothing
    until one has: `compliance principals confirm NAME`.

    Example: `compliance principals add dr-north --role officer --site north --days 365`
    """
    unknown = sorted(set(role) - set(ASSIGNABLE_ROLES))
    if unknown:
        raise MalformedInput(
            f"no such role: {', '.join(unknown)}", fix=f"choose from {', '.join(ASSIGNABLE_ROLES)}"
        )
    expires_at = None if days is None else format_time(datetime.now(UTC) + timedelta(days=days))
    with service(trust, token_file, folder) as client:
        view = client.add_principal(
            name, cast("list[Role]", role), sites=site or (), expires_at=expires_at
        )
    if json:
        print_json(document(view))
        return
    print_fields(
        {
            "principal": view.name,
            "roles": roles_and_sites(view.roles, view.sites),
            "token": view.token,
        }
    )
    if not view.confirmed:
        confirm = f"[bold]compliance principals confirm {escape(view.name)}[/]"
        say(f"\nThe token does nothing until a second officer has said: {confirm}")
    say("\nHand the token over in a file that only they can read (mode 0600). It is not kept here.")


def revoke_principal(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who ends.", show_default=False)],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """End a principal. Its token is dead at once.

    Example: `compliance principals revoke triage-desk`
    """
    with service(trust, token_file, folder) as client:
        view = client.revoke_principal(name)
    print_json(document(view)) if json else say(f"[red]revoked[/] {escape(view.name)}")


def confirm_principal(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The officer.", show_default=False)],
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Confirm an officer whom another officer added.

    Nobody confirms themselves, or whom they proposed.

    Example: `compliance principals confirm dr-north`
    """
    with service(trust, token_file, folder) as client:
        view = client.access.confirm(name)
    print_json(document(view)) if json else say(f"[green]confirmed[/] {escape(view.name)}")


def rotate_principal(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Whose key; your own, too.", show_default=False)
    ],
    overlap_hours: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_OVERLAP_HOURS,
            help="How long the present key goes on working; 0 ends every earlier key at once.",
        ),
    ] = DEFAULT_OVERLAP_HOURS,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the new key there (mode 0600) instead of printing it.",
            show_default=False,
        ),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Replace a principal's key by a new one, which is shown this once.

    An officer's key is replaced by that officer alone: who got it could be two people at once.
    If a key was stolen, end all earlier ones now: `--overlap-hours 0`.

    Example: `compliance principals rotate triage-desk --to triage-desk.token`
    """
    with service(trust, token_file, folder) as client:
        made = client.access.rotate(name, overlap_hours=overlap_hours)
    shown = document(made)
    if to is not None:
        write_durably(to, f"{made.token}\n".encode("ascii"))
        shown = {**shown, "token": None, "token_file": str(to)}
    if json:
        print_json(shown)
        return
    print_fields(
        {
            "principal": made.name,
            "former key": "ended"
            if made.former_works_until is None
            else f"works until {made.former_works_until}",
            "token": made.token if to is None else f"in {to}",
        }
    )
