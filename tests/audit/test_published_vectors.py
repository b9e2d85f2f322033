"""Test vectors from the specifications and from other implementations' own tests."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from audit.canonical import canonical_bytes, parse_canonical
from audit.checkpoint import Checkpoint, read_checkpoint, sign_checkpoint, verify_checkpoint
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from audit.merkle import hash_leaf, verify_consistency, verify_inclusion
from audit.note import Note, sign_note
from audit.proof import Proof
from audit.statement import pre_authentication_encoding
from tests.audit.generate_vectors import PROBES
from tests.audit.vectors import (
    C2SP_CHECKPOINT,
    C2SP_COSIGNATURE,
    C2SP_COSIGNATURE_TIME,
    C2SP_KEY,
    C2SP_NOTE,
    C2SP_POEM,
    C2SP_PROOF_EXTRA,
    C2SP_PROOF_INDEX,
    C2SP_PROOF_PATH,
    DSSE_HELLO_PAYLOAD,
    DSSE_HELLO_POINT,
    DSSE_HELLO_SIGNATURE,
    DSSE_HELLO_TYPE,
    ENOCH_KEY,
    GO_KEY,
    GO_NOTE,
    GO_TEXT,
    GO_TWO_SIGNATURES,
    JCS_FILES,
    RFC8032,
)

# --- RFC 6962: the probes of transparency-dev/merkle ----------------------------------------------

PROBE_VECTORS: dict[str, Any] = json.loads(PROBES.read_text("utf-8"))
HASHES = [bytes.fromhex(item) for item in PROBE_VECTORS["hashes"]]

STRICTER = {"additional/sizes-are-equal-one-and-proof-is-empty"}
"""Its roots have 12 bytes. They are equal, but they are no SHA-256."""


def test_all_probes_are_here() -> None:
    assert len(PROBE_VECTORS["inclusion"]) == len(PROBE_VECTORS["consistency"]) == 98
    sound = [row[-1] for kind in ("inclusion", "consistency") for row in PROBE_VECTORS[kind]]
    assert sound.count(True) == 12


@pytest.mark.parametrize("probe", PROBE_VECTORS["inclusion"], ids=lambda probe: probe[0])
def test_inclusion_probe(probe: list[Any]) -> None:
    _, index, size, leaf, root, path, sound = probe
    claim = (HASHES[leaf], index, size, [HASHES[item] for item in path], HASHES[root])
    if sound:
        verify_inclusion(*claim)
    else:
        with pytest.raises(VerificationFailed):
            verify_inclusion(*claim)


@pytest.mark.parametrize("probe", PROBE_VECTORS["consistency"], ids=lambda probe: probe[0])
def test_consistency_probe(probe: list[Any]) -> None:
    name, first, second, first_root, second_root, path, sound = probe
    roots = (HASHES[first_root], HASHES[second_root])
    claim = (first, second, *roots, [HASHES[item] for item in path])
    if sound and name not in STRICTER:
        verify_consistency(*claim)
    else:
        with pytest.raises(VerificationFailed):
            verify_consistency(*claim)


# --- C2SP signed-note -----------------------------------------------------------------------------


def test_the_example_of_signed_note() -> None:
    key = VerifyKey.parse(C2SP_KEY)
    assert key.encoded() == C2SP_KEY
    note = Note.parse(C2SP_NOTE)
    assert note.verify([key]) == (key,)
    assert note.encoded() == C2SP_NOTE
    with pytest.raises(VerificationFailed):
        Note.parse(C2SP_NOTE.replace("example message", "example massage")).verify([key])


def test_the_poem_of_signed_note() -> None:
    note = Note.parse(C2SP_POEM)
    assert note.text.endswith("\n\ned è subito sera.\n")
    assert [item.name for item in note.signatures] == ["quasimodo.example/salvatore"]
    assert note.encoded() == C2SP_POEM


def test_two_keys_of_go() -> None:
    peter, enoch = VerifyKey.parse(GO_KEY), VerifyKey.parse(ENOCH_KEY)
    note = Note.parse(GO_TWO_SIGNATURES)
    assert note.encoded() == GO_TWO_SIGNATURES
    assert note.verify([enoch, peter]) == (peter, enoch)
    assert note.verify([enoch]) == (enoch,)
    # Go's example makes Enoch's key from a reader of zeroes, and adds his signature to Peter's.
    made = SigningKey.from_seed("EnochRoot", bytes(32))
    assert made.public == enoch
    assert GO_NOTE + sign_note(GO_TEXT, made).rpartition("\n\n")[2] == GO_TWO_SIGNATURES


# --- C2SP tlog-checkpoint, tlog-cosignature, tlog-proof -------------------------------------------


def test_the_example_of_tlog_checkpoint() -> None:
    checkpoint = read_checkpoint(C2SP_CHECKPOINT)
    assert checkpoint.origin == "example.com/behind-the-sofa"
    assert checkpoint.size == 20852163
    assert C2SP_CHECKPOINT.startswith(checkpoint.text() + "\n— example.com/behind-the-sofa Az3g")
    assert Note.parse(C2SP_CHECKPOINT).encoded() == C2SP_CHECKPOINT


def test_the_example_of_tlog_cosignature_is_a_note() -> None:
    note = Note.parse(C2SP_CHECKPOINT + C2SP_COSIGNATURE)
    assert note.encoded() == C2SP_CHECKPOINT + C2SP_COSIGNATURE
    cosignature = note.signatures[1]
    assert cosignature.name == "witness.example.com/w1"
    assert len(cosignature.signature) == 8 + 64
    assert int.from_bytes(cosignature.signature[:8], "big") == C2SP_COSIGNATURE_TIME


def test_a_log_key_ignores_cosignatures_beside_its_own() -> None:
    key = SigningKey.from_seed("example.com/behind-the-sofa", bytes(32))
    checkpoint = read_checkpoint(C2SP_CHECKPOINT)
    cosigned = sign_checkpoint(checkpoint, key) + C2SP_COSIGNATURE
    assert verify_checkpoint(cosigned, key.public, checkpoint.origin) == checkpoint


def test_a_go_tree_with_extension_lines() -> None:
    """golang.org/x/mod/sumdb/tlog's FormatTree and ParseTree, whose origin is fixed."""
    text = "go.sum database tree\n123456789012\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n"
    expected = Checkpoint("go.sum database tree", 123456789012, hash_leaf(b"hello world"))
    assert expected.text() == text
    assert Checkpoint.parse_text(text) == expected
    extended = Checkpoint.parse_text(text + "JOE\n" * 1000)
    assert extended.extensions == ("JOE",) * 1000
    assert extended.text() == text + "JOE\n" * 1000
    for malformed in (text + "JOE", text.replace("123456789012", "0xabcdef")):
        with pytest.raises(MalformedInput):
            Checkpoint.parse_text(malformed)


def test_the_example_of_tlog_proof() -> None:
    """Its checkpoint is abridged, so a complete one stands in."""
    lines = "".join(f"{line}\n" for line in C2SP_PROOF_PATH)
    text = (
        f"c2sp.org/tlog-proof@v1\nextra {C2SP_PROOF_EXTRA}\nindex {C2SP_PROOF_INDEX}\n{lines}"
        f"\n{C2SP_CHECKPOINT}"
    )
    proof = Proof.parse(text)
    assert proof.extra == base64.b64decode(C2SP_PROOF_EXTRA)
    assert proof.index == C2SP_PROOF_INDEX
    assert proof.path == tuple(map(base64.b64decode, C2SP_PROOF_PATH))
    assert proof.checkpoint == C2SP_CHECKPOINT
    assert proof.encoded() == text


# --- DSSE, RFC 8785, RFC 8032 ---------------------------------------------------------------------


def test_the_signature_of_dsse_covers_our_encoding() -> None:
    """ECDSA, which we do not use; what matters is what the specification's signature covers."""
    raw = base64.b64decode(DSSE_HELLO_SIGNATURE)
    numbers = EllipticCurvePublicNumbers(*DSSE_HELLO_POINT, SECP256R1())
    numbers.public_key().verify(
        encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")),
        pre_authentication_encoding(DSSE_HELLO_TYPE, DSSE_HELLO_PAYLOAD),
        ECDSA(SHA256()),
    )


@pytest.mark.parametrize(("value", "encoded"), JCS_FILES)
def test_files_of_rfc_8785(value: object, encoded: str) -> None:
    assert canonical_bytes(value) == encoded.encode()
    assert parse_canonical(encoded.encode()) == value


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"), RFC8032, ids=("empty", "one", "two", "sha")
)
def test_signatures_of_rfc_8032(
    seed: bytes, public: bytes, message: bytes, signature: bytes
) -> None:
    key = SigningKey.from_seed("test", seed)
    assert key.public.raw == public
    assert key.sign(message) == signature
    key.public.verify(message, signature)
    with pytest.raises(VerificationFailed):
        key.public.verify(message + b"\0", signature)
