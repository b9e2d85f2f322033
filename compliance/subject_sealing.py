"""Who a data subject is, sealed to one site; and the copy of their data, sealed to them.

* Sealed as `audit.hpke` says.
* The `info` names the request and the site: what was sealed for one opens for no other.
* Identifiers are padded, so that their length says little. `hpke.js` of the pages for
  subjects does in a browser what this does here.
* Base mode authenticates nobody: whoever asks is checked by other means before a site is sent this.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field, ValidationError

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput, VerificationFailed
from audit.hpke import open_with, seal_to
from compliance.statements import Document, first_problem
from compliance.wire import PublicKey

IDENTIFIERS_FORMAT: Final = "fiduciary.sealed-identifiers/1"
PACKAGE_FORMAT: Final = "fiduciary.sealed-package/1"

PADDED_BYTES: Final = 1024
"""Identifiers are as long as the next multiple of this."""

SubjectId = Annotated[str, Field(min_length=1, max_length=200)]


class Identifiers(Document):
    """What a site needs to know to act for a subject."""

    format: Literal["fiduciary.identifiers/1"] = "fiduciary.identifiers/1"
    subject_ids: Annotated[tuple[SubjectId, ...], Field(min_length=1, max_length=10)]
    """Numbers or names by which the site may know the subject, such as a patient's number."""
    details: Annotated[str, Field(max_length=2000)] = ""
    """For the site's operator: what is wrong and what is right, or how to hand something over."""
    package_key: PublicKey | None = None
    """X25519 public key of the subject, to which a copy of the data is sealed."""


def seal_identifiers(
    identifiers: Identifiers, site_key: bytes, *, request_id: str, site: str
) -> bytes:
    """Seal identifiers to one site.

    Args:
        identifiers: Who it is.
        site_key: The site's raw X25519 public key (`SiteSealingKey.key`), which was verified.
        request_id: The request, 32 hexadecimal digits.
        site: The site's name.

    Raises:
        MalformedInput: When the key is none.
    """
    text = json.dumps(identifiers.model_dump(mode="json", exclude_none=True)).encode()
    padded = text.ljust(-(-len(text) // PADDED_BYTES) * PADDED_BYTES)
    return seal_to(site_key, padded, _info(IDENTIFIERS_FORMAT, request_id, site))


def open_identifiers(
    sealed: bytes, key: X25519PrivateKey, *, request_id: str, site: str
) -> Identifiers:
    """Open identifiers that were sealed for exactly this request and site.

    Raises:
        VerificationFailed: When they do not open.
        MalformedInput: When they are not what they should be; never with a word of what they hold.
    """
    text = _open(sealed, key, _info(IDENTIFIERS_FORMAT, request_id, site))
    try:
        return Identifiers.model_validate_json(text)
    except ValidationError as error:
        raise MalformedInput(
            f"malformed identifiers: {first_problem(error, of_others=True)}"
        ) from error


def seal_package(package: bytes, subject_key: bytes, *, request_id: str, site: str) -> bytes:
    """Seal a copy of a subject's data to the subject.

    Raises:
        MalformedInput: When the key is none.
    """
    return seal_to(subject_key, package, _info(PACKAGE_FORMAT, request_id, site))


def open_package(sealed: bytes, key: X25519PrivateKey, *, request_id: str, site: str) -> bytes:
    """Open a copy of one's data.

    Raises:
        VerificationFailed: When it is another's, or was altered.
    """
    return _open(sealed, key, _info(PACKAGE_FORMAT, request_id, site))


def _open(sealed: bytes, key: X25519PrivateKey, info: bytes) -> bytes:
    try:
        return open_with(key, sealed, info)
    except VerificationFailed as error:
        raise VerificationFailed(
            "it does not open: it was sealed to another key, request or site, or was altered"
        ) from error


def _info(format_name: str, request_id: str, site: str) -> bytes:
    return canonical_bytes({"format": format_name, "request": request_id, "site": site})
