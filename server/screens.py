"""What the `server` commands print for people, and the JSON of the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from audit.terminal import out, print_json
from audit.words import count_of
from client.kit import group_digits
from server.federation import Federation

if TYPE_CHECKING:
    from server.fetch import Fetched
    from server.submission import Proposal


def fingerprint(federation: Federation) -> str:
    """The fingerprint as it is read out."""
    return group_digits(federation.fingerprint)


def federation_json(federation: Federation) -> dict[str, Any]:
    """A federation for `--json`."""
    return {
        "federation": federation.settings.name,
        "folder": str(federation.root),
        "fleet_address": federation.fleet_address,
        "fingerprint": federation.fingerprint,
        "coordinator_key": federation.identity.public.encoded(),
    }


def show_sites(federation: Federation, *, as_json: bool) -> None:
    """Print the sites."""
    from server.status import live_state

    with federation.compliance() as compliance:
        views = compliance.sites()
    live = live_state(federation)
    rows = [
        {
            "name": view.name,
            "state": view.state,
            "online": bool(live and live["sites"].get(view.name)),
            "enrolled_at": view.enrolled_at,
        }
        for view in views
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out().print("no site has joined yet; next: server invite SITE")
        return
    table = _table("site", "state", "online", "enrolled at")
    for row in rows:
        table.add_row(
            str(row["name"]),
            str(row["state"]),
            ("yes" if row["online"] else "no") if live else "coordinator stopped",
            str(row["enrolled_at"]),
        )
    out().print(table)
    for row in rows:
        if row["state"] == "pending":
            out().print(f"next: server admit {row['name']}")


def show_proposal(proposal: Proposal) -> None:
    """Print what a plan does and costs."""
    plan = proposal.plan
    console = out()
    console.print(
        f"[bold]{escape(plan.name)}[/]: {plan.task}, {count_of(len(plan.labels), 'label')},"
        f" {plan.purpose}"
    )
    console.print(f"sites: {', '.join(plan.sites)}; quorum {plan.quorum}", highlight=False)
    console.print(
        f"base model: {escape(plan.base_model.name)}\n            {plan.base_model.digest}",
        highlight=False,
    )
    table = _table("phase", "rounds", "steps", "q", "sigma", "clip", "rate", "ε after")
    for phase in proposal.phases:
        table.add_row(
            phase.kind,
            str(phase.rounds),
            str(phase.steps),
            str(phase.sampling_rate),
            str(phase.noise_multiplier),
            str(phase.max_grad_norm),
            str(phase.learning_rate),
            f"{phase.epsilon_after:.4f}",
        )
    console.print(table)
    console.print(
        f"promise: ε = {plan.privacy.epsilon} at δ = {plan.privacy.delta:f} for each "
        f"{plan.privacy.unit} of a site; each site needs"
        f" {count_of(plan.minimum_subjects, 'subject')}",
        highlight=False,
    )
    _show_start(proposal)
    _show_terms(proposal)
    gradients = sum(phase.subject_gradients for phase in proposal.phases)
    console.print(
        f"cost at a site of {count_of(plan.privacy.nominal_subjects, 'subject')}: "
        f"{count_of(gradients, 'subject gradient')}, {proposal.megabytes_a_site:.1f} MB to and fro"
        f" ({count_of(proposal.weights, 'weight')})",
        highlight=False,
    )


def show_submitted(proposal: Proposal) -> None:
    """Say that this very plan was submitted before, and what can be done."""
    state, plan_id = proposal.submitted, proposal.plan_id
    out().print(
        f"this plan is there already, {state}, as {plan_id}; nothing was handed in",
        highlight=False,
    )
    if state == "submitted":
        out().print(f"next, by an officer: compliance approve plan {plan_id}")
    else:
        out().print("to train it once more, give it another name")


def show_checkpoints(federation: Federation, plan: str | None, *, as_json: bool) -> None:
    """Print what later plans may start from."""
    kept, now = federation.checkpoints, datetime.now(UTC)
    found = kept.kept(now) if plan is None else kept.of(plan, now)
    if as_json:
        print_json([each.model_dump(mode="json", exclude={"key", "format"}) for each in found])
        return
    if not found:
        out().print(
            "no model is kept; kept_checkpoints in federation.toml says after how many rounds"
        )
        return
    table = _table("plan", "id", "rounds", "model", "kept", "removed after")
    for each in found:
        table.add_row(
            each.plan_name,
            each.plan_id,
            str(each.rounds),
            each.model[:19] + "…",
            each.kept_at[:10],
            each.remove_after[:10],
        )
    out().print(table)


def _show_start(proposal: Proposal) -> None:
    """What a release will tell beyond the plan's own promise."""
    start = proposal.plan.starts_from
    if start is None:
        return
    told = ", ".join(f"{site} {value}" for site, value in proposal.epsilon_with_start.items())
    out().print(
        f"it starts from {count_of(start.rounds, 'round')} of plan {start.plan}\n"
        f"what its release tells with those rounds, at the same δ: ε {told}",
        highlight=False,
    )


def _show_terms(proposal: Proposal) -> None:
    """What sites must agree to beyond the promise."""
    plan, console = proposal.plan, out()
    if plan.privacy.unit != "subject":
        told = proposal.epsilon_of_subject
        console.print(
            f"to a subject of up to {count_of(plan.privacy.max_records_per_subject, 'record')} it"
            f" is {'without bound' if told is None else f'ε = {told}'}, which sites' budgets bear; "
            'sites refuse it unless their policy has "record" in privacy_units',
            highlight=False,
        )
    for phase in proposal.phases:
        if phase.batch_limit is not None:
            subjects, population = phase.batch_limit
            console.print(
                f"{phase.kind}: at most {count_of(subjects, 'subject')} a step; sites of more than "
                f"{count_of(population, 'subject')} refuse the plan",
                highlight=False,
            )
    if plan.privacy_audit:
        console.print("each site audits its own trainer before it trains", highlight=False)


def show_releases(federation: Federation, *, as_json: bool) -> None:
    """Print the releases."""
    with federation.compliance() as compliance:
        views = compliance.releases()
    rows = [
        {
            "release_id": view.release_id,
            "name": view.manifest.name,
            "state": view.state,
            "plan_id": view.plan_id,
            "accuracy": str(view.manifest.metrics.accuracy),
            "epsilon_by_site": {
                site: str(value) for site, value in view.manifest.epsilon_by_site.items()
            },
            "bytes": view.manifest.ciphertext_bytes,
        }
        for view in views
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out().print("nothing was released yet")
        return
    table = _table("release", "name", "state", "accuracy", "size")
    for row, view in zip(rows, views, strict=True):
        table.add_row(
            view.release_id,
            view.manifest.name,
            view.state,
            str(row["accuracy"]),
            f"{view.manifest.ciphertext_bytes / 1e6:.1f} MB",
        )
    out().print(table)


def show_fetched(fetched: Fetched) -> None:
    """Print where a release lies and how to load it."""
    console = out()
    console.print(
        f"release [bold]{escape(fetched.manifest.name)}[/], verified, in "
        f"{escape(str(fetched.folder))}"
    )
    console.print("load it with plain transformers and peft:\n")
    console.print(fetched.load_example(), markup=False, highlight=False)


def show_status(federation: Federation, *, as_json: bool) -> None:
    """Print the federation's status."""
    from server.status import federation_status

    status = federation_status(federation)
    if as_json:
        print_json(status)
        return
    console = out()
    state = "[green]running[/]" if status["running"] else "[yellow]stopped[/] (server start)"
    console.print(f"federation [bold]{escape(status['federation'])}[/]: {state}")
    console.print(f"partners at {status['fleet_address']}", highlight=False)
    console.print(f"compliance service: {status['compliance']}")
    console.print(f"fingerprint: {group_digits(status['fingerprint'])}", highlight=False)
    console.print(f"coordinator key: {status['coordinator_key']}", highlight=False)
    if status["sites"]:
        table = _table("site", "state", "online")
        for site in status["sites"]:
            table.add_row(site["name"], site["state"], "yes" if site["online"] else "no")
        console.print(table)
    for plan in status["plans"]:
        _show_plan(plan)
    for error in status["errors"]:
        console.print(f"[red]{escape(error)}[/]")


def _show_plan(plan: dict[str, Any]) -> None:
    console = out()
    doing = f", {plan['activity']}" if plan["activity"] else ""
    missed = f", {plan['rounds_missed']} without a quorum" if plan["rounds_missed"] else ""
    console.print(
        f"\nplan [bold]{escape(plan['name'])}[/]: {plan['state']}{doing}, round "
        f"{plan['rounds_done']} of {plan['rounds']}{missed}\n  {plan['plan_id']}",
        highlight=False,
    )
    if plan["reason"]:
        console.print(f"  [red]{escape(plan['reason'])}[/]")
    if plan["accuracy"] is not None:
        console.print(f"  {plan['measured']}", highlight=False)
    for site, spent in plan["epsilon_by_site"].items():
        console.print(f"  ε {spent} at {site}", highlight=False)
    if plan["last_round"]:
        for site, reason in plan["last_round"]["absent"].items():
            console.print(f"  last round without {site}: {escape(reason)}", highlight=False)
    if plan["release"]:
        release = plan["release"]
        console.print(f"  release {release['release_id']} ({release['state']})", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
