"""Signed notes, checkpoints and proofs: byte for byte what other implementations write."""

from __future__ import annotations

import base64
import dataclasses
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import (
    Checkpoint,
    parse_decimal,
    read_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from audit.merkle import Frontier, hash_leaf, inclusion_proof
from audit.note import MAX_SIGNATURES, MalformedNote, Note, sign_note
from audit.proof import Proof, verify_proof
from tests.audit.vectors import (
    GO_KEY,
    GO_NOTE,
    GO_PRIVATE_KEY,
    GO_TEXT,
    SUMDB_CHECKPOINT,
    SUMDB_KEY,
    SUMDB_ORIGIN,
)

LOG_KEY = SigningKey.from_seed("log.test/a", bytes(32))
OTHER_KEY = SigningKey.from_seed("log.test/a", bytes([1]) * 32)


def go_signing_key() -> SigningKey:
    seed = base64.b64decode(GO_PRIVATE_KEY.split("+", 4)[4])[1:]
    return SigningKey.from_seed("PeterNeumann", seed)


def a_proof(size: int = 5, index: int = 3) -> Proof:
    frontier, hashes = Frontier(), {}
    for number in range(size):
        frontier, nodes = frontier.append(hash_leaf(b"leaf %d" % number))
        hashes.update({(level, i): value for level, i, value in nodes})
    note = sign_checkpoint(Checkpoint("log.test/a", size, frontier.root()), LOG_KEY)
    path = inclusion_proof(lambda level, i: hashes[level, i], index, size)
    return Proof(index, path, note, b"leaf %d" % index)


# --- notes ----------------------------------------------------------------------------------------


def test_go_signs_and_reads_the_same_note() -> None:
    assert sign_note(GO_TEXT, go_signing_key()) == GO_NOTE
    note = Note.parse(GO_NOTE)
    assert note.text == GO_TEXT
    assert note.encoded() == GO_NOTE
    assert note.verify([VerifyKey.parse(GO_KEY)])[0].name == "PeterNeumann"


def test_unknown_signatures_are_ignored_and_wrong_ones_are_not() -> None:
    note = Note.parse(sign_note(GO_TEXT, go_signing_key(), LOG_KEY))
    go = VerifyKey.parse(GO_KEY)
    assert note.verify([go]) == (go,)
    assert note.verify([LOG_KEY.public, go]) == (go, LOG_KEY.public)
    wrong = dataclasses.replace(note.signatures[1], signature=bytes(64))
    spoiled = Note(note.text, (note.signatures[0], wrong))
    assert spoiled.verify([go]) == (go,)
    with pytest.raises(VerificationFailed):
        spoiled.verify([go, LOG_KEY.public])


def test_somebody_else_of_the_same_name() -> None:
    with pytest.raises(VerificationFailed, match="another key of the name"):
        Note.parse(sign_note("text\n", LOG_KEY)).verify([OTHER_KEY.public])


def test_the_text_may_contain_empty_lines() -> None:
    text = "a\n\n\nb\n\n"
    assert Note.parse(sign_note(text, LOG_KEY)).text == text


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        "text",
        "text\n",
        "text\n\n",
        GO_NOTE[:-1],
        GO_NOTE + "\n",
        GO_NOTE + "x\n",
        GO_NOTE.replace("\n\n", "\n"),
        GO_NOTE.replace("—", "-"),
        GO_NOTE.replace("— ", "—  "),
        GO_NOTE.replace("PeterNeumann ", "PeterNeumann"),
        GO_NOTE.replace("PeterNeumann ", "Peter+Neumann "),
        GO_NOTE.replace("PeterNeumann ", "Peter\u00a0Neumann "),
        GO_NOTE.replace("x08g", "x08"),
        GO_NOTE.replace("nAM=", "nAN="),
        GO_NOTE.replace("problem,", "problem\r,"),
        GO_NOTE.replace("problem,", "problem\t,"),
        GO_NOTE.replace("problem,", "problem\ud800,"),
        "text\n\n— name AAAA\n",
        "text\n\n" + "— name AAAAAAA=\n" * (MAX_SIGNATURES + 1),
        "x" * 1_000_001 + GO_NOTE,
    ],
)
def test_malformed_notes(note: str) -> None:
    with pytest.raises(MalformedInput):
        Note.parse(note)


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\ud800\n"])
def test_texts_that_cannot_be_signed(text: str) -> None:
    with pytest.raises(MalformedNote):
        sign_note(text, LOG_KEY)
    with pytest.raises(MalformedNote):
        sign_note("text\n")


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_of_the_go_checksum_database() -> None:
    key = VerifyKey.parse(SUMDB_KEY)
    checkpoint = verify_checkpoint(SUMDB_CHECKPOINT, key, SUMDB_ORIGIN)
    assert checkpoint.size == 20852163
    assert checkpoint.text() + "\n" == SUMDB_CHECKPOINT.partition("—")[0]
    with pytest.raises(VerificationFailed):
        verify_checkpoint(SUMDB_CHECKPOINT, key, "another log")
    with pytest.raises(VerificationFailed):
        verify_checkpoint(SUMDB_CHECKPOINT.replace("20852163", "20852164"), key)


def test_checkpoint_round_trip() -> None:
    checkpoint = Checkpoint("log.test/a", 7, bytes(range(32)), ("extension", "more"))
    note = sign_checkpoint(checkpoint, LOG_KEY)
    assert verify_checkpoint(note, LOG_KEY.public, "log.test/a") == checkpoint
    assert read_checkpoint(note) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n",
        "origin\n1\n",
        "origin\n1\n\n",
        "\n1\nAAAA\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
        "origin\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n+1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n1 \nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n\u0661\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n9007199254740992\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\next\n",
    ],
)
def test_malformed_checkpoints(text: str) -> None:
    with pytest.raises(MalformedInput):
        Checkpoint.parse_text(text)


def test_decimals() -> None:
    assert parse_decimal("0", "number") == 0
    assert parse_decimal("9007199254740991", "number") == 2**53 - 1


# --- proofs ---------------------------------------------------------------------------------------


def test_the_layout_of_a_proof() -> None:
    """As transparency-dev/merkle marshals them."""
    first, second = sha256(b"hash1").digest(), sha256(b"hash2").digest()
    lines = (base64.b64encode(first).decode(), base64.b64encode(second).decode())
    assert Proof(5, (first, second), "test checkpoint\n").encoded() == (
        f"c2sp.org/tlog-proof@v1\nindex 5\n{lines[0]}\n{lines[1]}\n\ntest checkpoint\n"
    )
    assert Proof(10, (first,), "checkpoint data\n", b"extra information").encoded() == (
        "c2sp.org/tlog-proof@v1\nextra ZXh0cmEgaW5mb3JtYXRpb24=\nindex 10\n"
        f"{lines[0]}\n\ncheckpoint data\n"
    )
    assert Proof(0, (), "checkpoint\n").encoded() == (
        "c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_proofs_verify(size: int) -> None:
    for index in range(size):
        proof = a_proof(size, index)
        assert Proof.parse(proof.encoded()) == proof
        checkpoint = verify_proof(proof, LOG_KEY.public, origin="log.test/a")
        assert checkpoint.size == size
        bare = dataclasses.replace(proof, extra=None)
        verify_proof(bare, LOG_KEY.public, leaf=b"leaf %d" % index)
        with pytest.raises(VerificationFailed):
            verify_proof(bare, LOG_KEY.public, leaf=b"another leaf")
        with pytest.raises(MalformedInput):
            verify_proof(bare, LOG_KEY.public)
        with pytest.raises(VerificationFailed):
            verify_proof(proof, OTHER_KEY.public)
        with pytest.raises(VerificationFailed):
            verify_proof(proof, LOG_KEY.public, origin="log.test/b")


HASH_LINE = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wrong-header\nindex 0\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nextra AAAA\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nextra !!\nindex 0\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nindex x\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nindex -5\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nindex 05\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nindex 0\n!!\n\ncheckpoint\n",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{base64.b64encode(bytes(64)).decode()}\n\ncheckpoint\n",
        "c2sp.org/tlog-proof@v1\nindex 0\n" + f"{HASH_LINE}\n" * 64 + "\ncheckpoint\n",
        f"c2sp.org/tlog-proof@v1\r\nindex 0\n{HASH_LINE}\n\ncheckpoint\n",
    ],
)
def test_malformed_proofs(text: str) -> None:
    with pytest.raises(MalformedInput):
        Proof.parse(text)


def test_a_proof_without_a_checkpoint() -> None:
    with pytest.raises(MalformedInput):
        verify_proof(
            Proof.parse("c2sp.org/tlog-proof@v1\nindex 0\n\nx\n"), LOG_KEY.public, leaf=b""
        )


@given(st.text(alphabet="c2sp.org/tlog-proof@v1\nindexAZ=+— 019", max_size=200))
def test_reading_raises_malformed_input_only(text: str) -> None:
    for read in (Note.parse, Checkpoint.parse_text, read_checkpoint, Proof.parse, VerifyKey.parse):
        try:
            read(text)
        except MalformedInput:
            continue


@given(st.binary(max_size=300))
def test_reading_bytes_raises_malformed_input_only(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for read in (Note.parse, Checkpoint.parse_text, read_checkpoint, Proof.parse, VerifyKey.parse):
        try:
            read(text)
        except MalformedInput:
            continue


@given(st.data())
def test_any_flipped_bit_of_a_proof_is_noticed(data: st.DataObject) -> None:
    text = bytearray(a_proof().encoded().encode())
    bit = data.draw(st.integers(0, len(text) * 8 - 1))
    text[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FiduciaryError):
        verify_proof(Proof.parse(text.decode("utf-8", "surrogateescape")), LOG_KEY.public)
