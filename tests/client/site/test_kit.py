"""Kits: what is refused, and with which error."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit.errors import FiduciaryError, MalformedInput, Refused, VerificationFailed
from audit.keys import SigningKey
from audit.statement import sign_statement
from client.kit import MAX_KIT_BYTES, fingerprint_of, group_digits, read_kit
from tests.client.site.counterparts import (
    FEDERATION,
    SITE,
    TOKEN,
    Coordinator,
    FakeCompliance,
    make_kit,
    pem,
    self_signed,
)

NOW = datetime.now(UTC)


def encoded(envelope: dict[str, Any]) -> bytes:
    return json.dumps(envelope).encode()


@pytest.fixture
def envelope(coordinator: Coordinator, compliance: FakeCompliance) -> dict[str, Any]:
    return make_kit(coordinator, compliance.trust)


def body_of(envelope: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return body


def with_body(envelope: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same signature over another payload."""
    body = {**body_of(envelope), **changes}
    payload = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return {**envelope, "payload": base64.b64encode(payload).decode()}


def test_a_good_kit_reads(envelope: dict[str, Any]) -> None:
    read = read_kit(encoded(envelope), now=NOW)
    assert (read.kit.federation, read.kit.site, read.kit.token) == (FEDERATION, SITE, TOKEN)
    assert read.sha256 == read.statement.digest
    assert len(read.fingerprint) == 64


def test_the_fingerprint_may_be_spelt_as_it_was_read_out(envelope: dict[str, Any]) -> None:
    found = read_kit(encoded(envelope), now=NOW).fingerprint
    for spelling in (found, found.upper(), group_digits(found), ":".join(group_digits(found))):
        read_kit(encoded(envelope), now=NOW, expected_fingerprint=spelling)


@pytest.mark.parametrize(
    "field", ["ca_certificate", "coordinator_key", "compliance.certificate", "compliance.log_key"]
)
def test_the_fingerprint_covers_everything_that_is_trusted(
    field: str, coordinator: Coordinator, compliance: FakeCompliance
) -> None:
    other = Coordinator()
    fresh = SigningKey.generate("other/log").public.encoded()
    certificate = pem(self_signed("other", other.authority_key))
    kit = read_kit(encoded(make_kit(coordinator, compliance.trust)), now=NOW).kit
    top, _, inner = field.partition(".")
    if inner:
        value = certificate if inner == "certificate" else fresh
        changed = kit.model_copy(update={top: {**kit.compliance, inner: value}})
    else:
        changed = kit.model_copy(update={top: certificate if "cert" in top else fresh})
    assert fingerprint_of(changed) != fingerprint_of(kit)


def test_another_fingerprint_is_refused(envelope: dict[str, Any]) -> None:
    with pytest.raises(VerificationFailed, match="fingerprint is") as raised:
        read_kit(encoded(envelope), now=NOW, expected_fingerprint="00" * 32)
    assert "call the coordinator" in raised.value.fix


def test_an_expired_kit_is_refused(envelope: dict[str, Any]) -> None:
    later = NOW + timedelta(hours=25)
    with pytest.raises(Refused, match="expired at"):
        read_kit(encoded(envelope), now=later)
    read_kit(encoded(envelope), now=later, accept_expired=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "south"},
        {"token": "another-token-of-the-kit"},
        {"fleet_address": "evil.example:443"},
        {"expires_at": "2099-01-01T00:00:00Z"},
        {"coordinator_key": SigningKey.generate("hospitals/coordinator").public.encoded()},
        {"coordinator_key": "nonsense"},
    ],
)
def test_an_altered_field_does_not_verify(
    envelope: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(VerificationFailed, match="altered"):
        read_kit(encoded(with_body(envelope, **changes)), now=NOW)


@pytest.mark.parametrize("position", [0, 40, -40, -1])
def test_a_flipped_bit_does_not_verify(envelope: dict[str, Any], position: int) -> None:
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[position] ^= 1
    altered = {**envelope, "payload": base64.b64encode(bytes(payload)).decode()}
    with pytest.raises(VerificationFailed, match="altered"):
        read_kit(encoded(altered), now=NOW)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"payloadType": "text/plain"}',
        b"x" * (MAX_KIT_BYTES + 1),
    ],
)
def test_what_is_no_kit_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="malformed kit"):
        read_kit(data, now=NOW)


def test_another_signed_document_is_no_kit(coordinator: Coordinator) -> None:
    key = coordinator.identity.public.encoded()
    body = {"format": "fiduciary.plan/1", "coordinator_key": key}
    signed = sign_statement(body, coordinator.identity)
    with pytest.raises(MalformedInput, match="malformed kit: "):
        read_kit(encoded(signed.to_json()), now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"compliance": {"format": "fiduciary.trust/1"}},
        {"ca_certificate": "not a certificate"},
        {"fleet_address": "no port"},
        {"token": "short"},
        {"surprise": 1},
    ],
)
def test_a_signed_kit_with_wrong_fields_is_malformed(
    envelope: dict[str, Any], coordinator: Coordinator, changes: dict[str, Any]
) -> None:
    signed = sign_statement({**body_of(envelope), **changes}, coordinator.identity)
    with pytest.raises(MalformedInput, match="malformed kit"):
        read_kit(encoded(signed.to_json()), now=NOW)


def test_every_refusal_says_what_to_do(envelope: dict[str, Any]) -> None:
    for data in (b"{", encoded(with_body(envelope, site="south"))):
        with pytest.raises(FiduciaryError) as raised:
            read_kit(data, now=NOW)
        assert raised.value.fix
