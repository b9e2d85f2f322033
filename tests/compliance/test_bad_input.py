"""Hostile and broken requests: one clear problem+json each, and nothing of the input in it."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audit.errors import MalformedInput
from compliance.access_views import RotationBody
from compliance.service.app import create_app, openapi_document
from compliance.service.request import MAX_DEPTH, MAX_JSON_BYTES, parse_json
from compliance.session import path_segment
from tests.compliance.federation import Coordinator, Site, plan_body
from tests.compliance.running import RunningService, wait_for

SECRET = "jane-doe-1970-01-01"


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem document of an answer, checked for form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:fiduciary:problem:")
    assert document["detail"]
    assert SECRET not in answer.text
    return document


def test_every_status_is_a_problem_document(service: RunningService) -> None:
    officer = service.http(service.token("officer"))
    problem(officer.get("/nowhere"), 404)
    problem(officer.get(f"/v1/plans/{SECRET}"), 404)
    assert officer.patch("/v1/plans").headers["allow"] == "GET, POST"
    problem(officer.patch("/v1/plans"), 405)
    problem(service.http().get("/v1/plans"), 401)
    problem(officer.post("/v1/plans", json={}), 403)
    problem(officer.post("/v1/principals", json={}), 422)
    problem(officer.get("/v1/plans", params={"state": SECRET}), 422)
    problem(officer.get("/v1/log/entries", params={"limit": 10**30}), 422)
    problem(officer.get(f"/v1/log/proofs/{10**30}"), 404)
    problem(officer.get("/v1/log/proofs/-1"), 404)
    problem(officer.get("/v1/log/consistency", params={"first": 3, "second": 1}), 404)
    problem(officer.get("/v1/log/consistency", params={"first": 0, "second": 10**9}), 404)


def test_validation_names_the_field_and_not_the_value(service: RunningService) -> None:
    officer = service.http(service.token("officer"))
    for body, field in (
        ({"name": SECRET.upper(), "roles": ["auditor"]}, "name"),
        ({"name": "a", "roles": [SECRET]}, "roles.0"),
        ({"name": "a", "roles": ["auditor"], "expires_at": SECRET}, "expires_at"),
        ({"name": "a", "roles": ["auditor"], "extra": SECRET}, "?: unknown field"),
        ({"name": "a", "roles": ["auditor"], SECRET: 1}, "?: unknown field"),
        ({"name": ["a", SECRET], "roles": ["auditor"]}, "name"),
        ([SECRET], "body"),
        (SECRET, "body"),
    ):
        document = problem(officer.post("/v1/principals", json=body), 422)
        assert field in document["detail"], document
        payload = service.last_entry()[3]
        assert payload["detail"] == document["detail"]
        assert SECRET not in str(payload)


def test_names_that_a_caller_made_are_not_repeated(service: RunningService) -> None:
    body = {
        "request_id": "a" * 32,
        "right": "access",
        "jurisdiction": "gdpr",
        "sealed": {SECRET.upper(): "eA=="},
    }
    answer = service.http(service.token("officer")).post("/v1/subject-requests", json=body)
    assert "sealed.?.[key]: " in problem(answer, 422)["detail"]
    assert SECRET.upper() not in str(service.last_entry()[3])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "malformed JSON"),
        (b'{"name": "a", "name": "b"}', "a key appears twice"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": Infinity}', "infinities"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper"),
        (b"1" * 10_000, "a number is too long"),
    ],
)
def test_malformed_json_is_422(service: RunningService, body: bytes, reason: str) -> None:
    officer = service.http(service.token("officer"))
    headers = {"content-type": "application/json"}
    answer = officer.post("/v1/principals", content=body, headers=headers)
    assert reason in problem(answer, 422)["detail"]
    assert service.last_entry()[1] == "request.refused"


def test_oversized_bodies_are_413_announced_or_not(service: RunningService) -> None:
    officer = service.http(service.token("officer"))
    big = b'"' + b"x" * MAX_JSON_BYTES + b'"'
    headers = {"content-type": "application/json"}
    problem(officer.post("/v1/principals", content=big, headers=headers), 413)
    pieces = (big[start : start + 65_536] for start in range(0, len(big), 65_536))
    problem(officer.post("/v1/principals", content=pieces, headers=headers), 413)
    # Nobody in particular is not even read.
    problem(service.http().post("/v1/principals", content=big, headers=headers), 401)


def send_raw(service: RunningService, head: str, body: bytes = b"") -> bytes:
    """Send octets that a well-behaved client would not, leave, and see what came back."""
    host, port = "127.0.0.1", int(service.trust.url.rpartition(":")[2])
    context = service.trust.ssl_context()
    with (
        socket.create_connection((host, port)) as raw,
        context.wrap_socket(raw, server_hostname=host) as secure,
    ):
        lines = [head, f"host: {host}", f"authorization: Bearer {service.token('coordinator')}"]
        secure.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        secure.settimeout(0.5)
        try:
            return secure.recv(65_536)
        except TimeoutError:
            return b""


def test_a_release_that_is_too_large_is_refused_before_it_is_sent(
    service: RunningService,
) -> None:
    head = f"PUT /v1/releases/x/content HTTP/1.1\r\ncontent-length: {2**28 + 1}"
    assert send_raw(service, head).startswith(b"HTTP/1.1 404")  # there is no such release
    head = f"POST /v1/plans HTTP/1.1\r\ncontent-length: {2**20 + 1}"
    assert send_raw(service, head).startswith(b"HTTP/1.1 413")


def test_an_upload_that_is_cut_off_leaves_nothing(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    coordinator.api.submit_release(release.manifest, sealed_key=release.sealed_key)
    path = f"PUT /v1/releases/{release.release_id}/content HTTP/1.1\r\ncontent-length: "
    too_large = send_raw(service, f"{path}{2**28 + 1}")
    assert too_large.startswith(b"HTTP/1.1 413")
    half = release.ciphertext[: len(release.ciphertext) // 2]
    assert send_raw(service, f"{path}{len(release.ciphertext)}", half) == b""
    wait_for(lambda: service.last_entry()[3].get("reason") == "too-slow")
    assert list(service.folder.releases.iterdir()) == []
    assert coordinator.api.release(release.release_id).state == "announced"
    coordinator.api.upload_release(release.release_id, release.file(tmp_path))


def test_the_document_says_that_no_other_names_are_allowed(service: RunningService) -> None:
    document = openapi_document(create_app(service.registry))
    for body in ("PublicRequestBody", "FiledRequestBody"):
        sealed = document["components"]["schemas"][body]["properties"]["sealed"]
        assert list(sealed["patternProperties"]) != []
        assert sealed["additionalProperties"] is False
        assert [part["minLength"] for part in sealed["patternProperties"].values()] == [4]


def test_a_whole_number_may_be_written_with_a_point() -> None:
    for said in (20.0, 20):  # JSON Schema calls both integers
        assert RotationBody.model_validate({"overlap_hours": said}).overlap_hours == 20
    for other in (20.5, "20", True, float("inf"), 1e300):
        with pytest.raises(ValidationError):
            RotationBody.model_validate({"overlap_hours": other})


def test_a_body_that_is_not_json_is_refused(service: RunningService) -> None:
    officer = service.http(service.token("officer"))
    body = json.dumps({"name": "a", "roles": ["auditor"]})
    answer = officer.post("/v1/principals", content=body, headers={"content-type": "text/plain"})
    problem(answer, 422)


def test_statements_with_unknown_or_repeated_keys_are_refused(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    http = service.http(service.token("coordinator"))
    envelope = coordinator.plan().to_json()
    problem(http.post("/v1/plans", json={"statement": {**envelope, "extra": 1}}), 422)
    problem(http.post("/v1/plans", json={"statement": envelope, "extra": 1}), 422)
    problem(http.post("/v1/plans", json={"statement": {**envelope, "signatures": []}}), 422)
    text = json.dumps({"statement": envelope})
    repeated = text[:-1] + ', "statement": {}}'
    headers = {"content-type": "application/json"}
    problem(http.post("/v1/plans", content=repeated.encode(), headers=headers), 422)
    signed = coordinator.sign({**plan_body(), "unknown": SECRET})
    document = problem(http.post("/v1/plans", json={"statement": signed.to_json()}), 422)
    assert document["detail"] == "malformed plan: ?: unknown field"


def test_keys_of_statements_and_queries_are_not_repeated(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    """Nor written down: a key of a statement, or of a query, may be somebody's name."""
    http = service.http(service.token("coordinator"))
    for name in (SECRET.upper(), "anna_schmidt"):
        for body, where in (
            ({**plan_body(), name: 1}, "?"),
            (plan_body(privacy={**plan_body()["privacy"], name: 1}), "privacy.?"),
        ):
            envelope = {"statement": coordinator.sign(body).to_json()}
            answer = http.post("/v1/plans", json=envelope)
            assert problem(answer, 422)["detail"] == f"malformed plan: {where}: unknown field"
            assert name not in answer.text + str(service.last_entry()[3])
        answer = http.post("/v1/plans", json=envelope, params={name: "1"})
        assert problem(answer, 422)["detail"] == "malformed request: query.?: unknown parameter"
        assert name not in answer.text + str(service.last_entry()[3])


def test_a_slip_of_a_name_of_ours_is_told(service: RunningService) -> None:
    officer = service.http(service.token("officer"))
    answer = officer.get("/v1/log/entries", params={"limitt": "1"})
    assert problem(answer, 422)["detail"] == "malformed request: query.limitt: unknown parameter"
    answer = officer.get("/v1/log/entries", params={"limit": "many"})
    assert "malformed request: query.limit: " in problem(answer, 422)["detail"]
    body = {"name": "a", "roles": ["auditor"], "expires_att": None}
    answer = officer.post("/v1/principals", json=body)
    assert problem(answer, 422)["detail"] == "malformed request: expires_att: unknown field"


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "%00", "sha256:" + "0" * 64 + "'--"])
def test_odd_identifiers_are_not_found(service: RunningService, path: str) -> None:
    officer = service.http(service.token("officer"))
    assert officer.get(f"/v1/releases/{path}").status_code == 404
    assert officer.get(f"/v1/releases/{path}/content").status_code in (403, 404)
    assert officer.get(f"/v1/sites/{path}").status_code == 404


def test_unexpected_failures_say_nothing_of_the_cause(
    service: RunningService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(_storage: object) -> str:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(service.registry.log, "checkpoint", explode)
    with caplog.at_level(logging.DEBUG):
        answer = service.http(service.token("officer")).get("/v1/log/checkpoint")
    document = problem(answer, 500)
    incident = document["detail"].rpartition(" ")[2]
    assert incident in caplog.text
    assert "RuntimeError in GET /v1/log/checkpoint" in caplog.text
    assert SECRET not in caplog.text


def test_logs_hold_no_token_and_no_identifier(
    service: RunningService, coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    token = service.token("officer")
    with caplog.at_level(logging.DEBUG):
        http = service.http(token)
        http.get(f"/v1/plans/{SECRET}")
        http.post("/v1/principals", json={"name": SECRET, "roles": [SECRET]})
        service.faults.append = True
        http.post("/v1/principals", json={"name": "desk", "roles": ["auditor"]})
        service.faults.append = False
    # pytest listens to loggers that are off; what the process prints is checked in test_process.
    others = ("httpx", "httpcore", "uvicorn.access")
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(others)]
    assert any("incident" in message for message in ours)
    assert not any(SECRET in message or token in message for message in ours)


def test_no_token_is_stored_or_logged_anywhere(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    tokens = [service.token(name) for name in ("officer", "coordinator")]
    tokens.append(service.as_("officer").add_principal("desk", ["consumer"]).token)
    assert north.token is not None
    everything = str(service.tables()) + str(service.entries())
    for token in (*tokens, north.token):
        assert token not in everything


def test_only_tls_13_and_only_the_pinned_certificate(service: RunningService) -> None:
    host, port = "127.0.0.1", int(service.trust.url.rpartition(":")[2])
    context = service.trust.ssl_context()
    with (
        socket.create_connection((host, port)) as raw,
        context.wrap_socket(raw, server_hostname=host) as secure,
    ):
        assert secure.version() == "TLSv1.3"
    old = service.trust.ssl_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, port)) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw, server_hostname=host)
    public = ssl.create_default_context()
    with (
        socket.create_connection((host, port)) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        public.wrap_socket(raw, server_hostname=host)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_strict_json_reads_what_json_writes(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_strict_json_fails_in_one_way_only(data: bytes) -> None:
    try:
        parse_json(data)
    except MalformedInput:
        return


@given(st.integers(1, 3 * MAX_DEPTH))
def test_depth_is_bounded(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    if depth > MAX_DEPTH:
        with pytest.raises(MalformedInput, match="nested"):
            parse_json(data)
    else:
        parse_json(data)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b", "a#b", "%2e%2e", "Zoë", "\x1b[2J"])
def test_an_identifier_that_would_be_another_address_is_not_sent(name: str) -> None:
    with pytest.raises(MalformedInput, match="character that none may have"):
        path_segment(name)
