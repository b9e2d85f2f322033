"""Signed statements: DSSE envelopes over canonical JSON.

* The signature covers DSSE's pre-authentication encoding, so neither the payload nor its type can
  be read as something else (https://github.com/secure-systems-lab/dsse, protocol v1.0).
* The payload is a canonical JSON object (`audit.canonical`); its first field of meaning is
  `format`, `fiduciary.<kind>/<version>`.
* `SignedStatement.digest` names the statement everywhere: as a plan's id, in the log, in receipts.
  It covers the signatures. So that nobody but the signers can give the same statement another
  digest, this profile is stricter than DSSE asks of a verifier: standard base64 is what counts, key
  ids are present and unique, and a signature by a key that the caller did not name is an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from audit.canonical import canonical_bytes, digest, parse_canonical_object
from audit.encoding import encode_base64
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey

PAYLOAD_TYPE: Final = "application/vnd.fiduciary+json"
"""Media type of every statement: canonical JSON with a `format` field."""

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Several times the largest plan (a thousand labels of two thousand characters)."""

MAX_SIGNATURES: Final = 16
"""As many as signed-note asks a verifier to accept; bounds the work on hostile input."""

_KEY_ID: Final = re.compile(r"ed25519:[0-9a-f]{64}", re.ASCII)
_FORMAT: Final = re.compile(r"fiduciary\.([a-z][a-z0-9-]*)/[1-9][0-9]*", re.ASCII)


@dataclass(frozen=True)
class Signature:
    """One signature of a statement: the signer's `VerifyKey.key_id` and 64 raw bytes."""

    key_id: str
    signature: bytes


@dataclass(frozen=True)
class SignedStatement:
    """A DSSE envelope whose payload is a canonical JSON object. Not verified by existing."""

    payload: bytes
    signatures: tuple[Signature, ...]

    def to_json(self) -> dict[str, Any]:
        """The DSSE JSON envelope."""
        return {
            "payload": encode_base64(self.payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": item.key_id, "sig": encode_base64(item.signature)}
                for item in self.signatures
            ],
        }

    @classmethod
    def from_json(cls, value: object) -> SignedStatement:
        """Read a DSSE JSON envelope; base64 may be of either alphabet, as DSSE demands.

        Raises:
            MalformedInput: For an unknown field or type, a payload that is not canonical, a key id
                that is missing or repeated, too many signatures or none.
        """
        envelope = _fields(value, {"payload", "payloadType", "signatures"}, "statement")
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise MalformedInput(f"malformed statement: payloadType is not {PAYLOAD_TYPE}")
        payload = _decode_any_base64(envelope["payload"], "payload")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise MalformedInput(f"malformed statement: payload over {MAX_PAYLOAD_BYTES} bytes")
        listed = envelope["signatures"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_SIGNATURES:
            raise MalformedInput(f"malformed statement: expected 1 to {MAX_SIGNATURES} signatures")
        signatures = tuple(_signature(item) for item in listed)
        if len({item.key_id for item in signatures}) != len(signatures):
            raise MalformedInput("malformed statement: two signatures carry the same key id")
        statement = cls(payload, signatures)
        parse_canonical_object(statement.payload)
        return statement

    @property
    def body(self) -> dict[str, Any]:
        """The payload, parsed. Trust it only after `verify_statement`.

        Raises:
            MalformedInput: When the payload is not a canonical JSON object.
        """
        return dict(parse_canonical_object(self.payload))

    @cached_property
    def digest(self) -> str:
        """`sha256:…` of the canonical envelope: the statement's identity."""
        return digest(canonical_bytes(self.to_json()))

    @cached_property
    def kind(self) -> str:
        """The `<kind>` in the body's `format`, such as `plan` or `erasure`.

        Raises:
            MalformedInput: When there is no such field.
        """
        match = _FORMAT.fullmatch(str(self.body.get("format", "")))
        if match is None:
            raise MalformedInput("malformed statement: no format such as fiduciary.plan/1")
        return match.group(1)

    @property
    def log_object(self) -> str:
        """`<kind>:<digest>`: the `object` of every log entry about this statement."""
        return f"{self.kind}:{self.digest}"


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers.

    >>> pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_statement(body: Mapping[str, Any], key: SigningKey, *more: SigningKey) -> SignedStatement:
    """Sign a document.

    Args:
        body: What canonical JSON can hold; statements have a `format` field.
        key: The signer.
        more: Further signers of the same payload.

    Raises:
        MalformedInput: When the body has no canonical form.
    """
    payload = canonical_bytes(dict(body))
    message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
    signers = (key, *more)
    return SignedStatement(
        payload, tuple(Signature(item.public.key_id, item.sign(message)) for item in signers)
    )


def verify_statement(
    statement: SignedStatement, key: VerifyKey, *more: VerifyKey
) -> dict[str, Any]:
    """The body of a statement that exactly these keys signed.

    Args:
        statement: As received.
        key: The signer whom the caller expects.
        more: Further expected signers; every one of them must have signed.

    Raises:
        VerificationFailed: When an expected signature is missing or wrong, or there is one by
            somebody else.
        MalformedInput: When the payload is not a canonical JSON object.
    """
    expected = {item.key_id: item for item in (key, *more)}
    message = pre_authentication_encoding(PAYLOAD_TYPE, statement.payload)
    signed = set()
    for item in statement.signatures:
        signer = expected.get(item.key_id)
        if signer is None:
            raise VerificationFailed(
                f"statement is signed by {item.key_id}, expected {', '.join(expected)}",
                fix="check that the statement comes from whom it claims and the key is theirs",
            )
        signer.verify(message, item.signature)
        signed.add(item.key_id)
    for key_id, signer in expected.items():
        if key_id not in signed:
            raise VerificationFailed(f"statement is not signed by {signer.name} ({key_id})")
    return statement.body


def _signature(value: object) -> Signature:
    item = _fields(value, {"keyid", "sig"}, "signature")
    key_id, text = item["keyid"], item["sig"]
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise MalformedInput("malformed signature: keyid is not ed25519:<64 hexadecimal digits>")
    signature = _decode_any_base64(text, "signature")
    if len(signature) != 64:
        raise MalformedInput(f"malformed signature: expected 64 bytes, got {len(signature)}")
    return Signature(key_id, signature)


def _fields(value: object, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise MalformedInput(f"malformed {what}: expected exactly the fields {sorted(names)}")
    return value


def _decode_any_base64(text: object, what: str) -> bytes:
    """Standard or URL-safe alphabet; DSSE lets a signer choose and a verifier must accept both."""
    if not isinstance(text, str):
        raise MalformedInput(f"malformed {what}: expected base64 text")
    standard = text.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise MalformedInput(f"malformed {what}: not base64") from error
