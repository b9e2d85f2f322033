"""Names of people, places and firms, beyond what the named-entity model sees.

* A listed name, and any word that is no everyday word and carries a capital, is a name.
* A found name grows over its neighbours: initials, particles ("van der"), further capitalised
  words, "A, B and C", and a firm's legal form.

All of this reads the truecased text, so it works for writers who use no capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from client.deidentification.casing import is_unknown
from client.deidentification.cues import find_announced_names, find_home
from client.deidentification.findings import LOCATION, ORGANIZATION, PERSON, Finding
from client.deidentification.lexicon import WORD, Lexicon, plain
from client.deidentification.name_runs import (
    grown_left,
    grown_right,
    may_be_in_name,
    opens_sentence,
    without_possessive,
)

MAX_ACRONYM_LETTERS = 6
"""Capitals up to this length are abbreviations ("COPD", "IBAN"), not names."""

_LEGAL_FORM = (
    r"(?:Ltd|Limited|Inc|Incorporated|LLC|LLP|LP|PLC|Corp|Corporation|Co|Company|GmbH|AG|KG|SA|S\.A|"
    r"SAS|SARL|SpA|S\.p\.A|SRL|BV|B\.V|NV|N\.V|AB|ASA|AS|A/S|ApS|Oy|Oyj|Pty|Group|Holdings?|"
    r"Partners|Associates|Brothers|Bros|and\s+Sons|&\s+Sons|Foundation|Trust|Institute|University|"
    r"College|School|Academy|Hospital|Clinic|Infirmary|Surgery|Pharmacy|Hospice|Practice|"
    r"Laborator(?:y|ies)|Bank|Bancorp|Insurance|Assurance|Airlines|Industries|Systems|Solutions|"
    r"Services|Software|Technologies|Consulting|Enterprises|Hotel|Restaurant|Club|Church|Press|"
    r"Media|Records|Motors|Stores?|Centre|Center|Studios?)"
)
_FIRM = re.compile(
    r"(?<!\w)(?P<name>(?:[A-Z0-9][\w'\u2019&.-]*,?\s+(?:(?:and|&|of|the|for|de|y|und)\s+)?){1,5})"
    rf"{_LEGAL_FORM}\b\.?"
)
_SMALL_FIRM = re.compile(
    r"(?<!\w)(?P<name>(?:[\w'\u2019&-]+\s+){1,3})"
    r"(?:ltd|inc|llc|llp|plc|corp|corporation|gmbh|incorporated|limited)\b\.?",
    re.IGNORECASE,
)
_CAPITALISED = r"[A-Z][^\W\d_]+(?:[-'\u2019][^\W\d_]+)*"
_NEXT_IN_LIST = re.compile(rf"(?:,\s+(?:and\s+|&\s+)?|\s+(?:and|&|or)\s+)(?P<name>{_CAPITALISED})")
_ENUMERATION = re.compile(
    rf"{_CAPITALISED}(?:,\s+{_CAPITALISED})*,?\s+(?:and|&|or)\s+{_CAPITALISED}"
)


def find_names(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
    """Names that cues, lists and the absence from English give away.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
        careless: Whether the writer used no capitals: then unknown words in small letters count.
    """
    yield from find_announced_names(text, lexicon)
    for match in WORD.finditer(text):
        if _is_listed(match.group(), lexicon) or _is_unknown(text, match, lexicon, careless):
            kind = LOCATION if lexicon.is_place(match.group()) else PERSON
            yield Finding(*without_possessive(match), kind)
    yield from _places(text, lexicon)
    yield from _firms(text, lexicon, careless=careless)


def find_enumerated(text: str, found: Iterable[Finding], lexicon: Lexicon) -> Iterator[Finding]:
    """The other members of a list of which one is a found name: "Maslow, Anthony and Perry"."""
    spans = [(f.start, f.end) for f in found if f.kind in (PERSON, ORGANIZATION)]
    for match in _ENUMERATION.finditer(text):
        if any(start < match.end() and end > match.start() for start, end in spans):
            for member in WORD.finditer(text, match.start(), match.end()):
                if may_be_in_name(member.group(), lexicon, first=True):
                    yield Finding(*without_possessive(member), PERSON)


def grow_names(
    text: str, findings: Iterable[Finding], lexicon: Lexicon, *, careless: bool
) -> Iterator[Finding]:
    """Found names with the initials, particles and further names that stand beside them."""
    for finding in findings:
        if finding.kind not in (PERSON, ORGANIZATION, LOCATION):
            yield finding
            continue
        end = grown_right(text, finding.end, lexicon)
        yield Finding(grown_left(text, finding.start, lexicon), end, finding.kind)
        if finding.kind == PERSON:
            home = find_home(text, end, lexicon, careless=careless)
            if home is not None:
                yield home
            yield from _rest_of_list(text, end, lexicon)


def _rest_of_list(text: str, end: int, lexicon: Lexicon) -> Iterator[Finding]:
    while following := _NEXT_IN_LIST.match(text, end):
        if not may_be_in_name(following.group("name"), lexicon, first=True):
            break
        end = grown_right(text, following.end(), lexicon)
        yield Finding(following.start("name"), end, PERSON)


def _is_listed(word: str, lexicon: Lexicon) -> bool:
    if not word[0].isupper():
        return False
    if lexicon.is_name(word) or lexicon.is_place(word):
        return True
    parts = re.split(r"['\u2019-]", word)
    return len(parts) > 1 and any(lexicon.is_name(part) for part in parts if len(part) > 2)


def _is_unknown(text: str, match: re.Match[str], lexicon: Lexicon, careless: bool) -> bool:
    """Whether a word is a name because it is nothing else."""
    start, end = without_possessive(match)
    word = text[start:end]
    if len(word) < 3:
        return False
    if word[0].islower():
        return careless and is_unknown(word, lexicon)
    if word.isupper() and len(word) <= MAX_ACRONYM_LETTERS and word.isascii():
        return False
    if opens_sentence(text, start):
        return is_unknown(word, lexicon)
    return not lexicon.is_everyday(word) and not lexicon.is_jargon(word)


def _places(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Places of several words, whatever their case."""
    words = list(WORD.finditer(text))
    for at, first in enumerate(words):
        for last in reversed(words[at + 1 : at + 4]):
            phrase = " ".join(plain(text[first.start() : last.end()]).split())
            if phrase in lexicon.places:
                yield Finding(first.start(), last.end(), LOCATION)
                break


def _firms(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
    """Firms and institutions by their legal form or kind."""
    for match in _FIRM.finditer(text):
        start = _firm_start(match, lexicon)
        if start is not None:
            yield Finding(start, match.end(), ORGANIZATION)
    for match in _SMALL_FIRM.finditer(text) if careless else ():
        start = match.end()
        for word in reversed(list(re.finditer(r"\S+", match.group("name")))):
            if lexicon.is_function_word(word.group()):
                break
            start = match.start() + word.start()
        if start < match.end():
            yield Finding(start, match.end(), ORGANIZATION)


def _firm_start(match: re.Match[str], lexicon: Lexicon) -> int | None:
    """Where a firm's name begins: at its first word that is no grammar."""
    words = list(re.finditer(r"\S+", match.group("name")))
    for word in words:
        bare = word.group().strip(",.&")
        if not bare or lexicon.is_function_word(bare):
            continue
        if len(words) == 1 and len(bare) <= 3 and lexicon.is_everyday(bare):
            return None  # "My Bank", "Old School"
        return match.start() + word.start()
    return None
