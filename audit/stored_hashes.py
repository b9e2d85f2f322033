"""Compares the hashes that a log stores with those of the recomputed tree."""

from __future__ import annotations

from itertools import count, islice, zip_longest

from audit.merkle import Node
from audit.report import Problem
from audit.source import LogSource
from audit.words import count_of


class StoredHashes:
    """The stored hashes, read in the order in which entries complete them."""

    def __init__(self, source: LogSource) -> None:
        self._source = source
        self._stored = source.hashes()
        self._matched = 0

    def mismatch(self, nodes: list[Node]) -> Problem | None:
        """The first of the nodes that is not as it is stored."""
        expected = list(zip(count(self._matched), [value for _, _, value in nodes], strict=False))
        stored = list(islice(self._stored, len(expected)))
        if stored == expected:
            self._matched += len(expected)
            return None
        matching = next(
            number
            for number, (wanted, found) in enumerate(zip_longest(expected, stored))
            if wanted != found
        )
        level, index, _ = nodes[matching]
        if level == 0:
            return Problem(index, "it does not have the hash that is stored for it")
        start, last = index << level, ((index + 1) << level) - 1
        return Problem(start, f"entries {start} to {last} do not have the hash stored for them")

    def surplus(self) -> Problem | None:
        """Hashes that belong to no entry."""
        stored = self._source.count_hashes()
        if stored == self._matched:
            return None
        extra = count_of(stored - self._matched, "stored hash")
        return Problem(None, f"{extra} without an entry")
