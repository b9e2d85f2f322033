"""Commands about training plans."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from audit.options import Json
from audit.terminal import print_json
from compliance.commands.options import (
    DEFAULT_FOLDER,
    FolderOption,
    PlanArgument,
    ReasonOption,
    TokenOption,
    TrustOption,
    plan_id_of,
    service,
)
from compliance.presentation import (
    document,
    print_plan,
    print_plans,
    say,
    short,
)
from compliance.wire import PlanState


def plans(
    plan: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="Show this plan in full.", show_default=False),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="Only plans that are submitted, approved, rejected, completed, failed."),
    ] = None,
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """List training plans, or show one in full: what an officer decides on.

    Examples: `compliance plans --state submitted` · `compliance plans 3fa2c1 --json`
    """
    with service(trust, token_file, folder) as client:
        if plan is None:
            found = client.plans(cast("PlanState | None", state))
            print_json([document(view) for view in found]) if json else print_plans(found)
            return
        shown = client.plan(plan_id_of(client, plan))
    print_json(document(shown)) if json else print_plan(shown)


def approve_plan(
    plan: PlanArgument,
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Approve a plan that somebody else submitted. Sites may then train by it.

    Exit codes: 3 it is your own, 8 you are no officer, 9 it was decided already.

    Example: `compliance approve plan 3fa2c1 --reason "DPIA 12 covers it"`
    """
    with service(trust, token_file, folder) as client:
        view = client.approve_plan(plan_id_of(client, plan), reason=reason)
    if json:
        print_json(document(view))
    else:
        say(f"[green]approved[/] plan {short(view.plan_id)}, log entry {view.approved_position}")
        say("The run begins when `server start` sees the approval.")


def reject_plan(
    plan: PlanArgument,
    reason: ReasonOption = "",
    trust: TrustOption = None,
    token_file: TokenOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Reject a plan. The coordinator submits a changed one as a new plan.

    Example: `compliance reject plan 3fa2c1 --reason "epsilon too large for this purpose"`
    """
    with service(trust, token_file, folder) as client:
        view = client.reject_plan(plan_id_of(client, plan), reason=reason)
    print_json(document(view)) if json else say(f"[red]rejected[/] plan {short(view.plan_id)}")
