"""DSSE statements: the specification's vectors, identity by digest, no pliable envelopes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey
from audit.statement import (
    PAYLOAD_TYPE,
    SignedStatement,
    pre_authentication_encoding,
    sign_statement,
    verify_statement,
)
from tests.audit.vectors import DSSE_SEED, DSSE_VECTORS

KEY = SigningKey.from_seed("north", DSSE_SEED)
OTHER = SigningKey.from_seed("south", bytes(32))
BODY = {"format": "fiduciary.erasure/1", "site": "north", "records": 3}
STATEMENT = sign_statement(BODY, KEY)


@pytest.mark.parametrize(("kind", "payload", "encoding", "signature"), DSSE_VECTORS)
def test_dsse_vectors(kind: str, payload: bytes, encoding: bytes, signature: str) -> None:
    assert pre_authentication_encoding(kind, payload) == encoding
    assert base64.b64encode(KEY.sign(encoding)).decode() == signature


def test_the_example_of_the_specification() -> None:
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_sign_send_verify() -> None:
    sent = json.loads(json.dumps(STATEMENT.to_json()))
    received = SignedStatement.from_json(sent)
    assert received == STATEMENT
    assert received.digest == STATEMENT.digest
    assert verify_statement(received, KEY.public) == BODY
    assert sent["payloadType"] == PAYLOAD_TYPE


def test_identity() -> None:
    assert STATEMENT.kind == "erasure"
    assert STATEMENT.log_object == f"erasure:{STATEMENT.digest}"
    assert STATEMENT.digest.startswith("sha256:")
    assert sign_statement({**BODY, "records": 4}, KEY).digest != STATEMENT.digest


def test_the_url_safe_alphabet_is_the_same_statement() -> None:
    envelope = STATEMENT.to_json()
    envelope["payload"] = envelope["payload"].replace("+", "-").replace("/", "_")
    envelope["signatures"][0]["sig"] = (
        envelope["signatures"][0]["sig"].replace("+", "-").replace("/", "_")
    )
    assert SignedStatement.from_json(envelope).digest == STATEMENT.digest


def test_two_signers() -> None:
    both = sign_statement(BODY, KEY, OTHER)
    assert verify_statement(both, KEY.public, OTHER.public) == BODY
    assert verify_statement(both, OTHER.public, KEY.public) == BODY
    with pytest.raises(VerificationFailed):  # a signature that nobody asked for changes the digest
        verify_statement(both, KEY.public)
    with pytest.raises(VerificationFailed):  # one signer is missing
        verify_statement(STATEMENT, KEY.public, OTHER.public)


def test_wrong_signer() -> None:
    with pytest.raises(VerificationFailed):
        verify_statement(STATEMENT, OTHER.public)


def test_a_borrowed_signature() -> None:
    theirs = sign_statement({**BODY, "records": 4}, KEY)
    forged = SignedStatement(STATEMENT.payload, theirs.signatures)
    with pytest.raises(VerificationFailed):
        verify_statement(forged, KEY.public)


def change(**changes: Any) -> dict[str, Any]:
    return STATEMENT.to_json() | changes


def payload(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "envelope",
    [
        None,
        [],
        "text",
        {},
        change(extra=1),
        change(payloadType="application/json"),
        change(payload=7),
        change(payload="!!!"),
        change(payload=payload(b"not json")),
        change(payload=payload(b"[1]")),
        change(payload=payload(b'{"a": 1}')),
        change(signatures=[]),
        change(signatures={}),
        change(signatures=[{}]),
        change(signatures=[{"sig": "AAAA"}]),
        change(signatures=[{"keyid": "x", "sig": "AAAA"}]),
        change(signatures=[{"keyid": KEY.public.key_id, "sig": "AAAA"}]),
        change(signatures=[{"keyid": KEY.public.key_id, "sig": None}]),
        change(signatures=STATEMENT.to_json()["signatures"] * 2),
        change(signatures=STATEMENT.to_json()["signatures"] * 17),
    ],
)
def test_malformed_envelopes(envelope: object) -> None:
    with pytest.raises(MalformedInput):
        SignedStatement.from_json(envelope)


@pytest.mark.parametrize("kind", [None, "", "fiduciary./1", "other.plan/1", "fiduciary.Plan/1", 3])
def test_a_statement_without_a_kind(kind: object) -> None:
    with pytest.raises(MalformedInput):
        _ = sign_statement({"format": kind}, KEY).kind


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    text = bytearray(json.dumps(STATEMENT.to_json()).encode())
    position = data.draw(st.integers(0, len(text) * 8 - 1))
    text[position // 8] ^= 1 << position % 8
    try:
        received = SignedStatement.from_json(json.loads(bytes(text)))
    except (ValueError, MalformedInput):
        return
    if received == STATEMENT:  # the unused bits of a base64 padding character
        return
    with pytest.raises(FiduciaryError):
        verify_statement(received, KEY.public)
