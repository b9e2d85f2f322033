"""Every parser of the audit package, as one kind of thing: what it accepts, it can write again.

A reader takes bytes and returns those that its parser's result is encoded as, and the input as the
result should be encoded: mostly the input itself. Fuzzing drives it (`test_fuzz.py`, `fuzz/`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from audit.bundle import Manifest
from audit.canonical import canonical_bytes, parse_canonical
from audit.checkpoint import Checkpoint, read_checkpoint
from audit.cosignature import WitnessKey, lines_of
from audit.encoding import decode_base64, encode_base64
from audit.errors import MalformedInput
from audit.keys import VerifyKey
from audit.leaf import Leaf, check_leaf
from audit.note import Note
from audit.proof import Proof
from audit.receipt import Receipt
from audit.statement import SignedStatement
from tests.audit.malformed import (
    COSIGNED,
    LEAF,
    LOG,
    MANIFEST_OF_ONE,
    NOTE,
    PROOF,
    RECEIPT,
    STATEMENT,
    WITNESS,
)
from tests.audit.vectors import GO_KEY, GO_TWO_SIGNATURES, JCS_FILES, SUMDB_CHECKPOINT, SUMDB_KEY

LONG_PROOF = Proof(5, tuple(bytes([n]) * 32 for n in range(7)), COSIGNED, LEAF.encoded())
BARE_PROOF = Proof(0, (), NOTE)


@dataclass(frozen=True)
class Reader:
    """A parser under test.

    Attributes:
        samples: Sound inputs.
        read: Parses an input; returns the encoding of what was read, and what it has to equal.
    """

    samples: tuple[bytes, ...]
    read: Callable[[bytes], tuple[object, object]]


def _text(data: bytes) -> str:
    """As a caller gets text: also with surrogates, from JSON."""
    return data.decode("utf-8", "surrogateescape")


def _base64(data: bytes) -> tuple[object, object]:
    return encode_base64(decode_base64(_text(data))), _text(data)


def _verifier_key(data: bytes) -> tuple[object, object]:
    text = _text(data)
    return VerifyKey.parse(text).encoded(), text.strip()


def _witness_key(data: bytes) -> tuple[object, object]:
    text = _text(data)
    key = WitnessKey.parse(text)  # a site's identity key names the witness that it is, too
    identity = VerifyKey(key.name, key.raw).encoded()
    return key.encoded(), key.encoded() if text.strip() == identity else text.strip()


def _note(data: bytes) -> tuple[object, object]:
    return Note.parse(_text(data)).encoded(), _text(data)


def _checkpoint(data: bytes) -> tuple[object, object]:
    checkpoint = read_checkpoint(_text(data))
    assert Checkpoint.parse_text(checkpoint.text()) == checkpoint
    return checkpoint.text(), Note.parse(_text(data)).text


def _cosigned(data: bytes) -> tuple[object, object]:
    text = _text(data)
    note = Note.parse(text)
    lines = [item for item in note.signatures if item.name == WITNESS.name]
    expected = [item for item in lines if item.key_id == WITNESS.note_id]
    return list(lines_of(text, WITNESS)), expected


def _proof(data: bytes) -> tuple[object, object]:
    return Proof.parse(_text(data)).encoded(), _text(data)


def _canonical(data: bytes) -> tuple[object, object]:
    return canonical_bytes(parse_canonical(data)), data


def _leaf(data: bytes) -> tuple[object, object]:
    leaf = Leaf.parse(data)
    assert check_leaf(data) == leaf.position
    return leaf.encoded(), data


def _checked_leaf(data: bytes) -> tuple[object, object]:
    """The short way must accept nothing that the long way refuses."""
    position = check_leaf(data)
    return Leaf.parse(data).position, position


def _statement(data: bytes) -> tuple[object, object]:
    """Base64 of a DSSE envelope has many spellings: the statement read again is the same."""
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedInput("malformed JSON: the caller's to refuse") from error
    statement = SignedStatement.from_json(value)
    again = SignedStatement.from_json(json.loads(json.dumps(statement.to_json())))
    return (again, again.digest), (statement, statement.digest)


def _receipt(data: bytes) -> tuple[object, object]:
    """A receipt is plain JSON, whose white space is free: the receipt read again is the same."""
    receipt = Receipt.parse(data)
    return Receipt.parse(json.dumps(receipt.to_json()).encode()), receipt


def _manifest(data: bytes) -> tuple[object, object]:
    return Manifest.parse(data).encoded(), data


def _samples(*values: str) -> tuple[bytes, ...]:
    return tuple(value.encode() for value in values)


READERS: dict[str, Reader] = {
    "base64": Reader(_samples("AAAA", "AA==", "AAA=", "+/+/"), _base64),
    "verifier key": Reader(_samples(LOG.public.encoded(), GO_KEY, SUMDB_KEY), _verifier_key),
    "witness key": Reader(_samples(WITNESS.encoded(), GO_KEY), _witness_key),
    "note": Reader(_samples(NOTE, COSIGNED, GO_TWO_SIGNATURES, SUMDB_CHECKPOINT), _note),
    "checkpoint": Reader(_samples(NOTE, COSIGNED, SUMDB_CHECKPOINT), _checkpoint),
    "cosigned checkpoint": Reader(_samples(COSIGNED), _cosigned),
    "proof": Reader(_samples(PROOF.encoded(), LONG_PROOF.encoded(), BARE_PROOF.encoded()), _proof),
    "canonical JSON": Reader(
        (*_samples(*(encoded for _, encoded in JCS_FILES)), LEAF.encoded(), STATEMENT.payload),
        _canonical,
    ),
    "log entry": Reader((LEAF.encoded(),), _leaf),
    "log entry, checked": Reader((LEAF.encoded(),), _checked_leaf),
    "statement": Reader(_samples(json.dumps(STATEMENT.to_json())), _statement),
    "receipt": Reader(_samples(json.dumps(RECEIPT.to_json(), ensure_ascii=False)), _receipt),
    "bundle manifest": Reader((MANIFEST_OF_ONE.encoded(),), _manifest),
}
