"""Reading and answering calls as plain ASGI: the types, bounded bodies, problem documents.

* A body is bounded before it is read.
* Refusals are RFC 9457 problem documents that say no more than the caller needs.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_REQUIRED = "token-required"  # noqa: S105 - a reason, not a token


class Problem(Exception):
    """A refusal, as an RFC 9457 problem document.

    Args:
        status: HTTP status.
        code: Stable kebab-case reason, the end of the document's `type`.
        detail: One sentence for people.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def headers_of(scope: Scope, name: bytes) -> list[bytes]:
    """The values of a header, as they were sent."""
    return [value for key, value in scope["headers"] if key.lower() == name]


def remote_of(scope: Scope) -> str:
    """Where a call comes from, as far as the connection tells."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        Problem: When it is longer than the limit, or ends early.
    """
    too_large = Problem(413, "body-too-large", f"a body is at most {limit_bytes} bytes")
    for declared in headers_of(scope, b"content-length"):
        if not declared.isdigit() or int(declared) > limit_bytes:
            raise too_large
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Problem(400, "incomplete-body", "the body ended early")
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def pass_on(
    application: Application, scope: Scope, body: bytes, receive: Receive, send: Send
) -> int:
    """Hand a call on with the body that was read; the status of its answer."""
    status, given = 500, False

    async def receive_again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    async def send_watched(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = int(message["status"])
        await send(message)

    await application(scope, receive_again, send_watched)
    return status


async def send_problem(send: Send, problem: Problem) -> None:
    """Answer with an RFC 9457 problem document."""
    document = {
        "type": f"urn:fiduciary:problem:{problem.code}",
        "title": problem.code.replace("-", " "),
        "status": problem.status,
        "detail": problem.detail,
    }
    headers = []
    if problem.code == TOKEN_REQUIRED:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not waited for
    await send_json(send, problem.status, "application/problem+json", document, headers)


async def send_json(
    send: Send,
    status: int,
    media_type: str,
    document: dict[str, Any],
    more_headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with a JSON document."""
    body = json.dumps(document).encode("utf-8")
    headers = [
        (b"content-type", media_type.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        *more_headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
