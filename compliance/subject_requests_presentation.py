"""What the `requests` commands show to people. Scripts use `--json`."""

from __future__ import annotations

from rich.markup import escape
from rich.text import Text

from audit.words import count_of
from compliance.presentation import print_fields, print_table, say
from compliance.subject_requests_views import CasePage, CaseView, PartView

_COLOURS = {"overdue": "bold red", "due-soon": "yellow", "in-time": "", "ended": "dim"}


def print_page(page: CasePage) -> None:
    """Requests, one a line, and the sums."""
    print_table(
        ("id", "asks for", "law", "stage", "due", "clock", "sites"),
        [_row(view) for view in page.requests],
        "no requests",
    )
    say(f"{page.open} open, {page.due_soon} due soon, {page.overdue} overdue")
    if page.next is not None:
        say(f"more: --after {page.next}")


def print_case(view: CaseView) -> None:
    """One request in full."""
    print_fields(
        {
            "request": view.request_id,
            "asks for": f"{view.right}, under {view.jurisdiction} ({view.rules_version})",
            "stage": view.stage,
            "came": f"{view.received_at}, filed by {view.filed_by}",
            "confirmed": view.confirmed_at or f"not yet; due {view.confirm_by or 'at no time'}",
            "identity": f"{view.identity}: {view.verified_at or 'not proven'}",
            "due": f"{view.due_at} ({in_time(view.urgency, view.due_at, view.finished_at)})",
            "extended": view.extended_at or "no",
            "ended": view.finished_at or "no",
        }
    )
    if view.ground or view.notice:
        say(f"told: {escape(' '.join(filter(None, [view.ground, view.notice])))}")
    print_table(
        ("site", "state", "outcome", "taken", "answered", "reminders"),
        [_part_row(part) for part in view.parts],
        "",
    )


def in_time(urgency: str, due_at: str, finished_at: str | None) -> str:
    """How a clock stands; of one that has ended also whether that was too late.

    >>> in_time("ended", "2026-11-20T22:59:59.999Z", "2026-11-27T06:36:00.380Z")
    'ended late'
    >>> in_time("overdue", "2026-11-20T22:59:59.999Z", None)
    'overdue'
    """
    return f"{urgency} late" if finished_at is not None and finished_at > due_at else urgency


def _row(view: CaseView) -> tuple[str | Text, ...]:
    return (
        view.request_id[:8],
        view.right,
        view.jurisdiction,
        view.stage,
        view.due_at[:10],
        Text(view.urgency, style=_COLOURS[view.urgency]),
        ", ".join(_told(part) for part in view.parts),
    )


def _told(part: PartView) -> str:
    told = part.outcome or part.state
    reminded = (
        f", reminded {count_of(part.reminders, 'time')}"
        if part.reminders and part.outcome is None
        else ""
    )
    return f"{part.site} ({told}{reminded})"


def _part_row(part: PartView) -> tuple[str, ...]:
    reminded = f"{part.reminders}" + (f", last {part.reminded_at[:10]}" if part.reminded_at else "")
    return (
        part.site,
        part.state,
        " ".join(filter(None, [part.outcome, part.ground])),
        part.taken_at or "",
        part.answered_at or "",
        reminded,
    )
