"""Checks a stored log from its bytes alone. Needs no secret and no network.

* Everything is recomputed: each entry's canonical form, position and hash, every stored interior
  hash, and the root under every stored checkpoint, whose signature is checked.
* It reads each table once, in order, and holds one hash per tree level: memory is flat.
* It names the first entry that is wrong, and goes on, to tell a changed entry (no signed root
  matches) from a damaged stored hash (the signed root still matches the entries).

**What it cannot notice.** A log whose last entries were removed *together with* the checkpoints
that covered them is a shorter log that verifies; so is one that was rewritten with the log's own
signing key. Both need something from outside: an earlier checkpoint (`known`), which must be
consistent with the log, and the log's key from its owner (`key`). Without `key` the key that the
file states is used, and the report says so.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from audit.checkpoint import Checkpoint, verify_checkpoint
from audit.encoding import encode_base64
from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import VerifyKey
from audit.leaf import check_leaf
from audit.log import LOG_FORMAT
from audit.merkle import Frontier
from audit.snapshot import DatabaseDamage, open_snapshot
from audit.storage import META_FORMAT, META_KEY, META_ORIGIN

Progress = Callable[[int, int], None]
"""Called now and then with the number of entries checked and the number expected."""

PROGRESS_INTERVAL: Final = 5000
"""Entries between two calls of `Progress`: about twenty a second."""


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
        }


def verify_log(
    path: Path,
    key: VerifyKey | None = None,
    *,
    known: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verify the log in an SQLite file.

    Args:
        path: A journal, a compliance database, or a copy of either, also while it is in use.
        key: The log's verifier key, from its owner. None takes the one in the file.
        known: A checkpoint note of this log from earlier; the log must still contain that history.
        progress: Called now and then.

    Raises:
        NotFound: When there is no such file.
        MalformedInput: When it is no log, or `known` is no checkpoint.
        VerificationFailed: When `known` is not signed by the key, or is of another log.
        Conflict: When the file changed while it was read.
    """
    with open_snapshot(path) as connection:
        return _Verification(connection, key, known, progress).run()


@dataclass
class _Verification:
    """One pass over entries, hashes and checkpoints, all in order of position."""

    connection: sqlite3.Connection
    pinned: VerifyKey | None
    known_note: str | None
    progress: Progress | None

    key: VerifyKey | None = None
    origin: str = ""
    known: Checkpoint | None = None

    entries: int = 0
    frontier: Frontier = field(default_factory=Frontier)
    checkpoints: int = 0
    signed: int = 0  # the largest size at which the recomputed root is a signed one
    known_matches: bool = False

    problems: list[Problem] = field(default_factory=list)
    bad_leaf: Problem | None = None
    bad_hash: Problem | None = None
    bad_head: tuple[int, Checkpoint] | None = None  # with the last size that was fine before it
    gap: bool = False

    def run(self) -> Report:
        try:
            self._read_identity()
            self._read_known()
            self._check_tree()
        except DatabaseDamage as error:
            # SQLite's driver reads one row ahead of the one it returns.
            self._add(self.entries, f"the database is damaged at this entry or the next: {error}")
        self._conclude()
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
        )

    def _add(self, position: int | None, what: str) -> None:
        self.problems.append(Problem(position, what))

    def _read_identity(self) -> None:
        meta = dict(self.connection.execute("SELECT name, value FROM log_meta").fetchall())
        if meta.keys() != {META_FORMAT, META_ORIGIN, META_KEY}:
            self._add(None, f"the log's metadata are {sorted(map(str, meta))}")
        if meta.get(META_FORMAT) != LOG_FORMAT:
            self._add(None, f"the log's format is {meta.get(META_FORMAT)!r}, not {LOG_FORMAT}")
        self.origin = str(meta.get(META_ORIGIN, ""))
        stated = None
        try:
            stated = VerifyKey.parse(str(meta.get(META_KEY, "")))
        except MalformedInput as error:
            self._add(None, f"the key that the log states is unreadable: {error}")
        self.key = self.pinned or stated
        if self.pinned and stated and stated != self.pinned:
            self._add(None, f"the log states another key than the given one: {stated.encoded()}")

    def _read_known(self) -> None:
        if self.known_note is None or self.key is None:
            return
        self.known = verify_checkpoint(self.known_note, self.key)
        if self.known.origin != self.origin:
            raise VerificationFailed(
                f"the given checkpoint is of the log {self.known.origin}, not {self.origin}",
                fix="give a checkpoint of this log",
            )

    def _check_tree(self) -> None:
        total = self._expected_entries()
        heads = heapq.merge(
            self._stored_heads(), [self.known] if self.known else [], key=lambda head: head.size
        )
        head = self._compare_heads(next(heads, None), heads)
        hashes = _StoredHashes(self.connection)
        for position, leaf in self.connection.execute(
            "SELECT position, leaf FROM log_entries ORDER BY position"
        ):
            if position != self.entries or not isinstance(leaf, bytes):
                what = "not stored as bytes" if position == self.entries else "missing"
                self._add(self.entries, what)
                self.gap = True
                break
            if self.bad_leaf is None:
                self.bad_leaf = _leaf_problem(position, leaf)
            self.frontier, nodes = self.frontier.append(sha256(b"\x00" + leaf).digest())
            if self.bad_hash is None:
                self.bad_hash = hashes.mismatch(nodes)
            self.entries += 1
            if head is not None and head.size == self.entries:
                head = self._compare_heads(head, heads)
            if self.progress and self.entries % PROGRESS_INTERVAL == 0:
                self.progress(self.entries, total)
        if self.progress:
            self.progress(self.entries, self.entries)
        if self.gap:
            return
        if self.bad_hash is None:
            self.bad_hash = hashes.surplus()
        self._check_cut([head, *heads] if head else [])

    def _expected_entries(self) -> int:
        highest = self.connection.execute("SELECT max(position) FROM log_entries").fetchone()[0]
        return highest + 1 if isinstance(highest, int) else 0

    def _stored_heads(self) -> Iterator[Checkpoint]:
        """Stored checkpoints whose signature verifies, smallest first."""
        if self.key is None:
            return
        for size, note in self.connection.execute(
            "SELECT size, note FROM log_checkpoints ORDER BY size"
        ):
            try:
                head = verify_checkpoint(str(note), self.key, self.origin)
            except FiduciaryError as error:
                self._add(None, f"checkpoint of {size} entries: {error}")
                continue
            if head.size != size:
                self._add(None, f"checkpoint of {size} entries: it signs {head.size}")
                continue
            self.checkpoints += 1
            yield head

    def _compare_heads(
        self, head: Checkpoint | None, heads: Iterator[Checkpoint]
    ) -> Checkpoint | None:
        """Compare the tree so far with every head of its size; return the next larger one."""
        while head is not None and head.size == self.entries:
            if head.root == self.frontier.root():
                self.signed = head.size
                self.known_matches = self.known_matches or head is self.known
            elif self.bad_head is None:
                self.bad_head = (self.signed, head)
            head = next(heads, None)
        return head

    def _check_cut(self, heads: list[Checkpoint]) -> None:
        """Heads that are left over at the end sign entries that are not there."""
        if heads:
            name = "the given checkpoint" if heads[0] is self.known else "a signed checkpoint"
            self._add(
                self.entries,
                f"missing; {name} covers {heads[0].size} entries and {self.entries} are there: the"
                " end of the log was cut off",
            )

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
                name = "the given checkpoint" if head is self.known else "the signed checkpoint"
                self._add(
                    start,
                    f"entries {start} to {head.size - 1} are not those of {name} of {head.size}"
                    " entries: they were rewritten together with their stored hashes",
                )
        if self.signed < self.entries and not self.problems:
            self._add(self.signed, "from here on no signed checkpoint covers the log")
        if self.checkpoints == 0 and not self.problems:
            self._add(None, "there is no signed checkpoint")
        self.problems.sort(key=lambda p: (p.position is None, p.position or 0))


def _leaf_problem(position: int, leaf: bytes) -> Problem | None:
    try:
        stated = check_leaf(leaf)
    except MalformedInput as error:
        return Problem(position, str(error))
    if stated != position:
        return Problem(position, f"it says that it is entry {stated}: it was moved")
    return None


class _StoredHashes:
    """The stored interior hashes, read level by level alongside the recomputed ones."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._levels: list[sqlite3.Cursor] = []
        self._matched = 0

    def mismatch(self, nodes: list[tuple[int, int, bytes]]) -> Problem | None:
        """The first of the nodes that is not stored as it should be."""
        for level, index, expected in nodes:
            if level == len(self._levels):
                self._levels.append(
                    self._connection.execute(
                        # The level is read back: in a damaged index a row can be found under a
                        # level that it does not have.
                        "SELECT level, position, hash FROM log_hashes WHERE level = ?"
                        " ORDER BY position",
                        (level,),
                    )
                )
            if self._levels[level].fetchone() != (level, index, expected):
                if level == 0:
                    return Problem(index, "it does not have the hash that is stored for it")
                first, last = index << level, ((index + 1) << level) - 1
                return Problem(
                    first, f"entries {first} to {last} do not have the hash stored for them"
                )
            self._matched += 1
        return None

    def surplus(self) -> Problem | None:
        """Hashes that belong to no entry."""
        stored = self._connection.execute("SELECT count(*) FROM log_hashes").fetchone()[0]
        if stored == self._matched:
            return None
        return Problem(None, f"{stored - self._matched} stored hashes belong to no entry")
