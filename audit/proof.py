"""Self-contained inclusion proofs, byte for byte: https://c2sp.org/tlog-proof.

A proof holds the entry's index, its audit path and the log's signed checkpoint. Its optional extra
line is opaque to the format; we put the entry's own bytes (the leaf) there. They are not trusted:
`verify_proof` hashes them, and they count only if the path leads from that hash to the signed root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit.checkpoint import Checkpoint, parse_decimal, verify_checkpoint
from audit.encoding import decode_base64, encode_base64
from audit.errors import MalformedInput
from audit.keys import VerifyKey
from audit.merkle import HASH_BYTES, hash_leaf, verify_inclusion

PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"

MAX_PROOF_BYTES: Final = 24 * 1024 * 1024
"""A leaf of the largest payload, in base64 twice, and a note."""

MAX_PATH: Final = 63
"""Height of a tree with 2**63 leaves."""


class MalformedProof(MalformedInput):
    """Text that is no tlog-proof."""

    code = "malformed-proof"


@dataclass(frozen=True)
class Proof:
    """An inclusion proof, not verified by existing.

    Attributes:
        index: Position of the entry.
        path: Audit path from the leaf upwards, 32 bytes each.
        checkpoint: The signed note, verbatim.
        extra: Opaque data; here the leaf, if present.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def encoded(self) -> str:
        """The text of a `.tlog-proof` file."""
        lines = [PROOF_HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(encode_base64(item) for item in self.path)
        return "\n".join(lines) + "\n\n" + self.checkpoint

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Read the text of a `.tlog-proof` file.

        Raises:
            MalformedInput: With the first line that is wrong.
        """
        if len(text) > MAX_PROOF_BYTES:
            raise MalformedProof(f"malformed proof: more than {MAX_PROOF_BYTES} characters")
        head, separator, checkpoint = text.partition("\n\n")
        if not separator:
            raise MalformedProof("malformed proof: no empty line before the checkpoint")
        lines = head.split("\n", MAX_PATH + 4)  # a line that is too many, and not a million
        if lines.pop(0) != PROOF_HEADER:
            raise MalformedProof(f"malformed proof: the first line is not {PROOF_HEADER}")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = _decode(lines.pop(0).removeprefix("extra "), "extra data")
        if not lines or not lines[0].startswith("index "):
            raise MalformedProof("malformed proof: no index line")
        try:
            index = parse_decimal(lines.pop(0).removeprefix("index "), "index")
        except MalformedInput as error:
            raise MalformedProof(f"malformed proof: {error}") from error
        if len(lines) > MAX_PATH:
            raise MalformedProof(f"malformed proof: more than {MAX_PATH} hashes")
        path = tuple(_decode(line, "hash") for line in lines)
        if any(len(item) != HASH_BYTES for item in path):
            raise MalformedProof(f"malformed proof: a hash does not have {HASH_BYTES} bytes")
        return cls(index, path, checkpoint, extra)


def verify_proof(
    proof: Proof, key: VerifyKey, *, leaf: bytes | None = None, origin: str | None = None
) -> Checkpoint:
    """The signed checkpoint that commits to the entry.

    Args:
        proof: As received.
        key: The log's verifier key.
        leaf: The entry's bytes; None takes them from the proof's extra line.
        origin: The log that is expected; None accepts the one that the key signed for.

    Raises:
        MalformedInput: When there is no leaf, or the checkpoint is no checkpoint.
        VerificationFailed: When signature, origin or path is wrong.
    """
    data = proof.extra if leaf is None else leaf
    if data is None:
        raise MalformedProof(
            "the proof does not carry its entry",
            fix="give the entry's bytes as well (--leaf FILE)",
        )
    checkpoint = verify_checkpoint(proof.checkpoint, key, origin)
    verify_inclusion(hash_leaf(data), proof.index, checkpoint.size, proof.path, checkpoint.root)
    return checkpoint


def _decode(text: str, what: str) -> bytes:
    try:
        return decode_base64(text, what)
    except MalformedInput as error:
        raise MalformedProof(f"malformed proof: {error}") from error
