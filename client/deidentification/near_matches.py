"""Names and numbers that are known of a subject, as people mistype them.

* A word of 5 to 7 letters may have one slip, a longer one two: a letter that is wrong, missing or
  too many, or two neighbours that changed places (Damerau-Levenshtein distance in its restricted
  form, optimal string alignment). A shorter one must be right.
* A name may be cut in parts or run together with the next: "Mc Donald", "vandermerwe".
* A number of seven digits or more may have one slip.
* An everyday word or a learned one is nobody's slip: "Carter" is not found in "garter".

All of it is for what a row's own columns say of its subject, and for no guess of a recogniser:
these are few, and are that person's for certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from functools import lru_cache
from itertools import pairwise
from typing import Final

from client.deidentification.findings import Finding
from client.deidentification.lexicon import MAX_JUDGED_WORDS, Lexicon, unaccented

MIN_ONE_SLIP_LETTERS: Final = 5
"""Shorter names are one slip away from too many other words."""

MIN_TWO_SLIPS_LETTERS: Final = 8

MIN_SLIP_DIGITS: Final = 7
"""Shorter numbers are one slip away from too many others."""

MAX_PARTS: Final = 3
"""In how many parts a name may be cut."""

MAX_CUT_CHARACTERS: Final = 2
"""Between two parts of a name."""

_TOKEN = re.compile(r"[^\W_]+")
"""Digits too: a scan reads "Sm1th"."""


class NearNames:
    """Names of one subject, to be found in its texts though they are mistyped."""

    def __init__(self, names: Iterable[tuple[tuple[str, ...], str]], lexicon: Lexicon) -> None:
        """Sort the names by what they may look like.

        Args:
            names: Words of each, folded and in their order, and its kind.
            lexicon: Tells what is a word of its own.
        """
        self._lexicon = lexicon
        self._sought: dict[str, str] = {}
        for words, kind in names:
            for word in words:
                if not lexicon.is_function_word(word):
                    self._seek(word, kind)
            for start in range(len(words)):
                for end in range(start + 2, len(words) + 1):
                    self._seek("".join(words[start:end]), kind)
        self._by_length: dict[int, list[tuple[str, int, int]]] = {}
        for word in self._sought:
            most = slips_allowed(len(word))
            for length in range(len(word) - most, len(word) + most + 1):
                self._by_length.setdefault(length, []).append((word, _letters(word), most))
        self._judged: dict[str, str | None] = {}

    def _seek(self, word: str, kind: str) -> None:
        if len(word) >= MIN_ONE_SLIP_LETTERS:
            self._sought.setdefault(word, kind)

    def find(self, text: str) -> Iterator[Finding]:
        """Where a name stands, mistyped, cut or run together."""
        if not self._sought:
            return
        words = set(map(folded, set(_TOKEN.findall(text))))
        near = {word for word in words if self._kind(word) is not None}
        cut = self._cuts(words)
        if not near and not cut:
            return
        tokens = [(m.start(), m.end(), folded(m.group())) for m in _TOKEN.finditer(text)]
        for at, (start, end, word) in enumerate(tokens):
            if word in near:
                yield Finding(start, end, self._judged[word] or "")
            for parts in cut.get(word, ()):
                run = tokens[at : at + len(parts)]
                close = all(b[0] - a[1] <= MAX_CUT_CHARACTERS for a, b in pairwise(run))
                if close and tuple(part for _, _, part in run) == parts:
                    yield Finding(start, run[-1][1], self._sought["".join(parts)])

    def _kind(self, word: str) -> str | None:
        """Of which kind the name is that the word is meant to be; None for another word."""
        if word not in self._judged:
            self._judged[word] = self._judge(word)
        return self._judged[word]

    def _judge(self, word: str) -> str | None:
        letters = _letters(word)
        for sought, others, most in self._by_length.get(len(word), ()):
            if (letters ^ others).bit_count() > 2 * most or not within_slips(word, sought, most):
                continue
            if self._lexicon.is_everyday(word) or self._lexicon.is_jargon(word):
                return None
            return self._sought[sought]
        return None

    def _cuts(self, words: Set[str]) -> dict[str, list[tuple[str, ...]]]:
        """By their first parts, names of which all parts are among the words of a text."""
        by_first: dict[str, list[tuple[str, ...]]] = {}
        for sought in self._sought:
            for parts in _in_parts(sought, words, MAX_PARTS):
                if not all(map(self._lexicon.is_everyday, parts)):
                    by_first.setdefault(parts[0], []).append(parts)
        return by_first


def _in_parts(word: str, words: Set[str], most: int) -> Iterator[tuple[str, ...]]:
    """How a word can be put together from two to `most` of others."""
    for end in range(1, len(word)) if most > 1 else ():
        if word[:end] in words:
            if word[end:] in words:
                yield word[:end], word[end:]
            for rest in _in_parts(word[end:], words, most - 1):
                yield word[:end], *rest


def near_numbers(squeezed: str, number: str) -> Iterator[tuple[int, int]]:
    """Where a number of at least `MIN_SLIP_DIGITS` digits stands with one slip, or none.

    Args:
        squeezed: Letters and digits of a text alone.
        number: Likewise.
    """
    if sum(map(str.isdigit, number)) < MIN_SLIP_DIGITS:
        return
    length, middle = len(number), len(number) // 2
    head, tail = number[:middle], number[middle:]
    windows = {(at, at + size) for at in places_of(head, squeezed) for size in _sizes(length)} | {
        (at + len(tail) - size, at + len(tail))
        for at in places_of(tail, squeezed)
        for size in _sizes(length)
    }  # one slip leaves one half as it is, unless it is where they meet
    swapped = head[:-1] + tail[0] + head[-1] + tail[1:]
    windows |= {(at, at + length) for at in places_of(swapped, squeezed)}
    for start, end in sorted(windows):
        if 0 <= start < end <= len(squeezed) and within_slips(squeezed[start:end], number, 1):
            yield start, end


def slips_allowed(letters: int) -> int:
    """How many slips a name of so many letters may have.

    >>> [slips_allowed(letters) for letters in (4, 5, 7, 8)]
    [0, 1, 1, 2]
    """
    return (letters >= MIN_ONE_SLIP_LETTERS) + (letters >= MIN_TWO_SLIPS_LETTERS)


def within_slips(word: str, other: str, most: int) -> bool:
    """Whether at most so many slips turn one word into the other.

    >>> within_slips("martha", "marhta", 1), within_slips("martha", "marta", 1)
    (True, True)
    >>> within_slips("martha", "marta", 0), within_slips("abcd", "badc", 1)
    (False, False)
    """
    if abs(len(word) - len(other)) > most:
        return False
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(word):
        earlier, before, row = before, row, [at + 1]
        for to, against in enumerate(other):
            best = min(before[to] + (letter != against), before[to + 1] + 1, row[to] + 1)
            if at and to and letter == other[to - 1] and word[at - 1] == against:
                best = min(best, earlier[to - 1] + 1)
            row.append(best)
        if min(row) > most and min(before) > most:
            return False
    return row[-1] <= most


def places_of(part: str, text: str) -> Iterator[int]:
    """Where a part begins in a text, also where it overlaps itself."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


@lru_cache(MAX_JUDGED_WORDS)
def folded(text: str) -> str:
    """Without case and accents."""
    return unaccented(text.casefold())


@lru_cache(MAX_JUDGED_WORDS)
def _letters(word: str) -> int:
    """Which letters a word has, as bits: each slip changes at most two of them."""
    bits = 0
    for char in word:
        bits |= 1 << (ord(char) & 63)
    return bits


def _sizes(length: int) -> tuple[int, int, int]:
    return (length - 1, length, length + 1)
