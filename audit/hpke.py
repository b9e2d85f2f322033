"""Sealing to one holder of a private key: HPKE (RFC 9180), base mode, one message a key.

* Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. What is sealed is the encapsulated
  key and then the ciphertext: 48 bytes more than what went in.
* `info` names a format and what the message belongs to, so that what was sealed as one thing
  opens as no other. Each caller has its own; all are canonical JSON with a `format` of their own.
* A private key in a file is PKCS #8 PEM, mode 0600.

**Formal guarantees** (RFC 9180, section 9.1): without the private key nobody learns more than the
length, and what was changed does not open (IND-CCA2). Base mode authenticates nobody: anyone who
has the public key can seal.

| given | is |
|---|---|
| a public key of another length, or a point of small order | malformed, nothing is sealed |
| too few bytes, another key, another `info`, a changed byte | one error for all of them |
| the highest bit of the encapsulated key changed | opened: X25519 ignores it (RFC 7748, 5) |
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from audit.durable import write_durably
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed

PUBLIC_KEY_BYTES: Final = 32

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def seal_to(public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal to the holder of a private key.

    Args:
        public_key: Raw X25519, 32 bytes.
        plaintext: Any bytes.
        info: What the message is and belongs to; needed again, unchanged, to open it.

    Raises:
        MalformedInput: When the public key is none that can be used.
    """
    try:
        return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public_key), info=info)
    except ValueError as error:
        raise MalformedInput(
            f"the public key is not a usable X25519 key of {PUBLIC_KEY_BYTES} bytes"
        ) from error


def open_with(private_key: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    """Open what `seal_to` sealed.

    Raises:
        VerificationFailed: When it was sealed to another key or with another `info`, or altered.
    """
    try:
        return _SUITE.decrypt(sealed, private_key, info=info)
    except (InvalidTag, ValueError) as error:
        raise VerificationFailed(
            "it does not open: it was sealed to another key or as something else, or was altered"
        ) from error


def create_private_key(path: Path) -> X25519PrivateKey:
    """Make a private key and write it to a file, durably.

    Raises:
        NotFound: When the file's folder does not exist.
        Conflict: When the file exists: a private key is never overwritten.
    """
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", fix="make it first")
    key = X25519PrivateKey.generate()
    try:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(path, pem, replace=False)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already", fix="choose another file") from error
    return key


def load_private_key(path: Path, fix: str = "") -> X25519PrivateKey:
    """Read a private key.

    Args:
        path: Its file.
        fix: What to do when there is no such key there.

    Raises:
        NotFound: When there is none, or it cannot be read.
        MalformedInput: When it is no X25519 key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise NotFound(f"cannot read the key {path}: {error.strerror}", fix=fix) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedInput(f"malformed key {path}: not PKCS #8 PEM", fix=fix) from error
    if not isinstance(key, X25519PrivateKey):
        raise MalformedInput(f"malformed key {path}: not X25519", fix=fix)
    return key
