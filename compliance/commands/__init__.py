"""An officer's commands: each is one or two calls of `compliance.api`."""

from __future__ import annotations

from typing import Any, Final

import typer

from compliance.commands import log, plans, principals, releases, retention, sites

_PANEL: Final = "An officer's work"


def add_commands(app: typer.Typer) -> None:
    """Put the officer's commands on the `compliance` command."""
    app.command("plans", rich_help_panel=_PANEL)(plans.plans)
    _add_group(
        app,
        "approve",
        "Approve a plan or a release that somebody else submitted.",
        plan=plans.approve_plan,
        release=releases.approve_release,
    )
    _add_group(
        app,
        "reject",
        "Reject a plan or a release.",
        plan=plans.reject_plan,
        release=releases.reject_release,
    )
    app.command("releases", rich_help_panel=_PANEL)(releases.releases)
    app.command("grant", rich_help_panel=_PANEL)(releases.grant)
    _add_group(
        app,
        "revoke",
        "Take a grant back, or stop a site.",
        grant=releases.revoke_grant,
        site=sites.revoke_site,
    )
    app.command("sites", rich_help_panel=_PANEL)(sites.sites)
    app.command("requests", rich_help_panel=_PANEL)(sites.requests)
    _add_group(
        app,
        "principals",
        "Who may call the service: list, add, revoke.",
        list=principals.list_principals,
        add=principals.add_principal,
        revoke=principals.revoke_principal,
    )
    app.command("log", rich_help_panel=_PANEL)(log.log)
    _add_group(
        app,
        "retention",
        "What the log may shred when: show, run; legal holds.",
        show=retention.show,
        run=retention.run,
        hold=retention.hold,
        release=retention.release,
    )


def _add_group(app: typer.Typer, name: str, description: str, **commands: Any) -> None:
    group = typer.Typer(no_args_is_help=True, help=description)
    for command, function in commands.items():
        group.command(command)(function)
    app.add_typer(group, name=name, rich_help_panel=_PANEL)
