"""Receipts: verified means signature, link and inclusion, each of which can be broken alone."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey
from audit.merkle import Frontier, hash_leaf
from audit.proof import Proof
from audit.receipt import FOLLOWS, Receipt, verify_receipt
from audit.statement import sign_statement
from tests.audit.logs import Site, entry

BODY = {"format": "fiduciary.erasure/1", "site": "north", "subject": "a" * 64, "records": 3}
SIGNER = SigningKey.generate("site:north")


@pytest.fixture(scope="module")
def receipt(filled: Site) -> Receipt:
    statement = sign_statement(BODY, SIGNER)
    appended = filled.journal.record(
        entry(action="subject.erased", object=statement.log_object, payload=BODY)
    )
    filled.fill(3)
    return Receipt(statement, appended.leaf, filled.journal.prove(appended.position))


def changed(receipt: Receipt, **changes: Any) -> Receipt:
    return Receipt.from_json(receipt.to_json() | changes)


def test_a_receipt_verifies(receipt: Receipt, filled: Site) -> None:
    again = Receipt.parse(json.dumps(receipt.to_json()).encode())
    assert again == receipt
    verified = verify_receipt(again, filled.signer.public, SIGNER.public)
    assert verified.body == BODY
    assert verified.signer == SIGNER.public
    assert verified.leaf.object == receipt.statement.log_object
    assert verified.checkpoint.size == 25


def test_without_the_signers_key_it_says_so(receipt: Receipt, filled: Site) -> None:
    assert verify_receipt(receipt, filled.signer.public).signer is None


def test_a_statement_that_the_log_signed(filled: Site) -> None:
    statement = sign_statement(BODY, filled.signer)
    appended = filled.journal.record(entry(object=statement.log_object))
    own = Receipt(statement, appended.leaf, filled.journal.prove(appended.position))
    assert verify_receipt(own, filled.signer.public).signer == filled.signer.public


def test_each_link_can_break(receipt: Receipt, filled: Site) -> None:
    log_key = filled.signer.public
    other = SigningKey.generate("other")
    with pytest.raises(VerificationFailed, match="signed by"):
        verify_receipt(receipt, log_key, other.public)
    with pytest.raises(VerificationFailed):
        verify_receipt(receipt, other.public, SIGNER.public)
    another = sign_statement(BODY | {"records": 4}, SIGNER)
    with pytest.raises(VerificationFailed, match="is about"):
        verify_receipt(changed(receipt, statement=another.to_json()), log_key, SIGNER.public)
    proof = filled.journal.prove(3)
    with pytest.raises(VerificationFailed):
        verify_receipt(changed(receipt, proof=proof), log_key, SIGNER.public)
    leaf = receipt.leaf.replace(b"site:north", b"site:south")
    with pytest.raises(VerificationFailed):
        verify_receipt(
            changed(receipt, leaf=base64.b64encode(leaf).decode()), log_key, SIGNER.public
        )


def test_malformed_receipts(receipt: Receipt) -> None:
    values: tuple[object, ...] = (
        None,
        [],
        {},
        receipt.to_json() | {"extra": 1},
        receipt.to_json() | {"format": "fiduciary.receipt/2"},
        receipt.to_json() | {"leaf": 7},
        receipt.to_json() | {"leaf": "!"},
        receipt.to_json() | {"proof": None},
        receipt.to_json() | {"statement": {}},
    )
    for value in values:
        with pytest.raises(MalformedInput):
            Receipt.from_json(value)
    for data in (b"", b"\xff", b"{", b"[" * 100_000, b"null"):
        with pytest.raises(MalformedInput):
            Receipt.parse(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_is_noticed(receipt: Receipt, filled: Site, data: st.DataObject) -> None:
    text = bytearray(json.dumps(receipt.to_json(), ensure_ascii=False).encode())
    bit = data.draw(st.integers(0, len(text) * 8 - 1))
    text[bit // 8] ^= 1 << bit % 8
    try:
        again = Receipt.parse(bytes(text))
        if again == receipt:  # a bit of white space, or the unused bits of DSSE's base64
            return
        verify_receipt(again, filled.signer.public, SIGNER.public)
    except FiduciaryError:
        return
    raise AssertionError(f"bit {bit} was not noticed")


def test_follow_ups_are_of_the_log_about_this_statement_and_in_its_order(
    receipt: Receipt, filled: Site
) -> None:
    def told(follows: str, by: SigningKey) -> Receipt:
        statement = sign_statement({"format": "fiduciary.told/1", FOLLOWS: follows}, by)
        appended = filled.journal.record(entry(object=statement.log_object))
        return Receipt(statement, appended.leaf, filled.journal.prove(appended.position))

    digest = receipt.statement.digest
    first, second, third = (told(digest, filled.signer) for _ in range(3))
    verified = verify_receipt(
        replace(receipt, follow_ups=(first, second, third)), filled.signer.public
    )
    assert [one.body[FOLLOWS] for one in verified.follow_ups] == [digest] * 3
    for follow_ups, why in (
        ((second, first), "order"),
        ((first, first), "order"),
        ((told("sha256:" + "0" * 64, filled.signer),), "another statement"),
        ((told(digest, SIGNER),), "statement is signed by"),
    ):
        with pytest.raises(VerificationFailed, match=why):
            verify_receipt(replace(receipt, follow_ups=follow_ups), filled.signer.public)


def test_an_entry_is_at_the_place_that_it_says(receipt: Receipt, filled: Site) -> None:
    """Even where the log's key signed a tree in which it is elsewhere."""
    tree, _ = Frontier().append(hash_leaf(receipt.leaf))
    note = sign_checkpoint(Checkpoint("log.example", 1, tree.root()), filled.signer)
    moved = replace(receipt, proof=Proof(0, (), note).encoded())
    with pytest.raises(VerificationFailed, match="the proof is of 0"):
        verify_receipt(moved, filled.signer.public)
