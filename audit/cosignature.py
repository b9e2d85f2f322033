"""Cosignatures of witnesses, byte for byte: https://c2sp.org/tlog-cosignature, Ed25519 (version 1).

A witness that saw a log's tree head, and saw it to extend the last one that it cosigned, says so in
one more signature line of the head's note:

* The signed message is `cosignature/v1`, a line `time <unix seconds>`, and the whole text of the
  note. The line's blob is the time (eight bytes, big-endian) and the 64-byte signature.
* The key ID is `SHA-256(name || newline || 0x04 || public key)[:4]`, so the lines of a key that
  signs both plain notes (type 0x01) and cosignatures are never taken for one another.
* By https://c2sp.org/signed-note, lines of unknown keys are ignored, and a wrong line of a known
  key rejects the whole note.

**Formal guarantees.** A cosignature of size `s` vouches, at its time and by its witness, for the
first `s` entries, and so for every shorter log; never for anything longer. The message does not
hold the witness's name (the specification says so): one key is one witness.

The same key may sign checkpoints, DSSE statements and cosignatures, because no message of one kind
is one of another: the second line of a cosignature's begins with `time `, that of a checkpoint is a
decimal number, and DSSE's begin with `DSSEv1 `. Decision record: docs/adr/0011-witnesses.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from audit.checkpoint import Checkpoint
from audit.encoding import decode_base64, encode_base64
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import MAX_VERIFIER_KEY_LENGTH, SigningKey, VerifyKey, check_key_name
from audit.note import MAX_SIGNATURES, Note, NoteSignature

COSIGNATURE_NOTE_TYPE: Final = b"\x04"
"""Signature type identifier of timestamped Ed25519 cosignatures in signed-note."""

COSIGNATURE_HEADER: Final = "cosignature/v1"
"""First line of the signed message; separates it from everything else that the key signs."""

MAX_UNIX_SECONDS: Final = 2**63 - 1
"""Largest time that the specification allows."""

_TIME_BYTES: Final = 8
_BLOB_BYTES: Final = _TIME_BYTES + 64


@dataclass(frozen=True)
class WitnessKey:
    """The public half of a key, in its role as a witness's.

    Attributes:
        name: Key name in signed notes; for a site, `<federation>/site/<name>`.
        raw: 32 bytes, RFC 8032.
    """

    name: str
    raw: bytes

    @classmethod
    def of(cls, key: VerifyKey) -> WitnessKey:
        """The witness that `key` is when it cosigns."""
        return cls(key.name, key.raw)

    @cached_property
    def note_id(self) -> bytes:
        """The four-byte key ID of this witness's lines; short on purpose, see signed-note."""
        material = self.name.encode("utf-8") + b"\n" + COSIGNATURE_NOTE_TYPE + self.raw
        return hashlib.sha256(material).digest()[:4]

    def encoded(self) -> str:
        """The verifier key as one line of text: `name+hash+base64(0x04 || raw key)`."""
        return f"{self.name}+{self.note_id.hex()}+{encode_base64(COSIGNATURE_NOTE_TYPE + self.raw)}"

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """Read a witness's verifier key, or a site's identity key (type 0x01), of which it is made.

        Raises:
            MalformedInput: When it is too long, a part is missing, the hash is not the key's, or
                the algorithm is neither.
        """
        if len(text) > MAX_VERIFIER_KEY_LENGTH:
            raise MalformedInput(
                f"malformed witness key: more than {MAX_VERIFIER_KEY_LENGTH} characters"
            )
        name, _, rest = text.strip().partition("+")
        hash_text, plus, key_text = rest.partition("+")
        if not plus:
            raise MalformedInput(
                "malformed witness key: expected name+hash+base64",
                fix="copy the whole line, for example from `client witness --json`",
            )
        material = decode_base64(key_text, "witness key")
        if material[:1] != COSIGNATURE_NOTE_TYPE:
            return cls.of(VerifyKey.parse(text))
        if len(material) != 33:
            raise MalformedInput(f"malformed witness key: {len(material) - 1} bytes, expected 32")
        key = cls(check_key_name(name), material[1:])
        if key.note_id.hex() != hash_text:
            raise MalformedInput(
                f"malformed witness key: its hash is {key.note_id.hex()}, the text says"
                f" {hash_text[:16]}",
                fix="copy the key again; a character was changed or lost",
            )
        return key

    def verify(self, text: str, signature: bytes) -> int:
        """Check the blob of one of this witness's lines.

        Args:
            text: The note's text.
            signature: What the line holds after the key ID.

        Returns:
            When it was signed, seconds since 1970.

        Raises:
            VerificationFailed: When it is not this witness's cosignature of `text`.
        """
        if len(signature) != _BLOB_BYTES:
            raise VerificationFailed(
                f"cosignature of {self.name} has {len(signature)} bytes, expected {_BLOB_BYTES}"
            )
        unix_seconds = int.from_bytes(signature[:_TIME_BYTES], "big")
        if unix_seconds > MAX_UNIX_SECONDS:
            raise VerificationFailed(f"cosignature of {self.name} has a time beyond 2**63 - 1")
        message = cosigned_message(text, unix_seconds)
        VerifyKey(self.name, self.raw).verify(message, signature[_TIME_BYTES:])
        return unix_seconds

    def __str__(self) -> str:
        return self.encoded()


def cosigned_message(text: str, unix_seconds: int) -> bytes:
    r"""The bytes that a witness signs.

    >>> cosigned_message("log.example\n1\nroot\n", 1679315147)
    b'cosignature/v1\ntime 1679315147\nlog.example\n1\nroot\n'
    """
    return f"{COSIGNATURE_HEADER}\ntime {unix_seconds}\n{text}".encode()


def cosign(note: str, key: SigningKey, unix_seconds: int) -> NoteSignature:
    """A witness's signature line for a checkpoint. What it vouches for is the caller's to check.

    Args:
        note: The checkpoint's signed note.
        key: The witness's key.
        unix_seconds: The present time, 1 to 2**63 - 1.

    Raises:
        MalformedInput: When the note is no checkpoint, or the time is out of range.
    """
    parsed = Note.parse(note)
    Checkpoint.parse_text(parsed.text)
    if not 0 < unix_seconds <= MAX_UNIX_SECONDS:
        raise MalformedInput(f"malformed cosignature time: {unix_seconds}")
    signature = key.sign(cosigned_message(parsed.text, unix_seconds))
    blob = unix_seconds.to_bytes(_TIME_BYTES, "big") + signature
    return NoteSignature(key.name, WitnessKey.of(key.public).note_id, blob)


def verify_cosignature(note: str, key: WitnessKey) -> tuple[Checkpoint, int]:
    """A checkpoint that a witness cosigned, and when: the latest time, if it did so repeatedly.

    Whether the log itself signed it is another question (`audit.checkpoint.verify_checkpoint`).

    Args:
        note: The signed note with the witness's line.
        key: The witness.

    Returns:
        The checkpoint, and seconds since 1970.

    Raises:
        MalformedInput: When it is no checkpoint note.
        VerificationFailed: When the witness did not cosign it, or a line of it is wrong.
    """
    parsed = Note.parse(note)
    head = Checkpoint.parse_text(parsed.text)
    times = [
        key.verify(parsed.text, item.signature)
        for item in parsed.signatures
        if (item.name, item.key_id) == (key.name, key.note_id)
    ]
    if not times:
        raise VerificationFailed(
            f"checkpoint of {head.size} entries is not cosigned by {key.name}",
            fix="compare the witness's verifier key with the one that its site published",
        )
    return head, max(times)


def lines_of(note: str, *keys: VerifyKey | WitnessKey) -> tuple[NoteSignature, ...]:
    """The signature lines of a note that claim to be of these keys, in their order."""
    known = {(key.name, key.note_id) for key in keys}
    return tuple(item for item in Note.parse(note).signatures if (item.name, item.key_id) in known)


def with_lines(note: str, lines: Iterable[NoteSignature]) -> str:
    """The note with more signature lines; one that it has already is not repeated.

    At most `MAX_SIGNATURES` lines are in the answer: more would make a note that nobody parses.
    """
    parsed = Note.parse(note)
    together = tuple(dict.fromkeys((*parsed.signatures, *lines)))
    return replace(parsed, signatures=together[:MAX_SIGNATURES]).encoded()


def only_lines_of(note: str, *keys: VerifyKey | WitnessKey) -> str:
    """The note without the signature lines of all other keys.

    Raises:
        VerificationFailed: When none is left.
    """
    kept = lines_of(note, *keys)
    if not kept:
        names = ", ".join(key.name for key in keys)
        raise VerificationFailed(f"note has no signature line of {names}")
    return replace(Note.parse(note), signatures=tuple(dict.fromkeys(kept))).encoded()
