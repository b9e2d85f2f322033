"""A call with an idempotency key is done once, and answered as often as it is made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from audit.errors import Unreachable
from compliance.api import ComplianceClient
from compliance.service import idempotency
from compliance.service.access import access_of
from compliance.service.app import openapi_document
from compliance.service.idempotency_tables import GivenAnswerRow
from compliance.session import ANSWER_ATTEMPTS, IDEMPOTENCY_HEADER
from tests.compliance.running import RunningService
from tests.compliance.test_one_transaction import every_write

KEY = '"8e03978e-40d5-43e8-bc93-6894a57f9324"'
DESK = {"name": "desk", "roles": ["consumer"]}


def post(
    service: RunningService,
    path: str = "/v1/principals",
    body: Any = DESK,
    key: str = KEY,
    caller: str = "officer",
) -> httpx.Response:
    http = service.http(service.token(caller))
    return http.post(path, json=body, headers={IDEMPOTENCY_HEADER: key})


def kept(service: RunningService) -> int:
    with service.registry.reading() as session:
        return session.scalar(select(func.count()).select_from(GivenAnswerRow)) or 0


def test_a_repeat_gets_the_same_answer_and_does_nothing(service: RunningService) -> None:
    first = post(service)
    assert first.status_code == 201
    after = service.tables()
    for _ in range(2):
        again = post(service)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["content-type"] == first.headers["content-type"]
    assert service.tables() == after
    assert service.client(first.json()["token"]).releases() == ()
    # Without the key it is another call.
    http = service.http(service.token("officer"))
    assert http.post("/v1/principals", json=DESK).status_code == 409


def test_an_answer_that_was_lost_is_given_to_the_repeat(service: RunningService) -> None:
    before = service.tables()
    service.faults.commit = True
    assert post(service).status_code == 503
    service.faults.commit = False
    assert service.tables() == before
    assert kept(service) == 0

    service.faults.after_commit = True
    assert post(service).status_code == 503
    service.faults.after_commit = False
    after = service.tables()
    answer = post(service)
    assert answer.status_code == 201
    assert service.client(answer.json()["token"]).releases() == ()
    assert service.tables() == after
    assert len(after["log_entries"]) == len(before["log_entries"]) + 1


def test_a_key_belongs_to_one_request_of_one_caller(service: RunningService) -> None:
    assert post(service).status_code == 201
    for other in (
        post(service, body={**DESK, "name": "desk-2"}),
        post(service, path="/v1/retention/holds", body={"name": "case-1", "reason": "lawsuit"}),
    ):
        assert other.status_code == 422
        assert other.json()["reason"] == "idempotency-key-reused"
        assert "new key" in other.json()["fix"]
    assert [row[0] for row in service.tables()["principals"]] == [
        "auditor",
        "coordinator",
        "desk",
        "officer",
    ]
    # Another caller's key is another key, even if it has the same letters.
    invitation = {
        "site": "north",
        "token_sha256": "ab" * 32,
        "kit_sha256": "cd" * 32,
        "expires_at": "2026-11-03T00:00:00Z",
    }
    assert post(service, "/v1/invitations", invitation, caller="coordinator").status_code == 201


def test_a_refusal_is_not_kept(service: RunningService) -> None:
    body = {"reason": "no"}
    plan = "/v1/plans/sha256:" + "0" * 64 + "/rejection"
    assert [post(service, plan, body).status_code for _ in range(2)] == [404, 404]
    assert kept(service) == 0
    assert post(service).status_code == 201  # so the key may still be used


def test_repeats_at_the_same_time_are_done_once(service: RunningService) -> None:
    before = len(service.entries())
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(service), range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(service.entries()) == before + 1


def test_answers_are_sealed_and_end(service: RunningService) -> None:
    token = post(service).json()["token"]
    files = [path for path in service.folder.path.rglob("*") if path.is_file()]
    assert service.folder.path / "compliance.sqlite" in files
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert not [path for path in files if KEY[1:-1].encode() in path.read_bytes()]

    service.clock.now += idempotency.KEPT
    assert post(service).status_code == 409  # another call, and there is a desk already
    assert post(service, body={**DESK, "name": "desk-2"}).status_code == 201
    assert kept(service) == 1


@pytest.mark.parametrize(
    "key", ["", "x" * 40, '"short"', f'"{"x" * 129}"', '"sixteen letters, no"', '"umlaut-umlaut-ü"']
)
def test_a_key_that_is_none_is_refused(service: RunningService, key: str) -> None:
    http = service.http(service.token("officer"))
    headers = [(IDEMPOTENCY_HEADER.encode(), key.encode("utf-8"))]
    answer = http.post("/v1/principals", json=DESK, headers=headers)
    assert answer.status_code == 422
    assert IDEMPOTENCY_HEADER in answer.json()["detail"]
    assert len(service.tables()["principals"]) == 3


def test_two_keys_are_refused(service: RunningService) -> None:
    http = service.http(service.token("officer"))
    headers = [(IDEMPOTENCY_HEADER, KEY), (IDEMPOTENCY_HEADER, KEY.replace("8", "9"))]
    assert http.post("/v1/principals", json=DESK, headers=headers).status_code == 422


def test_an_operation_with_transactions_of_its_own_is_answered_once(
    service: RunningService,
) -> None:
    (service.folder.path / "retention.toml").write_text(
        'format = "fiduciary.retention/1"\njurisdictions = ["gdpr"]\n'
    )
    first = post(service, "/v1/retention/runs", {})
    assert first.status_code == 200
    after = service.tables()
    assert post(service, "/v1/retention/runs", {}).content == first.content
    assert service.tables() == after
    assert post(service, "/v1/retention/runs", {"dry_run": True}).status_code == 422


def test_every_write_may_be_sent_twice(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = httpx.HTTPTransport.handle_request
    doubled = 0

    def twice(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        nonlocal doubled
        if request.method not in ("POST", "DELETE"):  # the client repeats no other
            return once(transport, request)
        request.read()
        first = once(transport, request)
        first.read()
        entries = len(service.tables()["log_entries"])
        second = once(transport, request)
        second.read()
        assert (second.status_code, second.content) == (first.status_code, first.content)
        assert len(service.tables()["log_entries"]) == entries
        doubled += 1
        return httpx.Response(
            second.status_code, headers=second.headers, stream=httpx.ByteStream(second.content)
        )

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", twice)
    writes = 0
    for name, write in every_write(service, tmp_path):
        writes += 1
        before = service.tables()
        write()
        after = service.tables()
        assert len(after["log_entries"]) == len(before["log_entries"]) + 1, name
    uploads = 2  # which are idempotent by their content
    assert doubled >= writes - uploads


def test_the_document_says_what_may_be_repeated(service: RunningService) -> None:
    document = openapi_document(service.app)
    streams = {
        (method, route.path)
        for route in service.app.state.routes
        for method in route.methods
        if access_of(route.endpoint).streams
    }
    assert ("PUT", "/v1/releases/{release_id}/content") in streams
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = [parameter["name"] for parameter in operation.get("parameters", ())]
            streamed = (method.upper(), path) in streams
            assert names.count(IDEMPOTENCY_HEADER) == (method != "get" and not streamed), path


# --- the typed client ----------------------------------------------------------------------------


class LosingTransport(httpx.HTTPTransport):
    """The network to the service, which loses answers after the service gave them."""

    def __init__(self, service: RunningService, losses: int, error: type[httpx.HTTPError]) -> None:
        super().__init__(verify=service.trust.ssl_context())
        self.losses = losses
        self.requests = 0
        self._error = error

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        response = super().handle_request(request)
        if self.losses:
            self.losses -= 1
            response.read()
            raise self._error("lost")
        return response


@pytest.fixture
def losing(
    service: RunningService,
) -> Callable[..., tuple[ComplianceClient, LosingTransport]]:
    def make(
        losses: int, error: type[httpx.HTTPError] = httpx.RemoteProtocolError
    ) -> tuple[ComplianceClient, LosingTransport]:
        transport = LosingTransport(service, losses, error)
        return ComplianceClient(
            service.trust, service.token("officer"), transport=transport
        ), transport

    return make


def test_the_client_repeats_a_change_whose_answer_was_lost(
    service: RunningService, losing: Callable[..., tuple[ComplianceClient, LosingTransport]]
) -> None:
    before = len(service.entries())
    for number, error in enumerate((httpx.RemoteProtocolError, httpx.ReadError), 1):
        client, transport = losing(ANSWER_ATTEMPTS - 1, error)
        with client:
            made = client.add_principal(f"desk-{number}", ["consumer"])
        assert service.client(made.token).releases() == ()
        assert len(service.entries()) == before + number
        assert transport.requests == ANSWER_ATTEMPTS


def test_the_client_gives_up_and_repeats_nothing_else(
    losing: Callable[..., tuple[ComplianceClient, LosingTransport]],
) -> None:
    client, transport = losing(99)
    with client, pytest.raises(Unreachable, match="did not answer"):
        client.add_principal("desk", ["consumer"])
    assert transport.requests == ANSWER_ATTEMPTS
    client, transport = losing(1)
    with client, pytest.raises(Unreachable):
        client.principals()
    assert transport.requests == 1
    client, transport = losing(1, httpx.ReadTimeout)  # it may still be working on it
    with client, pytest.raises(Unreachable):
        client.add_principal("desk-3", ["consumer"])
    assert transport.requests == 1
