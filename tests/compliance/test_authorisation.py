"""Who may call what: every operation, every role, no token, dead tokens, foreign objects."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from audit.errors import NotFound, Refused, Unauthorised
from compliance.service.access import access_of
from compliance.service.app import create_app, openapi_document
from compliance.service.gate import GatedRoute
from compliance.statements import format_time
from compliance.wire import ASSIGNABLE_ROLES
from tests.compliance.federation import DIGEST, Consumer, Coordinator, Site
from tests.compliance.running import Clock, RunningService

C, S, O, A, U = "coordinator", "site", "officer", "auditor", "consumer"  # noqa: E741
ANY = {C, S, O, A, U}

MATRIX: dict[str, set[str]] = {
    "GET /health": set(),
    "GET /v1/trust": set(),
    "POST /v1/enrolments": set(),
    "POST /v1/coordinator": {C},
    "POST /v1/invitations": {C},
    "GET /v1/sites": ANY,
    "GET /v1/sites/{name}": ANY,
    "POST /v1/sites/{name}/approval": {C},
    "POST /v1/sites/{name}/renewal-request": {S},
    "POST /v1/sites/{name}/renewal": {C},
    "POST /v1/sites/{name}/revocation": {C, O},
    "POST /v1/plans": {C},
    "GET /v1/plans": {C, S, O, A},
    "GET /v1/plans/{plan_id}": {C, S, O, A},
    "GET /v1/plans/{plan_id}/reports": {C, O, A},
    "POST /v1/plans/{plan_id}/approval": {O},
    "POST /v1/plans/{plan_id}/rejection": {O},
    "POST /v1/plans/{plan_id}/rounds": {C},
    "POST /v1/plans/{plan_id}/reports": {S},
    "POST /v1/plans/{plan_id}/outcome": {C},
    "GET /v1/plans/{plan_id}/kept-models": {C},
    "POST /v1/plans/{plan_id}/kept-models/removal": {C},
    "POST /v1/refusals": {C, S},
    "POST /v1/releases": {C},
    "GET /v1/releases": ANY,
    "GET /v1/releases/{release_id}": ANY,
    "PUT /v1/releases/{release_id}/content": {C},
    "GET /v1/releases/{release_id}/content": ANY,
    "GET /v1/releases/{release_id}/key": ANY,
    "POST /v1/releases/{release_id}/approval": {O},
    "POST /v1/releases/{release_id}/rejection": {O},
    "POST /v1/releases/{release_id}/grants": {O},
    "DELETE /v1/releases/{release_id}/grants/{principal}": {O},
    "GET /v1/releases/{release_id}/gates": {C, S, O, A},
    "POST /v1/releases/{release_id}/recall": {O},
    "GET /v1/aliases": ANY,
    "PUT /v1/aliases/{alias}": {O},
    "POST /v1/aliases/{alias}/rollback": {O},
    "GET /v1/notices": ANY,
    "POST /v1/notices/{notice_id}/acknowledgement": ANY,
    "POST /v1/erasures": {S},
    "POST /v1/subject-requests": {O},
    "GET /v1/subject-requests": {O, A},
    "GET /v1/subject-requests/{request_id}": {O, A},
    "POST /v1/subject-requests/{request_id}/verification": {O},
    "POST /v1/subject-requests/{request_id}/confirmation": {O},
    "POST /v1/subject-requests/{request_id}/extension": {O},
    "POST /v1/subject-requests/{request_id}/refusal": {O},
    "POST /v1/subject-requests/{request_id}/completion": {O},
    "POST /v1/subject-requests/{request_id}/parts/{site}/waiver": {O},
    "POST /v1/subject-requests/{request_id}/taken": {S},
    "POST /v1/subject-requests/{request_id}/identity": {S},
    "POST /v1/subject-requests/{request_id}/answer": {S},
    "GET /v1/subject-requests/{request_id}/releases": {S},
    "GET /v1/subject-parts": {S},
    "GET /v1/sealing-keys": {O, A},
    "POST /v1/sites/{name}/sealing-key": {S},
    "GET /v1/public/offer": set(),
    "GET /requests": set(),
    "GET /requests/status": set(),
    "POST /requests/status": set(),
    "GET /requests/style.css": set(),
    "GET /requests/seal.js": set(),
    "GET /requests/open.js": set(),
    "GET /requests/hpke.js": set(),
    "POST /v1/public/requests": set(),
    "POST /v1/public/requests/status": set(),
    "POST /v1/public/requests/identity": set(),
    "POST /v1/public/requests/code": set(),
    "POST /v1/public/requests/package": set(),
    "GET /v1/erasures/{erasure}/receipt": {S, O, A},
    "GET /v1/erasure-cases": {O, A},
    "GET /v1/erasure-cases/{case_id}": {O, A},
    "POST /v1/erasure-cases/{case_id}/decision": {O},
    "POST /v1/erasure-cases/{case_id}/conclusion": {O},
    "GET /v1/principals": {O, A},
    "POST /v1/principals": {O},
    "POST /v1/principals/{name}/confirmation": {O},
    "POST /v1/principals/{name}/rotation": ANY,
    "DELETE /v1/principals/{name}": {O},
    "GET /v1/identity": ANY,
    "POST /v1/logins": set(),
    "POST /v1/sessions": set(),
    "DELETE /v1/session": ANY,
    "GET /v1/log/checkpoint": ANY,
    "GET /v1/log/entries": {O, A},
    "GET /v1/log/export": {O, A},
    "GET /v1/log/proofs/{position}": ANY,
    "GET /v1/log/consistency": ANY,
    "GET /v1/log/witnesses": ANY,
    "POST /v1/log/cosignatures": {S},
    "GET /v1/retention": {O, A},
    "POST /v1/retention/runs": {O},
    "POST /v1/retention/holds": {O},
    "POST /v1/retention/holds/{hold}/release": {O},
    "GET /v1/reports": {O, A},
    "GET /v1/reports/{report}": {O, A},
    "GET /v1/breaches": {O, A},
    "GET /v1/breaches/{breach}": {O, A},
    "POST /v1/breaches": {O},
    "POST /v1/breaches/{breach}/updates": {O},
    "POST /v1/breaches/{breach}/notifications": {O},
    "POST /v1/breaches/{breach}/closure": {O},
}
"""Roles that may call each operation; none for what needs no token."""

PATHS = {
    "{plan_id}": DIGEST,
    "{release_id}": DIGEST,
    "{position}": "0",
    "{principal}": "nobody",
    "{name}": "nobody",
    "{hold}": "nothing",
    "{erasure}": DIGEST,
    "{case_id}": "0" * 32,
    "{notice_id}": "nothing",
    "{breach}": "nothing",
    "{request_id}": "0" * 32,
    "{site}": "nowhere",
    "{report}": "nothing",
    "{alias}": "nothing",
}


def operations(app: FastAPI) -> dict[str, APIRoute]:
    """Method and path of every route that the application really has."""
    described = {
        f"{method.upper()} {path}"
        for path, item in openapi_document(app)["paths"].items()
        for method in item
    }
    found = {
        f"{method} {route.path}": route for route in app.state.routes for method in route.methods
    }
    assert described == set(found)
    return found


def call(http: httpx.Client, operation: str, **options: Any) -> httpx.Response:
    method, path = operation.split(" ")
    for name, value in PATHS.items():
        path = path.replace(name, value)
    return http.request(method, path, **options)


def test_the_matrix_is_the_application(service: RunningService) -> None:
    found = operations(service.app)
    assert set(found) == set(MATRIX)
    for operation, route in found.items():
        assert isinstance(route, GatedRoute), operation
        assert set(access_of(route.endpoint).roles) == MATRIX[operation], operation


def test_every_operation_for_every_role_and_nobody(
    service: RunningService, coordinator: Coordinator, north: Site, clock: Clock
) -> None:
    officer = service.as_("officer")
    tokens: dict[str, str | None] = {
        name: service.token(name) for name in ("coordinator", "officer", "auditor")
    }
    tokens["consumer"] = officer.add_principal("desk", ["consumer"]).token
    tokens["site"] = north.token
    callers = {role: service.http(token) for role, token in tokens.items()}
    nobody = service.http()
    entries = len(service.entries())
    for operation, roles in MATRIX.items():
        for role, caller in callers.items():
            if operation.startswith("POST /v1/sites/{name}/revocation"):
                continue  # its own test: it would end the site
            answer = call(caller, operation)
            denied = roles and role not in roles
            assert (
                answer.status_code == 403 and answer.json()["reason"] == "role-missing"
            ) == bool(denied), f"{operation} as {role}: {answer.status_code} {answer.text}"
            if denied:
                actor, action, name, payload = service.last_entry()
                assert (action, name) == ("request.refused", f"operation:{operation}")
                assert actor == ({"site": "site:north", "consumer": "desk"}.get(role, role))
                assert payload["reason"] == "role-missing"
    for operation, roles in MATRIX.items():
        if roles:
            clock.advance(minutes=2)  # the throttle has its own test
            answer = call(nobody, operation)
            assert answer.status_code == 401, operation
            assert answer.headers["www-authenticate"] == "Bearer"
            actor, action, name, payload = service.last_entry()
            assert (actor, action, name) == (
                "anonymous",
                "request.refused",
                f"operation:{operation}",
            )
    assert len(service.entries()) > entries


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic b2ZmaWNlcjo=",
        "Bearer wrong",
        "Token x",
        "Bearer \xff\xfe",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJvZmZpY2VyIn0.",
        "Bearer " + "a" * 5000,
    ],
)
def test_what_is_no_valid_token_is_401(service: RunningService, header: str) -> None:
    answer = service.http().get("/v1/plans", headers={b"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:fiduciary:problem:unauthorised"


def test_expired_and_revoked_tokens_stop_at_once(service: RunningService, clock: Clock) -> None:
    officer = service.as_("officer")
    until = format_time(clock() + timedelta(hours=1))
    short_lived = service.client(officer.add_principal("a", ["auditor"], expires_at=until).token)
    ended = service.client(officer.add_principal("b", ["auditor"]).token)
    assert short_lived.plans() == ended.plans() == ()
    officer.revoke_principal("b")
    with pytest.raises(Unauthorised, match="not valid"):
        ended.plans()
    assert service.last_entry()[3]["reason"] == "token-revoked"
    clock.advance(hours=1)
    with pytest.raises(Unauthorised, match="not valid"):
        short_lived.plans()
    assert service.last_entry()[3]["reason"] == "token-expired"


def test_nobody_decides_about_their_own_work_whatever_their_roles(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    officer = service.as_("officer")
    both = service.client(officer.add_principal("ada", ["coordinator", "officer"]).token)
    plan = coordinator.plan()
    plan_id = both.submit_plan(plan).plan_id
    for decide in (both.approve_plan, both.reject_plan):
        with pytest.raises(Refused, match="submitted themselves"):
            decide(plan_id)
    assert service.last_entry()[0] == "ada"
    assert service.last_entry()[3]["reason"] == "own-work"
    assert officer.plan(plan_id).state == "submitted"
    officer.approve_plan(plan_id)
    coordinator.run(plan_id, north)

    release = coordinator.release(plan_id)
    both.submit_release(release.manifest, sealed_key=release.sealed_key)
    both.upload_release(release.release_id, release.file(tmp_path))
    with pytest.raises(Refused, match="submitted themselves"):
        both.approve_release(release.release_id)
    officer.approve_release(release.release_id)
    with pytest.raises(Refused, match="nobody grants to themselves"):
        both.grant(
            release.release_id,
            "ada",
            public_key=b"\x09" * 32,
            purpose="triage",
            expires_at=format_time(service.clock() + timedelta(days=1)),
        )


def test_nobody_decides_about_a_plan_that_names_them_as_author(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    officer = service.as_("officer")
    plan_id = coordinator.api.submit_plan(coordinator.plan(author="officer")).plan_id
    with pytest.raises(Refused, match="submitted themselves"):
        officer.approve_plan(plan_id)
    second = service.client(officer.add_principal("second", ["officer"]).token)
    assert second.approve_plan(plan_id).state == "approved"


def test_an_officer_cannot_end_themselves_or_hand_out_a_site(service: RunningService) -> None:
    officer = service.as_("officer")
    with pytest.raises(Refused, match="nobody revokes themselves"):
        officer.revoke_principal("officer")
    for name, roles, reason in (
        ("site-like", ["site"], "enrolment alone"),
        ("anonymous", ["auditor"], "reserved"),
    ):
        with pytest.raises(Refused, match=reason):
            officer.add_principal(name, roles)  # type: ignore[arg-type]
    assert set(ASSIGNABLE_ROLES) == ANY - {S}


def test_a_site_sees_and_serves_itself_only(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    south = coordinator.welcome("south")
    plan_id = coordinator.approved_plan(("north",))
    assert [view.plan_id for view in north.client(service).plans()] == [plan_id]
    assert south.client(service).plans() == ()
    with pytest.raises(NotFound):
        south.client(service).plan(plan_id)
    with pytest.raises(Unauthorised, match="speaks for itself"):
        south.client(service).report_site(plan_id, _signed_as(south, north, plan_id))
    with pytest.raises(Unauthorised, match="does not name this site"):
        south.client(service).report_site(plan_id, south.report(plan_id))


def _signed_as(signer: Site, named: Site, plan_id: str) -> Any:
    return signer.report(plan_id, site=named.name)


def test_a_consumer_sees_its_own_grants_only(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path, clock: Clock
) -> None:
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))
    officer = service.as_("officer")
    officer.approve_release(release.release_id)
    desk, other = Consumer(service), Consumer(service, "other")
    for consumer in (desk, other):
        officer.grant(
            release.release_id,
            consumer.name,
            public_key=consumer.public_key,
            purpose="triage",
            expires_at=format_time(clock() + timedelta(days=2)),
        )
    assert [view.principal for view in desk.api.release(release.release_id).grants] == [
        "triage-desk"
    ]
    assert len(officer.release(release.release_id).grants) == 2
    stranger = Consumer(service, "stranger")
    with pytest.raises(NotFound):
        stranger.api.release(release.release_id)

    officer.revoke_grant(release.release_id, desk.name)
    for attempt in (
        lambda: desk.api.release_key(release.release_id),
        lambda: desk.api.download_release(release.release_id, tmp_path / "x"),
    ):
        with pytest.raises(Refused, match="revoked"):
            attempt()
        assert service.last_entry()[3]["reason"] == "grant-revoked"
    clock.advance(days=2)
    with pytest.raises(Refused, match="expired"):
        other.api.release_key(release.release_id)
    assert service.last_entry()[0] == "other"


def test_failed_attempts_are_limited_and_the_log_is_not_flooded(
    service: RunningService, clock: Clock
) -> None:
    http = service.http("wrong")
    statuses = [http.get("/v1/plans").status_code for _ in range(40)]
    assert statuses == [401] * 30 + [429] * 10
    actions = [action for _, action, _, _ in service.entries()]
    assert actions.count("request.refused") == 30
    assert actions.count("attempts.limited") == 1
    assert service.as_("officer").plans() == ()  # a valid token works all the same
    clock.advance(minutes=1)
    assert http.get("/v1/plans").status_code == 401


def test_an_operation_that_declares_no_access_cannot_be_registered() -> None:
    router = APIRouter(route_class=GatedRoute)

    def forgotten() -> None: ...

    with pytest.raises(TypeError, match="forgotten declares neither"):
        router.get("/forgotten")(forgotten)


def test_every_answer_carries_the_security_headers(service: RunningService) -> None:
    for path in ("/health", "/nowhere", "/v1/plans"):
        headers = service.http().get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_the_description_says_what_needs_a_token(service: RunningService) -> None:
    document = openapi_document(create_app(service.registry))
    for (path, item), method in itertools.product(document["paths"].items(), ("get", "post")):
        if method in item:
            roles = MATRIX[f"{method.upper()} {path}"]
            assert ("security" in item[method]) == bool(roles)
