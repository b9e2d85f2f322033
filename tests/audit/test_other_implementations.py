"""Other people's implementations verify what we make, and we verify what they make.

* Go's checksum database (golang.org/x/mod/sumdb) judged the cases of `cases.py` once; its verdicts
  are checked in (`generate_vectors.py`).
* pymerkle, securesystemslib, rfc8785 and PyCryptodome are installed for tests and judge afresh.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pymerkle
import pytest
import rfc8785
from Crypto.Signature import eddsa
from hypothesis import example, given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey

from audit.canonical import MAX_INTEGER, canonical_bytes, parse_canonical
from audit.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from audit.merkle import (
    Frontier,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    root,
    verify_consistency,
    verify_inclusion,
)
from audit.note import Note
from audit.statement import PAYLOAD_TYPE, SignedStatement, sign_statement, verify_statement
from tests.audit.cases import (
    ALL_PROOFS_UP_TO,
    SIGNINGS,
    Tree,
    consistency_cases,
    fingerprint,
    inclusion_cases,
    judged,
    key_cases,
    note_cases,
)
from tests.audit.generate_vectors import SUMDB
from tests.audit.vectors import ENOCH_KEY, GO_KEY

# --- Go's checksum database -----------------------------------------------------------------------

VERDICTS: dict[str, Any] = json.loads(SUMDB.read_text("utf-8"))


def accepts(verify: Any, *claim: object) -> bool:
    try:
        verify(*claim)
    except FiduciaryError:
        return False
    return True


def test_go_judged_these_very_cases() -> None:
    assert fingerprint(judged()) == VERDICTS["cases"], "run generate_vectors.py sumdb"


def test_go_makes_the_same_trees_and_every_same_proof() -> None:
    """Both proofs of every entry and every earlier size, at every size up to 257."""
    tree = Tree(ALL_PROOFS_UP_TO)
    assert len(VERDICTS["trees"]) == ALL_PROOFS_UP_TO
    for theirs in VERDICTS["trees"]:
        size = theirs["size"]
        head = root(tree.read, size)
        assert head.hex() == theirs["root"]
        assert Checkpoint("go.sum database tree", size, head).text() == theirs["text"]
        included, consistent = hashlib.sha256(), hashlib.sha256()
        for number in range(size):
            included.update(b"".join(inclusion_proof(tree.read, number, size)))
            consistent.update(b"".join(consistency_proof(tree.read, number + 1, size)))
        assert included.hexdigest() == theirs["inclusion"]
        assert consistent.hexdigest() == theirs["consistency"]


def test_go_accepts_and_refuses_the_same_inclusion_proofs() -> None:
    for case, verdict in zip(inclusion_cases(), VERDICTS["inclusion"], strict=True):
        claim = (case.leaf, case.index, case.size, case.path, case.root)
        assert accepts(verify_inclusion, *claim) == (verdict == "+"), case


def test_go_accepts_and_refuses_the_same_consistency_proofs() -> None:
    for case, verdict in zip(consistency_cases(), VERDICTS["consistency"], strict=True):
        claim = (case.first, case.second, case.first_root, case.second_root, case.path)
        assert accepts(verify_consistency, *claim) == (verdict == "+"), case


def test_go_accepts_and_refuses_the_same_notes() -> None:
    """We are stricter in one thing: base64 has one spelling."""
    known = [VerifyKey.parse(GO_KEY), VerifyKey.parse(ENOCH_KEY)]
    stricter = []
    for note, verdict in zip(note_cases(), VERDICTS["notes"], strict=True):
        try:
            parsed = Note.parse(note)
        except MalformedInput as error:
            if verdict == "+":
                stricter.append(str(error))
            continue
        assert parsed.encoded() == note
        assert verdict != "M", note
        assert accepts(parsed.verify, known) == (verdict == "+"), note
    spelling = "malformed note: malformed note signature: not the canonical base64 of its bytes"
    assert stricter == [spelling] * 2


def test_go_accepts_and_refuses_the_same_verifier_keys() -> None:
    """We are stricter in one thing: the hash is spelt in lower case."""
    stricter = set()
    for text, verdict in zip(key_cases(), VERDICTS["keys"], strict=True):
        if accepts(VerifyKey.parse, text) != (verdict == "+"):
            assert verdict == "+"
            stricter.add(text)
    assert len(stricter) == 8
    for text in stricter:
        name, upper, key = text.split("+", 2)
        assert VerifyKey.parse(f"{name}+{upper.lower()}+{key}").encoded() != text


@pytest.mark.parametrize(("case", "note"), list(zip(SIGNINGS, VERDICTS["signed"], strict=True)))
def test_go_signs_the_same_notes(case: Any, note: str) -> None:
    assert case.note() == note
    keys = [SigningKey.from_seed(*signer).public for signer in case.signers]
    assert Note.parse(note).verify(keys) == tuple(keys)


# --- pymerkle -------------------------------------------------------------------------------------

BOUNDARIES = (1, 2, 3, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300)
THEIR_TREE = pymerkle.InmemoryTree("sha256")
THEIR_TREE.append_entries([b"entry %d" % number for number in range(max(BOUNDARIES))])
OUR_TREE = Tree(max(BOUNDARIES))
tree_sizes = st.sampled_from(BOUNDARIES) | st.integers(1, max(BOUNDARIES))


def pymerkle_accepts(
    index: int, size: int, leaf: bytes, path: tuple[bytes, ...], head: bytes
) -> bool:
    """Their verdict on our proof: their form of a proof counts from one and repeats the leaf."""
    form = THEIR_TREE.prove_inclusion(index + 1, size).serialize()
    form["path"] = [item.hex() for item in (leaf, *path)]
    proof = pymerkle.InclusionProof.deserialize(form)
    try:
        pymerkle.verify_inclusion(leaf, head, proof, index + 1, size, "sha256")
    except pymerkle.InvalidProof:
        return False
    return True


@given(tree_sizes, st.data())
def test_pymerkle_verifies_our_inclusion_proofs_and_we_theirs(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    head, leaf = root(OUR_TREE.read, size), OUR_TREE.read(0, index)
    path = inclusion_proof(OUR_TREE.read, index, size)
    assert head == THEIR_TREE.get_root(size)
    assert pymerkle_accepts(index, size, leaf, path, head)
    verify_inclusion(leaf, index, size, THEIR_TREE.prove_inclusion(index + 1, size).path[1:], head)
    wrong = [(hash_leaf(b"another"), path, head), (leaf, path, hash_leaf(head))]
    if path:
        wrong += [
            (leaf, path[:-1], head),
            (leaf, (*path[:-1], hash_leaf(path[-1])), head),
            (leaf, (*path, path[-1]), head),
        ]
    for other_leaf, other_path, other_head in wrong:
        assert not pymerkle_accepts(index, size, other_leaf, other_path, other_head)
        with pytest.raises(VerificationFailed):
            verify_inclusion(other_leaf, index, size, other_path, other_head)


@given(tree_sizes, st.data())
def test_pymerkle_finds_our_heads_consistent_and_no_other(size: int, data: st.DataObject) -> None:
    """Their consistency proofs have a form of their own, so theirs is proved and our heads judged;
    our proofs are judged by Go, above."""
    first = data.draw(st.integers(1, size))
    old, new = root(OUR_TREE.read, first), root(OUR_TREE.read, size)
    theirs = THEIR_TREE.prove_consistency(first, size)
    pymerkle.verify_consistency(old, new, theirs, first, size, "sha256")
    verify_consistency(first, size, old, new, consistency_proof(OUR_TREE.read, first, size))
    for wrong_old, wrong_new in ((hash_leaf(old), new), (old, hash_leaf(new))):
        with pytest.raises(pymerkle.InvalidProof):
            pymerkle.verify_consistency(wrong_old, wrong_new, theirs, first, size, "sha256")
        with pytest.raises(VerificationFailed):
            verify_consistency(
                first, size, wrong_old, wrong_new, consistency_proof(OUR_TREE.read, first, size)
            )


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=40))
def test_pymerkle_grows_the_same_tree_of_any_entries(leaves: list[bytes]) -> None:
    theirs, ours = pymerkle.InmemoryTree("sha256"), Frontier()
    for leaf in leaves:
        theirs.append_entry(leaf)
        ours, _ = ours.append(hash_leaf(leaf))
        assert ours.root() == theirs.get_root()


# --- PyCryptodome: Ed25519 that shares nothing with OpenSSL ---------------------------------------

seeds = st.binary(min_size=32, max_size=32)
names = st.text(
    st.characters(
        codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp"), exclude_characters="+"
    ),
    min_size=1,
    max_size=30,
)


def pycryptodome_accepts(note: str, name: str, public: bytes) -> bool:
    """Whether the last line of a note is `name`'s signature, read as the specification tells."""
    text, _, line = note.rpartition("\n\n")
    dash, signer, encoded = line.rstrip("\n").split(" ")
    blob = base64.b64decode(encoded)
    key_id = hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    if (dash, signer, blob[:4]) != ("\u2014", name, key_id):
        return False
    try:
        eddsa.new(eddsa.import_public_key(public), "rfc8032").verify(f"{text}\n".encode(), blob[4:])
    except ValueError:
        return False
    return True


@given(seeds, names, st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32))
@example(bytes(32), "example.com/log", 0, bytes(32))
def test_pycryptodome_verifies_our_checkpoints_and_we_theirs(
    seed: bytes, name: str, size: int, head: bytes
) -> None:
    key, checkpoint = SigningKey.from_seed(name, seed), Checkpoint(name, size, head)
    note = sign_checkpoint(checkpoint, key)
    assert pycryptodome_accepts(note, name, key.public.raw)
    other = SigningKey.from_seed(name, hashlib.sha256(seed).digest())
    assert not pycryptodome_accepts(note, name, other.public.raw)
    assert not pycryptodome_accepts("x" + note, name, key.public.raw)

    private = eddsa.import_private_key(seed)
    public = private.public_key().export_key(format="raw")
    assert public == key.public.raw
    text = f"{name}\n{size}\n{base64.b64encode(head).decode()}\n"
    blob = key.public.note_id + eddsa.new(private, "rfc8032").sign(text.encode())
    theirs = f"{text}\n\u2014 {name} {base64.b64encode(blob).decode()}\n"
    assert theirs == note
    assert verify_checkpoint(theirs, VerifyKey(name, public), name) == checkpoint
    with pytest.raises(VerificationFailed):
        verify_checkpoint(theirs, other.public)


# --- securesystemslib: DSSE as in-toto and TUF use it ---------------------------------------------


def sslib_key(key: VerifyKey) -> SSlibKey:
    return SSlibKey(key.key_id, "ed25519", "ed25519", {"public": key.raw.hex()})


def securesystemslib_accepts(statement: SignedStatement, *keys: VerifyKey) -> bool:
    envelope = Envelope.from_dict(json.loads(json.dumps(statement.to_json())))
    try:
        envelope.verify([sslib_key(key) for key in keys], len(keys))
    except VerificationError:
        return False
    return True


bodies = st.dictionaries(
    st.text(max_size=8), st.none() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(max_size=20)
)


@given(bodies, st.sets(seeds, min_size=3, max_size=3))
def test_securesystemslib_verifies_our_statements(body: dict[str, Any], three: set[bytes]) -> None:
    one, two, other = (SigningKey.from_seed("signer", seed) for seed in sorted(three))
    statement = sign_statement(body, one, two)
    assert securesystemslib_accepts(statement, one.public, two.public)
    assert verify_statement(statement, one.public, two.public) == body
    changed = SignedStatement(canonical_bytes({**body, "x": 1, "y": 2}), statement.signatures)
    for wrong, keys in ((statement, (one.public, other.public)), (changed, (one.public,))):
        assert not securesystemslib_accepts(wrong, *keys)
        with pytest.raises(VerificationFailed):
            verify_statement(wrong, *keys)


@given(bodies, seeds)
def test_we_verify_statements_of_securesystemslib(body: dict[str, Any], seed: bytes) -> None:
    """They make the envelope and its encoding; the signature over it is PyCryptodome's."""
    private = eddsa.import_private_key(seed)
    key = VerifyKey("signer", private.public_key().export_key(format="raw"))
    envelope = Envelope(rfc8785.dumps(body), PAYLOAD_TYPE, {})
    signature = eddsa.new(private, "rfc8032").sign(envelope.pae())
    sent = envelope.to_dict() | {
        "signatures": [{"keyid": key.key_id, "sig": base64.b64encode(signature).decode()}]
    }
    assert verify_statement(SignedStatement.from_json(sent), key) == body


# --- rfc8785 --------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_rfc8785_writes_the_same_bytes(value: Any) -> None:
    assert canonical_bytes(value) == rfc8785.dumps(value)
    assert parse_canonical(rfc8785.dumps(value)) == value


@pytest.mark.parametrize("value", [MAX_INTEGER + 1, -MAX_INTEGER - 1, "\ud800", {1: 2}, b"bytes"])
def test_rfc8785_refuses_the_same_values(value: Any) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        rfc8785.dumps(value)
    with pytest.raises(MalformedInput):
        canonical_bytes(value)
