"""`model.sig`: a release's signature in the OpenSSF model-signing format, version 1.0. Pure.

An in-toto statement that lists each file's digest, in a DSSE envelope, in a Sigstore bundle with a
public key's hint: what `model_signing verify key` of the project itself verifies.
(https://github.com/sigstore/model-transparency; DSSE protocol v1.0; Sigstore bundle v0.3)

* It says for tools that do not know Fiduciary what the signed manifest says anyway. The manifest
  binds the key: whoever trusts the coordinator's key need not be told another.
* ECDSA P-384 with RFC 6979 nonces: the same files and key give the same bytes.
* Of the verifier we ask more than the project does: exactly one signature, exactly these files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput, VerificationFailed
from audit.statement import pre_authentication_encoding

SIGNATURE_FILE: Final = "model.sig"
IN_TOTO_PAYLOAD: Final = "application/vnd.in-toto+json"
IN_TOTO_STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://model_signing/signature/v1.0"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

_HASH: Final = hashes.SHA384()
"""The hash that Sigstore pairs with P-384."""


def sign_model(name: str, files: Mapping[str, str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a model's files.

    Args:
        name: What the model is called.
        files: `sha256:` digest of every file but `SIGNATURE_FILE`.
        key: A P-384 key.
    """
    payload = canonical_bytes(_statement(name, files))
    signature = key.sign(
        pre_authentication_encoding(IN_TOTO_PAYLOAD, payload),
        ec.ECDSA(_HASH, deterministic_signing=True),
    )
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": _hint(public_pem(key.public_key()))},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": IN_TOTO_PAYLOAD,
            "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode("ascii")}],
        },
    }
    return canonical_bytes(bundle)


def verify_model(signature: bytes, files: Mapping[str, str], key: str) -> None:
    """Check that a signature is by a key, and of exactly these files.

    Args:
        signature: The content of `model.sig`.
        files: `sha256:` digest of every file but `SIGNATURE_FILE`.
        key: The P-384 public key, PEM.

    Raises:
        VerificationFailed: When it is another key's, or of other files.
        MalformedInput: When it is no such signature, or the key none.
    """
    public = _load(key)
    try:
        envelope = json.loads(signature)["dsseEnvelope"]
        (signed,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        raw = base64.b64decode(signed["sig"], validate=True)
        statement = json.loads(payload)
        is_typed = (envelope["payloadType"], statement["_type"], statement["predicateType"]) == (
            IN_TOTO_PAYLOAD,
            IN_TOTO_STATEMENT,
            PREDICATE,
        )
        name = str(statement["subject"][0]["name"])
    except (ValueError, TypeError, KeyError, IndexError, binascii.Error) as error:
        raise MalformedInput(f"malformed {SIGNATURE_FILE}: {type(error).__name__}") from error
    if not is_typed:
        raise MalformedInput(f"malformed {SIGNATURE_FILE}: another type of statement")
    try:
        public.verify(raw, pre_authentication_encoding(IN_TOTO_PAYLOAD, payload), ec.ECDSA(_HASH))
    except InvalidSignature as error:
        raise VerificationFailed(f"{SIGNATURE_FILE} is not by the key of the manifest") from error
    if statement != _statement(name, files):
        raise VerificationFailed(f"{SIGNATURE_FILE} is of other files than the manifest's")


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as the manifest holds it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    digests = {each: digest.removeprefix("sha256:") for each, digest in sorted(files.items())}
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values()))
    return {
        "_type": IN_TOTO_STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE_FILE],
            },
            "resources": [
                {"name": each, "algorithm": "sha256", "digest": digest}
                for each, digest in digests.items()
            ],
        },
    }


def _hint(pem: str) -> str:
    return hashlib.sha256(pem.encode("ascii")).hexdigest()


def _load(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except ValueError as error:
        raise MalformedInput("malformed model signing key: not PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise MalformedInput("malformed model signing key: not P-384")
    return key
