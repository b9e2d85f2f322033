"""Sealing to a public key: by the RFC, for one key and one `info`, and as it was from the first."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from audit.canonical import canonical_bytes
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed
from audit.hpke import create_private_key, load_private_key, open_with, seal_to

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
DIGEST = "sha256:" + "1" * 64

SEALED_EARLIER = {
    "a release's data key": (
        {"format": "fiduciary.sealed-key/1", "release": DIGEST, "recipient": "desk"},
        bytes(range(32)),
        "cf1293d611f7b03b979b72482d1a7cae08e9f5831982cf4818f1cb2edaf26f4402a4968bfb8c51b2c878a0f9"
        "84ffa05435cdf16e527245e07fd0d1158a496fd0dbbbdc542ffe03747c8ecf1f8393a6fa",
    ),
    "a copy of a subject's data": (
        {"format": "fiduciary.sealed-package/1", "request": "0" * 32, "site": "north"},
        b"a copy",
        "0fac462e058c8abd42fe36cbc5ccbcf32f323852ea0afdc4c0436d09b69dc214105f6f7dfed4c3dbf3c02444"
        "609778452df924c57d6f",
    ),
    "the originals of a record": (
        {"format": "fiduciary.originals/1", "subject": "s"},
        b'[[0, 3, "PERSON", "Zoe"]]',
        "46978cc9f5d21961a670ff415c0fb24d14ac8191002f8ac80153a1482573eb198d1d31a92c11a9dbb3bb866e"
        "789d585666498129d2a55851d0269215762eea0c46eafc42ece11358b5",
    ),
    "a backup's key": (
        {"format": "fiduciary.backup/1"},
        bytes(range(32)),
        "d2e8986b1122a7535559afe0b421343eb35f2495e1bfa3bdcc66fd7d9e9a0e4b335dbc3b48e3bddc4578b78d"
        "d46b5266897541301c866bb2461ff474e287e67b2dc5c6a8e959af24e5a85fa4a83c108a",
    ),
}
"""What the program sealed to `KEY` before 2026-12: `info`, plaintext, sealed."""


def by_the_rfc(private: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    """Open by RFC 9180, sections 4 and 5, written anew; on an HKDF written anew."""

    def extract(salt: bytes, suite: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, hashlib.sha256)

    def expand(key: bytes, suite: bytes, label: bytes, about: bytes, length: int) -> bytes:
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + about
        return hmac.digest(key, labelled + b"\x01", hashlib.sha256)[:length]

    encapsulated, ciphertext = sealed[:32], sealed[32:]
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    agreed = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    context = encapsulated + private.public_key().public_bytes_raw()
    shared = expand(extract(b"", kem, b"eae_prk", agreed), kem, b"shared_secret", context, 32)
    schedule = b"\x00" + extract(b"", suite, b"psk_id_hash", b"")
    schedule += extract(b"", suite, b"info_hash", info)
    secret = extract(shared, suite, b"secret", b"")
    key = expand(secret, suite, b"key", schedule, 32)
    return AESGCM(key).decrypt(expand(secret, suite, b"base_nonce", schedule, 12), ciphertext, b"")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_another_implementation_opens_what_is_sealed(plaintext: bytes, info: bytes) -> None:
    sealed = seal_to(PUBLIC, plaintext, info)
    assert len(sealed) == len(plaintext) + 48
    assert by_the_rfc(KEY, sealed, info) == plaintext == open_with(KEY, sealed, info)


@pytest.mark.parametrize("what", SEALED_EARLIER)
def test_what_was_sealed_earlier_opens(what: str) -> None:
    info, plaintext, sealed = SEALED_EARLIER[what]
    assert open_with(KEY, bytes.fromhex(sealed), canonical_bytes(info)) == plaintext
    assert by_the_rfc(KEY, bytes.fromhex(sealed), canonical_bytes(info)) == plaintext


def test_it_opens_for_one_key_and_one_info() -> None:
    sealed = seal_to(PUBLIC, b"x", b"a")
    for key, box, info in (
        (X25519PrivateKey.generate(), sealed, b"a"),
        (KEY, sealed, b"b"),
        (KEY, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"a"),
        (KEY, sealed[:47], b"a"),
        (KEY, bytes(49), b"a"),  # an encapsulated key of small order
        (KEY, b"", b"a"),
    ):
        with pytest.raises(VerificationFailed, match="does not open"):
            open_with(key, box, info)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), bytes(33)])
def test_a_key_that_cannot_be_used_is_refused(public: bytes) -> None:
    with pytest.raises(MalformedInput, match="not a usable X25519 key of 32 bytes"):
        seal_to(public, b"x", b"")


def test_a_private_key_is_written_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made = create_private_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_private_key(path).private_bytes_raw() == made.private_bytes_raw()
    with pytest.raises(Conflict, match="exists already"):
        create_private_key(path)
    with pytest.raises(NotFound, match="no folder"):
        create_private_key(tmp_path / "none" / "key.pem")


def test_a_file_without_such_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(NotFound, match="cannot read the key") as caught:
        load_private_key(path, fix="make one")
    assert caught.value.fix == "make one"
    path.write_text("no key")
    with pytest.raises(MalformedInput, match="not PKCS #8 PEM"):
        load_private_key(path)
    other = Ed25519PrivateKey.generate()
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(MalformedInput, match="not X25519"):
        load_private_key(path)
