"""What `server status` knows, from three places that may each be away.

* The running coordinator tells who is online and what it is doing (control port, loopback).
* The compliance service tells sites, plans and releases.
* The federation's folder tells how far each run came, also with everything else stopped.
"""

from __future__ import annotations

import ssl
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import httpx

from audit.errors import FiduciaryError
from client.learning.metrics import report_in_words
from client.pace import Pace, pace_of
from compliance.release_views import ReleaseView
from compliance.resources import PlanView, SiteView
from server.federation import CONTROL_HOST, Federation
from server.gate import ControlGate
from server.runs import RunState, all_runs

CONTROL_TIMEOUT_SECONDS = 3.0


def live_state(federation: Federation) -> dict[str, Any] | None:
    """What the running coordinator says of itself; None when it is stopped."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=federation.root / "ca/certificate.pem")
    url = f"https://{CONTROL_HOST}:{federation.settings.control_port}{ControlGate.STATUS_PATH}"
    try:
        with httpx.Client(
            verify=context, trust_env=False, timeout=CONTROL_TIMEOUT_SECONDS
        ) as client:
            answer = client.get(
                url, headers={"authorization": f"Bearer {federation.control_token}"}
            )
            answer.raise_for_status()
            state = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def federation_status(federation: Federation) -> dict[str, Any]:
    """Everything, as one JSON document."""
    live = live_state(federation)
    errors: list[str] = []
    sites: tuple[SiteView, ...] = ()
    plans: tuple[PlanView, ...] = ()
    releases: tuple[ReleaseView, ...] = ()
    reachable = True
    try:
        with federation.compliance() as compliance:
            sites, plans = compliance.sites(), compliance.plans()
            releases = compliance.releases()
    except FiduciaryError as error:
        reachable = False
        errors.append(str(error))
    runs = {state.plan_id: state for _, state in all_runs(federation.runs)}
    online: dict[str, bool] = live["sites"] if live else {}
    released = {view.plan_id: view for view in releases}
    return {
        "federation": federation.settings.name,
        "folder": str(federation.root),
        "fleet_address": federation.fleet_address,
        "coordinator_key": federation.identity.public.encoded(),
        "fingerprint": federation.fingerprint,
        "running": live is not None,
        "compliance": "reachable" if reachable else "unreachable",
        "sites": [
            {"name": view.name, "state": view.state, "online": online.get(view.name, False)}
            for view in sites
        ],
        "plans": [
            _plan(view, runs.get(view.plan_id), released.get(view.plan_id), live) for view in plans
        ]
        + [
            _unlisted(state)
            for plan_id, state in runs.items()
            if plan_id not in {view.plan_id for view in plans}
        ],
        "errors": errors + (list(live["errors"]) if live else []),
    }


def _plan(
    view: PlanView,
    run: RunState | None,
    release: ReleaseView | None,
    live: dict[str, Any] | None,
) -> dict[str, Any]:
    plan = view.plan
    running = live["run"] if live and (live["run"] or {}).get("plan_id") == view.plan_id else None
    pace = _pace(view, run, running)
    return {
        "plan_id": view.plan_id,
        "name": plan.name,
        "state": view.state,
        "rounds": plan.rounds,
        "activity": running["activity"] if running else "",
        "phase": plan.phases[pace.phase].kind,
        "pace": pace.to_json(),
        "sites": [_site(name, plan.privacy.epsilon, run, running) for name in plan.sites],
        "epsilon_promised": str(plan.privacy.epsilon),
        "delta": str(plan.privacy.delta),
        "release": None
        if release is None
        else {"release_id": release.release_id, "state": release.state},
        **_progress(run),
    }


def _pace(view: PlanView, run: RunState | None, running: dict[str, Any] | None) -> Pace:
    history = () if run is None else run.history
    return pace_of(
        [phase.rounds for phase in view.plan.phases],
        [(summary.round, summary.seconds) for summary in history],
        0 if run is None else run.rounds_done,
        running["round_seconds"] if running else 0.0,
    )


def _site(
    name: str, promised: Decimal, run: RunState | None, running: dict[str, Any] | None
) -> dict[str, Any]:
    """What a site of a plan does in this round, and what it spent of the plan's promise."""
    spent = Decimal(0) if run is None else run.epsilon_by_site.get(name, Decimal(0))
    return {
        "site": name,
        "doing": _doing(name, running) if running else "",
        "epsilon_spent": str(spent),
        "epsilon_left": str(max(Decimal(0), promised - spent)),
    }


def _doing(site: str, running: dict[str, Any]) -> str:
    if site in running["answered"]:
        return "answered"
    if site in running["absent"]:
        return str(running["absent"][site])
    return "working" if site in running["waiting"] else "not asked"


def _unlisted(run: RunState) -> dict[str, Any]:
    """A run that only the folder knows of at present."""
    return {
        "plan_id": run.plan_id,
        "name": run.name,
        "state": run.stage,  # as far as this folder knows
        "rounds": run.rounds,
        "activity": "",
        "phase": run.history[-1].phase if run.history else "",
        "pace": None,  # what is still to come is in the plan
        "sites": [],
        "release": None
        if run.release_id is None
        else {"release_id": run.release_id, "state": "unknown"},
        **_progress(run),
    }


def _progress(run: RunState | None) -> dict[str, Any]:
    metrics = None if run is None else run.metrics
    evaluation = None if run is None else run.evaluation
    return {
        "stage": None if run is None else run.stage,
        "rounds_done": 0 if run is None else run.rounds_done,
        "rounds_missed": 0 if run is None else run.rounds_missed,
        "reason": "" if run is None else run.reason,
        "epsilon_by_site": {}
        if run is None
        else {site: str(value) for site, value in run.epsilon_by_site.items()},
        "accuracy": None if metrics is None else str(metrics.accuracy),
        "macro_f1": None if metrics is None else _text(metrics.macro_f1),
        "perplexity": None if metrics is None else _text(metrics.perplexity),
        "measured": _measured(run),
        "evaluation": None if evaluation is None else asdict(evaluation),
        "last_round": None if run is None or not run.history else _round(run),
    }


def _measured(run: RunState | None) -> str:
    if run is None or run.metrics is None:
        return ""
    # Runs of earlier versions kept no more than what is signed.
    return run.metrics.in_words() if run.evaluation is None else report_in_words(run.evaluation)


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def _round(run: RunState) -> dict[str, Any]:
    last = run.history[-1]
    return {
        "round": last.round,
        "missed": last.missed,
        "participants": list(last.participants),
        "absent": dict(last.absent),
        "seconds": last.seconds,
    }
