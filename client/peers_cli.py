"""`client peers`: whose keys this site believes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.terminal import print_json
from client.options import FolderOption
from client.presentation import say
from client.site import Site


def peers(
    folder: FolderOption = None,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            metavar="SITE",
            help="Believe this site's key no more; a plan that needs one asks anew.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the other sites' keys that this one believes in secure sums, to compare by telephone.

    A key is learned when a plan that sums securely first needs it, from the compliance service's
    log, and remembered: nobody can put another in its place. Whoever runs both the coordinator and
    the compliance service could make up a site at that moment, so compare: the other operator
    reads theirs from `client status --json` (`identity_key`).

    A site that joined again has a new key; forget the old one with `--forget SITE`.

    Exit codes: 0 shown or forgotten; 4 no key of that site is remembered.

    Examples: `client peers` · `client peers --forget lakeside`
    """
    from client.peers import Peers

    with Site.open(folder) as site:
        known = Peers(site)
        if forget is not None:
            known.forget(forget)
        keys = {name: key.encoded() for name, key in sorted(known.remembered().items())}
    if json:
        print_json({"peers": keys})
        return
    if forget is not None:
        say(f"forgotten: {escape(forget)}")
    for name, key in keys.items():
        say(f"[bold]{escape(name)}[/] {escape(key)}")
    if not keys:
        say("no other site's key is remembered: no plan summed securely yet")
