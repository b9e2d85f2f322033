"""The person-level pass: what is found or known once of a subject is found everywhere in its records.

* Names, numbers and addresses found in one record of a subject are searched in all of them.
* What the row's own structured columns say of the subject (name, phone, record number) is searched
  in its text, whatever the recognisers thought of it.
* Numbers match whatever their punctuation, names whatever their case; a name that is also an
  everyday word ("Will") matches only with a capital.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from client.deidentification.findings import (
    ADDRESS,
    DATE_TIME,
    EMAIL_ADDRESS,
    IDENTIFIER,
    LOCATION,
    ORGANIZATION,
    PERSON,
    AGE,
    Finding,
)
from client.deidentification.lexicon import WORD, Lexicon

MIN_NAME_LETTERS = 3
"""Shorter name words ("Li", "de") are searched only as part of the whole name."""

MIN_NUMBER_CHARACTERS = 4
"""Shorter numbers occur by chance."""

MAX_KNOWN_CHARACTERS = 500
"""A longer value of a structured column is prose, not an identifier."""

_GAP = r"[\s.,/()_\u2010-\u2015-]{0,3}"


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


class SubjectSearch:
    """Everything known of one subject, compiled into one search."""

    def __init__(self, identifiers: Iterable[Identifier], lexicon: Lexicon) -> None:
        """Compile the search.

        Args:
            identifiers: From all records and columns of the subject.
            lexicon: Tells which names are everyday words too.
        """
        self._lexicon = lexicon
        anywhere: dict[str, str] = {}
        capitalised: dict[str, str] = {}
        for identifier in identifiers:
            for pattern, kind, everyday in self._patterns(identifier):
                (capitalised if everyday else anywhere).setdefault(pattern, kind)
        self._anywhere = _compiled(anywhere, re.IGNORECASE)
        self._capitalised = _compiled(capitalised, 0)

    def find(self, text: str) -> Iterator[Finding]:
        """Every place in a record where something known of the subject stands."""
        for compiled in (self._anywhere, self._capitalised):
            if compiled is None:
                continue
            pattern, kinds = compiled
            for match in pattern.finditer(text):
                kind = kinds[int(str(match.lastgroup)[1:])]
                yield Finding(*match.span(), kind)

    def _patterns(self, identifier: Identifier) -> Iterator[tuple[str, str, bool]]:
        """Patterns, the kind that they find, and whether they need a capital."""
        value, kind = identifier.value, identifier.kind
        if kind in (PERSON, LOCATION, ORGANIZATION):
            words = WORD.findall(value)
            everyday = all(self._lexicon.is_everyday(word) for word in words)
            if len(words) > 1 or (words and len(words[0]) > 1 and kind != PERSON):
                yield _words_pattern(words, capital=everyday), kind, everyday
            if kind == PERSON:
                yield from self._name_word_patterns(words)
            return
        characters = re.findall(r"\w", value)
        if len(characters) >= MIN_NUMBER_CHARACTERS:
            yield _characters_pattern(characters), kind, False
        if kind == ADDRESS:
            for word in WORD.findall(value):
                if len(word) > MIN_NAME_LETTERS and not self._lexicon.is_everyday(word):
                    yield _words_pattern([word], capital=False), LOCATION, False

    def _name_word_patterns(self, words: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
        for word in words:
            if len(word) < MIN_NAME_LETTERS or self._lexicon.is_function_word(word):
                continue
            everyday = self._lexicon.is_everyday(word)
            if not everyday or self._lexicon.may_be_name(word):
                yield _words_pattern([word], capital=everyday), PERSON, everyday


def _words_pattern(words: Sequence[str], *, capital: bool) -> str:
    written = [word[0].upper() + word[1:] if capital else word for word in words]
    body = r"[\s,.-]{1,3}".join(re.escape(word) for word in written)
    return rf"(?<!\w){body}(?!\w)"


def _characters_pattern(characters: Sequence[str]) -> str:
    """Letters and digits in this order, whatever stands between them."""
    return rf"(?<!\w){_GAP.join(re.escape(char) for char in characters)}(?!\w)"


def _compiled(
    patterns: dict[str, str], flags: int
) -> tuple[re.Pattern[str], list[str]] | None:
    if not patterns:
        return None
    longest_first = sorted(patterns, key=len, reverse=True)
    body = "|".join(f"(?P<k{at}>{pattern})" for at, pattern in enumerate(longest_first))
    return re.compile(body, flags), [patterns[pattern] for pattern in longest_first]
