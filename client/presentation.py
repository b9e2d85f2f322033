"""How the `client` command shows things to people. Tables go to standard output."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from audit.terminal import out
from audit.words import count_of

if TYPE_CHECKING:  # so that `client --help` does not wait for torch
    from client.budget import Budget, Cost, Reservation
    from client.erasure import Erased
    from client.findings import Finding
    from client.learning.accounting import BatchCap
    from client.policy import Policy
    from client.preflight import Check

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}


def say(message: str) -> None:
    """One line with markup on standard output."""
    out().print(message, highlight=False)


def print_findings(findings: Iterable[Finding]) -> None:
    """Each rule, its verdict, and what to do where it objects."""
    table = _table("rule", "verdict", "what was found")
    for finding in findings:
        verdict = "[green]allows[/]" if finding.passed else "[red]refuses[/]"
        detail = escape(finding.detail)
        if not finding.passed and finding.fix:
            detail += f"\n[dim]fix: {escape(finding.fix)}[/]"
        table.add_row(finding.rule, verdict, detail)
    out().print(table)


def print_checks(checks: Iterable[Check]) -> None:
    """Each check, its verdict, and what to do where it failed."""
    table = _table("check", "verdict", "what was found")
    for check in checks:
        detail = escape(check.detail)
        if check.fix:
            detail += f"\n[dim]fix: {escape(check.fix)}[/]"
        table.add_row(check.name, _MARKS[check.outcome], detail)
    out().print(table)


def print_policy(policy: Policy) -> None:
    """A policy, key by key."""
    table = _table("key", "value")
    for name, value in policy.model_dump(mode="json").items():
        shown = ", ".join(value) or "none: every plan is refused" if name == "purposes" else value
        if isinstance(shown, bool):
            shown = str(shown).lower()  # as policy.toml writes it
        table.add_row(name, escape(", ".join(shown) if isinstance(shown, list) else str(shown)))
    out().print(table)


SHORT_ID_DIGITS = 12
"""Digits of a plan's id that are shown."""

BAR_CELLS = 60
"""Cells of the bar that shows a budget."""


def print_budget(budget: Budget) -> None:
    """The whole budget, as figures and a bar, what each figure is, then each plan's part."""
    from client.budget import ADAPTIVE, FILTER, ODOMETER, POPULATION
    from client.budget_period import PERIOD

    limit = "no policy" if budget.limit is None else str(budget.limit)
    left = "unknown" if budget.left is None else str(budget.left)
    say(
        f"epsilon at delta {budget.delta:f}, for adding or removing one data subject:\n"
        f"  spent {budget.spent} · reserved {budget.reserved} · left {left} of {limit}"
    )
    bar = _bar(budget)
    if bar:
        say(f"  {bar}")
    _print_period(budget)
    if not budget.plans:
        say("no plan has used this site's records")
        return
    say(f"[dim]whose      {POPULATION}[/]")
    say(f"[dim]spent      {ODOMETER}[/]")
    say(f"[dim]limit      {FILTER}[/]")
    if budget.period is not None:
        say(f"[dim]period     {PERIOD}[/]")
    if budget.adaptive is not None:
        say(f"[dim]{budget.adaptive!s:<10} {ADAPTIVE}[/]")
    table = _table("plan", "purpose", "state", "rounds started", "spent", "committed", "promised")
    table.columns[0].min_width = SHORT_ID_DIGITS  # whole, to be copied, also at 80 columns
    for plan in budget.plans:
        total = plan.rounds_started + plan.rounds_reserved + plan.rounds_released
        table.add_row(
            f"{escape(plan.plan_name)}\n[dim]{short(plan.plan_id)}[/]",
            escape(plan.purpose),
            "ended" if plan.settled else "open",
            f"{plan.rounds_started} of {total}",
            str(plan.epsilon_spent),
            str(plan.epsilon_committed),
            f"{plan.epsilon_promised} at {plan.delta:f}",
        )
    out().print(table)
    for plan in budget.plans:
        _print_terms(plan.plan_name, plan.unit, plan.epsilon_of_subject, plan.caps)
    if len(budget.plans) > 1:
        say("[dim]The plans' epsilons do not add up: the total composes all of them at once.[/]")


def _print_period(budget: Budget) -> None:
    found = budget.period
    if found is None:
        return
    say(
        f"  within {count_of(found.period.days, 'day')}: spent {found.spent} · "
        f"reserved {found.committed - found.spent} · left {found.left} of "
        f"{found.period.max_epsilon}, counting from {found.since}"
    )
    if found.ahead is not None:
        say(
            f"[yellow]note[/]: the ledger knows the time {found.ahead}, which this machine's clock "
            "has not reached: it was ahead, or is behind now. Rounds count as if they started "
            "then, so the period gives back later; set the clock by NTP"
        )


def print_cost(cost: Cost, reservation: Reservation, budget: Budget, refusal: str | None) -> None:
    """What a plan would cost, what would be left, and whether the budget allows it."""
    name = escape(reservation.plan_name)
    if reservation.plan_id:
        name += f" ({short(reservation.plan_id)})"
    say(f"plan {name}: epsilon {cost.plan} at delta {reservation.delta:f}")
    _print_terms(reservation.plan_name, reservation.unit, cost.subject, reservation.caps)
    verb = "is" if cost.reserved else "would be"
    say(f"with it, this site's total {verb} {cost.total} at delta {budget.delta:f}")
    if cost.period is not None and budget.period is not None:
        period = budget.period.period
        say(
            f"within {count_of(period.days, 'day')} it {verb} {cost.period} of {period.max_epsilon}"
        )
    if refusal is None and budget.limit is not None:
        say(f"{budget.limit - cost.total} of {budget.limit} {verb} left: [green]allowed[/]")


def _print_terms(name: str, unit: str, of_subject: Decimal, caps: Iterable[BatchCap]) -> None:
    """What a plan's epsilon holds for, where it is not simply for each subject of any site."""
    if unit != "subject":
        say(
            f"[dim]{escape(name)} promises its epsilon to single records; to a data subject it is "
            f"{of_subject}, which is what this site's total takes it for[/]"
        )
    for cap in caps:
        say(
            f"[dim]{escape(name)}: of more than {count_of(cap.subjects, 'subject')} in a batch a"
            f" random {cap.subjects} take part; its epsilon holds for sites of at most "
            f"{count_of(cap.max_population, 'subject')}[/]"
        )


def _bar(budget: Budget) -> str:
    """Spent, reserved and left as shares of the limit; empty where there is nothing to show."""
    limit = budget.limit
    if not limit or not budget.committed.is_finite():
        return ""
    committed = min(BAR_CELLS, math.ceil(BAR_CELLS * budget.committed / limit))
    spent = min(committed, math.ceil(BAR_CELLS * budget.spent / limit))
    left = BAR_CELLS - committed
    return f"[green]{'█' * spent}[/][yellow]{'▒' * (committed - spent)}[/][dim]{'·' * left}[/]"


def print_erasure(erased: Erased, *, delivered: bool) -> None:
    """What an erasure did, without the identifier."""
    receipt = erased.receipt
    where = ", ".join(receipt.datasets) or "no dataset any more"
    say(
        f"[green]erased[/]: {count_of(receipt.records_removed, 'record')} from {escape(where)}; "
        f"data key destroyed"
    )
    say(f"plans that may have used them: {len(receipt.plans)}")
    for plan_id in receipt.plans:
        say(f"  {short(plan_id)}")
    say(f"this site's receipt: {escape(str(erased.own_receipt))}")
    if delivered:
        say(f"the compliance service's receipt: {escape(str(erased.receipt_file))}")


def print_head(head: dict[str, Any]) -> None:
    """The head of the audit log that this site has cosigned."""
    size, log, when = head["size"], head["log"], head["cosigned_at"]
    say(f"[green]cosigned[/] {count_of(size, 'entry')} of {escape(log)}, {when}")


def short(plan_id: str) -> str:
    """The first twelve digits of a plan's id; enough to name it to every command."""
    return plan_id.removeprefix("sha256:")[:SHORT_ID_DIGITS]


def _table(*columns: str) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
