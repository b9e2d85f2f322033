"""What one connection, and one address, can take of the listener: real sockets, real TLS."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from compliance.service import request as reading
from compliance.service.connections import (
    MAX_CALLS_OF_ADDRESS,
    MAX_HEAD_BYTES,
    BoundedProtocol,
    LimitedSocket,
    PatientLoop,
    Turns,
    caller_address,
)
from compliance.service.listener import open_socket
from tests.compliance.running import Clock, RunningService, running, wait_for

HOST = "127.0.0.1"
ANOTHER = "127.0.0.2"
HEAD = b"GET /v1/trust HTTP/1.1\r\nhost: 127.0.0.1\r\n"
SHORT = 0.3
PATIENCE = 10.0
"""Seconds that a test waits for what must happen after `SHORT`."""


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningService]:
    """One service for requests that change nothing in it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "compliance", Clock()) as started,
    ):
        yield started


def port_of(service: RunningService) -> int:
    return int(service.trust.url.rpartition(":")[2])


@contextmanager
def connected(service: RunningService, source: str = HOST) -> Iterator[ssl.SSLSocket]:
    """A TLS connection to the service."""
    raw = socket.create_connection((HOST, port_of(service)), source_address=(source, 0))
    with raw, service.trust.ssl_context().wrap_socket(raw, server_hostname=HOST) as secure:
        secure.settimeout(PATIENCE)
        yield secure


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    received = b""
    with suppress(ConnectionError, ssl.SSLError):
        while piece := connection.recv(65_536):
            received += piece
    return received


def read_answer(connection: socket.socket) -> bytes:
    """One answer; its body comes apart from its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    match = re.search(rb"content-length: (\d+)", head)
    assert match is not None
    while len(body) < int(match[1]):
        body += connection.recv(65_536)
    return received


def trickle(connection: socket.socket, drop: bytes) -> bytes:
    """Send one octet after another until the other side has had enough; what it said."""
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            connection.sendall(drop)
            connection.settimeout(SHORT / 10)
            try:
                return connection.recv(65_536)
            except TimeoutError:
                continue
    except (ConnectionError, ssl.SSLError):
        return b""
    raise AssertionError("it was put up with")


# --- time --------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_ended(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", SHORT)
    with connected(service) as silent:
        assert read_all(silent) == b""


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"])
def test_a_head_that_comes_in_drops_is_not_waited_for(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", SHORT)
    with connected(service) as slow:
        if before:
            slow.sendall(before)
            assert read_answer(slow).startswith(b"HTTP/1.1 200")
        slow.sendall(HEAD + b"x: ")
        assert trickle(slow, b"y") == b""


@pytest.mark.usefixtures("hurried")
def test_a_handshake_that_does_not_begin_is_not_waited_for(
    request: pytest.FixtureRequest,
) -> None:
    service: RunningService = request.getfixturevalue("service")  # it starts in a hurry
    with socket.create_connection((HOST, port_of(service))) as raw:
        raw.settimeout(PATIENCE)
        assert read_all(raw) == b""


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientLoop, "handshake_seconds", SHORT)


def test_a_body_that_comes_in_drops_is_408(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_TIMEOUT_SECONDS", SHORT)
    with connected(service) as slow:
        slow.sendall(_post(service, "content-length: 100000"))
        assert trickle(slow, b" ").startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_reads_is_not_put_up_with(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "linger_seconds", SHORT)
    with connected(service) as endless:
        endless.sendall(b"POST /v1/plans HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        assert read_answer(endless).startswith(b"HTTP/1.1 401")
        assert trickle(endless, b"1\r\nx\r\n") == b""


def test_an_answer_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    pieces, piece = 1_000, bytes(65_536)  # ten times what fits on the way

    async def long_answer(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
        ended.set()

    monkeypatch.setattr(BoundedProtocol, "stalled_seconds", SHORT)
    listener = open_socket(HOST, 0)
    config = uvicorn.Config(
        long_answer, http=BoundedProtocol, loop="asyncio", ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with socket.create_connection(listener.getsockname()) as lazy:
        lazy.sendall(HEAD + b"\r\n")
        assert ended.wait(PATIENCE)
        assert len(read_all(lazy)) < pieces * len(piece)
    server.should_exit = server.force_exit = True
    thread.join(PATIENCE)
    listener.close()
    assert not thread.is_alive()


# --- number ------------------------------------------------------------------------------------


def test_one_address_gets_so_many_connections_and_others_theirs(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LimitedSocket, "max_of_address", 5)
    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(connected(service))
        with pytest.raises((ConnectionError, ssl.SSLError)), connected(service):
            pass
        with connected(service, ANOTHER) as other:
            other.sendall(HEAD + b"\r\n")
            assert other.recv(65_536).startswith(b"HTTP/1.1 200")
    assert service.client().health() == {"status": "ok"}  # those that ended are not counted


def test_all_addresses_together_get_so_many_connections(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LimitedSocket, "max_connections", 3)
    with ExitStack() as held:
        for source in (HOST, ANOTHER, "127.0.0.3"):
            held.enter_context(connected(service, source))
        with pytest.raises((ConnectionError, ssl.SSLError)), connected(service, "127.0.0.4"):
            pass


def test_an_ipv6_subscriber_is_one_address() -> None:
    assert caller_address("2001:db8::1") == caller_address("2001:db8::ffff:1")
    assert caller_address("2001:db8::1") != caller_address("2001:db8:0:1::1")
    assert caller_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert caller_address("fe80::1%eth0") == "fe80::/64"
    assert caller_address("unknown") == "unknown"


def test_one_address_cannot_take_every_thread(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, lock = threading.Event(), threading.Lock()
    inside = most = 0

    def answers() -> bool:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        go_on.wait(PATIENCE)
        with lock:
            inside -= 1
        return True

    monkeypatch.setattr(service.registry.database, "answers", answers)
    count = 2 * MAX_CALLS_OF_ADDRESS + 10
    with ThreadPoolExecutor(count) as callers, _from(service, ANOTHER) as other:
        calls = [callers.submit(service.http().get, "/health") for _ in range(count)]
        wait_for(lambda: inside == MAX_CALLS_OF_ADDRESS)
        assert other.get("/v1/trust").status_code == 200
        go_on.set()
        assert {call.result().status_code for call in calls} == {200}
    assert most == MAX_CALLS_OF_ADDRESS


def test_turns_are_forgotten_with_their_last_caller() -> None:
    async def call(turns: Turns, fail: bool) -> None:
        with suppress(RuntimeError):
            async with turns.of(HOST):
                await asyncio.sleep(0)
                if fail:
                    raise RuntimeError

    async def calls() -> Turns:
        turns = Turns(at_once=2)
        await asyncio.gather(*(call(turns, bool(number % 2)) for number in range(9)))
        return turns

    assert vars(asyncio.run(calls())) == {"_at_once": 2, "_turns": {}, "_calls": {}}


@contextmanager
def _from(service: RunningService, source: str) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(verify=service.trust.ssl_context(), local_address=source)
    with httpx.Client(base_url=service.trust.url, transport=transport, timeout=PATIENCE) as client:
        yield client


# --- framing -----------------------------------------------------------------------------------


def _post(service: RunningService, *lines: str) -> bytes:
    token = service.token("officer")
    head = ["POST /v1/principals HTTP/1.1", "host: a", f"authorization: Bearer {token}", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


SMUGGLED = b"GET /v1/trust HTTP/1.1\r\nhost: smuggled\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5, 6",
        b"content-length: +5",
        b"content-length: 0x5",
        b"content-length: -1",
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: identity",
        b"transfer-encoding: xchunked",
        b"transfer-encoding : chunked",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        b"host: b",
        b"x: a\rset-cookie: b",
        b"x: a\x00b",
        b"x\x00: a",
        b"x y: a",
        b": a",
        b"no colon",
        b"x: " + b"a" * MAX_HEAD_BYTES,
    ],
)
def test_a_head_that_could_be_understood_twice_ends_the_connection(
    shared: RunningService, head: bytes
) -> None:
    with connected(shared) as odd:
        odd.sendall(b"POST /v1/plans HTTP/1.1\r\nhost: a\r\n" + head + b"\r\n\r\n" + SMUGGLED)
        answer = read_all(odd)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 501"))
    assert answer.count(b"HTTP/1.1") == 1
    assert b"smuggled" not in answer


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://evil.example/v1/trust HTTP/1.1",
        b"GET evil.example HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /v1/trust HTTP/2.0",
        b"GET /v1/trust",
        b"GET  /v1/trust HTTP/1.1",
        b"G\x00T /v1/trust HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"POST /v1/plans HTTP/1.0\r\ntransfer-encoding: chunked",
    ],
)
def test_what_is_no_request_to_this_server_ends_the_connection(
    shared: RunningService, line: bytes
) -> None:
    with connected(shared) as odd:
        odd.sendall(line + b"\r\nhost: a\r\n\r\n" + SMUGGLED)
        answer = read_all(odd)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 505"))
    assert answer.count(b"HTTP/1.1") <= 1


def test_pipelined_requests_are_answered_in_turn(shared: RunningService) -> None:
    requests = [HEAD + b"\r\n", b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n"] * 20
    last = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    with connected(shared) as eager:
        eager.sendall(b"".join(requests) + last)
        answer = read_all(eager)
    assert answer.count(b"HTTP/1.1 ") == 41
    statuses = re.findall(rb"HTTP/1\.1 (\d{3})", answer)
    assert statuses == [b"200", b"404"] * 20 + [b"200"]


def test_the_host_that_a_request_names_changes_nothing(shared: RunningService) -> None:
    http = shared.http(shared.token("officer"))
    for path in ("/v1/trust", "/v1/principals", "/nowhere", "/v1/plans/"):
        usual = http.get(path)
        for host in ("evil.example", "evil.example:1", "127.0.0.1@evil.example", "<script>"):
            odd = http.get(path, headers={"host": host, "x-forwarded-host": host})
            assert (odd.status_code, odd.content) == (usual.status_code, usual.content)
            assert "evil" not in str(odd.headers)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "GZIP", "x"])
def test_a_compressed_body_is_not_unpacked(shared: RunningService, coding: str) -> None:
    officer = shared.http(shared.token("officer"))
    body = gzip.compress(json.dumps({"name": "a", "roles": ["auditor"]}).encode() + b" " * 10**7)
    headers = {"content-type": "application/json", "content-encoding": coding}
    answer = officer.post("/v1/principals", content=body, headers=headers)
    assert answer.status_code == 415
    assert answer.json()["reason"] == "unsupported-coding"
    assert shared.last_entry()[3]["reason"] == "unsupported-coding"


@pytest.mark.parametrize(
    "path",
    [
        "/../../../etc/passwd",
        "/v1/../keys/log.pem",
        "//etc/passwd",
        "/v1/releases/..%2f..%2fkeys%2flog.pem/content",
        "/v1/releases/%2e%2e/%2e%2e/keys/log.pem",
        "/v1/releases/..%5c..%5ckeys%5clog.pem/content",
        "/v1/releases/%252e%252e%252fkeys/content",
        "/v1/releases/sha256:../../keys/log.pem/content",
        "/v1/sites/%00",
        "/v1/log/entries/../../../compliance.sqlite",
        "/static/../compliance.sqlite",
        "/v1/trust/",
        "/v1/trust;a=b",
        "/V1/trust",
    ],
)
def test_a_path_leads_to_nothing_but_its_route(shared: RunningService, path: str) -> None:
    token = shared.token("officer")
    with connected(shared) as odd:
        head = f"GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}"
        odd.sendall(f"{head}\r\nconnection: close\r\n\r\n".encode())
        answer = read_all(odd)
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 403")), answer
    assert b"application/problem+json" in answer
