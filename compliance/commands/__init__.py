"""An officer's commands: each is one or two calls of `compliance.api`."""

from __future__ import annotations

from typing import Any, Final

import typer

from compliance.commands import (
    access,
    aliases,
    breaches,
    compare,
    database,
    erasures,
    gates,
    health,
    log,
    plans,
    principals,
    recalls,
    releases,
    reports,
    retention,
    sites,
    subject_requests,
)

_PANEL: Final = "An officer's work"
_OPERATOR_PANEL: Final = "Run the service"


def add_commands(app: typer.Typer) -> None:
    """Put the officer's commands on the `compliance` command."""
    app.command("health", rich_help_panel=_OPERATOR_PANEL)(health.health)
    app.command("migrate", rich_help_panel=_OPERATOR_PANEL)(database.migrate)
    app.command("backup", rich_help_panel=_OPERATOR_PANEL)(database.backup)
    app.command("restore", rich_help_panel=_OPERATOR_PANEL)(database.restore)
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
    app.command("gates", rich_help_panel=_PANEL)(gates.gates)
    app.command("grant", rich_help_panel=_PANEL)(releases.grant)
    _add_group(
        app,
        "revoke",
        "Take a grant back, or stop a site.",
        grant=releases.revoke_grant,
        site=sites.revoke_site,
    )
    app.command("compare", rich_help_panel=_PANEL)(compare.compare)
    _add_group(
        app,
        "alias",
        "Names such as `staging` and `production`: set, list, roll back.",
        set=aliases.set_alias,
        list=aliases.list_aliases,
        rollback=aliases.roll_back,
    )
    app.command("recall", rich_help_panel=_PANEL)(recalls.recall)
    _add_group(
        app,
        "notices",
        "What holders of releases were told: list, acknowledge.",
        list=recalls.list_notices,
        acknowledge=recalls.acknowledge,
    )
    _add_group(
        app,
        "erasures",
        "Releases that erased subjects took part in: list, show, decide, conclude; receipts.",
        list=erasures.list_cases,
        show=erasures.show,
        decide=erasures.decide,
        conclude=erasures.conclude,
        receipt=erasures.receipt,
    )
    app.command("sites", rich_help_panel=_PANEL)(sites.sites)
    app.add_typer(subject_requests.app, name="requests", rich_help_panel=_PANEL)
    _add_group(
        app,
        "principals",
        "Who may call the service: list, add, confirm, rotate, revoke.",
        list=principals.list_principals,
        add=principals.add_principal,
        confirm=principals.confirm_principal,
        rotate=principals.rotate_principal,
        revoke=principals.revoke_principal,
    )
    app.command("login", rich_help_panel=_PANEL)(access.login)
    app.command("logout", rich_help_panel=_PANEL)(access.logout)
    app.command("whoami", rich_help_panel=_PANEL)(access.whoami)
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
    app.command("report", rich_help_panel=_PANEL)(reports.report)
    _add_group(
        app,
        "breaches",
        "Personal data breaches: the register, and how long is left to notify.",
        list=breaches.list_breaches,
        show=breaches.show,
        add=breaches.add,
        update=breaches.update,
        notify=breaches.notify,
        close=breaches.close,
    )


def _add_group(app: typer.Typer, name: str, description: str, **commands: Any) -> None:
    group = typer.Typer(no_args_is_help=True, help=description)
    for command, function in commands.items():
        group.command(command)(function)
    app.add_typer(group, name=name, rich_help_panel=_PANEL)
