"""Named Ed25519 keys: Go's verifier keys, files that stay private, strict parsing."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from audit.encoding import decode_base64
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from tests.audit.vectors import (
    DSSE_PUBLIC,
    DSSE_SEED,
    GO_KEY,
    GO_UNKNOWN_ALGORITHM_KEY,
    GO_WRONG_LENGTH_KEY,
    SUMDB_KEY,
)


@pytest.mark.parametrize("text", [GO_KEY, SUMDB_KEY])
def test_verifier_keys_of_go(text: str) -> None:
    assert VerifyKey.parse(text).encoded() == text


def test_rfc_8032_key() -> None:
    key = SigningKey.from_seed("test", DSSE_SEED)
    assert key.public.raw == DSSE_PUBLIC
    assert key.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+c74f20a3",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        GO_KEY.replace("c74f20a3", "c74f20a4"),
        GO_KEY.replace("PeterNeumann", "PeterNewmann"),
        GO_KEY.replace("PeterNeumann", "Peter Neumann"),
        GO_KEY[:-1],
        GO_KEY + "A",
        GO_KEY.replace("+AR", "+AQ"),
        GO_WRONG_LENGTH_KEY,
        GO_UNKNOWN_ALGORITHM_KEY,
        GO_KEY.replace("PeterNeumann", "\ud800"),
    ],
)
def test_mangled_verifier_keys(text: str) -> None:
    with pytest.raises(MalformedInput):
        VerifyKey.parse(text)


@given(st.integers(0, len(GO_KEY) - 1), st.characters())
def test_any_changed_character_is_noticed(position: int, character: str) -> None:
    text = GO_KEY[:position] + character + GO_KEY[position + 1 :]
    if text == GO_KEY or text.strip() == GO_KEY:
        return
    with pytest.raises(MalformedInput):
        VerifyKey.parse(text)


def test_key_file_round_trip_and_mode(tmp_path: Path) -> None:
    key = SigningKey.generate("fiduciary.test/site/north")
    path = tmp_path / "identity.pem"
    key.save(path)
    loaded = SigningKey.load(path)
    assert loaded.public == key.public
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["identity.pem"]


def test_a_key_file_is_plain_pkcs8(tmp_path: Path) -> None:
    key = SigningKey.generate("north")
    key.save(tmp_path / "key.pem")
    private = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    assert (
        private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        == key.public.raw
    )


def test_a_signing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    first = SigningKey.generate("north")
    first.save(path)
    with pytest.raises(Conflict):
        SigningKey.generate("north").save(path)
    assert SigningKey.load(path).public == first.public


def test_files_that_are_no_signing_key(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        SigningKey.load(tmp_path / "none.pem")
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for name, data in {
        "bytes.pem": b"\xff\xfe",
        "empty.pem": b"",
        "junk.pem": b"Key-Name: north\n-----BEGIN PRIVATE KEY-----\nAAAA\n",
        "p256.pem": b"Key-Name: north\n" + other,
        "badname.pem": b"Key-Name: a b\n" + other,
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MalformedInput):
            SigningKey.load(tmp_path / name)


def test_a_foreign_key_file_needs_a_name(tmp_path: Path) -> None:
    key = SigningKey.generate("north")
    key.save(tmp_path / "key.pem")
    text = (tmp_path / "key.pem").read_text().partition("\n")[2]
    (tmp_path / "bare.pem").write_text(text)
    with pytest.raises(MalformedInput):
        SigningKey.load(tmp_path / "bare.pem")
    assert SigningKey.load(tmp_path / "bare.pem", "north").public == key.public


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "\x01", "x" * 201])
def test_names_that_a_note_cannot_hold(name: str) -> None:
    with pytest.raises(MalformedInput):
        SigningKey.generate(name)


def test_wrong_signatures() -> None:
    key, other = SigningKey.generate("a"), SigningKey.generate("a")
    signature = key.sign(b"message")
    key.public.verify(b"message", signature)
    for verifier, message, raw in (
        (key.public, b"massage", signature),
        (other.public, b"message", signature),
        (key.public, b"message", signature[:-1]),
        (key.public, b"message", b""),
    ):
        with pytest.raises(VerificationFailed):
            verifier.verify(message, raw)


def test_seeds_have_32_bytes() -> None:
    with pytest.raises(MalformedInput):
        SigningKey.from_seed("a", b"short")
    with pytest.raises(MalformedInput):
        VerifyKey("a", b"short")


def test_a_private_key_is_not_shown() -> None:
    key = SigningKey.from_seed("a", DSSE_SEED)
    assert "private" not in repr(key).lower()


@pytest.mark.parametrize(
    "text", ["AB==", "A", "AA=", "AA==\n", "A A==", "-_-_", "\u0410A==", "AA==AA=="]
)
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(MalformedInput):
        decode_base64(text)


@given(st.binary(max_size=80))
def test_base64_round_trip(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data
