"""What the site is doing and what waits, read from its own folder. Needs no network."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.markup import escape

from audit.errors import FiduciaryError
from client.erasure import unfinished
from client.outbox import Outbox
from client.policy import read_policy
from client.presentation import say, short
from client.progress import read_activity
from client.site import Site
from client.vault.store import Vault
from client.witnessing import describe_witness
from client.worker_lock import is_worker_running


def read_status(site: Site) -> dict[str, Any]:
    """Everything that `client status` shows, as `--json` prints it."""
    paths = site.paths
    return {
        "site": site.name,
        "federation": site.federation,
        "folder": str(paths.root),
        "stage": _stage(site),
        "identity_key": site.identity.public.encoded(),
        "worker": _worker(site),
        "datasets": _datasets(site),
        "policy": _policy(site),
        "budget": _budget(site),
        "journal_entries": site.journal.size(),
        "witness": _witness(site),
        "waiting_statements": len(Outbox(site).files()),
        "unfinished_erasures": unfinished(site),
    }


def print_status(found: dict[str, Any]) -> None:
    """The same for a person."""
    say(f"[bold]{found['site']}[/] of {found['federation']}: {found['stage']}")
    worker = found["worker"]
    doing = worker["doing"] if worker["running"] else "not running"
    if worker["running"] and worker["plan_id"] and worker["round"] is not None:
        doing += f" round {worker['round'] + 1} of {worker['rounds']}, {short(worker['plan_id'])}"
    say(f"worker: {doing}")
    if worker.get("last_problem"):
        say(f"  [yellow]last problem:[/] {escape(worker['last_problem'])}")
    for dataset in found["datasets"]:
        say(
            f"dataset {escape(dataset['name'])}: {dataset['subjects']} subjects, "
            f"{dataset['records']} records"
        )
    if not found["datasets"]:
        say("no dataset yet: `client data add FILE …`")
    say(f"policy: {escape(str(found['policy']))}")
    budget = found["budget"]
    if "problem" in budget:
        say(f"budget: [red]{escape(budget['problem'])}[/]")
    else:
        say(
            f"budget: epsilon {budget['epsilon_committed']} of {budget['epsilon_limit']} "
            "spent or reserved"
        )
    say(f"journal: {found['journal_entries']} entries")
    _print_witness(found["witness"])
    if found["waiting_statements"]:
        say(
            f"[yellow]{found['waiting_statements']} statements wait for the compliance service[/]: "
            "`client erase --send-pending` or `client start` sends them"
        )
    for pseudonym in found["unfinished_erasures"]:
        say(f"[red]an erasure was interrupted[/] ({pseudonym[:12]}…): run `client erase` again")


def _print_witness(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    if "problem" in found:
        say(f"witness: [red]{escape(found['problem'])}[/]")
    elif found["size"] is None:
        say("witness: has not seen the audit log yet")
    else:
        when = found["cosigned_at"] or "seen, not cosigned yet"
        say(f"witness: {found['size']} entries of {escape(found['log'])}, {when}")
    for alarm in found["alarms"]:
        say(
            f"[bold red]ALARM[/] {alarm['raised_at'] or ''}: the audit log misbehaved "
            f"([red]{alarm['reason'] or 'unknown'}[/]): {escape(alarm['detail'])}"
        )
        say(
            f"  train nothing; show {escape(alarm['file'])} to the compliance officer and to the "
            "other sites; move it away when the matter is settled"
        )


def _stage(site: Site) -> str:
    if site.paths.certificate.exists():
        return "admitted"
    return "pending" if site.paths.token.exists() else "local"


def _witness(site: Site) -> dict[str, Any] | None:
    return describe_witness(site) if site.paths.kit.exists() else None


def _worker(site: Site) -> dict[str, Any]:
    activity = read_activity(site.paths.worker_state)
    running = is_worker_running(site)
    if activity is None:
        return {"running": running, "doing": "stopped", "plan_id": None, "round": None}
    return {"running": running, **asdict(activity)}


def _datasets(site: Site) -> list[dict[str, Any]]:
    with Vault.open(site.paths, site.keyring) as vault:
        return [
            {
                "name": dataset.name,
                "subjects": dataset.subjects,
                "records": dataset.records,
                "purposes": list(dataset.datasheet.purposes),
                "digest": dataset.digest,
            }
            for dataset in vault.datasets()
        ]


def _policy(site: Site) -> str:
    try:
        policy = read_policy(site.paths.policy)
    except FiduciaryError as error:
        return str(error)
    if not policy.purposes:
        return "refuses every plan: it names no purpose"
    return f"allows {', '.join(policy.purposes)}"


def _budget(site: Site) -> dict[str, Any]:
    try:
        policy = read_policy(site.paths.policy)
        with site.ledger() as ledger:
            return ledger.budget(policy.delta, policy.max_epsilon_total).to_json()
    except FiduciaryError as error:
        return {"problem": str(error)}
