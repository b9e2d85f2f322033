"""Entries as a service shows them, decrypted, and what of that is proven.

An entry is shown with its leaf and the leaf's path to a signed root. `verify_shown` proves

* that exactly this leaf, sealed payload included, is in the log at this position,
* that position, time, actor, action, object and subject are shown as the leaf says them,
* where the payload quotes a statement, that it is the one whose digest is the leaf's object.

Everything else of a decrypted payload is the word of whoever shows it: the leaf holds a ciphertext,
and who cannot decrypt cannot compare. Nor is it proven that an answer is complete; only the whole
log is (`audit verify`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from audit.checkpoint import Checkpoint
from audit.errors import MalformedInput, VerificationFailed
from audit.leaf import Leaf
from audit.merkle import hash_leaf, verify_inclusion
from audit.statement import SignedStatement

CLEAR_FIELDS: Final = ("position", "time", "actor", "action", "object", "subject")


@dataclass(frozen=True)
class ShownEntry:
    """An entry as somebody shows it. Not verified by existing.

    Attributes:
        fields: The clear fields, by the names of `CLEAR_FIELDS`.
        payload: Decrypted; None when it is forgotten.
        leaf: The bytes that were hashed.
        leaf_hash: Their RFC 6962 hash, hexadecimal.
        path: Audit path from the leaf upwards, 32 bytes each.
    """

    fields: Mapping[str, Any]
    payload: Mapping[str, Any] | None
    leaf: bytes
    leaf_hash: str
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class VerifiedEntry:
    """What is proven of a shown entry.

    Attributes:
        leaf: The entry, payload sealed.
        statement: The statement that the entry records, when the payload quotes it. Its own
            signatures are the caller's to verify.
    """

    leaf: Leaf
    statement: SignedStatement | None


def verify_shown(entry: ShownEntry, checkpoint: Checkpoint) -> VerifiedEntry:
    """Check a shown entry against a checkpoint whose signature was verified.

    Raises:
        VerificationFailed: When the leaf is not in the log, or is shown as something else.
        MalformedInput: When leaf or statement cannot be read.
    """
    leaf = Leaf.parse(entry.leaf)
    hashed = hash_leaf(entry.leaf)
    if hashed.hex() != entry.leaf_hash:
        raise VerificationFailed(
            f"entry {leaf.position}: the leaf's hash is {hashed.hex()}, shown as {entry.leaf_hash}"
        )
    clear = leaf.clear()
    for name in CLEAR_FIELDS:
        shown = entry.fields.get(name)
        if type(shown) is not type(clear[name]) or shown != clear[name]:
            raise VerificationFailed(
                f"entry {leaf.position}: {name} is shown as {str(shown)[:80]!r}, the leaf says"
                f" {clear[name]!r}"
            )
    try:
        verify_inclusion(hashed, leaf.position, checkpoint.size, entry.path, checkpoint.root)
    except VerificationFailed as error:
        raise VerificationFailed(f"entry {leaf.position}: {error}") from error
    return VerifiedEntry(leaf, _statement(leaf, entry.payload))


def _statement(leaf: Leaf, payload: Mapping[str, Any] | None) -> SignedStatement | None:
    if payload is None or "statement" not in payload:
        return None
    try:
        statement = SignedStatement.from_json(payload["statement"])
        about = statement.log_object
    except MalformedInput as error:
        raise MalformedInput(f"entry {leaf.position}: {error}") from error
    if about != leaf.object:
        raise VerificationFailed(
            f"entry {leaf.position}: the payload shows {about}, the leaf is about {leaf.object}"
        )
    return statement
