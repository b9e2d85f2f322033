"""The public facts by which everyone recognises one compliance service (`trust.json`).

* It holds no secret, but it decides whom to believe: hand it over like a fingerprint, not by
  downloading it from the very service that it describes.
* TLS trusts exactly the one certificate in it: no public certificate authority can replace it.
* The log key signs checkpoints and decisions; the release key receives sealed data keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from audit.errors import MalformedInput, NotFound
from audit.keys import VerifyKey

FORMAT: Final = "fiduciary.trust/1"

MAX_TRUST_BYTES: Final = 65_536
"""A trust file is about 1.5 kB; anything much larger is not one."""

_FIELDS: Final = frozenset({"format", "url", "certificate", "origin", "log_key", "release_key"})


@dataclass(frozen=True)
class Trust:
    """What a caller must know of a compliance service before it says a word to it.

    Attributes:
        url: Base address, `https://host:port`.
        certificate: The service's own TLS certificate, PEM.
        origin: Name of its log, the first line of every checkpoint.
        log_key: Verifies checkpoints and the service's decisions.
        release_key: Raw X25519 public key (32 bytes) to which release data keys are sealed.
    """

    url: str
    certificate: str
    origin: str
    log_key: VerifyKey
    release_key: bytes

    def to_json(self) -> dict[str, str]:
        """The document as `trust.json` and a kit hold it."""
        return {
            "format": FORMAT,
            "url": self.url,
            "certificate": self.certificate,
            "origin": self.origin,
            "log_key": self.log_key.encoded(),
            "release_key": base64.b64encode(self.release_key).decode("ascii"),
        }

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Read a trust document.

        Raises:
            MalformedInput: When a field is missing, unknown or not what it claims to be.
        """
        fields = _text_fields(document)
        address = urlsplit(fields["url"])
        if address.scheme != "https" or not address.hostname or address.path not in ("", "/"):
            raise _malformed("url: expected https://host:port")
        try:
            x509.load_pem_x509_certificate(fields["certificate"].encode())
        except ValueError as error:
            raise _malformed("certificate: not a PEM certificate") from error
        try:
            release_key = base64.b64decode(fields["release_key"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed("release_key: not base64") from error
        if len(release_key) != 32:
            raise _malformed("release_key: expected 32 bytes")
        return cls(
            url=fields["url"].rstrip("/"),
            certificate=fields["certificate"],
            origin=fields["origin"],
            log_key=VerifyKey.parse(fields["log_key"]),
            release_key=release_key,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `trust.json`.

        Raises:
            NotFound: When there is no such file.
            MalformedInput: When it is not a trust file.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_TRUST_BYTES + 1)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound(
                f"there is no trust file at {path}",
                fix="pass --trust, or set FIDUCIARY_TRUST, to the service's trust.json",
            ) from error
        if len(data) > MAX_TRUST_BYTES:
            raise _malformed(f"{path} is larger than {MAX_TRUST_BYTES} bytes")
        try:
            document = json.loads(data)
        except ValueError as error:
            raise _malformed(f"{path} is not JSON") from error
        return cls.from_json(document)

    def save(self, path: Path) -> None:
        """Write `trust.json`, readable by everyone."""
        path.write_text(json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n", "utf-8")

    @property
    def fingerprint(self) -> str:
        """`sha256:<hex>` of the certificate's DER bytes, for comparison by telephone."""
        certificate = x509.load_pem_x509_certificate(self.certificate.encode())
        return "sha256:" + hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()

    def ssl_context(self) -> ssl.SSLContext:
        """A client context that accepts this one certificate, TLS 1.3 and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The pinned certificate is its own anchor: it need not be allowed to sign others.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self.certificate)
        return context


def _text_fields(document: object) -> dict[str, str]:
    if not isinstance(document, dict):
        raise _malformed("expected an object")
    fields: dict[Any, Any] = document
    if fields.get("format") != FORMAT:
        raise _malformed(f"format: expected {FORMAT}")
    for name in sorted(_FIELDS - fields.keys()):
        raise _malformed(f"{name}: missing")
    if fields.keys() - _FIELDS:
        raise _malformed("unknown field")
    for name in sorted(_FIELDS):
        if not isinstance(fields[name], str):
            raise _malformed(f"{name}: expected text")
    return fields


def _malformed(reason: str) -> MalformedInput:
    return MalformedInput(
        f"malformed trust file: {reason}",
        fix="ask the compliance officer for the trust.json that `compliance init` wrote",
    )
