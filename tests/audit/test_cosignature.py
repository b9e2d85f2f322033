"""Cosignatures: byte for byte what other witnesses write, and nothing else is one."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from audit.cosignature import (
    MAX_UNIX_SECONDS,
    WitnessKey,
    cosign,
    cosigned_message,
    lines_of,
    only_lines_of,
    verify_cosignature,
    with_lines,
)
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from audit.note import MAX_SIGNATURES, Note, NoteSignature
from audit.statement import sign_statement

# https://c2sp.org/tlog-cosignature: the example of the specification. It publishes no verifier key,
# so what can be checked is how the line is read, and its time against the example of the message.
SPECIFICATION_NOTE = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501
SPECIFICATION_MESSAGE = b"""\
cosignature/v1
time 1679315147
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
"""

# A head of the public log Arche 2025h1 (staging) of May 2026, as its witnesses cosigned it, and
# the keys that log and witnesses publish (https://transparency.dev/witnesses).
ARCHE_NOTE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""  # noqa: E501
ARCHE_KEY = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
ARCHE_WITNESSES = (
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "transparency.dev/DEV:witness-little-garden+d8042a87"
    "+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
)

# transparency-dev/tessera, append_lifecycle_test.go: key pairs of test witnesses.
TESSERA_PAIRS = (
    (
        "Wit1+4dd489c8+BDd/u4KCwMnyfkbOqopYZJIGSuMxMnjGav6Pjb9W8Y3c",
        "AVq3ou1kOLb/aTkJLoMwbMULJQNr8EQVGbpyZxMEZMyT",
    ),
    (
        "Wit2+ef71459d+BJ1w/MdWovBzZtRD4pNwmb9SHl1U+hZzCMsgx6MmMJ0L",
        "AXLjVp1/sY1o5exVavpVt8zWIVFAD7ejqaMBU38CoYgg",
    ),
    (
        "Wit3+e1fc6196+BO1XsCjtkV0G56JUYj7n6LykElL1GcNo1BytsQMsRjyZ",
        "AS6qbV1WaGUoVgAz3CajG9iCm1pLZ5eUTKBD6XxJVl5x",
    ),
)

LOG = SigningKey.from_seed("log.test/a", bytes(32))
NORTH = SigningKey.from_seed("hospitals/site/north", bytes([1]) * 32)
SOUTH = SigningKey.from_seed("hospitals/site/south", bytes([2]) * 32)
HEAD = Checkpoint("log.test/a", 7, bytes(range(32)))
NOTE = sign_checkpoint(HEAD, LOG)


def cosigned(seconds: int = 1_700_000_000, key: SigningKey = NORTH, note: str = NOTE) -> str:
    return with_lines(note, [cosign(note, key, seconds)])


# --- what others wrote ----------------------------------------------------------------------------


def test_the_example_of_the_specification_is_read_as_it_says() -> None:
    parsed = Note.parse(SPECIFICATION_NOTE)
    assert parsed.encoded() == SPECIFICATION_NOTE
    line = parsed.signatures[1]
    assert (line.name, line.key_id) == ("witness.example.com/w1", bytes.fromhex("8d66cf3f"))
    assert len(line.signature) == 72
    seconds = int.from_bytes(line.signature[:8], "big")
    assert cosigned_message(parsed.text, seconds) == SPECIFICATION_MESSAGE


@pytest.mark.parametrize("text", ARCHE_WITNESSES)
def test_what_public_witnesses_signed_verifies(text: str) -> None:
    key = WitnessKey.parse(text)
    assert key.encoded() == str(key) == text
    head, seconds = verify_cosignature(ARCHE_NOTE, key)
    assert (head.size, seconds) == (1432088532, 1779573024)
    assert verify_checkpoint(ARCHE_NOTE, VerifyKey.parse(ARCHE_KEY)) == head
    with pytest.raises(VerificationFailed, match=f"signature of {key.name} does not verify"):
        verify_cosignature(ARCHE_NOTE.replace("1432088532", "1432088533"), key)


@pytest.mark.parametrize(("public", "private"), TESSERA_PAIRS)
def test_key_pairs_of_another_implementation_are_ours(public: str, private: str) -> None:
    name = public.partition("+")[0]
    signer = SigningKey.from_seed(name, base64.b64decode(private)[1:])
    assert WitnessKey.of(signer.public).encoded() == public
    assert verify_cosignature(cosigned(5, signer), WitnessKey.parse(public)) == (HEAD, 5)


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, MAX_UNIX_SECONDS),
    st.integers(0, 2**53 - 1),
    st.lists(st.text("abc /+=", min_size=1, max_size=9), max_size=3),
)
def test_an_independent_computation_gives_the_same_bytes(
    seed: bytes, seconds: int, size: int, extensions: list[str]
) -> None:
    """The format once more, from the words of the specification, over raw `cryptography`."""
    head = Checkpoint("log.test/a", size, hashlib.sha256(seed).digest(), tuple(extensions))
    note = sign_checkpoint(head, LOG)
    text = note.rpartition("\n\n")[0] + "\n"
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    key_id = hashlib.sha256(b"w.example/1" + b"\x0a" + b"\x04" + public).digest()[:4]
    message = b"cosignature/v1\ntime " + str(seconds).encode() + b"\n" + text.encode()
    blob = key_id + seconds.to_bytes(8, "big") + private.sign(message)
    line = "— w.example/1 " + base64.b64encode(blob).decode() + "\n"
    vkey = f"w.example/1+{key_id.hex()}+" + base64.b64encode(b"\x04" + public).decode()

    signer = SigningKey.from_seed("w.example/1", seed)
    assert cosign(note, signer, seconds).line() == line
    assert with_lines(note, [cosign(note, signer, seconds)]) == note + line
    assert WitnessKey.of(signer.public).encoded() == vkey
    assert verify_cosignature(note + line, WitnessKey.parse(vkey)) == (head, seconds)


# --- what is none ---------------------------------------------------------------------------------


@given(st.integers(0, 71), st.integers(1, 255))
def test_any_changed_byte_of_a_cosignature_is_noticed(index: int, change: int) -> None:
    line = cosign(NOTE, NORTH, 1_700_000_000)
    blob = bytearray(line.signature)
    blob[index] ^= change
    forged = with_lines(NOTE, [NoteSignature(line.name, line.key_id, bytes(blob))])
    with pytest.raises(VerificationFailed):
        verify_cosignature(forged, WitnessKey.of(NORTH.public))


@pytest.mark.parametrize("length", [1, 8, 63, 64, 71, 73, 2428])
def test_a_blob_of_another_length_is_none(length: int) -> None:
    key = WitnessKey.of(NORTH.public)
    forged = with_lines(NOTE, [NoteSignature(key.name, key.note_id, bytes(length))])
    with pytest.raises(VerificationFailed, match=f"has {length} bytes, expected 72"):
        verify_cosignature(forged, key)


def test_a_time_beyond_the_specification_is_none() -> None:
    key = WitnessKey.of(NORTH.public)
    seconds = 2**63
    signature = NORTH.sign(cosigned_message(HEAD.text(), seconds))
    forged = NoteSignature(key.name, key.note_id, seconds.to_bytes(8, "big") + signature)
    with pytest.raises(VerificationFailed, match="beyond"):
        verify_cosignature(with_lines(NOTE, [forged]), key)
    for wrong in (0, -1, seconds):
        with pytest.raises(MalformedInput, match="time"):
            cosign(NOTE, NORTH, wrong)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    """One key signs checkpoints, statements and cosignatures; each stays what it is."""
    key = WitnessKey.of(NORTH.public)
    assert key.note_id != NORTH.public.note_id
    plain = sign_checkpoint(HEAD, NORTH)
    with pytest.raises(VerificationFailed, match="not cosigned by"):
        verify_cosignature(plain, key)
    with pytest.raises(VerificationFailed):
        verify_checkpoint(cosigned(), NORTH.public)
    # Even under the other's key ID: the signed bytes differ.
    text, when = HEAD.text(), (5).to_bytes(8, "big")
    as_cosignature = NoteSignature(key.name, key.note_id, when + NORTH.sign(text.encode()))
    with pytest.raises(VerificationFailed, match="does not verify"):
        verify_cosignature(with_lines(NOTE, [as_cosignature]), key)
    raw = cosign(NOTE, NORTH, 5).signature[8:]
    as_plain = Note(text, (NoteSignature(NORTH.name, NORTH.public.note_id, raw),)).encoded()
    with pytest.raises(VerificationFailed, match="does not verify"):
        verify_checkpoint(as_plain, NORTH.public)
    statement = sign_statement({"format": "fiduciary.test/1"}, NORTH)
    as_statement = NoteSignature(key.name, key.note_id, when + statement.signatures[0].signature)
    with pytest.raises(VerificationFailed, match="does not verify"):
        verify_cosignature(with_lines(NOTE, [as_statement]), key)


def test_lines_of_others_are_ignored_and_a_wrong_one_of_the_witness_is_not() -> None:
    key = WitnessKey.of(NORTH.public)
    both = cosigned(key=SOUTH, note=cosigned())
    assert verify_cosignature(both, key) == (HEAD, 1_700_000_000)
    with pytest.raises(VerificationFailed, match="not cosigned by hospitals/site/south"):
        verify_cosignature(cosigned(), WitnessKey.of(SOUTH.public))
    stranger = SigningKey.from_seed("hospitals/site/north", bytes([9]) * 32)
    with pytest.raises(VerificationFailed, match="not cosigned by"):
        verify_cosignature(cosigned(key=stranger), key)
    wrong = NoteSignature(key.name, key.note_id, bytes(72))
    with pytest.raises(VerificationFailed, match="does not verify"):
        verify_cosignature(with_lines(cosigned(), [wrong]), key)


def test_the_latest_of_several_times_counts() -> None:
    note = cosigned(7, note=cosigned(9, note=cosigned(8)))
    assert verify_cosignature(note, WitnessKey.of(NORTH.public)) == (HEAD, 9)


@pytest.mark.parametrize(
    "note", ["", "no note", "text\n\n— a AAAA\n", "a\n1\nAA==\n\n— a AAAAAAAA\n"]
)
def test_only_checkpoints_are_cosigned(note: str) -> None:
    with pytest.raises(MalformedInput):
        cosign(note, NORTH, 1)
    with pytest.raises(MalformedInput):
        verify_cosignature(note, WitnessKey.of(NORTH.public))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected name"),
        ("hospitals/site/north", "expected name"),
        ("a+b", "expected name"),
        ("a b+00000000+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", "key name"),
        ("remora.n621.de+da77ade7+BOvN", "3 bytes|2 bytes"),
        ("remora.n621.de+da77ade7+", "not an Ed25519 key"),
        ("remora.n621.de+da77ade8+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", "its hash is"),
        ("remora.n621.dE+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", "its hash is"),
        ("remora.n621.de+da77ade7+BuvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", "not an Ed25519"),
        ("remora.n621.de+da77ade7+*", "not base64"),
    ],
)
def test_malformed_witness_keys(text: str, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        WitnessKey.parse(text)


def test_an_identity_key_names_its_witness() -> None:
    assert WitnessKey.parse(NORTH.public.encoded()) == WitnessKey.of(NORTH.public)


# --- lines ----------------------------------------------------------------------------------------


def test_lines_are_added_once_and_taken_out_again() -> None:
    key = WitnessKey.of(NORTH.public)
    line = cosign(NOTE, NORTH, 5)
    note = with_lines(with_lines(NOTE, [line, line]), [line])
    assert note == NOTE + line.line()
    assert lines_of(note, key) == (line,)
    full = cosigned(key=SOUTH, note=note)
    assert only_lines_of(full, LOG.public, key) == note
    assert only_lines_of(full, LOG.public) == NOTE
    with pytest.raises(VerificationFailed, match="no signature line"):
        only_lines_of(NOTE, key)


def test_no_more_lines_than_a_reader_takes() -> None:
    lines = [
        cosign(NOTE, SigningKey.from_seed(f"w{number}", bytes(32)), 1)
        for number in range(MAX_SIGNATURES + 5)
    ]
    note = with_lines(NOTE, lines)
    assert len(Note.parse(note).signatures) == MAX_SIGNATURES
    assert verify_checkpoint(note, LOG.public) == HEAD
