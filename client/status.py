"""What the site is doing and what waits, read from its own folder. Needs no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.markup import escape

from audit.errors import FiduciaryError
from audit.words import count_of
from client.erasure import unfinished
from client.outbox import Outbox
from client.policy import read_policy
from client.presentation import say, short
from client.progress import read_activity
from client.renewal import WARN_BEFORE, present_certificate
from client.site import Site
from client.vault.store import Vault
from client.witnessing import describe_witness
from client.worker_lock import is_worker_running
from compliance.statements import format_time


class BudgetReader:
    """Reads a site's budget again and again, and composes it only when it may have changed."""

    def __init__(self) -> None:
        self._read: tuple[tuple[int, int] | None, ...] = ()
        self._budget: dict[str, Any] = {}

    def __call__(self, site: Site) -> dict[str, Any]:
        """The budget, or what is wrong with it."""
        ledger = site.paths.ledger
        wal = ledger.with_name(f"{ledger.name}-wal")
        found = tuple(_mark(path) for path in (ledger, wal, site.paths.policy))
        if not self._budget or found != self._read:
            self._budget, self._read = read_budget(site), found
        return self._budget


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_budget(site: Site) -> dict[str, Any]:
    """The site's budget as `client budget --json` prints it, or what is wrong with it."""
    try:
        policy = read_policy(site.paths.policy)
        with site.ledger() as ledger:
            return ledger.budget(
                policy.delta, policy.max_epsilon_total, period=policy.limits.period
            ).to_json()
    except FiduciaryError as error:
        return {"problem": str(error)}


def read_status(
    site: Site, budget: Callable[[Site], dict[str, Any]] = read_budget
) -> dict[str, Any]:
    """Everything that `client status` shows, as `--json` prints it.

    Args:
        site: The site, opened.
        budget: Reads the budget; a `BudgetReader` where it is read often.
    """
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
        "budget": budget(site),
        "journal_entries": site.journal.size(),
        "certificate": read_expiry(site),
        "witness": read_witness(site),
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
            f"dataset {escape(dataset['name'])}: {count_of(dataset['subjects'], 'subject')}, "
            f"{count_of(dataset['records'], 'record')}"
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
    say(f"journal: {count_of(found['journal_entries'], 'entry')}")
    _print_expiry(found["certificate"])
    _print_witness(found["witness"])
    if found["waiting_statements"]:
        say(
            f"[yellow]waiting for the compliance service[/]: "
            f"{count_of(found['waiting_statements'], 'statement')}; `client erase --send-pending`"
            " or `client start` sends them"
        )
    for pseudonym in found["unfinished_erasures"]:
        say(f"[red]an erasure was interrupted[/] ({pseudonym[:12]}…): run `client erase` again")


def _print_expiry(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    if "problem" in found:
        say(f"certificate: [red]{escape(found['problem'])}[/]")
        return
    ends = f"until {found['ends_at'][:10]}"
    if not found["soon"]:
        say(f"certificate: {ends}")
        return
    left = (
        "it has ended" if found["days_left"] < 0 else f"{count_of(found['days_left'], 'day')} left"
    )
    say(
        f"certificate: [yellow]{ends}, {left}[/]: `client start` asks for the next one; "
        "ask the coordinator whether `server start` runs"
    )


def _print_witness(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    if "problem" in found:
        say(f"witness: [red]{escape(found['problem'])}[/]")
    elif found["size"] is None:
        say("witness: has not seen the audit log yet")
    else:
        when = found["cosigned_at"] or "seen, not cosigned yet"
        say(f"witness: {count_of(found['size'], 'entry')} of {escape(found['log'])}, {when}")
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


def read_witness(site: Site) -> dict[str, Any] | None:
    """What the site holds of the audit log; None at a site that joined no federation."""
    return describe_witness(site) if site.paths.kit.exists() else None


def read_expiry(site: Site, now: datetime | None = None) -> dict[str, Any] | None:
    """When the node certificate ends, and whether that is soon; None before admission."""
    try:
        certificate = present_certificate(site)
    except FiduciaryError as error:
        return {"problem": str(error)}
    if certificate is None:
        return None
    left = certificate.not_valid_after_utc - (now or datetime.now(UTC))
    return {
        "ends_at": format_time(certificate.not_valid_after_utc),
        "days_left": left.days,
        "soon": left < WARN_BEFORE,
    }


def _worker(site: Site) -> dict[str, Any]:
    activity = read_activity(site.paths.worker_state)
    running = is_worker_running(site)
    if activity is None:
        return {"running": running, "doing": "stopped", "plan_id": None, "round": None}
    pace = activity.pace() if running else None
    return {
        "running": running,
        **asdict(activity),
        "pace": None if pace is None else pace.to_json(),
    }


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
