"""A token that is nearly valid, or shown in two ways at once: always 401, always written down."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.compliance.running import RunningService

NO_TOKEN = "this needs a bearer token"
NOT_VALID = "the bearer token is not valid"


def get_raw(service: RunningService, *headers: bytes) -> tuple[int, dict[str, Any]]:
    """GET /v1/plans with header lines that no library would send."""
    port = int(service.trust.url.rpartition(":")[2])
    lines = [b"GET /v1/plans HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *headers]
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        service.trust.ssl_context().wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        answer = b""
        while piece := secure.recv(65_536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


VARIANTS = {
    "two headers, the first valid": ([b"Authorization: Bearer %s", b"Authorization: Bearer x"]),
    "two headers, the second valid": ([b"Authorization: Bearer x", b"Authorization: Bearer %s"]),
    "the same header twice": ([b"Authorization: Bearer %s", b"authorization: Bearer %s"]),
    "two tokens in one header": [b"Authorization: Bearer %s, Bearer %s"],
    "a space of Latin-1 behind it": [b"Authorization: Bearer %s\xa0"],
    "a line end of Latin-1 before it": [b"Authorization: Bearer \x85%s"],
    "a space of UTF-8 behind it": [b"Authorization: Bearer %s\xe2\x80\x8b"],
    "full-width letters": ["Authorization: Bearer \uff46\uff49\uff44_%s".encode()],
    "another scheme that ends like it": [b"Authorization: NotBearer %s"],
    "no scheme": [b"Authorization: %s"],
    "a name with an underscore": [b"Authorization_: Bearer %s"],
    "proxy authorization": [b"Proxy-Authorization: Bearer %s"],
    "a cookie": [b"Cookie: Authorization=Bearer %s"],
}


@pytest.mark.parametrize("lines", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_valid_token_in_other_clothes_is_no_token(
    service: RunningService, lines: list[bytes]
) -> None:
    token = service.token("officer").encode()
    status, problem = get_raw(service, *(line.replace(b"%s", token) for line in lines))
    assert status == 401
    assert problem["detail"] in (NO_TOKEN, NOT_VALID)
    actor, action, _, payload = service.last_entry()
    assert (actor, action) == ("anonymous", "request.refused")
    assert token.decode() not in str(payload)
    assert token.decode() not in str(problem)


def test_the_same_token_in_its_own_clothes(service: RunningService) -> None:
    token = service.token("officer").encode()
    for line in (b"Authorization: Bearer ", b"authorization: bearer  ", b"AUTHORIZATION: BEARER "):
        assert get_raw(service, line + token)[0] == 200
        assert get_raw(service, line + token + b"  ")[0] == 200


def test_what_differs_by_one_letter_is_another_token(service: RunningService) -> None:
    token = service.token("officer")
    for other in (token[:-1], token + "A", token.swapcase(), token[1:], token.upper()):
        status, problem = get_raw(service, f"Authorization: Bearer {other}".encode())
        assert (status, problem["detail"], problem["reason"]) == (401, NOT_VALID, "token-unknown")
