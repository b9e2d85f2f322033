"""The kit: the one file by which a coordinator invites a site.

* A kit is a DSSE envelope signed by the coordinator's identity key over `Kit`'s canonical JSON.
* It carries the coordinator's key itself, so the signature alone proves only that the kit was not
  altered by somebody without that key. Who the coordinator *is*, the operator learns by comparing
  the fingerprint with the coordinator by telephone (`client join KIT --fingerprint`).
* The fingerprint covers everything that the site will trust from then on: the federation's CA, the
  coordinator's key, the compliance service's certificate and its log key.
* Pure: bytes and the present time come in, a `Kit` or an error comes out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, Field

from audit.canonical import canonical_bytes, digest
from audit.errors import FiduciaryError, MalformedInput, Refused, VerificationFailed
from audit.keys import VerifyKey
from audit.statement import PAYLOAD_TYPE, SignedStatement, verify_statement
from audit.words import count_of
from compliance.statements import Name, Statement, Time
from compliance.trust import Trust

MAX_KIT_BYTES = 256 * 1024
"""A kit is some kilobytes; more is not a kit."""

_ASK_AGAIN = "ask the coordinator for a new kit: `server invite SITE`"


def _is_trust(value: dict[str, str]) -> dict[str, str]:
    try:
        Trust.from_json(value)
    except FiduciaryError as error:
        raise ValueError(str(error)) from error
    return value


class Kit(Statement):
    """A coordinator's invitation to one site, good for one enrolment until it expires."""

    kind: ClassVar[str] = "kit"

    format: Literal["fiduciary.kit/1"] = "fiduciary.kit/1"
    federation: Name
    site: Name
    fleet_address: Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$", max_length=300)]
    ca_certificate: Annotated[str, Field(max_length=20_000)]
    coordinator_key: Annotated[str, Field(max_length=300)]
    compliance: Annotated[dict[str, str], AfterValidator(_is_trust)]
    token: Annotated[str, Field(min_length=16, max_length=200)]
    expires_at: Time

    @property
    def trust(self) -> Trust:
        """Whom the site believes to be the compliance service."""
        return Trust.from_json(self.compliance)


@dataclass(frozen=True)
class ReadKit:
    """A kit whose signature holds, with the digest by which the compliance service knows it."""

    kit: Kit
    statement: SignedStatement
    sha256: str
    fingerprint: str


def fingerprint(
    *, ca_certificate: str, coordinator_key: str, compliance_certificate: str, log_key: str
) -> str:
    """SHA-256, in hexadecimal, of the four things that a site will trust.

    Args:
        ca_certificate: The federation's CA certificate, PEM.
        coordinator_key: The coordinator's Ed25519 key, C2SP verifier key.
        compliance_certificate: The compliance service's TLS certificate, PEM.
        log_key: The compliance log's key, C2SP verifier key.

    Returns:
        64 hexadecimal digits: the digest of the canonical JSON object with these four keys, where
        each certificate is the base64 of its DER form (a PEM file has many spellings).

    Raises:
        MalformedInput: When a certificate cannot be read.
    """
    trusted = {
        "ca_certificate": _der(ca_certificate, "ca_certificate"),
        "compliance_certificate": _der(compliance_certificate, "compliance.certificate"),
        "coordinator_key": coordinator_key,
        "log_key": log_key,
    }
    return digest(canonical_bytes(trusted)).removeprefix("sha256:")


def fingerprint_of(kit: Kit) -> str:
    """The fingerprint of what a kit asks its site to trust."""
    return fingerprint(
        ca_certificate=kit.ca_certificate,
        coordinator_key=kit.coordinator_key,
        compliance_certificate=kit.trust.certificate,
        log_key=kit.trust.log_key.encoded(),
    )


def group_digits(value: str) -> str:
    """A fingerprint in groups of four, as it is read out over the telephone.

    >>> group_digits("0123456789abcdef")
    '0123 4567 89ab cdef'
    """
    return " ".join(value[index : index + 4] for index in range(0, len(value), 4))


def read_kit(
    data: bytes,
    *,
    now: datetime,
    expected_fingerprint: str | None = None,
    accept_expired: bool = False,
) -> ReadKit:
    """Read a kit and decide whether it may be used.

    Args:
        data: The file's bytes.
        now: The present time, with a time zone.
        expected_fingerprint: What the operator was told; blanks, colons and case do not matter.
        accept_expired: For a kit that was spent before and is read again.

    Raises:
        MalformedInput: When it is not a kit.
        VerificationFailed: When it was altered, or has another fingerprint.
        Refused: When it has expired.
    """
    if len(data) > MAX_KIT_BYTES:
        raise MalformedInput(
            f"malformed kit: {count_of(len(data), 'byte')}, more than any kit", fix=_ASK_AGAIN
        )
    try:
        envelope = json.loads(data)
    except ValueError as error:
        raise MalformedInput("malformed kit: not JSON", fix=_ASK_AGAIN) from error
    if not isinstance(envelope, dict):
        raise MalformedInput("malformed kit: not a signed statement", fix=_ASK_AGAIN)
    statement, kit = _verified(envelope)
    found = fingerprint_of(kit)
    if expected_fingerprint is not None and _plain(expected_fingerprint) != found:
        raise VerificationFailed(
            f"the kit's fingerprint is {group_digits(found)}, "
            f"not {group_digits(_plain(expected_fingerprint))}",
            fix="do not use this kit; call the coordinator on a number you already know",
        )
    if not accept_expired and datetime.fromisoformat(kit.expires_at) <= now:
        raise Refused(f"the kit expired at {kit.expires_at}", fix=_ASK_AGAIN)
    return ReadKit(kit, statement, statement.digest, found)


def _verified(envelope: Mapping[str, Any]) -> tuple[SignedStatement, Kit]:
    altered = VerificationFailed(
        "the kit was altered, or was signed with another key than the one it names",
        fix=_ASK_AGAIN,
    )
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise MalformedInput("malformed kit: not a signed statement", fix=_ASK_AGAIN)
    # The signature is checked before the fields, so that a changed field reads as what it is.
    try:
        statement = SignedStatement.from_json(dict(envelope))
        claimed = statement.body.get("coordinator_key")
        verify_statement(statement, VerifyKey.parse(str(claimed)))
    except FiduciaryError as error:
        raise altered from error
    try:
        return statement, Kit.from_body(statement.body)
    except MalformedInput as error:
        raise MalformedInput(str(error), fix=_ASK_AGAIN) from error


def _plain(value: str) -> str:
    return "".join(value.split()).replace(":", "").lower().removeprefix("sha256")


def _der(pem: str, field: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise MalformedInput(
            f"malformed kit: {field}: not a PEM certificate", fix=_ASK_AGAIN
        ) from error
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
