"""Receipts: a signed statement and the proof that it is in the log, in one file.

A receipt is what a data subject or a site takes home. It verifies offline, years later, with two
verifier keys: that of whoever signed the statement, and that of the log. Verified means all of:

* the statement's signature is its signer's (`signer`),
* the log entry's `object` is `<kind>:<digest>` of exactly this statement,
* the entry is in the log under a checkpoint that the log signed.

A receipt may have follow-ups: statements of the log's own operator about what became of the matter.
Each is a receipt of its own, verified likewise, and its statement's field `follows` is the digest
of the first statement; they are in the order of the log. A receipt without any has the first
format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from audit.checkpoint import Checkpoint
from audit.encoding import decode_base64, encode_base64
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.proof import Proof, verify_proof
from audit.statement import SignedStatement, verify_statement

RECEIPT_FORMAT: Final = "fiduciary.receipt/1"
FOLLOWED_FORMAT: Final = "fiduciary.receipt/2"
"""Of a receipt with follow-ups."""

FOLLOWS: Final = "follows"
"""Field of a follow-up's statement: the digest of the statement that it follows."""

MAX_RECEIPT_BYTES: Final = 48 * 1024 * 1024
"""The largest statement and the largest leaf, in base64, and a proof."""

_FIELDS: Final = frozenset({"format", "statement", "leaf", "proof"})
_FIELDS_OF: Final = {
    RECEIPT_FORMAT: _FIELDS,
    FOLLOWED_FORMAT: _FIELDS | {"follow_ups"},
}


class MalformedReceipt(MalformedInput):
    """A file that is no receipt."""

    code = "malformed-receipt"


@dataclass(frozen=True)
class Receipt:
    """A statement, the log entry about it, and the proof of that entry. Not verified by existing.

    Attributes:
        statement: The signed statement.
        leaf: Bytes of the log entry about it.
        proof: The tlog-proof text of that entry.
        follow_ups: What was stated about it later, in the order of the log.
    """

    statement: SignedStatement
    leaf: bytes
    proof: str
    follow_ups: tuple[Receipt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The receipt file's content."""
        content: dict[str, Any] = {
            "format": RECEIPT_FORMAT,
            "statement": self.statement.to_json(),
            "leaf": encode_base64(self.leaf),
            "proof": self.proof,
        }
        if self.follow_ups:
            content["format"] = FOLLOWED_FORMAT
            content["follow_ups"] = [one.to_json() for one in self.follow_ups]
        return content

    @classmethod
    def from_json(cls, value: object) -> Receipt:
        """Read a receipt.

        Raises:
            MalformedInput: For a missing or unknown field, or one that is not what it should be.
        """
        if not isinstance(value, dict):
            raise MalformedReceipt("malformed receipt: not an object")
        written = value.get("format")
        fields = _FIELDS_OF.get(written) if isinstance(written, str) else None
        if fields is None:
            raise MalformedReceipt(
                f"malformed receipt: format is not {RECEIPT_FORMAT} or {FOLLOWED_FORMAT}"
            )
        if value.keys() != fields:
            raise MalformedReceipt(
                f"malformed receipt: expected exactly the fields {sorted(fields)}"
            )
        leaf, proof, follow_ups = value["leaf"], value["proof"], value.get("follow_ups", [])
        if not isinstance(leaf, str) or not isinstance(proof, str):
            raise MalformedReceipt("malformed receipt: leaf and proof must be text")
        if not isinstance(follow_ups, list) or (written == FOLLOWED_FORMAT and not follow_ups):
            raise MalformedReceipt("malformed receipt: follow_ups must be a list, and not empty")
        if any(isinstance(one, dict) and one.get("format") != RECEIPT_FORMAT for one in follow_ups):
            raise MalformedReceipt("malformed receipt: a follow-up has no follow-ups")
        later = tuple(cls.from_json(one) for one in follow_ups)
        return cls(
            SignedStatement.from_json(value["statement"]),
            decode_base64(leaf, "receipt leaf"),
            proof,
            later,
        )

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """Read a receipt file.

        Raises:
            MalformedInput: When it is no receipt.
        """
        if len(data) > MAX_RECEIPT_BYTES:
            raise MalformedReceipt(f"malformed receipt: more than {MAX_RECEIPT_BYTES} bytes")
        try:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise MalformedReceipt("malformed receipt: not JSON in UTF-8") from error
        return cls.from_json(value)


@dataclass(frozen=True)
class VerifiedReceipt:
    """What a verified receipt says.

    Attributes:
        body: The statement.
        leaf: The log entry about it.
        checkpoint: The signed tree head that contains the entry.
        signer: The key whose signature on the statement was checked; None if no key was given.
        follow_ups: What its follow-ups say; the log signed each of them.
    """

    body: dict[str, Any]
    leaf: Leaf
    checkpoint: Checkpoint
    signer: VerifyKey | None
    follow_ups: tuple[VerifiedReceipt, ...] = ()


def verify_receipt(
    receipt: Receipt, log_key: VerifyKey, signer: VerifyKey | None = None
) -> VerifiedReceipt:
    """Check a receipt and all its follow-ups.

    Args:
        receipt: As read.
        log_key: The log's verifier key.
        signer: The verifier key of whoever signed the statement. When None and the log signed the
            statement itself, the log's key; otherwise the statement's signature stays unchecked and
            the result says so.

    Raises:
        MalformedInput: When proof or leaf cannot be read.
        VerificationFailed: When a signature, the proof, or the link between them is wrong.
    """
    signed_by = [item.key_id for item in receipt.statement.signatures]
    if signer is None and signed_by == [log_key.key_id]:
        signer = log_key
    body = (
        verify_statement(receipt.statement, signer)
        if signer is not None
        else receipt.statement.body
    )
    leaf = Leaf.parse(receipt.leaf)
    if leaf.object != receipt.statement.log_object:
        raise VerificationFailed(
            f"the log entry is about {leaf.object}, the statement is"
            f" {receipt.statement.log_object}",
            fix="the receipt does not belong to this statement; ask its issuer for another",
        )
    proof = Proof.parse(receipt.proof)
    checkpoint = verify_proof(proof, log_key, leaf=receipt.leaf)
    if leaf.position != proof.index:
        raise VerificationFailed(
            f"the log entry says that it is entry {leaf.position}, the proof is of {proof.index}"
        )
    follow_ups, newest = [], leaf.position
    for one in receipt.follow_ups:
        told = verify_receipt(one, log_key, log_key)
        if told.body.get(FOLLOWS) != receipt.statement.digest:
            raise VerificationFailed(
                "a follow-up is about another statement",
                fix="the receipt was put together wrongly; ask its issuer for another",
            )
        if told.leaf.position <= newest:
            raise VerificationFailed("the follow-ups are not in the order of the log")
        newest = told.leaf.position
        follow_ups.append(told)
    return VerifiedReceipt(body, leaf, checkpoint, signer, tuple(follow_ups))


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys comes twice: readers differ in which one they would believe."""
    value = dict(members)
    if len(value) != len(members):
        raise MalformedReceipt("malformed receipt: an object has a key twice")
    return value
