"""One signature serves a minute of calls, and no signature of another key serves any."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, sign_message, verify_signature

from audit.errors import Unauthorised
from client import fleet_signature
from client.fleet_signature import SIGNATURE_SECONDS, NodeSignature
from tests.server.wired import wired


def headers_at(signature: NodeSignature) -> httpx.Headers:
    request = httpx.Request("POST", "https://coordinator/v1/fleet/pull-task")

    def answer(context: Any) -> httpx.Response:
        return httpx.Response(200, request=context.request)

    return signature.intercept(SimpleNamespace(request=request), answer).request.headers


def test_a_signature_is_made_anew_after_its_time() -> None:
    key, time = ec.generate_private_key(ec.SECP384R1()), [1000.0]
    signature = NodeSignature(key, lambda: time[0])
    first = headers_at(signature)
    time[0] += SIGNATURE_SECONDS - 1
    assert headers_at(signature) == first
    time[0] += 1
    later = headers_at(signature)
    assert later["flwr-signature"] != first["flwr-signature"]
    for headers in (first, later):
        public = bytes_to_public_key(b64decode(headers["flwr-public-key"]))
        signed = headers["flwr-timestamp"].encode("ascii")
        assert verify_signature(public, signed, b64decode(headers["flwr-signature"]))


def test_a_wrong_signature_is_refused_although_a_right_one_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    with wired(tmp_path) as net, net.connect(net.admit("site")) as connection:
        assert connection.poll(0) is None
        monkeypatch.setattr(fleet_signature, "SIGNATURE_SECONDS", 0.0)
        assert connection.poll(0) is None
        monkeypatch.setattr(
            fleet_signature, "sign_message", lambda _, text: sign_message(stranger, text)
        )
        for _ in range(2):
            with pytest.raises(Unauthorised):
                connection.poll(0)
        monkeypatch.setattr(fleet_signature, "sign_message", sign_message)
        assert connection.poll(0) is None
