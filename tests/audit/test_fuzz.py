"""Damaged input: read to the last bit, or refused as malformed; bounded; never believed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.bundle_verifier import verify_bundle
from audit.canonical import MAX_DEPTH, MAX_DOCUMENT_BYTES, canonical_bytes, parse_canonical
from audit.checkpoint import MAX_SIZE, Checkpoint
from audit.cosignature import verify_cosignature
from audit.errors import FiduciaryError, MalformedInput
from audit.exporting import export_bundle
from audit.keys import MAX_NAME_LENGTH, MAX_VERIFIER_KEY_LENGTH, SigningKey, VerifyKey
from audit.leaf import MAX_TEXT, Leaf, check_leaf
from audit.note import MAX_NOTE_BYTES, MAX_SIGNATURES, Note, sign_note
from audit.proof import MAX_PATH, MAX_PROOF_BYTES, Proof, verify_proof
from audit.receipt import MAX_RECEIPT_BYTES, Receipt, verify_receipt
from audit.source import open_source
from audit.statement import MAX_PAYLOAD_BYTES, SignedStatement, sign_statement
from audit.statement import MAX_SIGNATURES as MAX_STATEMENT_SIGNATURES
from tests.audit.logs import Site
from tests.audit.malformed import COSIGNED, LEAF, LOG, NOTE, PROOF, RECEIPT, SIGNER, WITNESS
from tests.audit.mutations import damaged, damaged_bytes
from tests.audit.readers import READERS

fuzzed = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# --- every parser ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_sound_input_is_read(name: str) -> None:
    for sample in READERS[name].samples:
        got, expected = READERS[name].read(sample)
        assert got == expected


@pytest.mark.parametrize("name", READERS)
@fuzzed
@given(data=st.data())
def test_damaged_input_is_read_exactly_or_is_malformed(name: str, data: st.DataObject) -> None:
    reader = READERS[name]
    try:
        got, expected = reader.read(data.draw(damaged_bytes(reader.samples)))
    except MalformedInput:
        return
    assert got == expected


@pytest.mark.parametrize("name", READERS)
@fuzzed
@given(noise=st.binary(max_size=200))
def test_noise_is_read_exactly_or_is_malformed(name: str, noise: bytes) -> None:
    try:
        got, expected = READERS[name].read(noise)
    except MalformedInput:
        return
    assert got == expected


ENTRY: dict[str, Any] = json.loads(LEAF.encoded())
NEAR_MISSES = (
    "2026-02-30T12:00:00.000Z",
    "2026-01-31T24:00:00.000Z",
    "2026-01-31T12:00:00.000z",
    "0000-01-31T12:00:00.000Z",
    "A" * 21 + "B==",
    "A" * 22 + "B=",
    "A" * 22 + "==",
    "A" * 23 + "=",
    "A" * 24,
    "A" * 20 + "=AAA",
    "A" * 25,
    "A" * 20,
    "A" * 16,
    "A" * 15 + "B",
    "A" * 14 + "==",
    "a" * (MAX_TEXT + 1),
    "",
)
"""Times, base64 and names that are right in form and wrong in fact, or nearly right in form."""


def the_short_check_agrees(entry: bytes) -> bool:
    """Whether `check_leaf` says of an entry what `Leaf.parse` says."""
    try:
        expected = Leaf.parse(entry).position
    except MalformedInput:
        with pytest.raises(MalformedInput):
            check_leaf(entry)
        return True
    return check_leaf(entry) == expected


@pytest.mark.parametrize("name", sorted(ENTRY))
def test_the_short_check_of_an_entry_is_fooled_by_no_near_miss(name: str) -> None:
    for value in NEAR_MISSES:
        assert the_short_check_agrees(canonical_bytes(ENTRY | {name: value}))


@fuzzed
@given(st.sampled_from(sorted(ENTRY)), st.data())
def test_the_short_check_of_an_entry_agrees_with_the_long_one(
    name: str, data: st.DataObject
) -> None:
    """One field is damaged, so that the others do not give the entry away first."""
    value = data.draw(damaged([str(ENTRY[name])]) | st.text(max_size=40))
    try:
        entry = canonical_bytes(ENTRY | {name: int(value) if name == "position" else value})
    except (ValueError, MalformedInput):
        return  # a position that is no number, or text that JSON cannot hold
    assert the_short_check_agrees(entry)


@fuzzed
@given(data=st.data())
def test_a_damaged_key_file_is_the_same_key_or_malformed(
    data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.unlink(missing_ok=True)
    SIGNER.save(path)
    path.write_bytes(data.draw(damaged_bytes([path.read_bytes()])))
    try:
        loaded = SigningKey.load(path)
    except MalformedInput:
        return
    loaded.public.verify(b"message", loaded.sign(b"message"))


# --- nothing damaged is believed ------------------------------------------------------------------


@fuzzed
@given(damaged([NOTE, COSIGNED]))
def test_a_damaged_checkpoint_says_what_was_signed_or_does_not_verify(text: str) -> None:
    """What may differ are signature lines of others: the specification says to ignore them."""
    try:
        note = Note.parse(text)
        note.verify([LOG.public])
    except FiduciaryError:
        return
    assert note.text == Note.parse(NOTE).text


@fuzzed
@given(damaged([COSIGNED]))
def test_a_damaged_cosignature_says_what_was_signed_or_does_not_verify(text: str) -> None:
    try:
        verified = verify_cosignature(text, WITNESS)
    except FiduciaryError:
        return
    assert verified == verify_cosignature(COSIGNED, WITNESS)
    assert Note.parse(text).text == Note.parse(NOTE).text


@fuzzed
@given(damaged([PROOF.encoded()]))
def test_a_damaged_proof_proves_the_same_or_nothing(text: str) -> None:
    try:
        proof = Proof.parse(text)
        checkpoint = verify_proof(proof, LOG.public)
    except FiduciaryError:
        return
    assert (proof.index, proof.path, proof.extra) == (0, (), LEAF.encoded())
    assert checkpoint == verify_proof(PROOF, LOG.public)


@fuzzed
@given(damaged([json.dumps(RECEIPT.to_json(), ensure_ascii=False)]))
def test_a_damaged_receipt_proves_the_same_or_nothing(text: str) -> None:
    try:
        receipt = Receipt.parse(text.encode("utf-8", "surrogatepass"))
        verified = verify_receipt(receipt, LOG.public, SIGNER.public)
    except FiduciaryError:
        return
    assert verified == verify_receipt(RECEIPT, LOG.public, SIGNER.public)


@pytest.fixture(scope="module")
def bundle(filled: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "whole.zip"
    with open_source(filled.path) as source:
        export_bundle(source, target, keys=filled.keyring)
    return target


@fuzzed
@given(data=st.data())
def test_a_bundle_with_a_damaged_member_tells_the_same_or_is_refused(
    bundle: Path, filled: Site, data: st.DataObject, tmp_path: Path
) -> None:
    """Members that only explain or hint may change; the entries and their heads may not."""
    with zipfile.ZipFile(bundle) as sound:
        members = {name: sound.read(name) for name in sound.namelist()}
    name = data.draw(st.sampled_from(sorted(members)))
    changed = data.draw(damaged_bytes([members[name]]))
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, changed if member == name else content)
    assert tells_the_same_or_nothing(path, bundle, filled)


@fuzzed
@given(place=st.integers(0), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_archive_is_refused_or_tells_the_same(
    bundle: Path, filled: Site, tmp_path: Path, place: int, value: int, cut: bool
) -> None:
    data = bundle.read_bytes()
    place %= len(data)
    path = tmp_path / "damaged.zip"
    path.write_bytes(data[:place] + (b"" if cut else bytes([value]) + data[place + 1 :]))
    assert tells_the_same_or_nothing(path, bundle, filled)


def tells_the_same_or_nothing(damaged_bundle: Path, sound: Path, filled: Site) -> bool:
    """Whether a bundle is refused, or is found wrong, or has the entries that the log signed."""
    try:
        report = verify_bundle(damaged_bundle, filled.signer.public)
    except FiduciaryError:
        return True
    expected = verify_bundle(sound, filled.signer.public)
    same = (report.entries, report.root) == (expected.entries, expected.root)
    return expected.ok and (same or not report.ok)


# --- bounds ---------------------------------------------------------------------------------------


def a_name(length: int) -> object:
    key = SigningKey.from_seed("n" * length, bytes(32))
    return VerifyKey.parse(key.public.encoded())


def a_verifier_key(length: int) -> object:
    return VerifyKey.parse(LOG.public.encoded().ljust(length))


def a_note(size: int) -> object:
    rest = sign_note("\n", LOG)
    return Note.parse(sign_note("x" * (size - len(rest.encode())) + "\n", LOG))


def a_note_of_signatures(count: int) -> object:
    text, _, line = NOTE.rpartition("\n\n")
    return Note.parse(f"{text}\n\n" + line * count)


def a_tree_size(size: int) -> object:
    return Checkpoint.parse_text(Checkpoint("a", size, bytes(32)).text())


def a_path(length: int) -> object:
    return Proof.parse(replace(PROOF, path=(bytes(32),) * length).encoded())


def a_proof(characters: int) -> object:
    text = PROOF.encoded()
    return Proof.parse(text + "x" * (characters - len(text)))


def a_document(size: int) -> object:
    return parse_canonical(b'"' + b"x" * (size - 2) + b'"')


def an_entry(size: int) -> object:
    """As large as a document may be. Read both ways, which have to agree."""
    data = LEAF.encoded()
    spare = size - len(data)
    data = data.replace(b'"ciphertext":"', b'"ciphertext":"' + b"AAAA" * (spare // 4))
    data = data.replace(b'"key":"', b'"key":"' + b"k" * (spare % 4))
    try:
        return Leaf.parse(data)
    finally:
        try:
            check_leaf(data)
        except MalformedInput:
            assert size > MAX_DOCUMENT_BYTES
        else:
            assert size <= MAX_DOCUMENT_BYTES


def a_depth(levels: int) -> object:
    return parse_canonical(b"[" * levels + b"]" * levels)


def an_actor(length: int) -> object:
    return Leaf.parse(replace(LEAF, actor="a" * length).encoded())


def a_statement(size: int) -> object:
    body = {"x": ""}
    body["x"] = "x" * (size - len(canonical_bytes(body)))
    return SignedStatement.from_json(sign_statement(body, SIGNER).to_json())


def a_statement_of_signatures(count: int) -> object:
    signers = [SigningKey.from_seed("s", bytes([number]) * 32) for number in range(count)]
    return SignedStatement.from_json(sign_statement({}, *signers).to_json())


def a_receipt(size: int) -> object:
    return Receipt.parse(json.dumps(RECEIPT.to_json()).encode().ljust(size))


@pytest.mark.parametrize(
    ("read", "largest"),
    [
        (a_name, MAX_NAME_LENGTH),
        (a_verifier_key, MAX_VERIFIER_KEY_LENGTH),
        (a_note, MAX_NOTE_BYTES),
        (a_note_of_signatures, MAX_SIGNATURES),
        (a_tree_size, MAX_SIZE),
        (a_path, MAX_PATH),
        (a_proof, MAX_PROOF_BYTES),
        (a_document, MAX_DOCUMENT_BYTES),
        (an_entry, MAX_DOCUMENT_BYTES),
        (a_depth, MAX_DEPTH),
        (an_actor, MAX_TEXT),
        (a_statement, MAX_PAYLOAD_BYTES),
        (a_statement_of_signatures, MAX_STATEMENT_SIGNATURES),
        (a_receipt, MAX_RECEIPT_BYTES),
    ],
)
def test_the_largest_that_is_read_and_the_smallest_that_is_not(
    read: Callable[[int], Any], largest: int
) -> None:
    read(largest)
    with pytest.raises(MalformedInput):
        read(largest + 1)


def test_the_largest_longest_key_fits() -> None:
    wide = "\U0001f600" * MAX_NAME_LENGTH
    assert len(SigningKey.from_seed(wide, bytes(32)).public.encoded()) < MAX_VERIFIER_KEY_LENGTH


def test_a_million_lines_are_not_looked_at() -> None:
    with pytest.raises(MalformedInput, match="more than 63 hashes"):
        Proof.parse("c2sp.org/tlog-proof@v1\nindex 0\n" + "A\n" * 1_000_000 + "\n")


def test_what_is_signed_can_be_read() -> None:
    """A note that fits, and whose signatures make it too long, is not signed."""
    text = "x" * (MAX_NOTE_BYTES - 10) + "\n"
    with pytest.raises(MalformedInput, match="more than"):
        sign_note(text, LOG)
    many = [SigningKey.from_seed(f"k{number}", bytes(32)) for number in range(MAX_SIGNATURES)]
    assert len(Note.parse(sign_note("a\n", *many)).signatures) == MAX_SIGNATURES
    with pytest.raises(MalformedInput, match="signers"):
        sign_note("a\n", *many, LOG)
