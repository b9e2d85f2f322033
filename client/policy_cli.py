"""The `client policy` commands, and what a plan would cost: the site's opinion before it trains."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import (
    ExitCode,
    FiduciaryError,
    MalformedInput,
    NotFound,
)
from audit.options import Json
from audit.terminal import err, print_json
from client.findings import Finding, first_failure
from client.network import open_service
from client.options import FolderOption
from client.policy import (
    DEFAULT_POLICY,
    read_policy,
    write_default_policy,
)
from client.presentation import print_findings, print_policy, say, short
from client.proposals import check_proposal
from client.site import Site
from compliance.api import ComplianceClient
from compliance.resources import PlanView

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
Show and try the site's policy: what its operator allows plans to do.

The policy is `policy.toml` in the site's folder, and yours to edit. Every key is required, an
unknown key is an error, and a fresh policy allows no purpose: **default is refuse**. A running
`client start` obeys a change from its next round on.
""",
)


@app.command()
def show(folder: FolderOption = None, json: Json = False) -> None:
    """Show the policy as the site reads it.

    Exit codes: 0, 4 there is none, 5 it cannot be read (the message names the line or key).

    Example: `client policy show`
    """
    with Site.open(folder) as site:
        policy = read_policy(site.paths.policy)
    if json:
        print_json(policy.model_dump(mode="json"))
    else:
        print_policy(policy)


@app.command()
def init(
    folder: FolderOption = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the default policy, write nothing.")
    ] = False,
) -> None:
    """Write the commented default policy, which refuses every plan. An existing one is kept.

    Example: `client policy init --print`
    """
    if print_only:
        typer.echo(DEFAULT_POLICY, nl=False)
        return
    with Site.open(folder) as site:
        existed = site.paths.policy.exists()
        write_default_policy(site.paths.policy)
        say(f"{'kept' if existed else 'wrote'} {escape(str(site.paths.policy))}")


@app.command()
def check(
    plan: Annotated[
        str,
        typer.Argument(
            metavar="PLAN",
            help="A coordinator's plan.toml; or a submitted plan: its id, first digits, or name.",
            show_default=False,
        ),
    ],
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Explain, rule by rule, what this site would say to a plan. Nothing is reserved.

    For a file only the policy can be asked. For a submitted plan every rule of the guard is: its
    signature, approval and place in the audit log, and, where these hold, policy, datasets, base
    model and budget.

    Exit codes: 0 the plan is allowed, 3 a rule refuses it, 10 only the budget does, 4 no such plan.

    Examples: `client policy check plan.toml` · `client policy check 3fa2c1 --json`
    """
    with Site.open(folder) as site:
        notes: tuple[str, ...] = ()
        if Path(plan).is_file():
            findings = _check_draft(site, Path(plan))
        else:
            findings, notes = _check_submitted(site, plan)
    failure = first_failure(findings)
    if json:
        found = [finding.to_json() for finding in findings]
        print_json({"allowed": failure is None, "findings": found, "notes": list(notes)})
    else:
        print_findings(findings)
        for note in notes:
            say(f"[yellow]note[/]: {escape(note)}")
        if failure is None:
            say("[green]allowed[/]")
        else:
            say(f"[red]refused[/]: {escape(failure.detail)}")
    if failure is not None:
        only_budget = all(finding.passed or finding.rule in _BUDGET for finding in findings)
        raise typer.Exit(int(ExitCode.BUDGET_EXHAUSTED if only_budget else ExitCode.REFUSED))


_BUDGET = ("budget", "budget-period")


def find_plan(service: ComplianceClient, plan: str) -> PlanView:
    """A submitted plan by its id, the first six or more digits of it, or its name.

    Raises:
        NotFound: When there is none for this site.
        MalformedInput: When it could be several.
    """
    digits = plan.removeprefix("sha256:")
    views = service.plans()
    found = [view for view in views if view.plan_id == f"sha256:{digits}"]
    if not found and len(digits) >= 6:
        found = [v for v in views if v.plan_id.removeprefix("sha256:").startswith(digits)]
    if not found:
        found = [view for view in views if view.plan.name == plan]
    if not found:
        raise NotFound(
            f"no submitted plan {plan} asks this site",
            fix="the coordinator submits plans: `server submit plan.toml`",
        )
    if len(found) > 1:
        ids = ", ".join(short(view.plan_id) for view in found)
        raise MalformedInput(f"{plan} could be any of {ids}", fix="give more digits of the id")
    return found[0]


def _check_draft(site: Site, path: Path) -> tuple[Finding, ...]:
    from client.base_models import installed_digest
    from client.drafts import read_draft

    def digest_of(name: str) -> str | None:
        try:
            return installed_digest(name, site.paths.models)
        except FiduciaryError:
            return None

    proposal = read_draft(path, digest_of)
    err().print("a draft: only the policy can be asked; submit it to have every rule checked")
    return check_proposal(read_policy(site.paths.policy), proposal)


def _check_submitted(site: Site, plan: str) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    from client.review import Review
    from client.vault.store import Vault

    with ExitStack() as stack:
        service = stack.enter_context(open_service(site))
        vault = stack.enter_context(Vault.open(site.paths, site.keyring))
        ledger = stack.enter_context(site.ledger())
        view = find_plan(service, plan)
        review = Review(site, vault, ledger, service)
        return review.of(view.plan_id).findings, review.notes(view.plan)
