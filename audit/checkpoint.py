"""Signed tree heads, byte for byte: https://c2sp.org/tlog-checkpoint.

A checkpoint says, over the log's signature: the log named `origin` holds `size` entries and their
RFC 6962 root is `root`. Two checkpoints of one log are consistent, or the log has two histories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from audit.encoding import decode_base64, encode_base64
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey, VerifyKey
from audit.merkle import HASH_BYTES
from audit.note import Note, sign_note

MAX_SIZE: Final = 2**53 - 1
"""Positions are integers of canonical JSON."""

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)


class MalformedCheckpoint(MalformedInput):
    """Text that is no checkpoint."""

    code = "malformed-checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A tree head.

    Attributes:
        origin: Unique name of the log; one line.
        size: Number of entries.
        root: 32-byte RFC 6962 root hash.
        extensions: Further lines. We write none; others' are kept.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text that is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse_text(cls, text: str) -> Checkpoint:
        """Read the text of a checkpoint note.

        Raises:
            MalformedCheckpoint: With the first line that is wrong.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] != "":
            raise MalformedCheckpoint("malformed checkpoint: expected origin, size and root lines")
        origin, size, root_text, *extensions = lines[:-1]
        if not all((origin, *extensions)):
            raise MalformedCheckpoint("malformed checkpoint: empty line")
        try:
            root = decode_base64(root_text, "root hash")
        except MalformedInput as error:
            raise MalformedCheckpoint(f"malformed checkpoint: {error}") from error
        if len(root) != HASH_BYTES:
            raise MalformedCheckpoint(f"malformed checkpoint: root hash of {len(root)} bytes")
        return cls(origin, parse_decimal(size, "tree size"), root, tuple(extensions))


def parse_decimal(text: str, what: str) -> int:
    """ASCII decimal without leading zeroes, at most 2**53 - 1.

    Raises:
        MalformedCheckpoint: For anything else.
    """
    if not _DECIMAL.fullmatch(text):
        raise MalformedCheckpoint(f"malformed {what}: {text[:20]!r} is no decimal number")
    if len(text) > len(str(MAX_SIZE)) or int(text) > MAX_SIZE:
        raise MalformedCheckpoint(f"malformed {what}: {text[:20]} is beyond 2**53 - 1")
    return int(text)


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The signed note of a checkpoint."""
    return sign_note(checkpoint.text(), key)


@lru_cache(maxsize=16)
def read_checkpoint(note: str) -> Checkpoint:
    """What a checkpoint note says, without checking who says it.

    Raises:
        MalformedInput: When it is no checkpoint note.
    """
    return Checkpoint.parse_text(Note.parse(note).text)


def verify_checkpoint(note: str, key: VerifyKey, origin: str | None = None) -> Checkpoint:
    """A checkpoint that `key` signed.

    Args:
        note: The signed note.
        key: The log's verifier key.
        origin: The log that is expected; None accepts the one in the note.

    Raises:
        MalformedInput: When it is no checkpoint note.
        VerificationFailed: When the signature or the origin is another.
    """
    parsed = Note.parse(note)
    checkpoint = Checkpoint.parse_text(parsed.text)
    parsed.verify([key])
    if origin is not None and checkpoint.origin != origin:
        raise VerificationFailed(
            f"checkpoint is of the log {checkpoint.origin}, expected {origin}",
            fix="check that file and key belong to the same log",
        )
    return checkpoint
