"""Ed25519 keys with names, as C2SP signed notes know them.

* A key is its name and its 32 raw bytes (RFC 8032). The name says who signs; a verifier is
  configured with the whole verifier key, so a name alone proves nothing.
* `VerifyKey.encoded()` is the verifier key of https://c2sp.org/signed-note, byte for byte that of
  Go's `golang.org/x/mod/sumdb/note`: `name+hash+base64(0x01 || raw key)`.
* Private keys are stored as PKCS #8 PEM with mode 0600. The name is written as text before the PEM
  block, which RFC 7468 section 2 allows and OpenSSL skips.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from audit.durable import write_durably
from audit.encoding import decode_base64, encode_base64
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed

ED25519_NOTE_TYPE: Final = b"\x01"
"""Signature type identifier of plain Ed25519 in signed-note."""

MAX_NAME_LENGTH: Final = 200
"""Longer than any host name and path that a key is named after."""

MAX_VERIFIER_KEY_LENGTH: Final = 1000
"""Several times a verifier key of the longest name; bounds what is decoded before it is refused."""

_NAME_HEADER: Final = "Key-Name: "
_PEM_BEGIN: Final = "-----BEGIN "


def check_key_name(name: str) -> str:
    """`name` when signed-note allows it as a key name.

    Raises:
        MalformedInput: When it is empty, too long, or holds a space, a plus or a control character.
    """
    if not name or len(name) > MAX_NAME_LENGTH:
        raise MalformedInput(f"malformed key name: expected 1 to {MAX_NAME_LENGTH} characters")
    if any(character.isspace() or character == "+" or ord(character) < 0x20 for character in name):
        raise MalformedInput("malformed key name: holds a space, a plus or a control character")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedInput("malformed key name: lone surrogate") from error
    return name


@dataclass(frozen=True)
class VerifyKey:
    """The public half of an Ed25519 key pair.

    Attributes:
        name: Key name in signed notes.
        raw: 32 bytes, RFC 8032.
    """

    name: str
    raw: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.raw) != 32:
            raise MalformedInput(f"malformed key: expected 32 bytes, got {len(self.raw)}")

    @property
    def key_id(self) -> str:
        """`ed25519:` and the hexadecimal SHA-256 of the raw key: names the key in statements."""
        return "ed25519:" + hashlib.sha256(self.raw).hexdigest()

    @cached_property
    def note_id(self) -> bytes:
        """The four-byte key ID of signed-note; short on purpose, no security rests on it."""
        material = self.name.encode("utf-8") + b"\n" + ED25519_NOTE_TYPE + self.raw
        return hashlib.sha256(material).digest()[:4]

    @cached_property
    def _public(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.raw)

    def encoded(self) -> str:
        """The verifier key as one line of text, for `--key`, trust files and people."""
        return f"{self.name}+{self.note_id.hex()}+{encode_base64(ED25519_NOTE_TYPE + self.raw)}"

    @classmethod
    def parse(cls, text: str) -> VerifyKey:
        """Read `name+hash+base64`.

        Raises:
            MalformedInput: When it is too long, a part is missing, the hash is not the key's, or
                the algorithm is not Ed25519.
        """
        if len(text) > MAX_VERIFIER_KEY_LENGTH:
            raise MalformedInput(
                f"malformed verifier key: more than {MAX_VERIFIER_KEY_LENGTH} characters"
            )
        name, plus, rest = text.strip().partition("+")
        hash_text, second_plus, key_text = rest.partition("+")
        if not plus or not second_plus:
            raise MalformedInput(
                "malformed verifier key: expected name+hash+base64",
                fix="copy the whole line, for example from log_key in trust.json",
            )
        material = decode_base64(key_text, "verifier key")
        if len(material) != 33 or material[:1] != ED25519_NOTE_TYPE:
            raise MalformedInput("malformed verifier key: not an Ed25519 key of signed-note type 1")
        key = cls(check_key_name(name), material[1:])
        if key.note_id.hex() != hash_text:
            raise MalformedInput(
                f"malformed verifier key: its hash is {key.note_id.hex()}, the text says"
                f" {hash_text[:16]}",
                fix="copy the key again; a character was changed or lost",
            )
        return key

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check one raw signature.

        Raises:
            VerificationFailed: When it is not this key's signature of `message`.
        """
        try:
            self._public.verify(signature, message)
        except InvalidSignature as error:
            raise VerificationFailed(f"signature of {self.name} does not verify") from error

    def __str__(self) -> str:
        return self.encoded()


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key pair. Its text form never shows the private half."""

    name: str
    _private: Ed25519PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        """A new random key pair."""
        return cls(check_key_name(name), Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> SigningKey:
        """The key pair of a 32-byte RFC 8032 seed, for test vectors and key import.

        Raises:
            MalformedInput: When the seed does not have 32 bytes.
        """
        if len(seed) != 32:
            raise MalformedInput(f"malformed seed: expected 32 bytes, got {len(seed)}")
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path, name: str | None = None) -> SigningKey:
        """Read a key that `save` wrote, or any Ed25519 PKCS #8 PEM when `name` is given.

        Raises:
            NotFound: When there is no such file.
            MalformedInput: When it holds no Ed25519 private key, or no name and none was given.
        """
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError as error:
            raise NotFound(f"no signing key at {path}") from error
        except UnicodeDecodeError as error:
            raise MalformedInput(f"malformed signing key {path.name}: not PEM text") from error
        preamble, begin, block = text.partition(_PEM_BEGIN)
        for line in preamble.split("\n"):
            if line.startswith(_NAME_HEADER):
                name = name or line.removeprefix(_NAME_HEADER)
        if name is None:
            raise MalformedInput(
                f"malformed signing key {path.name}: no '{_NAME_HEADER.strip()}' line"
            )
        try:
            private = serialization.load_pem_private_key((begin + block).encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise MalformedInput(f"malformed signing key {path.name}: not PKCS #8 PEM") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise MalformedInput(f"malformed signing key {path.name}: not Ed25519")
        return cls(name, private)

    def save(self, path: Path) -> None:
        """Write the key pair as PKCS #8 PEM with mode 0600, atomically and durably.

        Raises:
            Conflict: When the file exists: a signing key is never overwritten.
        """
        block = self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        data = f"{_NAME_HEADER}{self.name}\n".encode() + block
        try:
            write_durably(path, data, replace=False)
        except FileExistsError as error:
            raise Conflict(
                f"{path} exists already and a signing key is never overwritten",
                fix="choose another folder, or move the old key away first",
            ) from error

    @cached_property
    def public(self) -> VerifyKey:
        """The public half, under the same name."""
        return VerifyKey(self.name, self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message` (deterministic, RFC 8032)."""
        return self._private.sign(message)
