"""The person-level pass: what is known of a subject once is found in all of its records.

* Names, numbers and addresses found in one record of a subject are searched in all of them.
* What the row's own structured columns say of the subject (name, phone, record number) is searched
  in its text, whatever the recognisers thought of it.
* Numbers match whatever their punctuation, names whatever their case; a name that is also an
  everyday word ("Will") matches only with a capital.
* What the columns say is searched for misspelt too (`client.deidentification.near_matches`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from client.deidentification.findings import (
    ADDRESS,
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    IDENTIFIER,
    LOCATION,
    ORGANIZATION,
    PERSON,
    Finding,
)
from client.deidentification.lexicon import WORD, Lexicon
from client.deidentification.near_matches import NearNames, folded, near_numbers, places_of
from client.deidentification.spoken import as_written

MIN_NAME_LETTERS = 3
"""Shorter name words ("Li", "de") are searched only as part of the whole name."""

MIN_NUMBER_CHARACTERS = 4
"""Shorter numbers occur by chance."""

MAX_KNOWN_CHARACTERS = 500
"""A longer value of a structured column is prose, not an identifier."""

MAX_GAP_CHARACTERS = 3
"""Spaces and marks between two characters of a number, or two words of a name."""

_LETTERS = re.compile(r"[^\W\d_]+")
_RUNS = re.compile(r"[\x00-\x7f]+|[^\x00-\x7f]+")
_MARKS = re.compile(r"[\W_]+")
_GAP = re.compile(rf"[^\w@]{{0,{MAX_GAP_CHARACTERS}}}|_")


@dataclass(frozen=True)
class Identifier:
    """Something that identifies one subject, and what kind of thing it is.

    Attributes:
        kind: One of `client.deidentification.findings`.
        value: As it was found or given.
    """

    kind: str
    value: str


def known_identifiers(values: Iterable[str]) -> list[Identifier]:
    """What a row's structured columns give away; the kind is read off the value's form."""
    known: list[Identifier] = []
    for value in values:
        bare = value.strip()
        if not bare or len(bare) > MAX_KNOWN_CHARACTERS:
            continue
        digits = sum(char.isdigit() for char in bare)
        words = WORD.findall(bare)
        if "@" in bare:
            kind = EMAIL_ADDRESS
        elif digits and len(words) >= 2:
            kind = ADDRESS
        elif digits:
            kind = IDENTIFIER
        else:
            kind = PERSON
        known.append(Identifier(kind, bare))
    return known


def found_identifiers(text: str, findings: Iterable[Finding]) -> list[Identifier]:
    """The findings of one record as identifiers to search in the subject's other records."""
    searched = (AGE, DATE_TIME)
    return [Identifier(f.kind, text[f.start : f.end]) for f in findings if f.kind not in searched]


@dataclass(frozen=True)
class _Sought:
    """Words in a row that give the subject away."""

    words: tuple[str, ...]
    kind: str
    needs_capital: bool


class SubjectSearch:
    """Everything known of one subject, ready to be searched for in its records."""

    def __init__(
        self,
        identifiers: Iterable[Identifier],
        lexicon: Lexicon,
        known: Iterable[Identifier] = (),
    ) -> None:
        """Sort what is known into words and numbers.

        Args:
            identifiers: Found in the subject's records.
            lexicon: Tells which names are everyday words too.
            known: From the columns of the subject's rows: searched for misspelt too.
        """
        self._lexicon = lexicon
        self._by_first_word: defaultdict[str, set[_Sought]] = defaultdict(set)
        self._numbers: dict[str, str] = {}
        certain = list(dict.fromkeys(known))
        for identifier in (*certain, *identifiers):
            if identifier.kind in (PERSON, LOCATION, ORGANIZATION):
                self._add_name(identifier)
            else:
                self._add_number(identifier)
        self._near_names = NearNames(_certain_names(certain), lexicon)
        self._near_numbers = {
            _squeezed(one.value): one.kind for one in certain if one.kind in (IDENTIFIER, ADDRESS)
        }

    def find(self, text: str) -> Iterator[Finding]:
        """Every place in a record where something known of the subject stands."""
        yield from self._names(text)
        yield from self._near_names.find(text)
        yield from self._found_numbers(text)

    def _add_name(self, identifier: Identifier) -> None:
        words = _words(identifier)
        if all(self._lexicon.is_function_word(word) for word in words):
            return
        kind = identifier.kind
        if len(words) > 1 or (kind != PERSON and words and len(words[0]) > 1):
            self._seek(words, kind)
        if kind == PERSON:
            for word in words:
                everyday = self._lexicon.is_everyday(word)
                if len(word) >= MIN_NAME_LETTERS and (
                    not everyday or self._lexicon.may_be_name(word)
                ):
                    self._seek((word,), kind)

    def _add_number(self, identifier: Identifier) -> None:
        squeezed = _squeezed(identifier.value)
        if len(squeezed) >= MIN_NUMBER_CHARACTERS:
            self._numbers.setdefault(squeezed, identifier.kind)
        if identifier.kind == EMAIL_ADDRESS:  # "k.okafor@..." tells what its owner is called
            local = as_written(EMAIL_ADDRESS, identifier.value).partition("@")[0]
            for word in map(folded, _LETTERS.findall(local)):
                if len(word) > MIN_NAME_LETTERS and not self._lexicon.is_everyday(word):
                    self._seek((word,), PERSON)
        if identifier.kind == ADDRESS:
            for word in _words(identifier):
                if len(word) > MIN_NAME_LETTERS and not self._lexicon.is_everyday(word):
                    self._seek((word,), LOCATION)

    def _seek(self, words: tuple[str, ...], kind: str) -> None:
        everyday = len(words) == 1 and self._lexicon.is_everyday(words[0])
        self._by_first_word[words[0]].add(_Sought(words, kind, everyday))

    def _names(self, text: str) -> Iterator[Finding]:
        found = list(_LETTERS.finditer(text))
        words = [folded(match.group()) for match in found]
        for at, first in enumerate(found):
            for sought in self._by_first_word.get(words[at], ()):
                end = at + len(sought.words)
                run = found[at:end]
                if tuple(words[at:end]) != sought.words or not _are_neighbours(text, run):
                    continue
                if sought.needs_capital and not all(m.group()[0].isupper() for m in run):
                    continue
                yield Finding(first.start(), run[-1].end(), sought.kind)

    def _found_numbers(self, text: str) -> Iterator[Finding]:
        """Numbers by their letters and digits, whatever stands between them."""
        squeezed = _squeezed(text)
        spans = [
            (at, at + len(number), kind)
            for number, kind in self._numbers.items()
            for at in places_of(number, squeezed)
        ]
        spans += [
            (start, end, kind)
            for number, kind in self._near_numbers.items()
            for start, end in near_numbers(squeezed, number)
        ]
        if spans:
            places = [
                at
                for at, char in enumerate(text)
                if char.isalnum()
                for _ in (char if char.isascii() else folded(char))
            ]
            for start, end, kind in spans:
                yield from _whole(text, places[start:end], kind)


def _whole(text: str, taken: list[int], kind: str) -> Iterator[Finding]:
    """Characters at these places, where they stand close and are no part of something longer."""
    start, end = taken[0], taken[-1] + 1
    before, after = text[start - 1 : start], text[end : end + 1]
    close = all(right - left <= MAX_GAP_CHARACTERS + 1 for left, right in pairwise(taken))
    if close and not before.isalnum() and not after.isalnum():
        yield Finding(start, end, kind)


def _certain_names(known: Iterable[Identifier]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Words of known names, and each word of a known address by itself."""
    for one in known:
        if one.kind == PERSON:
            yield _words(one), PERSON
        elif one.kind == ADDRESS:
            yield from (((word,), LOCATION) for word in _words(one))


def _words(identifier: Identifier) -> tuple[str, ...]:
    return tuple(map(folded, _LETTERS.findall(identifier.value)))


def _squeezed(text: str) -> str:
    """Its letters and digits alone, folded each by itself."""
    return "".join(
        _MARKS.sub("", run.lower())
        if run.isascii()
        else "".join(folded(char) for char in run if char.isalnum())
        for run in _RUNS.findall(text)
    )


def _are_neighbours(text: str, run: list[re.Match[str]]) -> bool:
    return all(
        _GAP.fullmatch(text, left.end(), right.start()) is not None for left, right in pairwise(run)
    )
