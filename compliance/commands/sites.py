"""Commands about sites and data subjects' requests."""

from __future__ import annotations

from typing import Annotated, cast

import typer
from rich.markup import escape

from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    Json,
    ReasonOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import (
    document,
    print_requests,
    print_sites,
    say,
)
from compliance.resources import RequestState


def sites(
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List the sites and their identity keys, for comparison by telephone.

    Example: `compliance sites --json`
    """
    with service(trust, token_file, folder) as client:
        found = client.sites()
    print_json([document(view) for view in found]) if json else print_sites(found)


def revoke_site(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site.", show_default=False)],
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Stop a site for good. Its token is dead at once; its name is never given again.

    Example: `compliance revoke site hospital-a --reason "key lost"`
    """
    with service(trust, token_file, folder) as client:
        view = client.revoke_site(site, reason=reason)
    print_json(document(view)) if json else say(f"[red]revoked[/] site {escape(view.name)}")


def requests(
    state: Annotated[str | None, typer.Option(help="Only requests that are open, or done.")] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List data subjects' requests. Who a subject is, only the site can tell.

    Example: `compliance requests --state open`
    """
    with service(trust, token_file, folder) as client:
        found = client.requests(cast("RequestState | None", state))
    print_json([document(view) for view in found]) if json else print_requests(found)
