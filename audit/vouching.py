"""For how much of a log its witnesses vouch, as its stored cosignatures tell.

* A cosignature of size `s` vouches for the first `s` entries, so for every shorter log too.
* With `required = n`, the log is vouched for up to the n-th largest size among the known witnesses,
  each counted with the largest size at which its signed root is the recomputed one.
* What follows is not yet witnessed; that is a problem once it is older than `unwitnessed_hours`
  when the last entry was made.

See docs/adr/0011-witnesses.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from audit.checkpoint import verify_checkpoint
from audit.cosignature import WitnessKey, verify_cosignature
from audit.errors import FiduciaryError, MalformedInput
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.report import WitnessReport
from audit.signed_heads import AddProblem, Head
from audit.source import LogSource
from audit.words import count_of


@dataclass(frozen=True)
class Demand:
    """Who must vouch for the log."""

    witnesses: tuple[WitnessKey, ...]
    required: int
    unwitnessed_hours: int


@dataclass
class Vouching:
    """What witnesses vouch for, gathered while a log is read in order.

    Attributes:
        demand: Who must.
        unchecked: Cosignatures of nobody whose key was given.
    """

    demand: Demand
    unchecked: int = 0
    _vouched: dict[WitnessKey, Head] = field(default_factory=dict)
    _times: dict[int, str] = field(default_factory=dict)  # of entries that follow a cosigned head

    def heads(
        self, source: LogSource, key: VerifyKey, origin: str, add_problem: AddProblem
    ) -> Iterator[Head]:
        """Heads that witnesses cosigned, smallest first; without their keys, only the log's word.

        A head counts for a witness when the log signed it too: nobody else's head is this log's.
        """
        known = {witness.name: witness for witness in self.demand.witnesses}
        heads = []
        for name, size, note in source.cosignatures():
            try:
                witness = known.get(str(name))
                head = verify_checkpoint(str(note), key, origin)
                time = verify_cosignature(str(note), witness)[1] if witness else 0
            except FiduciaryError as error:
                add_problem(None, f"cosignature of {count_of(size, 'entry')} by {name}: {error}")
                continue
            if head.size != size:
                add_problem(
                    None,
                    f"cosignature of {count_of(size, 'entry')} by {name}: it signs {head.size}",
                )
                continue
            if witness is None:
                self.unchecked += 1
            else:
                self._times[head.size] = ""
            named = f"what {name} cosigned" if witness else f"the checkpoint filed for {name}"
            heads.append(Head(head.size, head.root, named, False, witness, time))
        yield from sorted(heads, key=lambda head: head.size)

    def reached(self, position: int, leaf: bytes) -> None:
        """Take in the first entry after a head."""
        if position in self._times:
            self._times[position] = _time_of(leaf)

    def matches(self, head: Head) -> None:
        """Take in a head whose root is the recomputed one; a larger one replaces a smaller."""
        if head.witness is not None:
            self._vouched[head.witness] = head

    def reports(self) -> Iterator[WitnessReport]:
        """What each known witness vouches for."""
        for witness in self.demand.witnesses:
            head = self._vouched.get(witness)
            yield WitnessReport(
                witness.name,
                witness.encoded(),
                head.size if head else 0,
                head.time if head else None,
            )

    def witnessed(self, entries: int, last_leaf: bytes | None, add_problem: AddProblem) -> int:
        """For how many entries as many witnesses as demanded vouch.

        Args:
            entries: How many there are.
            last_leaf: The last of them; None where it is not known how old the log is.
            add_problem: Told when too few vouch, or too late.
        """
        required, hours = self.demand.required, self.demand.unwitnessed_hours
        sizes = sorted((head.size for head in self._vouched.values()), reverse=True)
        if len(sizes) < required:
            add_problem(
                None,
                f"{len(sizes)} of the given witnesses vouch for this log, {required} are demanded",
            )
            return 0
        size = sizes[required - 1]
        if size < entries and last_leaf is not None:
            waited = _hours_between(self._times.get(size, ""), _time_of(last_leaf))
            if waited > hours:
                add_problem(
                    size,
                    f"from here on the log has fewer than {count_of(required, 'witness')}; entries"
                    f" waited {count_of(waited, 'hour')}, {hours} are allowed",
                )
        return size


def _time_of(leaf: bytes) -> str:
    """When an entry says that it was made; empty when it does not."""
    try:
        return Leaf.parse(leaf).time
    except MalformedInput:
        return ""


def _hours_between(earlier: str, later: str) -> int:
    """Whole hours; 0 when either is unknown."""
    if not earlier or not later:
        return 0
    span = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    return max(0, int(span.total_seconds() // 3600))
