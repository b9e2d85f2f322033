"""What verifying a log found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a log.

    Attributes:
        position: The first entry concerned; None when it is not about an entry.
        what: What is wrong, as a sentence.
    """

    position: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.position is None else f"entry {self.position}: {self.what}"


@dataclass(frozen=True)
class WitnessReport:
    """How far a known witness vouches for a log.

    Attributes:
        name: The witness.
        key: Its verifier key, as the caller gave it.
        entries: The first so many entries are those that it cosigned; 0 for none.
        time: When it cosigned that size, seconds since 1970; None for never.
    """

    name: str
    key: str
    entries: int
    time: int | None


@dataclass(frozen=True)
class Report:
    """What verification found.

    Attributes:
        origin: Name of the log, as its metadata state it.
        key: Verifier key that the checkpoints were checked with; empty if there was none.
        key_pinned: Whether the caller gave that key. If not, the log's own word was taken for it.
        entries: Number of entries read.
        root: Base64 RFC 6962 root over them, as a checkpoint would write it.
        signed_entries: Size of the largest checkpoint that verifies.
        checkpoints: Number of checkpoints that verify.
        known_entries: Size of the earlier checkpoint that the caller gave and the log contains.
        problems: What is wrong, the first entry first. Empty for a sound log.
        witnesses: The witnesses whose keys the caller gave.
        witnessed_entries: As many witnesses as were demanded vouch for the first so many entries;
            None when none were demanded.
        unchecked_cosignatures: Cosignatures by witnesses whose key the caller did not give.
        selection: Whether these are chosen entries with their proofs, not the whole log.
        payloads_proven: Opened payloads that quote the very statement that their entry is about.
        payloads_stated: Opened payloads for which there is the exporter's word alone.
    """

    origin: str
    key: str
    key_pinned: bool
    entries: int
    root: str
    signed_entries: int
    checkpoints: int
    known_entries: int | None
    problems: tuple[Problem, ...]
    witnesses: tuple[WitnessReport, ...] = ()
    witnessed_entries: int | None = None
    unchecked_cosignatures: int = 0
    selection: bool = False
    payloads_proven: int = 0
    payloads_stated: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def first_bad_entry(self) -> int | None:
        """Position of the first entry that is wrong, if the problem is about an entry."""
        return min((p.position for p in self.problems if p.position is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """The report for scripts."""
        return {
            "verified": self.ok,
            "origin": self.origin,
            "key": self.key,
            "key_pinned": self.key_pinned,
            "entries": self.entries,
            "root": self.root,
            "signed_entries": self.signed_entries,
            "checkpoints": self.checkpoints,
            "known_entries": self.known_entries,
            "first_bad_entry": self.first_bad_entry,
            "problems": [{"position": p.position, "what": p.what} for p in self.problems],
            "witnesses": [
                {"name": w.name, "key": w.key, "entries": w.entries, "time": w.time}
                for w in self.witnesses
            ],
            "witnessed_entries": self.witnessed_entries,
            "unchecked_cosignatures": self.unchecked_cosignatures,
            "selection": self.selection,
            "payloads_proven": self.payloads_proven,
            "payloads_stated": self.payloads_stated,
        }
