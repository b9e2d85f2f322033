"""What sites tell each other through the coordinator, each signed by the site's identity.

| document | says |
|---|---|
| `fiduciary.sum-session/1` | which sum this is: the coordinator's, unsigned; the others name it |
| `fiduciary.sum-keys/1` | a site's fresh public keys, and its commitment to its own seed |
| `fiduciary.sum-shares/1` | sealed shares for every member, and commitments to them |
| `fiduciary.sum-survivors/1` | whose vectors are in the sum; every survivor signs the same |
| `fiduciary.sum-reveal/1` | shares: of survivors' seeds, of the others' mask keys |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from audit.canonical import canonical_bytes, digest
from audit.errors import MalformedInput
from audit.keys import VerifyKey
from audit.statement import SignedStatement, verify_statement
from compliance.statements import Count, Digest, Document, Name, first_problem

Activity = Literal["train", "evaluate"]

MASKED: Final = "masked"
"""Name of the only array of an answer that holds a masked vector."""

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""32 bytes in base64."""

Share = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{44}$")]
"""33 bytes in base64."""

Box = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{110}==$")]
"""Two shares and a tag of 16 bytes, in base64."""

Commitment = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Session(Document):
    """One sum: of one round's updates, or of its evaluation counts. The nonce is never repeated."""

    format: Literal["fiduciary.sum-session/1"] = "fiduciary.sum-session/1"
    plan_id: Digest
    round: Count
    activity: Activity
    unit_exponent: Annotated[int, Field(ge=-200, le=200)]
    """Of two: what one step of the ring is worth. The same for every site, and no secret."""
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def digest(self) -> str:
        """What every other document calls it."""
        return digest(canonical_bytes(self.model_dump(mode="json")))

    def context(self, *parts: str) -> bytes:
        """Bytes that say what something is derived for, without two readings."""
        return canonical_bytes([self.digest, *parts])


class Keys(Document):
    """A site's public keys for one session."""

    format: Literal["fiduciary.sum-keys/1"] = "fiduciary.sum-keys/1"
    session: Digest
    site: Name
    mask_key: Key
    """X25519: agreed with each other site, it gives the masks that cancel."""
    box_key: Key
    """X25519: seals the shares."""
    seed_commitment: Commitment


class Shares(Document):
    """A site's sealed shares, one box for each other member."""

    format: Literal["fiduciary.sum-shares/1"] = "fiduciary.sum-shares/1"
    session: Digest
    site: Name
    members: Digest
    """Of the keys that it dealt to."""
    boxes: dict[Name, Box]
    """Sealed to each other member."""
    seed_commitments: dict[Name, Commitment]
    """To each member's share of the seed, the dealer's own share included."""
    key_commitments: dict[Name, Commitment]
    """To each member's share of the mask key, likewise."""


class Dealt(Document):
    """What one member gets of another's shares, through the coordinator."""

    box: Box
    seed_commitment: Commitment
    key_commitment: Commitment


class Survivors(Document):
    """Whose masked vectors the coordinator says it has."""

    format: Literal["fiduciary.sum-survivors/1"] = "fiduciary.sum-survivors/1"
    session: Digest
    members: Digest
    dealers: tuple[Name, ...]
    survivors: tuple[Name, ...]


class Reveal(Document):
    """A survivor's shares: of the survivors' seeds, and of the mask keys of who is missing."""

    format: Literal["fiduciary.sum-reveal/1"] = "fiduciary.sum-reveal/1"
    session: Digest
    site: Name
    seeds: dict[Name, Share]
    keys: dict[Name, Share]


D = TypeVar("D", bound=Document)


def read_signed(statement: SignedStatement, kind: type[D], key: VerifyKey) -> D:
    """What a site signed.

    Raises:
        VerificationFailed: When it did not.
        MalformedInput: When it is no such document.
    """
    return read_document(verify_statement(statement, key), kind)


def members_digest(offers: Mapping[str, SignedStatement]) -> str:
    """One name for a set of keys: who has the same one deals to the same sites."""
    return digest(canonical_bytes({site: offers[site].digest for site in sorted(offers)}))


def commit(session: Session, kind: str, names: Iterable[str], secret: bytes) -> str:
    """A commitment to a secret of at least 256 bits of entropy: binding, and hiding (SHA-256)."""
    return hashlib.sha256(session.context("commitment", kind, *names) + secret).hexdigest()


def read_document(value: object, kind: type[D]) -> D:
    """An unsigned document, such as a session or a dealt box.

    Raises:
        MalformedInput: When it is none.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        reason = first_problem(error, of_others=True)
        raise MalformedInput(f"malformed secure sum: {reason}") from error
