"""Commands about who may call the service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, cast

import typer
from rich.markup import escape

from audit.errors import MalformedInput
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
    print_fields,
    print_principals,
    say,
)
from compliance.resources import ASSIGNABLE_ROLES, Role
from compliance.statements import format_time


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
    coordinator's kit.

    Example: `compliance principals add triage-desk --role consumer`
    """
    unknown = sorted(set(role) - set(ASSIGNABLE_ROLES))
    if unknown:
        raise MalformedInput(
            f"no such role: {', '.join(unknown)}", fix=f"choose from {', '.join(ASSIGNABLE_ROLES)}"
        )
    expires_at = None if days is None else format_time(datetime.now(UTC) + timedelta(days=days))
    with service(trust, token_file, folder) as client:
        view = client.add_principal(name, cast("list[Role]", role), expires_at=expires_at)
    if json:
        print_json(document(view))
        return
    print_fields({"principal": view.name, "roles": ", ".join(view.roles), "token": view.token})
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
