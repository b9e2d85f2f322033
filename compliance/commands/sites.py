"""Commands about sites."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    ReasonOption,
    TokenOption,
    TrustOption,
    service,
)
from compliance.presentation import (
    document,
    print_sites,
    say,
)


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
