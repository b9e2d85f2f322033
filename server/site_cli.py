"""`server invite`, `sites`, `admit` and `revoke`: who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.options import Json
from audit.running_options import IfMissingOption
from audit.terminal import out, print_json
from server import screens
from server.federation import Federation
from server.options import Folder, open_federation
from server.sites import DEFAULT_INVITATION_HOURS, is_enrolled
from server.sites import admit as admit_site
from server.sites import invite as make_kit

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="Name of the site.")]


def invite(
    site: SiteName,
    *,
    hours: Annotated[
        int, typer.Option(help="How long the kit may be used.")
    ] = DEFAULT_INVITATION_HOURS,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The kit.", show_default="SITE.kit")
    ] = None,
    if_missing: IfMissingOption = False,
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Write a kit for a site: addresses, what to trust, and a one-time token.

    Hand it over privately. Read the fingerprint out by telephone; the site's operator compares it
    with `client join KIT --fingerprint …`. With `--if-missing` nothing is written where the file is
    there, or the site has joined.
    """
    federation, kit = open_federation(folder), output or Path(f"{site}.kit")
    with federation.compliance() as compliance:
        if if_missing and (kit.exists() or is_enrolled(compliance, site)):
            _show_kept(federation, site, kit, json=json)
            return
        made = make_kit(federation, compliance, site, path=kit, hours=hours)
    if json:
        print_json(
            {
                "site": made.site,
                "kit": str(made.path),
                "fingerprint": made.fingerprint,
                "expires_at": made.expires_at,
            }
        )
        return
    out().print(f"kit for [bold]{escape(made.site)}[/]: {escape(str(made.path))}")
    out().print(f"fingerprint {made.spoken_fingerprint}", highlight=False)
    out().print(f"it expires at {made.expires_at}; next: client join {escape(made.path.name)}")


def sites(folder: Folder = None, *, json: Json = False) -> None:
    """List the sites: enrolled, admitted, revoked, online."""
    screens.show_sites(open_federation(folder), as_json=json)


def admit(site: SiteName, folder: Folder = None, *, json: Json = False) -> None:
    """Admit a site that has joined: certify its node key and tell the compliance service."""
    federation = open_federation(folder)
    with federation.compliance() as compliance:
        view = admit_site(federation, compliance, site)
    if json:
        print_json({"site": view.name, "state": view.state})
        return
    out().print(f"site [bold]{escape(view.name)}[/] is {view.state}")


def revoke(
    site: SiteName,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Stop a site for good: its token dies at once, its key is let out within seconds."""
    with open_federation(folder).compliance() as compliance:
        view = compliance.revoke_site(site, reason=reason)
    if json:
        print_json({"site": view.name, "state": view.state})
        return
    out().print(f"site [bold]{escape(view.name)}[/] is {view.state}")


def _show_kept(federation: Federation, site: str, kit: Path, *, json: bool) -> None:
    if json:
        print_json(
            {
                "site": site,
                "kit": str(kit),
                "fingerprint": federation.fingerprint,
                "expires_at": None,
            }
        )
        return
    out().print(f"site [bold]{escape(site)}[/] was invited already; nothing was written")
