"""What the `compliance` command shows to people. Scripts use `--json`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from audit.statement import SignedStatement
from audit.terminal import out
from audit.words import count_of
from compliance.access_views import PrincipalView
from compliance.log_views import LogEntryView
from compliance.recall_views import RecallView
from compliance.release_views import GrantView, ReleaseView
from compliance.resources import PlanView, SiteView
from compliance.wire import Role

CERTIFICATE_WARNING: Final = timedelta(days=30)
"""So long before a site's certificate ends the list of sites says so in red."""

_SHORT_DIGEST: Final = 12
"""Hexadecimal digits of a digest in a table: unique in practice, and accepted as an ID."""

_WIDTH: Final = 10_000
"""No cell is cut or folded to the terminal: rows can be searched, copied and piped."""

_LONG_HEX: Final = re.compile(r"[0-9a-f]{64}")

_TELLING: Final = (
    "name",
    "verdict",
    "reason",
    "site",
    "activity",
    "round",
    "epsilon_spent",
    "purpose",
    "legal_basis",
    "datasets",
    "records_removed",
)
"""Of a signed statement, what a line about it shows."""

_COLOURS: Final = {
    "approved": "green",
    "completed": "green",
    "done": "green",
    "failed": "red",
    "rejected": "red",
    "revoked": "red",
    "recalled": "red",
    "open": "yellow",
    "submitted": "yellow",
    "candidate": "yellow",
    "pending": "yellow",
}


def say(markup: str) -> None:
    """Print one line of rich markup; values in it must be escaped."""
    out().print(markup, highlight=False, emoji=False)


def short(digest: str) -> str:
    """The first digits of a digest, for tables."""
    return digest.removeprefix("sha256:")[:_SHORT_DIGEST]


def document(view: BaseModel) -> dict[str, Any]:
    """A view for `--json`: signed statements are followed by what they say, as `<name>_body`."""
    fields: dict[str, Any] = view.model_dump(mode="json")
    for name in type(view).model_fields:
        value = getattr(view, name)
        if isinstance(value, SignedStatement):
            fields[f"{name}_body"] = value.body
    return fields


def print_plans(plans: Sequence[PlanView]) -> None:
    """Plans, one a line."""
    rows = []
    for view in plans:
        plan = view.plan
        rows.append(
            (
                short(view.plan_id),
                plan.name,
                _state(view.state),
                f"{plan.privacy.epsilon}",
                f"{plan.privacy.delta}",
                f"{view.rounds_reported}/{plan.rounds}"
                + (f" ({view.rounds_missed} missed)" if view.rounds_missed else ""),
                ", ".join(plan.sites),
                view.submitted_by,
                view.submitted_at,
            )
        )
    heads = ("id", "name", "state", "ε", "δ", "rounds", "sites", "by", "submitted")
    print_table(heads, rows, "no plans")


def print_plan(view: PlanView) -> None:
    """One plan, with all that an officer decides on."""
    plan = view.plan
    privacy = plan.privacy
    phases = "; ".join(
        f"{count_of(phase.rounds, f'{phase.kind} round')} of"
        f" {count_of(phase.steps_per_round, 'step')}"
        f" (q {phase.sampling_rate}, noise {phase.noise_multiplier}, clip {phase.max_grad_norm})"
        for phase in plan.phases
    )
    print_fields(
        {
            "plan": view.plan_id,
            "name": plan.name,
            "state": view.state,
            "federation": plan.federation,
            "author": f"{plan.author}, submitted by {view.submitted_by} at {view.submitted_at}",
            "purpose": f"{plan.purpose} ({plan.legal_basis}), kept"
            f" {count_of(plan.retention_days, 'day')}",
            "task": f"{plan.task}: {', '.join(plan.labels)}",
            "base model": f"{plan.base_model.name} {plan.base_model.digest}",
            "starts from": ""
            if plan.starts_from is None
            else f"{count_of(plan.starts_from.rounds, 'round')} of plan {plan.starts_from.plan};"
            " its release tells of those rounds too",
            "adapter": f"{plan.adapter.kind} rank {plan.adapter.rank}",
            "privacy": f"ε {privacy.epsilon}, δ {privacy.delta} for one {privacy.unit},"
            f" {privacy.adjacency}",
            "phases": phases,
            "sites": f"{', '.join(plan.sites)} (quorum {plan.quorum}, {plan.deadline_seconds} s)",
            "rounds": _rounds(view),
            "decision": _decision(view.approval or view.rejection),
            "outcome": _outcome(view),
            "log entries": _positions(view.submitted_position, view.approved_position),
        }
    )


def print_releases(releases: Sequence[ReleaseView]) -> None:
    """Releases, one a line."""
    rows = []
    for view in releases:
        manifest = view.manifest
        highest = max(manifest.epsilon_told.values())
        rows.append(
            (
                short(view.release_id),
                manifest.name,
                _state(view.state),
                short(view.plan_id),
                f"{highest}",
                f"{manifest.metrics.accuracy}",
                f"{manifest.ciphertext_bytes}",
                ", ".join(grant.principal for grant in view.grants if grant.revoked_at is None),
            )
        )
    heads = ("id", "name", "state", "plan", "max ε", "accuracy", "bytes", "granted to")
    print_table(heads, rows, "no releases")


def print_release(view: ReleaseView) -> None:
    """One release, with all that an officer decides on."""
    manifest = view.manifest
    spent = ", ".join(f"{site} {value}" for site, value in manifest.epsilon_by_site.items())
    with_start = ", ".join(f"{site} {it}" for site, it in manifest.epsilon_with_start.items())
    metrics = manifest.metrics
    print_fields(
        {
            "release": view.release_id,
            "name": manifest.name,
            "state": view.state,
            "plan": view.plan_id,
            "base model": f"{manifest.base_model.name} {manifest.base_model.digest}",
            "files": ", ".join(manifest.files),
            "content": f"{manifest.ciphertext_bytes} bytes, {manifest.ciphertext_digest}",
            "ε by site": f"{spent} (δ {manifest.delta})",
            "ε with start": with_start,
            "metrics": f"{metrics.in_words()}, {count_of(metrics.examples, 'held-out example')}",
            "submitted": f"by {view.submitted_by} at {view.submitted_at}",
            "decision": _decision(view.approval or view.rejection),
            "recalled": _recall(view.recall),
            "log entries": _positions(view.submitted_position, view.approved_position),
        }
    )
    if view.grants:
        print_grants(view.grants)


def print_grants(grants: Sequence[GrantView]) -> None:
    """Grants, one a line."""
    rows = [
        (
            grant.principal,
            _state("revoked" if grant.revoked_at else "live until"),
            grant.revoked_at or grant.expires_at,
            grant.purpose,
            grant.granted_by,
            f"{grant.downloads}"
            + ("" if grant.downloads_left is None else f" ({grant.downloads_left} left)"),
        )
        for grant in grants
    ]
    heads = ("granted to", "state", "time", "purpose", "by", "downloads")
    print_table(heads, rows, "no grants")


def print_sites(sites: Sequence[SiteView]) -> None:
    """Sites, one a line."""
    rows = [
        (
            site.name,
            _state(site.state),
            site.identity_key,
            site.enrolled_at,
            _certificate_end(site, datetime.now(UTC)),
        )
        for site in sites
    ]
    heads = ("site", "state", "identity key", "enrolled", "certificate until")
    print_table(heads, rows, "no sites")


def _certificate_end(site: SiteView, now: datetime) -> str:
    if site.certificate_ends_at is None:
        return ""
    day, left = (
        site.certificate_ends_at[:10],
        datetime.fromisoformat(site.certificate_ends_at) - now,
    )
    if site.state != "approved" or left > CERTIFICATE_WARNING:
        return day
    asked = "asked for the next" if site.renewal is not None else "has not asked for the next"
    ends = "ended" if left < timedelta() else count_of(left.days, "day")
    return f"[red]{day}: {ends}, {asked}[/]"


def print_principals(principals: Sequence[PrincipalView]) -> None:
    """Principals, one a line."""
    rows = [
        (
            principal.name,
            roles_and_sites(principal.roles, principal.sites),
            _state(_standing(principal)),
            principal.expires_at or "never",
            principal.last_used_at or "never",
            principal.created_by,
            principal.created_at,
        )
        for principal in principals
    ]
    heads = ("name", "roles", "state", "expires", "last used", "made by", "made")
    print_table(heads, rows, "no principals")


def roles_and_sites(roles: Sequence[Role], sites: Mapping[Role, Sequence[str]]) -> str:
    """Roles, each with the sites to which it is limited.

    >>> roles_and_sites(["auditor", "officer"], {"officer": ["north", "south"]})
    'auditor, officer (north, south)'
    """
    return ", ".join(
        f"{role} ({', '.join(sites[role])})" if role in sites else role for role in roles
    )


def _standing(principal: PrincipalView) -> str:
    if principal.revoked_at:
        return "revoked"
    return "live" if principal.confirmed else "unconfirmed"


def print_entries(entries: Sequence[LogEntryView]) -> None:
    """Log entries, one a line, the payload below."""
    rows = [
        (
            f"{entry.position}",
            entry.time,
            entry.actor,
            entry.action,
            _short_object(entry.object),
            "(forgotten)" if entry.payload is None else _gist(entry.payload),
        )
        for entry in entries
    ]
    heads = ("position", "time", "actor", "action", "object", "payload")
    print_table(heads, rows, "no entries")


def print_fields(fields: Mapping[str, str]) -> None:
    """Names and values in two columns; empty values are left out."""
    shown = {name: value for name, value in fields.items() if value}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        colour = _COLOURS.get(value, "default") if name == "state" else "default"
        say(f"[bold]{escape(f'{name:<{width}}')}[/]  [{colour}]{escape(value)}[/]")


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]], nothing: str) -> None:
    """Rows under heads, or what to say when there are none."""
    if not rows:
        say(f"[dim]{nothing}[/]")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head)
    for row in rows:
        # Text, not markup: what others wrote is shown as they wrote it.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console = out()
    console.width = _WIDTH
    console.print(table)


def _state(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))


def _decision(signed: SignedStatement | None) -> str:
    if signed is None:
        return "none yet"
    body = signed.body
    reason = f": {body['reason']}" if body["reason"] else ""
    return f"{body['verdict']} by {body['decided_by']} at {body['decided_at']}{reason}"


def _recall(recall: RecallView | None) -> str:
    if recall is None:
        return ""
    return (
        f"by {recall.recalled_by} at {recall.recalled_at}: {recall.reason}"
        f" (log entry {recall.position})"
    )


def _rounds(view: PlanView) -> str:
    told = f"{view.rounds_reported} of {view.plan.rounds} reported"
    if not view.plan.missed_rounds:
        return told
    return f"{told}, {view.rounds_missed} without a quorum of {view.plan.missed_rounds} at most"


def _outcome(view: PlanView) -> str:
    outcome = view.run_outcome
    if outcome is None:
        return "none yet"
    return (
        f"{outcome.verdict} after {count_of(outcome.rounds_done, 'round')} {outcome.reason}".strip()
    )


def _positions(submitted: int, approved: int | None) -> str:
    return f"{submitted}" if approved is None else f"{submitted}, {approved}"


def _short_object(name: str) -> str:
    return _LONG_HEX.sub(lambda match: match.group(0)[:_SHORT_DIGEST], name.replace("sha256:", ""))


def _gist(payload: Mapping[str, Any]) -> str:
    """What a payload says; of a statement (whose digest is the object) what tells most."""
    said = dict(payload)
    if "statement" in payload:
        body = SignedStatement.from_json(payload["statement"]).body
        said |= {name: body[name] for name in _TELLING if name in body}
    parts = (
        f"{name}={value}"
        for name, value in said.items()
        if value not in ("", None, {}) and not isinstance(value, dict)
    )
    return " ".join(parts)
