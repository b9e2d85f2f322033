"""Inputs that break one rule each, with the one message that says which."""

from __future__ import annotations

import base64
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from audit.bundle import (
    COSIGNATURES,
    ENTRIES,
    MANIFEST,
    MAX_LINE_BYTES,
    MAX_SMALL_BYTES,
    MalformedBundle,
    Manifest,
    open_bundle,
    open_bundle_source,
)
from audit.canonical import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    canonical_bytes,
    parse_canonical,
    parse_canonical_object,
)
from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.cosignature import WitnessKey, cosign
from audit.encoding import decode_base64
from audit.envelope import Envelope
from audit.keys import SigningKey, VerifyKey, check_key_name
from audit.leaf import Leaf, format_time
from audit.merkle import hash_leaf
from audit.note import MAX_NOTE_BYTES, MAX_SIGNATURES, Note, sign_note
from audit.proof import MAX_PROOF_BYTES, Proof, verify_proof
from audit.receipt import MAX_RECEIPT_BYTES, Receipt
from audit.statement import MAX_PAYLOAD_BYTES, SignedStatement, sign_statement

LOG = SigningKey.from_seed("log.test/a", bytes(32))
SIGNER = SigningKey.from_seed("site:north", bytes([1]) * 32)
STATEMENT = sign_statement({"format": "fiduciary.erasure/1", "records": 3}, SIGNER)
LEAF = Leaf(
    0,
    "2026-01-31T12:00:00.000Z",
    "site:north",
    "subject.erased",
    STATEMENT.log_object,
    "0123456789abcdef",
    "action:subject.erased:2026-01",
    Envelope(bytes(12), bytes(40)),
)
NOTE = sign_checkpoint(Checkpoint("log.test/a", 1, hash_leaf(LEAF.encoded())), LOG)
PROOF = Proof(0, (), NOTE, LEAF.encoded())
RECEIPT = Receipt(STATEMENT, LEAF.encoded(), PROOF.encoded())
COSIGNED = NOTE + cosign(NOTE, SIGNER, 1769860800).line()
WITNESS = WitnessKey.of(SIGNER.public)
MANIFEST_OF_ONE = Manifest("whole", "log.test/a", LOG.public.encoded(), "fiduciary.log/1", 1, 1, 0)


@dataclass(frozen=True)
class Malformed:
    """One rule broken.

    Attributes:
        read: Reads the input; may write files into the folder that it is given.
        message: What the error says, all of it.
    """

    read: Callable[[Path], object]
    message: str


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def note(old: str, new: str, message: str) -> Malformed:
    text = NOTE.replace(old, new)
    return Malformed(lambda _: Note.parse(text), message)


def checkpoint(text: str, message: str) -> Malformed:
    return Malformed(lambda _: Checkpoint.parse_text(text), message)


def proof(text: str, message: str) -> Malformed:
    return Malformed(lambda _: Proof.parse(text), message)


def canonical(data: bytes, message: str) -> Malformed:
    return Malformed(lambda _: parse_canonical(data), f"malformed canonical JSON: {message}")


def unwritable(value: object, message: str) -> Malformed:
    return Malformed(lambda _: canonical_bytes(value), f"malformed canonical JSON: {message}")


def leaf(message: str, **changes: object) -> Malformed:
    fields = json.loads(LEAF.encoded()) | changes
    return Malformed(
        lambda _: Leaf.parse(canonical_bytes(fields)), f"malformed log entry: {message}"
    )


def statement(message: str, **changes: object) -> Malformed:
    value = STATEMENT.to_json() | changes
    return Malformed(lambda _: SignedStatement.from_json(value), message)


def signature(message: str, **changes: object) -> Malformed:
    value: dict[str, Any] = STATEMENT.to_json()["signatures"][0] | changes
    return statement(f"malformed signature: {message}", signatures=[value])


def receipt(message: str, **changes: object) -> Malformed:
    data = json.dumps(RECEIPT.to_json() | changes).encode()
    return Malformed(lambda _: Receipt.parse(data), message)


def vkey(text: str, message: str) -> Malformed:
    return Malformed(lambda _: VerifyKey.parse(text), message)


def witness(text: str, message: str) -> Malformed:
    return Malformed(lambda _: WitnessKey.parse(text), message)


def key_file(name: str, data: bytes, message: str) -> Malformed:
    def read(folder: Path) -> SigningKey:
        (folder / name).write_bytes(data)
        return SigningKey.load(folder / name)

    return Malformed(read, f"malformed signing key {name}: {message}")


def manifest(message: str, **changes: object) -> Malformed:
    fields = json.loads(MANIFEST_OF_ONE.encoded()) | changes
    return Malformed(
        lambda _: Manifest.parse(canonical_bytes(fields)), f"malformed bundle: {message}"
    )


def bundle(message: str, read: Callable[[Any], object], *members: tuple[str, bytes]) -> Malformed:
    """A bundle of a manifest and some members; `read` is given the open bundle."""

    def opened(folder: Path) -> object:
        with warnings.catch_warnings(), zipfile.ZipFile(folder / "bundle.zip", "w") as archive:
            warnings.simplefilter("ignore", UserWarning)  # of a member that appears twice
            for name, data in ((MANIFEST, MANIFEST_OF_ONE.encoded()), *members):
                archive.writestr(name, data, zipfile.ZIP_DEFLATED)
        with open_bundle(folder / "bundle.zip") as made:
            return read(made)

    return Malformed(opened, f"malformed bundle: {message}")


def no_archive(folder: Path) -> None:
    (folder / "bundle.zip").write_bytes(b"PK")
    with open_bundle(folder / "bundle.zip"):
        pass


def chosen_entries(folder: Path) -> None:
    path = folder / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, replace(MANIFEST_OF_ONE, kind="selection").encoded())
    try:
        with open_bundle_source(path):
            pass
    except MalformedBundle as error:
        error.args = (str(error).replace(str(folder), "FOLDER"),)
        raise


def _p256() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


VKEY = LOG.public.encoded()
WKEY = WITNESS.encoded()
ROOT = b64(bytes(32))
SIG = STATEMENT.to_json()["signatures"]
HEAD = "c2sp.org/tlog-proof@v1\n"

RULES: tuple[Malformed, ...] = (
    # base64
    Malformed(lambda _: decode_base64("A", "hash"), "malformed hash: not base64"),
    Malformed(
        lambda _: decode_base64("AB==", "hash"),
        "malformed hash: not the canonical base64 of its bytes",
    ),
    # key names and keys
    Malformed(lambda _: check_key_name(""), "malformed key name: expected 1 to 200 characters"),
    Malformed(
        lambda _: check_key_name("a b"),
        "malformed key name: holds a space, a plus or a control character",
    ),
    Malformed(lambda _: check_key_name("\ud800"), "malformed key name: lone surrogate"),
    Malformed(lambda _: VerifyKey("a", b"short"), "malformed key: expected 32 bytes, got 5"),
    Malformed(
        lambda _: SigningKey.from_seed("a", b"short"), "malformed seed: expected 32 bytes, got 5"
    ),
    vkey(" " * 1001, "malformed verifier key: more than 1000 characters"),
    vkey("name+00000000", "malformed verifier key: expected name+hash+base64"),
    vkey(VKEY[:-1] + "!", "malformed verifier key: not base64"),
    vkey(
        VKEY.replace("+AT", "+ZT"),
        "malformed verifier key: not an Ed25519 key of signed-note type 1",
    ),
    vkey(
        VKEY.replace("log.test/a", "log.test/b"),
        f"malformed verifier key: its hash is"
        f" {replace(LOG.public, name='log.test/b').note_id.hex()}, the text says"
        f" {LOG.public.note_id.hex()}",
    ),
    key_file("bytes.pem", b"\xff\xfe", "not PEM text"),
    key_file("nameless.pem", b"-----BEGIN PRIVATE KEY-----\n", "no 'Key-Name:' line"),
    key_file("junk.pem", b"Key-Name: a\n-----BEGIN PRIVATE KEY-----\n", "not PKCS #8 PEM"),
    key_file(  # Ed25519's object identifier with one bit changed: an algorithm that nobody knows
        "unknown.pem",
        b"Key-Name: a\n-----BEGIN PRIVATE KEY-----\n"
        b"MC4CAQAwBQYD/2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n"
        b"-----END PRIVATE KEY-----\n",
        "not PKCS #8 PEM",
    ),
    key_file("p256.pem", b"Key-Name: a\n" + _p256(), "not Ed25519"),
    # notes
    note("\n\n", "\n", "malformed note: no empty line between text and signatures"),
    note(NOTE, "text\n\n", "malformed note: it does not end in a signature line"),
    note("\u2014", "-", "malformed note: a signature line does not start with an em dash"),
    note(
        "\u2014 log.test/a ",
        "\u2014 log.test/a",
        "malformed note: a signature line lacks a name or a signature",
    ),
    note(NOTE, "a\n\n\u2014 a AAAA\n", "malformed note: a signature is shorter than five bytes"),
    note(
        "\u2014 log.test/a",
        "\u2014 log+test/a",
        "malformed note: malformed key name: holds a space, a plus or a control character",
    ),
    note(
        "\u2014 log.test/a ", "\u2014 a !", "malformed note: malformed note signature: not base64"
    ),
    note("log.test", "log\t.test", "malformed note: control character"),
    note("log.test", "log\ud800.test", "malformed note: lone surrogate"),
    note("log.test", "l" * MAX_NOTE_BYTES, "malformed note: more than 1000000 bytes"),
    Malformed(
        lambda _: Note.parse(NOTE + NOTE.splitlines(keepends=True)[-1] * MAX_SIGNATURES),
        "malformed note: more than 100 signatures",
    ),
    Malformed(
        lambda _: sign_note("no newline", LOG),
        "malformed note: its text does not end in a newline",
    ),
    Malformed(lambda _: sign_note("a\n"), "malformed note: expected 1 to 100 signers"),
    # checkpoints
    checkpoint("a\n1\n", "malformed checkpoint: expected origin, size and root lines"),
    checkpoint(f"\n1\n{ROOT}\n", "malformed checkpoint: empty line"),
    checkpoint("a\n1\n!\n", "malformed checkpoint: malformed root hash: not base64"),
    checkpoint("a\n1\nAAAA\n", "malformed checkpoint: root hash of 3 bytes"),
    checkpoint(f"a\n01\n{ROOT}\n", "malformed tree size: '01' is no decimal number"),
    checkpoint(
        f"a\n9007199254740992\n{ROOT}\n",
        "malformed tree size: 9007199254740992 is beyond 2**53 - 1",
    ),
    # cosignatures
    Malformed(lambda _: cosign(NOTE, SIGNER, 0), "malformed cosignature time: 0"),
    witness(" " * 1001, "malformed witness key: more than 1000 characters"),
    witness("name+00000000", "malformed witness key: expected name+hash+base64"),
    witness(
        "name+00000000+" + b64(b"\x04" + bytes(31)),
        "malformed witness key: 31 bytes, expected 32",
    ),
    witness(
        WKEY.replace(WITNESS.note_id.hex(), "00000000"),
        f"malformed witness key: its hash is {WITNESS.note_id.hex()}, the text says 00000000",
    ),
    # proofs
    proof("x" * (MAX_PROOF_BYTES + 1), f"malformed proof: more than {MAX_PROOF_BYTES} characters"),
    proof(HEAD, "malformed proof: no empty line before the checkpoint"),
    proof("v2\n\n", f"malformed proof: the first line is not {HEAD.strip()}"),
    proof(HEAD + "\n\n", "malformed proof: no index line"),
    proof(HEAD + "index x\n\n", "malformed proof: malformed index: 'x' is no decimal number"),
    proof(HEAD + "extra !\nindex 0\n\n", "malformed proof: malformed extra data: not base64"),
    proof(HEAD + "index 0\n" + f"{ROOT}\n" * 64 + "\n", "malformed proof: more than 63 hashes"),
    proof(HEAD + "index 0\nAAAA\n\n", "malformed proof: a hash does not have 32 bytes"),
    Malformed(
        lambda _: verify_proof(replace(PROOF, extra=None), LOG.public),
        "the proof does not carry its entry",
    ),
    # canonical JSON
    canonical(b" " * (MAX_DOCUMENT_BYTES + 1), f"more than {MAX_DOCUMENT_BYTES} bytes"),
    canonical(b'"\xff"', "not UTF-8"),
    canonical(b"[" * 100_000, "nested too deeply"),
    canonical(b"[" * 65 + b"]" * 65, f"more than {MAX_DEPTH} levels"),
    canonical(b"nul", "Expecting value: line 1 column 1 (char 0)"),
    canonical(b"1.5", "number with a fraction or exponent: 1.5"),
    canonical(b"NaN", "NaN is not JSON"),
    canonical(b"1" * 5000, "integer beyond 2**53 - 1"),
    canonical(b'"\\ud800"', "lone surrogate in a string"),
    canonical(
        b'{"a":1,"a":1}',
        "white space, key order, a duplicate key or an escape differs from the canonical form",
    ),
    unwritable({1: 2}, "key of type int"),
    unwritable(0.5, "float has no canonical form"),
    Malformed(
        lambda _: canonical_bytes([2**53]), "malformed canonical JSON: integer beyond 2**53 - 1"
    ),
    Malformed(
        lambda _: parse_canonical_object(b"[]"), "malformed canonical JSON: expected an object"
    ),
    # log entries
    leaf("fields: 1 unknown", odd=1),
    leaf("format is not fiduciary.log-entry/1", format="fiduciary.log-entry/2"),
    leaf("position is not a count", position=-1),
    leaf("actor is not text", actor=None),
    leaf("subject is neither text nor null", subject=1),
    leaf("subject is not a pseudonym of visible ASCII", subject="Anna Ohm"),
    leaf("action is not a word such as plan.approved", action="Plan approved"),
    leaf("object is not 1 to 300 printable characters", object="a\n"),
    leaf(
        "time is not RFC 3339 in UTC with milliseconds",
        time="2026-02-30T12:00:00.000Z",
    ),
    leaf("key name is too long", key="k" * 301),
    leaf("nonce or ciphertext has a wrong length", nonce=b64(bytes(11))),
    Malformed(
        lambda _: format_time(datetime(2026, 1, 1)),  # noqa: DTZ001  (the fault)
        "malformed log entry: the clock gave a time without a zone",
    ),
    # statements
    statement(
        "malformed statement: expected exactly the fields ['payload', 'payloadType', 'signatures']",
        odd=1,
    ),
    statement(
        "malformed statement: payloadType is not application/vnd.fiduciary+json",
        payloadType="text/plain",
    ),
    statement("malformed payload: expected base64 text", payload=7),
    statement("malformed payload: not base64", payload="!"),
    statement(
        f"malformed statement: payload over {MAX_PAYLOAD_BYTES} bytes",
        payload=b64(bytes(MAX_PAYLOAD_BYTES + 1)),
    ),
    statement("malformed statement: expected 1 to 16 signatures", signatures=[]),
    statement("malformed statement: two signatures carry the same key id", signatures=SIG * 2),
    signature("keyid is not ed25519:<64 hexadecimal digits>", keyid="north"),
    signature("expected 64 bytes, got 3", sig="AAAA"),
    Malformed(
        lambda _: sign_statement({"format": "plan"}, SIGNER).kind,
        "malformed statement: no format such as fiduciary.plan/1",
    ),
    # receipts
    Malformed(
        lambda _: Receipt.parse(b" " * (MAX_RECEIPT_BYTES + 1)),
        f"malformed receipt: more than {MAX_RECEIPT_BYTES} bytes",
    ),
    Malformed(
        lambda _: Receipt.parse(json.dumps(RECEIPT.to_json()).encode("utf-16")),
        "malformed receipt: not JSON in UTF-8",
    ),
    Malformed(
        lambda _: Receipt.parse(b'{"leaf":1,"leaf":2}'),
        "malformed receipt: an object has a key twice",
    ),
    receipt(
        "malformed receipt: expected exactly the fields ['format', 'leaf', 'proof', 'statement']",
        odd=1,
    ),
    receipt(
        "malformed receipt: format is not fiduciary.receipt/1 or fiduciary.receipt/2",
        format="fiduciary.receipt/3",
    ),
    Malformed(lambda _: Receipt.from_json([]), "malformed receipt: not an object"),
    receipt(
        "malformed receipt: follow_ups must be a list, and not empty",
        format="fiduciary.receipt/2",
        follow_ups=[],
    ),
    receipt(
        "malformed receipt: a follow-up has no follow-ups",
        format="fiduciary.receipt/2",
        follow_ups=[{"format": "fiduciary.receipt/2"}],
    ),
    receipt("malformed receipt: leaf and proof must be text", proof=None),
    # bundles
    Malformed(no_archive, "malformed bundle: not a ZIP archive: File is not a zip file"),
    Malformed(chosen_entries, "FOLDER/bundle.zip holds 1 chosen entry, not the whole log"),
    Malformed(
        lambda _: Manifest.parse(b"{"),
        "malformed bundle: manifest.json: malformed canonical JSON: Expecting property name"
        " enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    manifest("fields: 1 unknown", odd=1),
    manifest("format is not fiduciary.bundle/1", format="fiduciary.bundle/2"),
    manifest("entries is not what it should be", entries=-1),
    manifest("kind is neither whole nor selection", kind="half"),
    bundle("a member appears twice", lambda _: None, (MANIFEST, b"{}")),
    bundle("it has no checkpoint", lambda made: made.text("checkpoint")),
    bundle(
        "checkpoint is not UTF-8", lambda made: made.text("checkpoint"), ("checkpoint", b"\xff")
    ),
    bundle(
        f"checkpoint is larger than {MAX_SMALL_BYTES} bytes",
        lambda made: made.text("checkpoint"),
        ("checkpoint", bytes(MAX_SMALL_BYTES + 1)),
    ),
    bundle(
        f"{ENTRIES} has more than 1 line, as stated",
        lambda made: list(made.lines(ENTRIES, 1)),
        (ENTRIES, b"a\nb\n"),
    ),
    bundle(
        f"line 1 of {ENTRIES} does not end, or has more than {MAX_LINE_BYTES} bytes",
        lambda made: list(made.lines(ENTRIES, 1)),
        (ENTRIES, bytes(MAX_LINE_BYTES + 1)),
    ),
    bundle(
        f"{COSIGNATURES}: expected the fields ['note', 'size', 'witness']",
        lambda made: made.cosignatures(),
        (COSIGNATURES, b"{}\n"),
    ),
    bundle(
        f"{COSIGNATURES}: size is not what it should be",
        lambda made: made.cosignatures(),
        (COSIGNATURES, b'{"note":"","size":"","witness":""}\n'),
    ),
)
