"""What the `compliance breaches` commands show to people."""

from __future__ import annotations

from collections.abc import Sequence

from compliance.breach_views import BreachView
from compliance.presentation import print_fields, print_table

_CLOCKS = {
    "running": "notify by {due}",
    "due-soon": "notify by {due}: soon",
    "overdue": "OVERDUE since {due}",
    "in-time": "notified in time",
    "late": "notified late, due {due}",
    "not-required": "no deadline",
}


def clock_in_words(view: BreachView) -> str:
    """How a breach stands against the clock, in one line."""
    return _CLOCKS[view.clock.status].format(due=view.clock.due_at)


def print_breaches(breaches: Sequence[BreachView]) -> None:
    """Breaches, one a line."""
    rows = [
        (view.name, view.state, view.role, view.risk, view.aware_at, clock_in_words(view))
        for view in breaches
    ]
    print_table(("breach", "state", "as", "risk", "aware", "clock"), rows, "no breaches")


def print_breach(view: BreachView) -> None:
    """One breach, with all that is stated of it."""
    content = view.content
    print_fields(
        {
            "breach": view.name,
            "state": view.state,
            "as": view.role,
            "aware": view.aware_at,
            "clock": f"{clock_in_words(view)} ({view.clock.article})",
            "sites": ", ".join(view.sites) or "the whole service",
            "risk": f"{view.risk} {content.risk_reason}".strip(),
            "facts": content.facts,
            "effects": content.effects,
            "remedial action": content.remedial_action,
            "subjects": _amount(content.subjects, content.categories_of_subjects),
            "records": _amount(content.records, content.categories_of_data),
            "authority": _told(view.authority_at, content.authority_reference),
            "reasons for delay": content.reasons_for_delay,
            "controller": _told(view.controller_at),
            "data subjects": _told(view.subjects_at, content.reasons_not_to_tell_subjects),
            "alarm": view.overdue_at or "",
            "closed": _told(view.closed_at, content.closing_reason),
            "recorded": f"by {view.filed_by} at {view.filed_at}",
            "log entries": ", ".join(map(str, view.positions)),
        }
    )


def _amount(number: int | None, categories: str) -> str:
    return " ".join(part for part in ("" if number is None else f"{number}", categories) if part)


def _told(at: str | None, more: str = "") -> str:
    return " ".join(part for part in (at or "", more) if part)
