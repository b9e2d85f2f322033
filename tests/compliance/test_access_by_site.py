"""Roles that are limited to sites: every operation, every role, own and foreign objects.

* An operation that does not narrow itself refuses a limited role; a new one does so by itself.
* One that does must be here: with an object of the limited role's own sites and a foreign one, or
  among those that show nothing of a site.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from audit.errors import NotFound, Unauthorised
from compliance.api import ComplianceClient
from compliance.log_views import LogExport
from compliance.reports.facts import Facts, Logged, PartFacts, RequestFacts, RetentionFacts
from compliance.reports.narrowing import NARROWABLE, narrowed
from compliance.rules.access import EVERYWHERE, Scope
from compliance.rules.retention import default_rules
from compliance.service.access import access_of
from compliance.statements import format_time
from tests.compliance.federation import Consumer, Coordinator, Site
from tests.compliance.running import START, RunningService
from tests.compliance.subjects import Desk, configure, filed_by_officer
from tests.compliance.test_authorisation import MATRIX, call, operations

OWN_SITES: Final = ("north", "east")
LIMITED: Final = ("officer", "auditor")

SHOWS_NOTHING_OF_A_SITE: Final = {
    "GET /v1/sites",
    "GET /v1/sites/{name}",
    "GET /v1/releases/{release_id}/key",
    "GET /v1/releases/{release_id}/content",
    "GET /v1/identity",
    "DELETE /v1/session",
    "GET /v1/log/checkpoint",
    "GET /v1/log/proofs/{position}",
    "GET /v1/log/consistency",
    "GET /v1/log/witnesses",
    "GET /v1/reports",
    "POST /v1/notices/{notice_id}/acknowledgement",
}
"""Who takes part is everybody's to know; a grant, a notice and an identity are the caller's own;
the log's proofs hold no payload."""

OUTSIDE: Final = {"site-outside", "beyond-own-scope", "not-this-site", "not-own-key"}
"""Why a foreign object is refused, where it is not simply not there."""


@dataclass(frozen=True)
class Thing:
    """One call: its path's parameters and its body. A list shows or hides `shown`."""

    path: dict[str, str] = field(default_factory=dict)
    body: Callable[[], dict[str, Any]] | None = None
    shown: str = ""


@dataclass(frozen=True)
class World:
    """Everything twice: for the sites of the limited roles, and for others."""

    service: RunningService
    callers: dict[str, httpx.Client]
    own: dict[str, Thing]
    foreign: dict[str, Thing]
    names: dict[str, str]


def things(
    site: str, doomed: str, plan_id: str, release_id: str, names: dict[str, str]
) -> dict[str, Thing]:
    """An object of every operation that narrows itself, all about one site.

    Args:
        site: The site.
        doomed: A site that may be ended.
        plan_id: A plan of it.
        release_id: A release of that plan.
        names: Of principals, and of what else there is about the site.
    """
    plan, release = {"plan_id": plan_id}, {"release_id": release_id}
    request = {"request_id": names["request"]}
    breach, case = {"breach": names["breach"]}, {"case_id": names["case"]}

    def decision() -> dict[str, Any]:
        return {"reason": ""}

    def grant() -> dict[str, Any]:
        return {
            "principal": "desk",
            "public_key": "CQ" + "kJ" * 20 + "k=",
            "purpose": "triage",
            "expires_at": "2026-11-03T09:00:00Z",
        }

    def new_request() -> dict[str, Any]:
        sealed = {site: base64.b64encode(b"sealed").decode()}
        request_id = secrets.token_hex(16)
        return {
            "request_id": request_id,
            "right": "access",
            "jurisdiction": "gdpr",
            "sealed": sealed,
        }

    def new_breach() -> dict[str, Any]:
        name = f"b{secrets.token_hex(8)}"
        return {"name": name, "aware_at": "2026-11-02T08:00:00Z", "facts": "lost", "sites": [site]}

    def principal() -> dict[str, Any]:
        name = f"p{secrets.token_hex(8)}"
        return {"name": name, "roles": ["auditor"], "sites": [site]}

    return {
        # First, while the newest entries are of all sites, and nobody was refused by name.
        "GET /v1/log/export": Thing(shown=f'"site":"{site}"'),
        "GET /v1/log/entries": Thing(shown=f'"site":"{site}"'),
        "GET /v1/plans": Thing(shown=plan_id),
        "GET /v1/plans/{plan_id}": Thing(plan),
        "GET /v1/plans/{plan_id}/reports": Thing(plan),
        "POST /v1/plans/{plan_id}/approval": Thing(plan, decision),
        "POST /v1/plans/{plan_id}/rejection": Thing(plan, decision),
        "GET /v1/releases": Thing(shown=release_id),
        "GET /v1/releases/{release_id}": Thing(release),
        "GET /v1/releases/{release_id}/gates": Thing(release),
        "POST /v1/releases/{release_id}/approval": Thing(release, decision),
        "POST /v1/releases/{release_id}/rejection": Thing(release, decision),
        "POST /v1/releases/{release_id}/grants": Thing(release, grant),
        "DELETE /v1/releases/{release_id}/grants/{principal}": Thing(
            {**release, "principal": "desk"}
        ),
        "POST /v1/subject-requests": Thing(body=new_request),
        "GET /v1/subject-requests": Thing(shown=names["request"]),
        "GET /v1/subject-requests/{request_id}": Thing(request),
        "POST /v1/subject-requests/{request_id}/verification": Thing(
            request, lambda: {"method": "identity-card"}
        ),
        "POST /v1/subject-requests/{request_id}/confirmation": Thing(request, dict),
        "POST /v1/subject-requests/{request_id}/extension": Thing(
            request, lambda: {"reason": "archives"}
        ),
        "POST /v1/subject-requests/{request_id}/refusal": Thing(
            request, lambda: {"ground": "excessive", "reason": "daily"}
        ),
        "POST /v1/subject-requests/{request_id}/completion": Thing(request, decision),
        "POST /v1/subject-requests/{request_id}/parts/{site}/waiver": Thing(
            {**request, "site": site}, lambda: {"reason": "closed"}
        ),
        "GET /v1/sealing-keys": Thing(shown=f'"site":"{site}"'),
        "GET /v1/breaches": Thing(shown=names["breach"]),
        "GET /v1/breaches/{breach}": Thing(breach),
        "POST /v1/breaches": Thing(body=new_breach),
        "POST /v1/breaches/{breach}/updates": Thing(breach, lambda: {"effects": "none"}),
        "POST /v1/breaches/{breach}/notifications": Thing(
            breach, lambda: {"to": "subjects", "at": "2026-11-02T09:00:00Z"}
        ),
        "POST /v1/breaches/{breach}/closure": Thing(breach, decision),
        "GET /v1/reports/{report}": Thing({"report": "gdpr-33"}, shown=names["breach"]),
        "GET /v1/erasure-cases": Thing(shown=names["case"]),
        "GET /v1/erasure-cases/{case_id}": Thing(case),
        "GET /v1/erasures/{erasure}/receipt": Thing({"erasure": names["erasure"]}),
        "GET /v1/notices": Thing(shown=names["recalled"]),
        "GET /v1/aliases": Thing(shown=f'"alias":"{names["alias"]}"'),
        "GET /v1/principals": Thing(shown=names["reader"]),
        "POST /v1/principals": Thing(body=principal),
        "POST /v1/principals/{name}/confirmation": Thing({"name": names["waiting"]}),
        "POST /v1/principals/{name}/rotation": Thing({"name": names["reader"]}, dict),
        "DELETE /v1/principals/{name}": Thing({"name": names["ended"]}),
        "POST /v1/sites/{name}/revocation": Thing({"name": doomed}, decision),
    }


def happened(
    coordinator: Coordinator,
    site: Site,
    consumer: Consumer,
    second: ComplianceClient,
    folder: Path,
) -> dict[str, str]:
    """A request, a breach, a release with an alias that was recalled, and an erasure."""
    service, officer = coordinator.service, coordinator.service.as_("officer")
    Desk(service, site)
    request = filed_by_officer(service, site.name).request_id
    breach = officer.breaches.add(
        f"breach-of-{site.name}", aware_at="2026-11-02T08:00:00Z", facts="lost", sites=[site.name]
    )
    plan_id = coordinator.approved_plan((site.name,), name=f"old-{site.name}")
    coordinator.run(plan_id, site)
    epsilon = {site.name: "1.5"}
    old = coordinator.release(plan_id, name=f"old-{site.name}", epsilon_by_site=epsilon)
    coordinator.api.submit_release(old.manifest, sealed_key=old.sealed_key)
    coordinator.api.upload_release(old.release_id, old.file(folder))
    officer.approve_release(old.release_id)
    officer.grant(
        old.release_id,
        consumer.name,
        public_key=consumer.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=2)),
    )
    second.aliases.set(f"of-{site.name}", old.release_id)
    erasure = site.erasure("cd" * 32, plans=[plan_id])
    site.client(service).report_erasure(erasure)
    officer.recalls.recall(old.release_id, reason="superseded")
    cases = [view for view in officer.erasures.cases() if view.plan_id == plan_id]
    return {
        "request": request,
        "breach": breach.name,
        "alias": f"of-{site.name}",
        "recalled": old.release_id,
        "erasure": erasure.digest,
        "case": cases[0].case_id,
    }


@pytest.fixture
def world(service: RunningService, coordinator: Coordinator, tmp_path: Path) -> World:
    configure(service)
    officer = service.as_("officer")
    sites = {name: coordinator.welcome(name) for name in ("north", "east", "south", "west")}
    plans, releases, named = {}, {}, {}
    for site in ("north", "south"):
        plans[site] = coordinator.approved_plan((site,), name=site)
        coordinator.run(plans[site], sites[site])
        release = coordinator.release(plans[site], name=site, epsilon_by_site={site: "1.5"})
        coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
        coordinator.api.upload_release(release.release_id, release.file(tmp_path))
        releases[site] = release.release_id
    limited = {
        role: officer.add_principal(f"{role}-of-two", [role], sites=OWN_SITES).token
        for role in LIMITED
    }
    officer.add_principal("south-officer", ["officer"], sites=["south"])
    second = service.client(officer.add_principal("second", ["officer"]).token)
    for site in ("north", "south"):
        named[site] = {
            "reader": f"reader-{site}",
            "ended": f"ended-{site}",
            "waiting": f"waiting-{site}",
        }
        for name in (f"reader-{site}", f"ended-{site}"):
            officer.add_principal(name, ["auditor"], sites=[site])
        waiting = officer.add_principal(f"waiting-{site}", ["officer"], sites=[site])
        assert not waiting.confirmed
    desk = Consumer(service, "desk")
    officer.approve_release(releases["north"])
    officer.grant(
        releases["north"],
        "desk",
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=2)),
    )
    for site, consumer in (("north", desk), ("south", Consumer(service, "other"))):
        named[site] |= happened(coordinator, sites[site], consumer, second, tmp_path)
    tokens = {
        "coordinator": service.token("coordinator"),
        "officer": service.token("officer"),
        "auditor": service.token("auditor"),
        "officer@two": limited["officer"],
        "auditor@two": limited["auditor"],
        "site": sites["north"].token,
        "consumer": desk.token,
    }
    return World(
        service,
        {name: service.http(token) for name, token in tokens.items()},
        things("north", "east", plans["north"], releases["north"], named["north"]),
        things("south", "west", plans["south"], releases["south"], named["south"]),
        {name: name for name in LIMITED}
        | {f"{role}@two": f"{role}-of-two" for role in LIMITED}
        | {"coordinator": "coordinator", "site": "site:north", "consumer": "desk"},
    )


def reaches(operation: str, caller: str, *, foreign: bool) -> bool:
    """Whether somebody should get at an object of an operation at all."""
    role = caller.partition("@")[0]
    if role not in MATRIX[operation]:
        return False
    if operation.endswith("/rotation"):
        return role == "officer" and not (foreign and caller == "officer@two")
    if operation == "GET /v1/notices" and role in ("coordinator", "site", "consumer"):
        return role == "consumer" and not foreign  # one's own
    if caller in ("coordinator", "officer", "auditor"):
        return True
    if role == "site" and operation.startswith(("GET /v1/releases", "GET /v1/aliases")):
        return True  # a site knows every release of the federation that it serves
    return not foreign


def ask(caller: httpx.Client, operation: str, thing: Thing) -> httpx.Response:
    path = operation
    for name, value in thing.path.items():
        path = path.replace(f"{{{name}}}", value)
    method, path = path.split(" ")
    return caller.request(method, path, json=None if thing.body is None else thing.body())


def is_reached(answer: httpx.Response, thing: Thing) -> bool:
    """Whether an answer shows the object, or was about it and no matter of whose it is."""
    assert answer.status_code not in (401, 422, 429, 500), answer.text
    if answer.status_code == 404:
        return False
    if answer.status_code == 403:
        return answer.json()["reason"] not in OUTSIDE | {"role-missing", "site-limited"}
    return thing.shown in answer.text if thing.shown else True


def test_every_operation_says_what_it_is_for_a_limited_role(service: RunningService) -> None:
    officer = service.as_("officer")
    callers = {
        role: service.http(officer.add_principal(f"{role}-n", [role], sites=["north"]).token)
        for role in LIMITED
    }
    narrowing, asked = set(), 0
    for operation, route in operations(service.app).items():
        access = access_of(route.endpoint)
        if access.by_site:
            narrowing.add(operation)
            continue
        for role in LIMITED:
            if role in access.roles:
                asked += 1
                answer = call(callers[role], operation)
                assert answer.status_code == 403, operation
                assert answer.json()["reason"] == "site-limited"
                assert service.last_entry()[3]["reason"] == "site-limited"
    assert asked
    known = things("north", "north", "", "", defaultdict(str))
    assert narrowing == set(known) | SHOWS_NOTHING_OF_A_SITE


def test_every_operation_every_role_own_and_foreign(world: World) -> None:
    for operation in world.own:
        for name, caller in world.callers.items():
            for foreign in (False, True):
                thing = (world.foreign if foreign else world.own)[operation]
                answer = ask(caller, operation, thing)
                expected = reaches(operation, name, foreign=foreign)
                told = f"{operation} as {name}, {'foreign' if foreign else 'own'}: {answer.text}"
                assert is_reached(answer, thing) == expected, told
                if answer.status_code in (403, 409):
                    entry = world.service.last_entry()
                    known = (world.names[name], "request.refused", f"operation:{operation}")
                    assert entry[:3] == known, told


def test_what_binds_a_foreign_site_too_can_be_seen_and_stopped_but_not_bound(
    service: RunningService, coordinator: Coordinator
) -> None:
    for name in ("north", "south"):
        coordinator.welcome(name)
    token = service.as_("officer").add_principal("n", ["officer"], sites=["north"]).token
    limited = service.client(token)
    plan_id = coordinator.api.submit_plan(coordinator.plan(("north", "south"))).plan_id
    assert limited.plan(plan_id).state == "submitted"
    with pytest.raises(Unauthorised, match="binds a site for which the role does not hold"):
        limited.approve_plan(plan_id)
    assert limited.reject_plan(plan_id).state == "rejected"


def test_a_limited_role_finds_no_foreign_entry_of_a_common_plan(
    service: RunningService, coordinator: Coordinator, tmp_path: Path
) -> None:
    north, south = coordinator.welcome("north"), coordinator.welcome("south")
    plan_id = coordinator.approved_plan(("north", "south"))
    for site in (north, south):
        site.client(service).report_site(plan_id, site.report(plan_id))
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 0, ("north", "south")))
    token = service.as_("officer").add_principal("reader", ["auditor"], sites=["north"]).token
    reader = service.client(token)
    assert [report.body["site"] for report in reader.plan_evidence(plan_id).reports] == ["north"]
    found = reader.log_entries(limit=1000)
    assert {entry.site for entry in found} == {"north", None}
    assert {entry.plan for entry in found if entry.site is None} == {plan_id}
    actions = {entry.action for entry in found}
    assert {"plan.submitted", "plan.approved", "round.reported", "site.reported"} <= actions
    assert not {"service.created", "principal.added", "log.queried"} & actions
    # What is shown is counted, paged and exported the same way, and asking for more shows no more.
    assert reader.log_entries(site="south") == reader.log_entries(actor="officer", plan=None)[:0]
    (everything,) = {reader.export_log(LogExport(), tmp_path / "export.jsonl")}
    assert everything == len(found)


def test_limits_are_kept_in_what_others_are_given(service: RunningService) -> None:
    officer = service.as_("officer")
    north = service.client(officer.add_principal("n", ["officer"], sites=["north"]).token)
    view = {principal.name: principal for principal in north.principals()}["n"]
    assert view.sites == {"officer": ("north",)}
    assert north.access.identity().sites == {"officer": ("north",)}
    for roles, sites in (
        (["officer"], []),
        (["auditor"], []),
        (["auditor"], ["north", "south"]),
        (["coordinator"], []),
        (["consumer"], []),
    ):
        with pytest.raises(Unauthorised, match="nobody hands out a role"):
            north.add_principal("more", roles, sites=sites)  # type: ignore[arg-type]
    north.add_principal("fits", ["auditor"], sites=["north"])
    with pytest.raises(Unauthorised, match="for which you do not hold one"):
        north.revoke_principal("officer")
    _names(north, {"n", "fits"})


def _names(client: ComplianceClient, expected: set[str]) -> None:
    shown = {principal.name for principal in client.principals()}
    assert shown == expected
    with pytest.raises(NotFound):
        client.revoke_principal("nobody")


def test_what_concerns_two_sites_is_seen_in_part_and_decided_by_nobody_of_one(
    service: RunningService, coordinator: Coordinator
) -> None:
    configure(service)
    for name in ("north", "south"):
        Desk(service, coordinator.welcome(name))
    officer = service.as_("officer")
    north = service.client(officer.add_principal("n", ["officer"], sites=["north"]).token)
    both = filed_by_officer(service, "north", "south").request_id
    filed_by_officer(service, "south")
    page = north.subject_requests.page()
    assert [request.request_id for request in page.requests] == [both]
    assert (page.open, officer.subject_requests.page().open) == (1, 2)
    assert [part.site for part in north.subject_requests.show(both).parts] == ["north"]
    for decide in (
        lambda: north.subject_requests.verify(both, method="identity-card"),
        lambda: north.subject_requests.refuse(both, ground="excessive"),
        lambda: north.breaches.add("2026-2", aware_at="2026-11-02T08:00:00Z", facts="lost"),
    ):
        with pytest.raises(Unauthorised, match="binds a site for which the role does not hold"):
            decide()
    officer.breaches.add(
        "2026-1", aware_at="2026-11-02T08:00:00Z", facts="lost", sites=["north", "south"]
    )
    assert north.breaches.show("2026-1").sites == ("north", "south")
    with pytest.raises(Unauthorised, match="binds a site"):
        north.breaches.update("2026-1", sites=["north"])
    assert officer.breaches.update("2026-1", sites=["north"]).sites == ("north",)
    assert service.last_entry()[3]["sites"] == ["north"]
    assert north.breaches.update("2026-1", effects="none").sites == ("north",)

    assert {kind.name for kind in north.reports.list()} == NARROWABLE
    made = json.loads(north.reports.make("gdpr-33", "json").content)
    assert made["title"] == "Register of personal data breaches (of north alone)"
    assert service.last_entry()[3]["sites"] == ["north"]
    with pytest.raises(Unauthorised, match="states what concerns all sites"):
        north.reports.make("overview")
    metrics = north.reports.make("ccpa-7102", "json")
    assert b'"south"' not in metrics.content


def test_a_report_for_some_sites_has_nothing_of_others() -> None:
    request = RequestFacts(
        request_id="0" * 32,
        right="erasure",
        jurisdiction="ccpa",
        stage="completed",
        received_at="2026-11-02T09:00:00.000Z",
        due_at="2026-12-02T09:00:00.000Z",
        confirm_by=None,
        confirmed_at=None,
        extended_at=None,
        finished_at="2026-11-03T09:00:00.000Z",
        ground="",
        outcomes=("done", "refused"),
        positions=(3, 4, 5, 6),
        parts={"north": PartFacts("done", (4,)), "south": PartFacts("refused", (5, 6))},
    )
    other = replace(request, request_id="1" * 32, parts={"south": PartFacts(None, (7,))})
    nothing: Any = ()
    facts = Facts(
        now=START,
        origin="",
        log_size=9,
        plans=nothing,
        releases=nothing,
        sites=nothing,
        refusals=nothing,
        requests=(request, other),
        cases=nothing,
        breaches=nothing,
        commitments={},
        reports=(
            Logged(1, "", "", "report.made", "", {"report": "gdpr-33"}),
            Logged(2, "", "", "report.made", "", {"report": "gdpr-33", "sites": ["north"]}),
            Logged(3, "", "", "report.made", "", {"report": "gdpr-33", "sites": ["south"]}),
        ),
        actions={},
        retention=RetentionFacts(default_rules(), (), ()),
    )
    assert narrowed(facts, EVERYWHERE) is facts
    north = narrowed(facts, Scope(frozenset({"north"})))
    assert [(item.outcomes, item.positions) for item in north.requests] == [(("done",), (3, 4))]
    assert [(item.result) for item in north.requests] == ["in whole"]
    assert [made.position for made in north.reports] == [2]
    assert narrowed(facts, Scope(frozenset({"west"}))).requests == ()
