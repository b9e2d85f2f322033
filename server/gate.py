"""What stands before Flower on the coordinator's two ports.

The SuperLink's own application answers Control, Runtime and Fleet calls on one port, and its open
edition lets whoever reaches it list runs, register nodes and start runs. So:

* The **partner gate** knows `/v1/fleet/*` and `GET /health`; everything else is 404. A Fleet call
  needs a client certificate of the federation's CA whose key is the Flower node key that the call
  names, else 401. Bodies are bounded before they are read.
* The **control gate** listens on loopback and passes nothing but `/health` without the
  coordinator's bearer token, compared in constant time.
* Refusals are RFC 9457 problem documents that say no more than the caller needs.
* A poll may ask to be held until a task is there, so that sites wait without spinning.

Both are plain ASGI; they know paths and keys, and leave protobuf to `server.superlink`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import math
from collections.abc import Callable
from typing import Any, Protocol

from client.polling import MAX_WAIT_SECONDS, PULL_TASK, WAIT_HEADER
from server.asgi import (
    TOKEN_REQUIRED,
    Application,
    Problem,
    Receive,
    Scope,
    Send,
    headers_of,
    pass_on,
    read_body,
    remote_of,
    send_json,
    send_problem,
)
from server.events import EventLog
from server.mailboxes import Mailboxes
from server.turns import LONG_BODY_BYTES, Turns

MAX_BODY_BYTES = 64 * 1024 * 1024
"""An object of a message is at most 5 MB in Flower's own chunking; this leaves a wide margin."""

MAX_CONTROL_BODY_BYTES = 16 * 1024 * 1024

CLIENT_KEY_STATE = "client_public_key"
"""Where the listener puts the key of the caller's certificate (PEM bytes) in the ASGI state."""

NODE_KEY_HEADER = b"flwr-public-key"
FLEET = "/v1/fleet/"
POLL = FLEET + PULL_TASK
_ROUTINE = frozenset(
    FLEET + name
    for name in (
        PULL_TASK,
        "send-node-heartbeat",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)


class FleetChecks(Protocol):
    """What the partner gate asks of the SuperLink's adapter."""

    def check(self, path: str, node_key: bytes, body: bytes) -> None:
        """Raise `Problem` when an authenticated call must not reach Flower."""

    def answered(self, path: str, node_key: bytes) -> None:
        """A call of this node was passed on and answered without an error."""

    def site_of(self, node_key: bytes) -> str:
        """The site that a key belongs to; raises `Problem` when none is let in with it."""


class PartnerGate:
    """The application of the partner listener.

    Args:
        application: Answers Fleet calls.
        checks: Judges authenticated calls.
        mailboxes: Where held polls wait.
        turns: Who may send a long body now.
        events: Refusals and calls that change something are written here.
    """

    def __init__(
        self,
        application: Application,
        checks: FleetChecks,
        mailboxes: Mailboxes,
        turns: Turns,
        events: EventLog,
    ) -> None:
        self._application = application
        self._checks = checks
        self._mailboxes = mailboxes
        self._turns = turns
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        path, actor, node_key = str(scope["path"]), "unknown", b""
        try:
            if path == "/health" and scope["method"] in ("GET", "HEAD"):
                await send_json(send, 200, "application/json", {"status": "ok"})
                return
            _require_plain_fleet_path(scope, path)
            node_key = _authenticated_key(scope)
            actor = self._checks.site_of(node_key)  # before a stranger's body is read
            if _is_long(scope):
                await self._turns.take(node_key)
            body = await read_body(scope, receive, MAX_BODY_BYTES)
            self._checks.check(path, node_key, body)
            if path == POLL:
                if not await self._hold(scope, node_key, receive):
                    return
                self._mailboxes.empty(node_key)
            status = await pass_on(self._application, scope, body, receive, send)
            if status < 400:
                self._checks.answered(path, node_key)
            else:
                self._turns.give(node_key)
            if status >= 400 or path not in _ROUTINE:
                self._record(scope, actor, status, "")
        except Problem as problem:
            self._turns.give(node_key)
            self._record(scope, actor, problem.status, problem.code)
            await send_problem(send, problem)

    async def _hold(self, scope: Scope, node_key: bytes, receive: Receive) -> bool:
        seconds = _wait_seconds(scope)
        return seconds == 0 or await self._mailboxes.wait(node_key, seconds, receive)

    def _record(self, scope: Scope, actor: str, status: int, reason: str) -> None:
        self._events.record(
            port="partner",
            actor=actor,
            path=str(scope["path"]),
            status=status,
            remote=remote_of(scope),
            reason=reason,
        )


class ControlGate:
    """The application of the loopback listener.

    Args:
        application: The SuperLink's own.
        token: The coordinator's bearer token.
        status: Gives the live state that `server status` shows.
        events: Every call is written here.
    """

    STATUS_PATH = "/v1/fiduciary/status"

    def __init__(
        self,
        application: Application,
        token: str,
        status: Callable[[], dict[str, Any]],
        events: EventLog,
    ) -> None:
        self._application = application
        self._token = token.encode("utf-8")
        self._status = status
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if scope["path"] == "/health":
            await send_json(send, 200, "application/json", {"status": "ok"})
            return
        try:
            self._require_token(scope)
            body = await read_body(scope, receive, MAX_CONTROL_BODY_BYTES)
            if scope["path"] == self.STATUS_PATH:
                await send_json(send, 200, "application/json", self._status())
                return
            status = await pass_on(self._application, scope, body, receive, send)
            self._record(scope, "coordinator", status, "")
        except Problem as problem:
            self._record(scope, "unknown", problem.status, problem.code)
            await send_problem(send, problem)

    def _require_token(self, scope: Scope) -> None:
        given = headers_of(scope, b"authorization")
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        known = hmac.compare_digest(token.strip(), self._token)
        if scheme.lower() != b"bearer" or not known:
            raise Problem(401, TOKEN_REQUIRED, "this port needs the coordinator's token")

    def _record(self, scope: Scope, actor: str, status: int, reason: str) -> None:
        self._events.record(
            port="control",
            actor=actor,
            path=str(scope["path"]),
            status=status,
            remote=remote_of(scope),
            reason=reason,
        )


def _require_plain_fleet_path(scope: Scope, path: str) -> None:
    # A router that decodes or normalises a path differently must not find another door in it.
    plain = scope.get("raw_path", b"").split(b"?")[0] == path.encode("utf-8", "replace")
    tail = path.removeprefix(FLEET)
    if not path.startswith(FLEET) or not plain or not tail.replace("-", "").isalpha():
        raise Problem(404, "not-found", "there is nothing here")
    if scope["method"] != "POST":
        raise Problem(405, "method-not-allowed", "Fleet calls are POST requests")


def _authenticated_key(scope: Scope) -> bytes:
    certified = scope.get("state", {}).get(CLIENT_KEY_STATE)
    if certified is None:
        raise Problem(
            401,
            "client-certificate-required",
            "a Fleet call needs the client certificate that the federation issued",
        )
    given = headers_of(scope, NODE_KEY_HEADER)
    try:
        claimed = base64.b64decode(given[0], validate=True) if len(given) == 1 else b""
    except (binascii.Error, ValueError):
        claimed = b""
    if not hmac.compare_digest(claimed, certified):
        raise Problem(
            401,
            "key-mismatch",
            "the client certificate does not certify the node key of this call",
        )
    return bytes(certified)


def _is_long(scope: Scope) -> bool:
    """Whether the body is long, or does not say how long it is."""
    declared = headers_of(scope, b"content-length")
    return not all(
        length.isdigit() and int(length) < LONG_BODY_BYTES for length in declared or [b""]
    )


def _wait_seconds(scope: Scope) -> float:
    given = headers_of(scope, WAIT_HEADER.encode("ascii"))
    try:
        seconds = float(given[0]) if given else 0.0
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS) if math.isfinite(seconds) else 0.0
