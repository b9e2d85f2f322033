"""What the `retention` commands of service and site show to people. Scripts use `--json`."""

from __future__ import annotations

from rich.markup import escape
from rich.text import Text

from compliance.presentation import print_table, say
from compliance.retention_views import (
    HoldView,
    RetentionKeyView,
    RetentionRunView,
    RetentionView,
)

_COLOURS = {"due": "yellow", "held": "cyan", "in-effect": "cyan"}


def print_retention(view: RetentionView) -> None:
    """Every key, one a line, then the holds."""
    named = ", ".join(view.jurisdictions) or "none named, so nothing is shredded"
    say(f"jurisdictions: {escape(named)}; rules of {view.rules_version}")
    print_table(
        ("action", "month", "entries", "status", "due", "rule", "why"),
        [_row(key) for key in view.keys],
        "no entries whose retention could end",
    )
    if view.holds:
        say("\nholds")
        print_table(
            ("name", "covers", "by", "since", "reason"),
            [
                (hold.name, covers(hold), hold.placed_by, hold.placed_at, hold.reason)
                for hold in view.holds
            ],
            "",
        )


def print_run(view: RetentionRunView) -> None:
    """What was shredded, one a line."""
    verb = "would shred" if view.dry_run else "shredded"
    for name in view.shredded:
        say(f"{verb} {escape(name)}")
    for name in view.finished:
        say(f"{'would confirm' if view.dry_run else 'confirmed'} {escape(name)}")
    if not view.shredded and not view.finished:
        say("nothing is due")


def covers(hold: HoldView) -> str:
    """What a hold covers, in words."""
    action = hold.action or "every action"
    span = f"{hold.first or 'the beginning'} to {hold.last or 'further notice'}"
    return f"{action}, {span}"


def _row(key: RetentionKeyView) -> tuple[str | Text, ...]:
    status = f"{key.status}, ordered" if key.ordered else key.status
    if key.hold is not None and key.status != "held":
        status += f", held by {key.hold}"
    return (
        key.action,
        key.month,
        f"{key.entries}",
        Text(status, style=_COLOURS.get(key.status, "")),
        key.due or "",
        key.rule or "",
        key.reason,
    )
