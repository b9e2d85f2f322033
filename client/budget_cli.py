"""`client budget`: what the site spent, what is left, and what a plan would cost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from audit.errors import BudgetExhausted
from audit.options import Json
from audit.terminal import print_json
from client.budget import Reservation, over_limit, over_period
from client.ledger import Ledger
from client.network import open_service
from client.options import FolderOption
from client.policy import Policy, read_policy
from client.policy_cli import find_plan
from client.presentation import print_budget, print_cost, say
from client.site import Site


def budget(
    folder: FolderOption = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="Tell what this plan would cost: a plan.toml, or a submitted plan's id or name.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.svg",
            help="Draw how epsilon grew with the rounds, and the limit.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the site's privacy budget: spent, reserved, left, and each plan's part.

    Epsilon is for adding or removing one data subject. It is composed over everything that was ever
    trained here, never added up, and a round counts from the moment it is reserved. Erasing records
    or adding them anew gives nothing back. The limits are those of policy.toml.

    The period's figures are of the rounds that started within its last days, and of every round
    that is reserved. What they allow comes back with time; what the total allows never does.

    **What the figures are.** The limit is a *filter*: it refuses a plan before it starts. What is
    spent is an *odometer*: it tells, and stops nothing. Both compose exactly what was fixed before
    it ran. If somebody chose plans after seeing what earlier ones gave out, the last figure holds.

    A plan that protects single records is told with what it costs a data subject, which the total
    counts; a plan that limits its batches, with the limit and the population that it holds for.

    With `--plan` it tells what a plan would cost and what would be left, without reserving
    anything; the exit code is then 10 when the budget does not allow it.

    Examples: `client budget` · `client budget --plan 3fa2c1` · `client budget --plot budget.svg`
    """
    from client.budget_plot import budget_svg
    from client.plots import check_plot, write_plot

    check_plot(plot)
    if plot is not None and plan is not None:
        raise typer.BadParameter("give no --plan with it", param_hint="--plot")
    with Site.open(folder) as site, site.ledger() as ledger:
        policy = read_policy(site.paths.policy)
        if plan is not None:
            _show_cost(site, ledger, policy, plan, json=json)
            return
        found = ledger.budget(policy.delta, policy.max_epsilon_total, period=policy.limits.period)
        history = () if plot is None else ledger.history(policy.delta)
    if plot is not None:
        write_plot(plot, budget_svg(found, history))
    if json:
        shown = {} if plot is None else {"history": [reading.to_json() for reading in history]}
        print_json({**found.to_json(), **shown})
        return
    print_budget(found)
    if plot is not None:
        say(f"wrote {escape(str(plot))}")


def _show_cost(site: Site, ledger: Ledger, policy: Policy, plan: str, *, json: bool) -> None:
    """Of a submitted plan, or of a coordinator's `plan.toml`."""
    if Path(plan).is_file():
        from client.drafts import draft_reservation

        reservation = draft_reservation(Path(plan))
    else:
        with open_service(site) as service:
            view = find_plan(service, plan)
        reservation = Reservation.of(view.plan_id, view.plan, ())
    limits = policy.limits
    cost = ledger.cost_of(reservation, limits)
    budget = ledger.budget(
        policy.delta, policy.max_epsilon_total, period=limits.period, with_plans=False
    )
    problem = None
    if not cost.reserved:
        problem = over_limit(reservation, cost, limits) or over_period(cost, limits)
    if json:
        left = policy.max_epsilon_total - cost.total
        print_json(
            {
                **cost.to_json(),
                "plan_id": reservation.plan_id or None,
                "unit": reservation.unit,
                "batch_limits": [vars(cap) for cap in reservation.caps],
                "epsilon_committed": float(budget.committed),
                "epsilon_limit": float(policy.max_epsilon_total),
                "epsilon_left_after": float(max(left, Decimal(0))),
                "period": None if budget.period is None else budget.period.to_json(),
                "delta": float(policy.delta),
                "allowed": problem is None,
                "refusal": problem,
            }
        )
    else:
        print_cost(cost, reservation, budget, problem)
    if problem is not None:
        raise BudgetExhausted(problem, fix="the limits are in policy.toml")
