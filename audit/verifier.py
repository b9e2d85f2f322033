"""Checks a stored log from its bytes alone. Needs no secret and no network.

* Everything is recomputed: each entry's canonical form, position and hash, every stored interior
  hash, and the root under every stored checkpoint and every cosignature, whose signatures are
  checked.
* It reads each part once, in order, and holds one hash per tree level: memory is flat.
* It names the first entry that is wrong, and goes on, to tell a changed entry (no signed root
  matches) from a damaged stored hash (the signed root still matches the entries).

**What it cannot notice alone.** A log whose last entries were removed *together with* the
checkpoints that covered them is a shorter log that verifies; so is one that was rewritten with the
log's own signing key. Both need something from outside: the keys of witnesses (`witnesses`), an
earlier checkpoint (`known`), and the log's key from its owner (`key`). Without `key` the key that
the log states is used, and the report says so.

For how much of it witnesses vouch is judged in `audit.vouching`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from operator import ne
from pathlib import Path
from typing import Any, Final

from audit.checkpoint import verify_checkpoint
from audit.cosignature import WitnessKey
from audit.encoding import encode_base64
from audit.errors import MalformedInput, VerificationFailed
from audit.keys import VerifyKey
from audit.leaf import check_leaf
from audit.merkle import Frontier
from audit.report import Problem, Report
from audit.signed_heads import Head, stored_heads
from audit.source import LogDamaged, LogSource, open_source
from audit.storage import FIRST_LOG_FORMAT, LOG_FORMAT, META_FORMAT, META_KEY, META_ORIGIN
from audit.stored_hashes import StoredHashes
from audit.vouching import Demand, Vouching
from audit.words import count_of

Progress = Callable[[int, int], None]
"""Called now and then with the number of entries checked and the number expected."""

PROGRESS_INTERVAL: Final = 5000
"""Entries between two calls of `Progress`: about twenty a second."""

CHUNK: Final = 500
"""Entries that are read and hashed together: half a megabyte in memory."""

UNWITNESSED_HOURS: Final = 24
"""Sites witness every minute while they run; a federation may rest for a night."""


def verify_log(
    log: Path | str,
    key: VerifyKey | None = None,
    *,
    known: str | None = None,
    witnesses: Sequence[WitnessKey] = (),
    required_witnesses: int = 0,
    unwitnessed_hours: int = UNWITNESSED_HOURS,
    progress: Progress | None = None,
) -> Report:
    """Verify a stored log.

    Args:
        log: Whatever `audit.source.open_source` opens, also while it is in use.
        key: The log's verifier key, from its owner. None takes the one that the log states.
        known: A checkpoint note of this log from earlier; the log must still contain that history.
        witnesses: Keys of witnesses, from their owners.
        required_witnesses: So many of them must vouch for the log.
        unwitnessed_hours: How long entries may lack that many cosignatures.
        progress: Called now and then.

    Raises:
        NotFound: When there is no such log.
        MalformedInput: When it is no log, or `known` is no checkpoint.
        VerificationFailed: When `known` is not signed by the key, or is of another log.
        Conflict: When the file changed while it was read.
    """
    with open_source(log) as source:
        demand = Demand(
            tuple({(witness.name, witness.raw): witness for witness in witnesses}.values()),
            required_witnesses,
            unwitnessed_hours,
        )
        return _Verification(source, key, known, Vouching(demand), progress).run()


@dataclass
class _Verification:
    """One pass over entries, hashes and heads, all in order of position."""

    source: LogSource
    pinned: VerifyKey | None
    known_note: str | None
    vouching: Vouching
    progress: Progress | None

    key: VerifyKey | None = None
    origin: str = ""
    known: Head | None = None

    entries: int = 0
    frontier: Frontier = field(default_factory=Frontier)
    checkpoints: int = 0
    signed: int = 0  # the largest size at which the recomputed root is a signed one
    known_matches: bool = False
    last_leaf: bytes = b""
    hashes: StoredHashes | None = None

    problems: list[Problem] = field(default_factory=list)
    bad_leaf: Problem | None = None
    bad_hash: Problem | None = None
    bad_head: tuple[int, Head] | None = None  # with the last size that was fine before it
    gap: bool = False

    def run(self) -> Report:
        try:
            self._read_identity()
            self._read_known()
            self._check_tree()
        except LogDamaged as error:
            # A database's driver reads one row ahead of the one it returns.
            self._add(self.entries, f"at this entry or the next, {error}")
        self._conclude()
        witnessed = self._witnessed() if self.vouching.demand.required else None
        self.problems.sort(key=lambda p: (p.position is None, p.position or 0))
        return Report(
            origin=self.origin,
            key=self.key.encoded() if self.key else "",
            key_pinned=self.pinned is not None,
            entries=self.entries,
            root=encode_base64(self.frontier.root()),
            signed_entries=self.signed,
            checkpoints=self.checkpoints,
            known_entries=self.known.size if self.known and self.known_matches else None,
            problems=tuple(self.problems),
            witnesses=tuple(self.vouching.reports()),
            witnessed_entries=witnessed,
            unchecked_cosignatures=self.vouching.unchecked,
        )

    def _add(self, position: int | None, what: str) -> None:
        self.problems.append(Problem(position, what))

    def _read_identity(self) -> None:
        meta = self.source.meta()
        if meta.keys() != {META_FORMAT, META_ORIGIN, META_KEY}:
            self._add(None, f"the log's metadata are {sorted(meta)}")
        if meta.get(META_FORMAT) not in (LOG_FORMAT, FIRST_LOG_FORMAT):
            self._add(None, f"the log's format is {meta.get(META_FORMAT)!r}, not {LOG_FORMAT}")
        self.origin = meta.get(META_ORIGIN, "")
        stated = None
        try:
            stated = VerifyKey.parse(meta.get(META_KEY, ""))
        except MalformedInput as error:
            self._add(None, f"the key that the log states is unreadable: {error}")
        self.key = self.pinned or stated
        if self.pinned and stated and stated != self.pinned:
            self._add(None, f"the log states another key than the given one: {stated.encoded()}")

    def _read_known(self) -> None:
        if self.known_note is None or self.key is None:
            return
        known = verify_checkpoint(self.known_note, self.key)
        if known.origin != self.origin:
            raise VerificationFailed(
                f"the given checkpoint is of the log {known.origin}, not {self.origin}",
                fix="give a checkpoint of this log",
            )
        self.known = Head(known.size, known.root, "the given checkpoint", stored=False)

    def _check_tree(self) -> None:
        total = self.source.expected_entries()
        heads = heapq.merge(
            self._stored_heads(),
            self._cosigned_heads(),
            [self.known] if self.known else [],
            key=lambda head: head.size,
        )
        head = self._compare_heads(next(heads, None), heads)
        self.hashes = StoredHashes(self.source) if self.source.stores_hashes else None
        leaves = self.source.leaves()
        while not self.gap:
            until_head = CHUNK if head is None else head.size - self.entries
            rows: list[tuple[int, Any]] = []
            damage: LogDamaged | None = None
            try:
                rows.extend(islice(leaves, min(CHUNK, until_head)))
            except LogDamaged as error:  # what was read before it is in the list
                damage = error
            before = self.entries
            self._check_chunk(rows)
            if head is not None and head.size == self.entries:
                head = self._compare_heads(head, heads)
            if self.progress and self.entries // PROGRESS_INTERVAL > before // PROGRESS_INTERVAL:
                self.progress(self.entries, total)
            if damage is not None:
                raise damage
            if not rows:
                break
        if self.progress:
            self.progress(self.entries, self.entries)
        if self.gap:
            return
        if self.bad_hash is None and self.hashes is not None:
            self.bad_hash = self.hashes.surplus()
        self._check_cut([head, *heads] if head else [])

    def _check_chunk(self, rows: list[tuple[int, Any]]) -> None:
        """Take in the entries that follow, up to the first that is not there."""
        leaves = [leaf for _, leaf in rows]
        expected = range(self.entries, self.entries + len(rows))
        if any(map(ne, (position for position, _ in rows), expected)) or not all(
            type(leaf) is bytes for leaf in leaves
        ):
            leaves = self._leaves_before_a_gap(rows)
        if not leaves:
            return
        if self.bad_leaf is None:
            self.bad_leaf = _first_leaf_problem(self.entries, leaves)
        self.vouching.reached(self.entries, leaves[0])  # chunks end where heads are
        hashes = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
        self.frontier, nodes = self.frontier.extend(hashes)
        if self.bad_hash is None and self.hashes is not None:
            self.bad_hash = self.hashes.mismatch(nodes)
        self.entries += len(leaves)
        self.last_leaf = leaves[-1]

    def _leaves_before_a_gap(self, rows: list[tuple[int, Any]]) -> list[bytes]:
        leaves: list[bytes] = []
        for position, leaf in rows:
            expected = self.entries + len(leaves)
            if position != expected or not isinstance(leaf, bytes):
                what = "not stored as bytes" if position == expected else "missing"
                self._add(expected, what)
                self.gap = True
                break
            leaves.append(leaf)
        return leaves

    def _stored_heads(self) -> Iterator[Head]:
        if self.key is None:
            return
        for head in stored_heads(self.source, self.key, self.origin, self._add):
            self.checkpoints += 1
            yield head

    def _cosigned_heads(self) -> Iterator[Head]:
        if self.key is not None:
            yield from self.vouching.heads(self.source, self.key, self.origin, self._add)

    def _compare_heads(self, head: Head | None, heads: Iterator[Head]) -> Head | None:
        """Compare the tree so far with every head of its size; return the next larger one."""
        while head is not None and head.size == self.entries:
            if head.root != self.frontier.root():
                if self.bad_head is None:
                    self.bad_head = (self.signed, head)
            else:
                self.signed = head.size
                self.known_matches = self.known_matches or head is self.known
                self.vouching.matches(head)
            head = next(heads, None)
        return head

    def _check_cut(self, heads: list[Head]) -> None:
        """Heads that are left over at the end sign entries that are not there."""
        if heads:
            name = "a signed checkpoint" if heads[0].stored else heads[0].name
            self._add(
                self.entries,
                f"missing; {name} covers {count_of(heads[0].size, 'entry')} and {self.entries}"
                " are there: the end of the log was cut off",
            )

    def _witnessed(self) -> int:
        # What follows the last entry of a damaged log, and how old it is, nobody knows.
        whole = not self.gap and self.bad_leaf is None
        return self.vouching.witnessed(self.entries, self.last_leaf if whole else None, self._add)

    def _conclude(self) -> None:
        """Put the findings together, so that one cause is one problem."""
        if self.bad_leaf is not None:
            self.problems.append(self.bad_leaf)
        if self.bad_hash is not None:
            position, what = self.bad_hash.position, self.bad_hash.what
            if position is not None and position < self.signed:
                what += "; a later signed root matches the entries, so the stored hash was changed"
            elif self.bad_head is not None:
                what += "; no later signed root matches the entries, so an entry was changed"
            self._add(position, what)
        if self.bad_head is not None:
            start, head = self.bad_head
            if not any(p.position is not None and p.position < head.size for p in self.problems):
                self._add(
                    start,
                    f"entries {start} to {head.size - 1} are not those of {head.name} of"
                    f" {count_of(head.size, 'entry')}: they were rewritten together with their"
                    " stored hashes",
                )
        if self.signed < self.entries and not self.problems:
            self._add(self.signed, "from here on no signed checkpoint covers the log")
        if self.checkpoints == 0 and not self.problems:
            self._add(None, "there is no signed checkpoint")


def _first_leaf_problem(first: int, leaves: list[bytes]) -> Problem | None:
    """What is wrong with the first entry that is no entry, or not that of its position."""
    position = first - 1
    try:
        for position, stated in enumerate(map(check_leaf, leaves), start=first):
            if stated != position:
                return Problem(position, f"it says that it is entry {stated}: it was moved")
    except MalformedInput as error:
        return Problem(position + 1, str(error))
    return None
