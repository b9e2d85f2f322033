"""What the two ports answer to plain HTTP requests."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse, RegisterNodeRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest

from server.gate import MAX_BODY_BYTES
from tests.server.wired import TOKEN, Authority, NodeFiles, Wired, wired

PROTOBUF = {"content-type": "application/protobuf"}
CONTROL_CALLS = [
    "list-runs",
    "start-run",
    "register-node",
    "unregister-node",
    "list-nodes",
    "stop-run",
    "get-login-details",
    "get-auth-tokens",
    "refresh-auth-tokens",
    "list-federations",
]
RUNTIME_CALLS = ["acquire-task", "get-nodes", "push-messages", "pull-messages", "push-object"]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with wired(tmp_path_factory.mktemp("ports")) as made:
        yield made


@pytest.fixture(scope="module")
def site(ports: Wired) -> NodeFiles:
    return ports.admit("st-elm")


def key_header(files: NodeFiles) -> dict[str, str]:
    return {"flwr-public-key": base64.b64encode(files.public_key.encode()).decode()}


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:fiduciary:problem:{code}"
    assert problem["status"] == status
    assert set(problem) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    "path",
    [f"/v1/control/{call}" for call in CONTROL_CALLS]
    + [f"/v1/runtime/{call}" for call in RUNTIME_CALLS]
    + ["/", "/docs", "/openapi.json", "/v1/fiduciary/status", "/v1/fleet/pull-task", "/no"],
)
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"],
)
def test_the_control_port_answers_nothing_without_the_token(
    ports: Wired, path: str, authorization: str | None
) -> None:
    headers = PROTOBUF if authorization is None else {**PROTOBUF, "authorization": authorization}
    with ports.http(ports.control_port) as client:
        answer = client.post(path, content=b"", headers=headers)
    assert_problem(answer, 401, "token-required")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_two_authorization_headers_are_not_one_that_fits(ports: Wired) -> None:
    tokens = [("authorization", "Bearer wrong"), ("authorization", f"Bearer {TOKEN}")]
    for both in (tokens, tokens[::-1], [tokens[1], tokens[1]]):
        headers = [("content-type", "application/protobuf"), *both]
        with ports.http(ports.control_port) as client:
            answer = client.post("/v1/control/list-runs", content=b"", headers=headers)
        assert_problem(answer, 401, "token-required")


def test_no_node_is_registered_without_the_token(ports: Wired, site: NodeFiles) -> None:
    before = ports.link.registered()
    message = RegisterNodeRequest(public_key=site.public_key.encode(), name="intruder")
    with ports.http(ports.control_port) as client:
        answer = client.post(
            "/v1/control/register-node", content=message.SerializeToString(), headers=PROTOBUF
        )
    assert answer.status_code == 401
    assert ports.link.registered() == before
    assert "intruder" not in ports.link.online()


def test_the_control_port_serves_the_coordinator(ports: Wired) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    run_id = ports.link.open_run()
    ports.status["pid"] = 7
    with ports.http(ports.control_port) as client:
        answer = client.post(
            "/v1/control/list-runs",
            content=ListRunsRequest().SerializeToString(),
            headers={**PROTOBUF, **bearer},
        )
        status = client.get("/v1/fiduciary/status", headers=bearer)
        health = client.get("/health")
    assert answer.status_code == 200
    assert run_id in ListRunsResponse.FromString(answer.content).run_dict
    assert status.json() == {"pid": 7}
    assert health.status_code == 200


def test_nobody_acquires_a_task_even_with_the_token(ports: Wired) -> None:
    with ports.http(ports.control_port) as client:
        answer = client.post(
            "/v1/runtime/acquire-task",
            content=b"",
            headers={**PROTOBUF, "authorization": f"Bearer {TOKEN}"},
        )
    assert answer.status_code in (401, 403)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fiduciary/status",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/pull%2dmessages",
        "/v1/fleet//pull-task",
        "/v1/fleet/pull-task/",
        "//v1/fleet/pull-task",
        "/health/x",
        "/healthz",
    ],
)
def test_the_partner_port_is_404_for_all_but_fleet_and_health(
    ports: Wired, site: NodeFiles, method: str, path: str
) -> None:
    with ports.http(ports.partner_port, site) as client:
        target = httpx.URL(
            scheme="https", host="127.0.0.1", port=ports.partner_port, raw_path=path.encode()
        )
        headers = {**key_header(site), "authorization": f"Bearer {TOKEN}"}
        answer = client.request(method, target, headers=headers)
    assert_problem(answer, 404, "not-found")


@pytest.mark.parametrize("call", ["register-node", "unregister-node", "get-fab"])
def test_sites_neither_register_themselves_nor_fetch_code(
    ports: Wired, site: NodeFiles, call: str
) -> None:
    with ports.http(ports.partner_port, site) as client:
        answer = client.post(f"/v1/fleet/{call}", content=b"", headers=key_header(site))
    assert_problem(answer, 404, "not-found")


def test_health_needs_no_certificate(ports: Wired) -> None:
    with ports.http(ports.partner_port) as client:
        assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "call", ["pull-task", "push-answer", "activate-node", "push-object", "get-run"]
)
def test_a_fleet_call_without_a_certificate_is_401(
    ports: Wired, site: NodeFiles, call: str
) -> None:
    with ports.http(ports.partner_port) as client:
        answer = client.post(
            f"/v1/fleet/{call}", content=b"", headers={**PROTOBUF, **key_header(site)}
        )
    assert_problem(answer, 401, "client-certificate-required")


def test_another_sites_key_in_the_header_is_401(ports: Wired, site: NodeFiles) -> None:
    other = ports.admit("lakeside")
    both = [*key_header(site).items(), *key_header(other).items()]
    for headers in ({}, {"flwr-public-key": "!"}, key_header(other), both, both[::-1]):
        with ports.http(ports.partner_port, site) as client:
            answer = client.post("/v1/fleet/pull-task", content=b"", headers=headers)
        assert_problem(answer, 401, "key-mismatch")


def test_a_certified_key_that_is_not_admitted_is_401(ports: Wired) -> None:
    stranger = ports.certify("stranger")
    request = ActivateNodeRequest(public_key=stranger.public_key.encode(), heartbeat_interval=30)
    with ports.http(ports.partner_port, stranger) as client:
        answer = client.post(
            "/v1/fleet/activate-node",
            content=request.SerializeToString(),
            headers={**PROTOBUF, **key_header(stranger)},
        )
    assert_problem(answer, 401, "unknown-site")


def test_the_right_certificate_without_flowers_signature_is_401(
    ports: Wired, site: NodeFiles
) -> None:
    request = ActivateNodeRequest(public_key=site.public_key.encode(), heartbeat_interval=30)
    with ports.http(ports.partner_port, site) as client:
        answer = client.post(
            "/v1/fleet/activate-node",
            content=request.SerializeToString(),
            headers={**PROTOBUF, **key_header(site)},
        )
    assert_problem(answer, 401, "node-unknown")


def test_a_certificate_of_another_authority_fails_the_handshake(ports: Wired) -> None:
    foreign = ports.certify("st-elm", by=Authority.make("demo"))
    with (
        ports.http(ports.partner_port, foreign) as client,
        pytest.raises((httpx.TransportError, ssl.SSLError)),
    ):
        client.get("/health")


@pytest.mark.parametrize("declared", [str(MAX_BODY_BYTES + 1), "9" * 18])
def test_a_body_is_refused_by_its_length_before_it_is_sent(
    ports: Wired, site: NodeFiles, declared: str
) -> None:
    context = ssl.create_default_context(cafile=str(site.ca))
    context.load_cert_chain(site.certificate, site.key)
    (name, value) = next(iter(key_header(site).items()))
    head = (
        f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: localhost\r\n{name}: {value}\r\n"
        f"content-type: application/protobuf\r\ncontent-length: {declared}\r\n\r\n"
    )
    with (
        socket.create_connection(("127.0.0.1", ports.partner_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]


def test_a_body_that_grows_beyond_its_limit_is_cut_off(ports: Wired, site: NodeFiles) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 4 * MAX_BODY_BYTES:
            sent += 4 * 1024 * 1024
            yield b"\0" * (4 * 1024 * 1024)

    headers = {**PROTOBUF, **key_header(site)}
    with ports.http(ports.partner_port, site) as client:
        try:
            answer = client.post("/v1/fleet/push-object", content=endless(), headers=headers)
            assert_problem(answer, 413, "body-too-large")
        except (httpx.WriteError, httpx.ReadError):
            pass  # the connection was closed while we were still sending
    assert sent < 4 * MAX_BODY_BYTES
    refused = [event for event in ports.recorded() if event["status"] == 413]
    assert refused[-1]["actor"] == "st-elm"


def test_refusals_are_recorded_without_secrets(ports: Wired, site: NodeFiles) -> None:
    with ports.http(ports.control_port) as client:
        client.post("/v1/control/start-run", headers={"authorization": "Bearer guess-7"})
    with ports.http(ports.partner_port, site) as client:
        client.get("/v1/control/list-runs")
    events = ports.recorded()
    assert {"control", "partner"} <= {event["port"] for event in events}
    refused = [event for event in events if event["path"] == "/v1/control/start-run"][-1]
    assert (refused["status"], refused["reason"]) == (401, "token-required")
    assert refused["actor"] == "unknown"
    text = json.dumps(events)
    assert TOKEN not in text
    assert "guess-7" not in text
