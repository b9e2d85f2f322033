"""A federation with a history, for reports: what happened in it is what they must say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from audit.cosignature import cosign, only_lines_of, with_lines
from audit.storage import read_leaf
from compliance.api import ComplianceClient
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Release, Site, grant_as_once
from tests.compliance.running import Clock, RunningService, running
from tests.compliance.subjects import Desk, configure, filed_by_officer

HOSTILE = (
    "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} ${7*7} [click](javascript:alert(1)) "
    "![x](http://evil.example/x.png) `code` | cell | **bold** </td></svg> \u202etxt.exe\n# Heading"
)
"""What somebody writes who hopes that a report does something with it."""


EVALUATION = {
    "accuracy_low": "0.77",
    "accuracy_high": "0.96",
    "groups": [
        {"group": HOSTILE, "examples": 21, "accuracy": "0.85", "low": "0.64", "high": "0.95"},
    ],
}


@dataclass
class Entry:
    """One entry of the log, read from its leaf and not from any index."""

    position: int
    time: str
    actor: str
    action: str
    object: str
    payload: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """The statement that it quotes."""
        import base64
        import json

        encoded = self.payload["statement"]["payload"]
        body: dict[str, Any] = json.loads(base64.b64decode(encoded))
        return body


@dataclass
class History:
    """A service in which something happened."""

    service: RunningService
    coordinator: Coordinator
    north: Site
    south: Site
    plans: dict[str, str] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)

    @property
    def officer(self) -> ComplianceClient:
        return self.service.as_("officer")

    def entries(self, *actions: str) -> list[Entry]:
        """Entries of these actions, or all, from the raw leaves."""
        registry = self.service.registry
        found = []
        with registry.reading() as session:
            storage = registry.storage(session)
            for position in range(storage.size()):
                leaf = read_leaf(storage, position)
                payload = registry.log.open(leaf)
                if not actions or leaf.action in actions:
                    found.append(
                        Entry(position, leaf.time, leaf.actor, leaf.action, leaf.object, payload)
                    )
        return found


MEASURED: dict[str, Any] = {
    "audited_epsilon": "0.4",
    "deidentification": [
        {
            "method": "evaluation",
            "recall": "0.99",
            "recall_at_least": "0.96",
            "leak_share": "0.01",
            "leak_share_at_most": "0.05",
            "measured_at": "2026-10-30T10:00:00Z",
        }
    ],
}
"""What a site says of its own trainer and of its de-identification."""


@contextmanager
def fresh_service(clock: Clock | None = None) -> Iterator[RunningService]:
    """A service in memory where the machine allows."""
    memory = Path("/dev/shm")  # noqa: S108  only its existence matters
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        running(Path(folder) / "compliance", clock or Clock()) as started,
    ):
        yield started


def make_history(service: RunningService) -> History:
    """Plans of every fate, a release that is used, one that is not, refusals and breaches."""
    coordinator = Coordinator(service)
    coordinator.register()
    north, south = coordinator.welcome("north"), coordinator.welcome("south")
    history = History(service, coordinator, north, south)
    clock, officer = service.clock, service.as_("officer")

    clock.advance(hours=1)
    done = coordinator.api.submit_plan(
        coordinator.plan(("north", "south"), name="triage", author=f"dr-lead {HOSTILE}"[:200])
    ).plan_id
    officer.approve_plan(done, reason=HOSTILE)
    history.plans["triage"] = done
    for index in range(2):
        clock.advance(minutes=10)
        for site, spent in ((north, "1.5"), (south, "7.25")):
            epsilon = spent if index else "0.75"
            found = MEASURED if site is north and index else {}
            report = site.report(done, index, epsilon=epsilon, **found)
            site.client(service).report_site(done, report)
        names = ("north", "south") if index else ("north",)
        absent = {} if index else {"south": HOSTILE}
        coordinator.api.report_round(
            done, coordinator.round_report(done, index, names, absent=absent)
        )
    coordinator.api.report_outcome(done, coordinator.outcome(done))

    waiting = coordinator.plan(("north",), name="waiting", legal_basis="consent", purpose="billing")
    history.plans["waiting"] = coordinator.api.submit_plan(waiting).plan_id
    unwanted = coordinator.plan(("south",), name="unwanted", legal_basis="legitimate-interests")
    history.plans["unwanted"] = coordinator.api.submit_plan(unwanted).plan_id
    officer.reject_plan(unwanted.digest, reason="no balancing test")
    north.client(service).report_refusal(north.refusal(reason=HOSTILE))

    with tempfile.TemporaryDirectory() as folder:
        for name in ("triage-1", "triage-2"):
            release = coordinator.release(
                done,
                name=name,
                epsilon_by_site={"north": "1.5", "south": "7.25"},
                evaluation=EVALUATION if name == "triage-2" else None,
            )
            history.releases[name] = release
            coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
            coordinator.api.upload_release(release.release_id, release.file(Path(folder)))
        used = history.releases["triage-1"].release_id
        officer.approve_release(used)
        desk, other = Consumer(service), Consumer(service, "other-desk")
        officer.grant(
            used,
            desk.name,
            public_key=desk.public_key,
            purpose="triage",
            expires_at=format_time(clock() + timedelta(days=30)),
        )
        grant_as_once(service, history.releases["triage-1"], other, "research")
        clock.advance(hours=1)
        for _ in range(2):
            desk.api.release_key(used)
            desk.api.download_release(used, Path(folder) / "got")
        officer.revoke_grant(used, other.name)

    _requests(service, north, south, done)
    _breaches(service)
    _vouch(service, north)
    return history


def _vouch(service: RunningService, site: Site) -> None:
    head = only_lines_of(service.as_("auditor").checkpoint(), service.trust.log_key)
    line = cosign(head, site.identity, int(service.clock().timestamp()))
    site.client(service).cosign(with_lines(head, [line]))


def _requests(service: RunningService, north: Site, south: Site, plan_id: str) -> None:
    """Six from California, of every result, and one from Europe; one of them reaches a release."""
    configure(service)
    clock, calls = service.clock, service.as_("officer").subject_requests
    desks = {"north": Desk(service, north), "south": Desk(service, south)}

    def file(*sites: str, **options: Any) -> str:
        jurisdiction = options.pop("jurisdiction", "ccpa")
        filed = filed_by_officer(service, *sites, jurisdiction=jurisdiction, **options)
        clock.advance(hours=5)
        return filed.request_id

    def let_in(request_id: str) -> str:
        calls.verify(request_id, method="identity-card")
        return request_id

    whole, part = let_in(file("north")), let_in(file("north", "south"))
    unknown, denied = let_in(file("south", right="access")), file("north", right="rectification")
    file("north", right="objection")
    late = let_in(file("south"))
    let_in(file("south", jurisdiction="gdpr"))
    calls.confirm(whole)
    clock.advance(days=3, hours=1)
    desks["north"].erase(whole)
    desks["north"].erase(part, "cd" * 32)
    refusal = desks["south"].statement(part, outcome="refused", ground="needed")
    desks["south"].calls.answer(part, refusal)
    clock.advance(days=1)
    calls.close(part, reason=HOSTILE)
    desks["south"].not_found(unknown, "access")
    calls.refuse(denied, ground="not-verified", reason=HOSTILE)
    clock.advance(days=50)
    desks["south"].erase(late, "ef" * 32)
    # The site found later that a run may have drawn them, and states it.
    receipt = south.erasure("ef" * 32, plans=[plan_id], format="fiduciary.erasure/1")
    south.client(service).report_erasure(receipt)
    erasures = service.as_("officer").erasures
    (used,) = (case for case in erasures.cases("open") if case.release_name == "triage-1")
    erasures.decide(used.case_id, "withdraw", reason=HOSTILE)


def _breaches(service: RunningService) -> None:
    clock, register = service.clock, service.as_("officer").breaches
    began = clock()
    register.add(
        "letters",
        aware_at=format_time(began),
        facts=HOSTILE,
        effects="letters to 40 people could be read",
        remedial_action="the folder is closed",
        subjects=40,
        categories_of_subjects="patients",
        risk="high",
    )
    register.add(
        "disk",
        aware_at=format_time(began),
        facts="a disk was lost",
        risk="unlikely",
        risk_reason="it was encrypted",
    )
    register.add("mail", aware_at=format_time(began), facts="a wrong address")
    register.add("lab", aware_at=format_time(began), facts="another's data", role="processor")
    clock.advance(hours=2)
    register.notify("letters", "authority", at=format_time(clock()), reference="LDA-17")
    register.notify("letters", "subjects", at=format_time(clock()))
    register.close("letters", reason="done")
    clock.advance(hours=2)
    register.notify("lab", "controller", at=format_time(clock()))
    clock.advance(hours=72)
    register.add("late", aware_at=format_time(began), facts="found late", risk="likely")
    register.notify(
        "late", "authority", at=format_time(clock()), reasons_for_delay="the archive was locked"
    )
