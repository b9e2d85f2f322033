"""Signed notes, byte for byte: https://c2sp.org/signed-note.

* A note is text that ends in a newline, an empty line, and signature lines
  `— <key name> base64(key id || signature)`.
* Signatures by unknown keys are ignored, as the specification demands; a wrong signature by a known
  key rejects the whole note, and so does the lack of any known one.
* Parsing is strict (UTF-8, no control characters, one spelling of base64) and bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from audit.encoding import decode_base64, encode_base64
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey, check_key_name

MAX_NOTE_BYTES: Final = 1_000_000
"""The limit of Go's reference implementation; a checkpoint has a few hundred bytes."""

MAX_SIGNATURES: Final = 100
"""The limit of Go's reference implementation; the specification asks for at least 16."""

_SIGNATURE_PREFIX: Final = "\u2014 "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


class MalformedNote(MalformedInput):
    """Text that is no signed note."""

    code = "malformed-note"


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: key name, four-byte key id, raw signature."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """The line as it stands in a note, with its newline."""
        return f"{_SIGNATURE_PREFIX}{self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True)
class Note:
    """A note and its signatures, not verified by existing.

    Attributes:
        text: What is signed; ends in a newline.
        signatures: In the order of their lines.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, note: str) -> Note:
        """Read a signed note.

        Raises:
            MalformedNote: With the first rule that it breaks.
        """
        _check_characters(note)
        text, separator, block = note.rpartition("\n\n")
        if not separator:
            raise MalformedNote("malformed note: no empty line between text and signatures")
        if not block.endswith("\n"):
            raise MalformedNote("malformed note: it does not end in a signature line")
        lines = block[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise MalformedNote(f"malformed note: more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(_signature(line) for line in lines))

    def encoded(self) -> str:
        """The note as text; `parse` reads it back."""
        return self.text + "\n" + "".join(item.line() for item in self.signatures)

    def verify(self, keys: Sequence[VerifyKey]) -> tuple[VerifyKey, ...]:
        """The keys among `keys` that signed, in the order of their lines.

        Raises:
            VerificationFailed: When a known key's signature is wrong or no known key signed.
        """
        known = {(key.name, key.note_id): key for key in keys}
        verified: list[VerifyKey] = []
        for item in self.signatures:
            key = known.get((item.name, item.key_id))
            if key is None:
                continue
            key.verify(self.text.encode("utf-8"), item.signature)
            if key not in verified:
                verified.append(key)
        if not verified:
            names = ", ".join(sorted({item.name for item in self.signatures}))
            raise VerificationFailed(
                f"note is not signed by {', '.join(key.name for key in keys)} but by {names}"
                if not {item.name for item in self.signatures} & {key.name for key in keys}
                else f"note is signed by another key of the name {names}",
                fix="compare the verifier key with the one that its owner published",
            )
        return tuple(verified)


def sign_note(text: str, *keys: SigningKey) -> str:
    """Sign `text` and return the whole note.

    Args:
        text: Valid UTF-8 that ends in a newline, without other control characters.
        keys: 1 to `MAX_SIGNATURES` signers.

    Raises:
        MalformedNote: When a note cannot hold the text or its signatures.
    """
    if not text.endswith("\n"):
        raise MalformedNote("malformed note: its text does not end in a newline")
    if not 1 <= len(keys) <= MAX_SIGNATURES:
        raise MalformedNote(f"malformed note: expected 1 to {MAX_SIGNATURES} signers")
    _check_characters(text)
    data = text.encode("utf-8")
    signatures = tuple(NoteSignature(key.name, key.public.note_id, key.sign(data)) for key in keys)
    note = Note(text, signatures).encoded()
    _check_characters(note)  # with its signatures, it may be too long for anybody to read
    return note


def _signature(line: str) -> NoteSignature:
    if not line.startswith(_SIGNATURE_PREFIX):
        raise MalformedNote("malformed note: a signature line does not start with an em dash")
    name, space, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not space:
        raise MalformedNote("malformed note: a signature line lacks a name or a signature")
    try:
        check_key_name(name)
        blob = decode_base64(encoded, "note signature")
    except MalformedInput as error:
        raise MalformedNote(f"malformed note: {error}") from error
    if len(blob) < 5:
        raise MalformedNote("malformed note: a signature is shorter than five bytes")
    return NoteSignature(name, blob[:4], blob[4:])


def _check_characters(text: str) -> None:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise MalformedNote("malformed note: lone surrogate") from error
    if size > MAX_NOTE_BYTES:
        raise MalformedNote(f"malformed note: more than {MAX_NOTE_BYTES} bytes")
    if _CONTROL.search(text):
        raise MalformedNote("malformed note: control character")
