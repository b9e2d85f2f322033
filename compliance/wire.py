"""The types of the fields that travel between the compliance service and its callers.

* A signed statement travels as its DSSE envelope and arrives as `audit.statement.SignedStatement`.
* Octets travel as base64 and arrive as `bytes`; times are RFC 3339 in UTC.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from audit.errors import MalformedInput
from audit.hpke import PUBLIC_KEY_BYTES
from audit.statement import MAX_SIGNATURES, PAYLOAD_TYPE, SignedStatement

MAX_SEALED_BYTES: Final = 12 * 1024
"""The longest identifiers with their details, sealed; a page of them is a tenth of it."""

Role = Literal["coordinator", "site", "officer", "auditor", "consumer"]
"""What a principal may do; a principal holds one or more."""

ASSIGNABLE_ROLES: tuple[Role, ...] = ("coordinator", "officer", "auditor", "consumer")
"""Roles that an officer hands out. A site's role comes from its enrolment alone."""


def _envelope(value: object) -> SignedStatement:
    if isinstance(value, SignedStatement):
        return value
    try:
        return SignedStatement.from_json(value)
    except MalformedInput as error:
        raise ValueError(str(error)) from error


def _octets(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64 text")  # noqa: TRY004  pydantic wants a ValueError
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise ValueError("not base64") from error


def _short(value: bytes) -> bytes:
    if len(value) > MAX_SEALED_BYTES:
        raise ValueError(f"more than {MAX_SEALED_BYTES} bytes")
    return value


def _x25519(value: bytes) -> bytes:
    if len(value) != PUBLIC_KEY_BYTES:
        raise ValueError(f"expected an X25519 public key of {PUBLIC_KEY_BYTES} bytes")
    return value


_ANY_BASE64: Final = {"type": "string", "pattern": "^[A-Za-z0-9+/_-]+={0,2}$"}

Envelope = Annotated[
    SignedStatement,
    PlainValidator(_envelope),
    PlainSerializer(lambda statement: statement.to_json(), return_type=dict[str, Any]),
    WithJsonSchema(
        {
            "type": "object",
            "description": "DSSE envelope of canonical JSON",
            "properties": {
                "payload": _ANY_BASE64,
                "payloadType": {"const": PAYLOAD_TYPE},
                "signatures": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_SIGNATURES,
                    "items": {
                        "type": "object",
                        "properties": {
                            "keyid": {"type": "string", "pattern": "^ed25519:[0-9a-f]{64}$"},
                            "sig": {**_ANY_BASE64, "minLength": 86, "maxLength": 88},
                        },
                        "required": ["keyid", "sig"],
                        "additionalProperties": False,
                    },
                },
            },
            "required": ["payload", "payloadType", "signatures"],
            "additionalProperties": False,
        }
    ),
]
"""A DSSE envelope in JSON, a `SignedStatement` in Python."""

BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

Octets = Annotated[
    bytes,
    PlainValidator(_octets),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": BASE64}),
]
"""Base64 in JSON, `bytes` in Python."""

SealedOctets = Annotated[
    Octets,
    AfterValidator(_short),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": BASE64,
            "maxLength": MAX_SEALED_BYTES // 3 * 4,
        }
    ),
]
"""Octets that a caller sends, sealed to somebody: a few keys or identifiers."""

PublicKey = Annotated[
    Octets,
    AfterValidator(_x25519),
    WithJsonSchema(
        {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]{43}=$"}
    ),
]
"""A raw X25519 public key."""

TokenHash = Annotated[
    str,
    Field(pattern=r"^(sha256:)?[0-9a-f]{64}$"),
    AfterValidator(lambda value: value.removeprefix("sha256:")),
]
"""SHA-256 of a token or kit in hexadecimal; a `sha256:` before it is dropped."""

PrincipalName = Annotated[
    str, Field(pattern=r"^(site:)?[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?$", max_length=70)
]
"""Name of a principal; `site:<name>` for a site."""

RequestId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits that name a subject request."""

Reason = Annotated[str, Field(max_length=2000)]
"""Free text for people. Never put a subject's identifiers in it: others read it."""

PlanState = Literal["submitted", "approved", "rejected", "completed", "failed"]
ReleaseState = Literal["announced", "candidate", "approved", "rejected", "recalled"]
SiteState = Literal["pending", "approved", "revoked"]
