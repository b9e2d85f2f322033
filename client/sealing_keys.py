"""The keys to which data subjects' identifiers are sealed for this site, and their replacement.

* A key is a secret of the site's keyring. Its public half is a `SiteSealingKey`, signed by the
  site's identity; each has a higher generation than the one before, and the compliance service
  takes none that is not higher. So nobody can bring back a key that was replaced.
* Replacing is durable before anybody is told. What was sealed to an earlier key is opened with it
  until the service says that nothing open may be sealed to it; then it is destroyed, and what was
  sealed to it can be opened by nobody.
* An earlier key is kept where in doubt: while the service is away, is of an earlier version, or has
  not taken the present key.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field, ValidationError

from audit.durable import write_durably
from audit.errors import MalformedInput, VerificationFailed
from audit.key_manager import KeyDestroyed
from audit.log import Entry
from audit.statement import SignedStatement, sign_statement
from client.site import Site
from compliance.statements import Count, Document, SiteSealingKey, first_problem
from compliance.subject_requests_views import SealingKeyState
from compliance.subject_sealing import Identifiers, open_identifiers

ROTATED: Final = "sealing-key-rotated"
DESTROYED: Final = "sealing-key-destroyed"

_SECRET: Final = "subject-sealing"  # noqa: S105  a name


class SealingKeys(Document):
    """`sealing-keys.json`: which generations there are. Absent until the first replacement."""

    format: Literal["fiduciary.sealing-keys/1"] = "fiduciary.sealing-keys/1"
    current: Count = 0
    earlier: Annotated[tuple[Count, ...], Field(max_length=1000)] = ()


def read_keys(path: Path) -> SealingKeys:
    """Which keys there are.

    Raises:
        MalformedInput: When the file is not what this site wrote.
    """
    try:
        return SealingKeys.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return SealingKeys()
    except ValidationError as error:
        raise MalformedInput(
            f"malformed {path.name}: {first_problem(error)}", fix="restore it from a backup"
        ) from error


def sealing_statement(site: Site) -> SignedStatement:
    """The present key's public half, signed by the site's identity. The same each time."""
    return _statement(site, read_keys(site.paths.sealing_keys).current)


def open_sealed(site: Site, sealed: bytes, request_id: str) -> Identifiers:
    """Open what was sealed to this site, by the present key or an earlier one.

    Raises:
        VerificationFailed: When it was sealed to no key that there is.
        MalformedInput: When it is not what it should be.
    """
    for key in _private_keys(site):
        try:
            return open_identifiers(sealed, key, request_id=request_id, site=site.name)
        except VerificationFailed as error:
            problem = error
    raise problem


def rotate_key(site: Site, above: int = 0) -> SiteSealingKey:
    """Replace the key. Afterwards tell the service: `SubjectDesk.publish_key`.

    Args:
        site: Whose.
        above: The generation that the service knows: a site that was restored from a backup may be
            behind its own.

    Returns:
        What is stated of the new key.
    """
    keys = read_keys(site.paths.sealing_keys)
    new = max(keys.current, above) + 1
    signed = _statement(site, new)
    _record(site, ROTATED, {"statement": signed.to_json()})
    after = SealingKeys(current=new, earlier=(*keys.earlier, keys.current))
    write_durably(site.paths.sealing_keys, after.model_dump_json().encode())
    return SiteSealingKey.from_body(signed.body)


def destroy_earlier(site: Site, told: SealingKeyState | None) -> tuple[int, ...]:
    """Destroy earlier keys, if nothing open may be sealed to one.

    Args:
        site: Whose.
        told: What the service says of this site's key.

    Returns:
        The generations that were destroyed.
    """
    keys = read_keys(site.paths.sealing_keys)
    if told is None or told.earlier_in_use or not keys.earlier:
        return ()
    if told.statement != sealing_statement(site).digest:
        return ()  # what it says is about another key
    for generation in keys.earlier:
        site.keyring.destroy_secret(_secret_name(generation))
    _record(site, DESTROYED, {"generations": list(keys.earlier)})
    after = SealingKeys(current=keys.current)
    write_durably(site.paths.sealing_keys, after.model_dump_json().encode())
    return keys.earlier


def _secret_name(generation: int) -> str:
    return _SECRET if generation == 0 else f"{_SECRET}:{generation}"


def _private_key(site: Site, generation: int) -> X25519PrivateKey:
    """It never leaves the keyring's secret."""
    return X25519PrivateKey.from_private_bytes(site.keyring.secret(_secret_name(generation)))


def _private_keys(site: Site) -> Iterator[X25519PrivateKey]:
    keys = read_keys(site.paths.sealing_keys)
    yield _private_key(site, keys.current)
    for generation in reversed(keys.earlier):
        try:
            yield _private_key(site, generation)
        except KeyDestroyed:
            continue  # a crash came between destroying it and saying so


def _statement(site: Site, generation: int) -> SignedStatement:
    public = _private_key(site, generation).public_key().public_bytes_raw()
    stated = SiteSealingKey(
        format="fiduciary.site-sealing-key/2" if generation else "fiduciary.site-sealing-key/1",
        federation=site.federation,
        site=site.name,
        public_key=base64.b64encode(public).decode("ascii"),
        generation=generation,
    )
    return sign_statement(stated.body(), site.identity)


def _record(site: Site, action: str, payload: dict[str, object]) -> None:
    site.journal.record(
        Entry(
            actor=site.principal,
            action=action,
            object=site.principal,
            subject=None,
            payload=payload,
        )
    )
