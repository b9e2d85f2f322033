"""Signatures of ID tokens, by the keys that a provider publishes (RFC 7515, 7517, 8725).

* The algorithm comes from a fixed list of asymmetric ones: `none`, and a public key used as the
  secret of an HMAC, cannot be chosen by whoever made the token.
* The key is the one that the token names, of the type that its algorithm needs. A header that
  brings a key along, or says where to get one, is refused.
* Whatever fails is one error: `BadToken`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from audit.errors import MalformedInput
from compliance.service.request import parse_json

MAX_TOKEN_BYTES: Final = 32 * 1024
"""People are in many groups, but not in so many."""

MIN_RSA_BITS: Final = 2048
"""NIST SP 800-131A revision 2: shorter keys are not for signatures."""

_ALGORITHMS: Final[dict[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Key type and curve that each accepted algorithm needs."""

_FOREIGN_KEYS: Final = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64"})
"""Header members that name a key of the sender's choice, or change what is signed."""

_PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")

Jwk = Mapping[str, Any]


class BadToken(Exception):
    """The token is not one of the provider's. The reason is for the log alone."""


class UnknownKey(BadToken):
    """The token names a key that is not among those; newer ones may have it."""


def verify_token(token: str, keys: Sequence[Jwk]) -> dict[str, Any]:
    """What a signed token says.

    Args:
        token: A JWS in compact form.
        keys: The provider's keys, as its JWKS document lists them.

    Raises:
        UnknownKey: When it names none of the keys.
        BadToken: When it is no such token.
    """
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise BadToken("token-form")
    parts = token.split(".")
    if len(parts) != 3:
        raise BadToken("token-form")
    header = _object(parts[0])
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise BadToken("token-algorithm")
    if _FOREIGN_KEYS & header.keys() or str(header.get("typ", "JWT")).upper() != "JWT":
        raise BadToken("token-header")
    key = _key_for(header, algorithm, keys)
    try:
        signed = jws.deserialize_compact(token, key, [algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise BadToken("token-signature") from error
    return _parse(signed.payload or b"")


def _key_for(
    header: Mapping[str, Any], algorithm: str, keys: Sequence[Jwk]
) -> RSAKey | ECKey | OKPKey:
    """The one key that a token can be signed with."""
    named = header.get("kid")
    if named is not None and not isinstance(named, str):
        raise BadToken("token-header")
    candidates = [key for key in keys if named is None or key.get("kid") == named]
    if not candidates:
        raise UnknownKey("token-key")
    usable = [key for key in candidates if _is_for(key, algorithm)]
    if len(usable) != 1:  # none fits, or nobody can say which was meant
        raise BadToken("token-key")
    return _import(usable[0])


def _is_for(key: Jwk, algorithm: str) -> bool:
    key_type, curve = _ALGORITHMS[algorithm]
    return (
        key.get("kty") == key_type
        and (curve is None or key.get("crv") == curve)
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and "verify" in key.get("key_ops", ["verify"])
    )


def _import(key: Jwk) -> RSAKey | ECKey | OKPKey:
    public = {name: key[name] for name in _PUBLIC_MEMBERS if name in key}
    try:
        match public["kty"]:
            case "RSA":
                rsa = RSAKey.import_key(public)
                if rsa.public_key.key_size < MIN_RSA_BITS:
                    raise BadToken("token-key")
                return rsa
            case "EC":
                return ECKey.import_key(public)
            case _:
                return OKPKey.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise BadToken("token-key") from error


def _object(part: str) -> dict[str, Any]:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("token-form") from error
    return _parse(data)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = parse_json(data)
    except MalformedInput as error:
        raise BadToken("token-form") from error
    if not isinstance(document, dict):
        raise BadToken("token-form")
    return document
