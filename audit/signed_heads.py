"""Tree heads that somebody signed, to be compared with a recomputed tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from audit.checkpoint import verify_checkpoint
from audit.cosignature import WitnessKey
from audit.errors import FiduciaryError
from audit.keys import VerifyKey
from audit.source import LogSource
from audit.words import count_of

AddProblem = Callable[[int | None, str], None]
"""Takes the position of an entry, if it is about one, and what is wrong."""


@dataclass(frozen=True)
class Head:
    """A tree head that somebody signed.

    Attributes:
        size: Number of entries.
        root: Their root.
        name: Whose word it is, as a problem calls it.
        stored: Whether it is one of the log's own checkpoints.
        witness: The witness that cosigned it.
        time: When.
    """

    size: int
    root: bytes
    name: str = "the signed checkpoint"
    stored: bool = True
    witness: WitnessKey | None = None
    time: int = 0


def stored_heads(
    source: LogSource, key: VerifyKey, origin: str, add_problem: AddProblem
) -> Iterator[Head]:
    """Stored checkpoints whose signature verifies, smallest first."""
    for size, note in source.checkpoints():
        try:
            head = verify_checkpoint(str(note), key, origin)
        except FiduciaryError as error:
            add_problem(None, f"checkpoint of {count_of(size, 'entry')}: {error}")
            continue
        if head.size != size:
            add_problem(None, f"checkpoint of {count_of(size, 'entry')}: it signs {head.size}")
            continue
        yield Head(head.size, head.root)
