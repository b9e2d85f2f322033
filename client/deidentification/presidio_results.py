"""What of the results of Presidio's recognisers and of the language model is believed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.casing import is_listed
from client.deidentification.dates import names_a_time
from client.deidentification.findings import DATE_TIME, GROUP, NUMBER, PERSON, URL, Finding
from client.deidentification.lexicon import WORD, Lexicon, plain
from client.deidentification.name_runs import LABEL_WORDS, is_particle, opens_sentence
from client.deidentification.presidio import RecognizerResult

_LICENSE = "US_DRIVER_LICENSE"
_NO_HOST = re.compile(r"[A-Z]\.[A-Z]\w{1,3}")
"""Initials and an abbreviation ("H.No."), which Presidio takes for a host in Norway."""

_LOST_SPACE = re.compile(
    r"(?P<word>[A-Za-z]{2,})\.(?:am|an|as|at|be|by|do|go|in|is|it|me|my|no|so|to|us)", re.IGNORECASE
)
"""The end of a sentence and the beginning of the next."""

MIN_LICENSE_SIGNS = 5
"""No state's driving licence is shorter; "x2" is a dose."""

_TWO_NUMBERS = re.compile(r"\d{1,2}/\d{1,2}")
_OF_A_YEAR = ("/7", "/12")
_LASTS = re.compile(r"\b(?:in|for|x|every|over|after|last|past)\s+$", re.IGNORECASE)
"""Doctors write "for 3/12" for three months, and 52 is always weeks."""

_SCORES = re.compile(
    r"\b(?:pain|score[ds]?|rate[sd]?|nrs)(?:\s+(?:is|of|was|it))?\s+$", re.IGNORECASE
)

_LEADING = re.compile(r"(?:(?:the|a|an|on|in|at|since|from|about|around)\s+)*", re.IGNORECASE)
"""What the model takes in before a date."""

_DOTTED_CAPITALS = re.compile(r"[A-Z](?:\.[A-Z])+\.?")
"""What an organisation's initials look like ("U.N.")."""

_NEAR = 40
"""Characters around a word in which its neighbours are looked for."""

_HOUSE_NUMBER = re.compile(
    r"\d{1,5}(?=$|\s+(?:last|this|next|yesterday|today|tonight|tomorrow)\b)", re.IGNORECASE
)
_WORD_BEFORE = re.compile(r"([^\W\d_][\w'\u2019-]*)[ \t]+$")


def may_be(text: str, result: RecognizerResult, lexicon: Lexicon) -> bool:
    """Whether what one of Presidio's patterns found can be what it is taken for."""
    found = text[result.start : result.end]
    if result.entity_type == URL:
        if _NO_HOST.fullmatch(found) or text[result.end : result.end + 1].isalnum():
            return False
        joined = _LOST_SPACE.fullmatch(found)
        return joined is None or not lexicon.is_everyday(joined.group("word"))
    if result.entity_type == _LICENSE:
        return len(found) >= MIN_LICENSE_SIGNS
    if result.entity_type == DATE_TIME and _TWO_NUMBERS.fullmatch(found):
        before = text[max(0, result.start - _NEAR) : result.start]
        lasts = found.endswith(_OF_A_YEAR) and _LASTS.search(before)
        return not (found.endswith("/52") or lasts or _SCORES.search(before))
    return True


def names_in(
    text: str, result: RecognizerResult, nobody: bytearray, lexicon: Lexicon
) -> Iterator[Finding]:
    """What the language model found, as findings; none where it is surely nobody's.

    The model's spans are cut at line breaks, and lose pieces made of everyday words of banking,
    medicine and grammar alone ("IBAN", "I'm", "Address").
    """
    if result.entity_type == GROUP and not _is_group(text[result.start : result.end], lexicon):
        return
    if result.entity_type == DATE_TIME:
        found = text[result.start : result.end]
        if names_a_time(found):
            yield Finding(result.start + _leading_length(found), result.end, DATE_TIME)
        elif number := _house_number(text, result.start, found, lexicon):
            yield number
        return
    for line in re.finditer(r"[^\n]+", text[result.start : result.end]):
        start, end = result.start + line.start(), result.start + line.end()
        words = [
            word
            for word in WORD.finditer(text, start, end)
            if not nobody[word.start()] or is_listed(word.group(), lexicon)
        ]
        inside = _without_grammar(words, lexicon)
        if not inside:
            continue
        if not _DOTTED_CAPITALS.fullmatch(line.group()) and _says_nothing(text, inside, lexicon):
            continue
        if inside[0] is not words[0] or any(nobody[start : words[0].start()]):
            start = inside[0].start()
        if inside[-1] is not words[-1] or any(nobody[words[-1].end() : end]):
            end = inside[-1].end()
        if result.entity_type == PERSON:
            start = max(start, _label_end(inside, lexicon))
        yield Finding(start, end, result.entity_type)


def _without_grammar(words: list[re.Match[str]], lexicon: Lexicon) -> list[re.Match[str]]:
    """The words but for small ones of grammar and of the trade at either end: "the ... ref"."""
    kept = [
        at
        for at, word in enumerate(words)
        if not word.group().islower()
        or is_particle(word.group())
        or not _is_surely_nobody(word.group(), lexicon)
    ]
    return words[kept[0] : kept[-1] + 1] if kept else []


def _house_number(text: str, start: int, found: str, lexicon: Lexicon) -> Finding | None:
    """A number after a word that is no English, which the model takes for a time."""
    number = _HOUSE_NUMBER.match(found)
    before = _WORD_BEFORE.search(text[max(0, start - _NEAR) : start])
    if number is None or before is None or lexicon.is_everyday(before.group(1)):
        return None
    return Finding(start, start + number.end(), NUMBER)


def _label_end(words: list[re.Match[str]], lexicon: Lexicon) -> int:
    """Where the name begins behind labels that the model took in ("Customer Ann Li")."""
    for word in words:
        folded = plain(word.group())
        if folded not in LABEL_WORDS and folded not in lexicon.function_words:
            return word.start()
    return 0


def _is_group(found: str, lexicon: Lexicon) -> bool:
    """Whether what the model takes for a nationality or religion can be one."""
    listed = plain(found) in lexicon.groups
    return (found[:1].isupper() or listed) and not any(char.isdigit() for char in found)


def _says_nothing(text: str, words: list[re.Match[str]], lexicon: Lexicon) -> bool:
    """Whether words that the model took for a name are nobody's."""
    if all(_is_surely_nobody(word.group(), lexicon) for word in words):
        return True
    start, end = words[0].start(), words[-1].end()
    if not all(lexicon.is_everyday(word.group()) for word in words):
        return False
    if text[start:end].isupper():
        return not _stands_out(text, start, end)
    if (
        len(words) == 1
        and opens_sentence(text, start)
        and _names_nothing(words[0].group(), lexicon)
    ):
        return True
    return text[end : end + 1] == ":"


def _names_nothing(word: str, lexicon: Lexicon) -> bool:
    """Whether an everyday word is on no list of names, places or organisations."""
    return not (
        lexicon.may_be_name(word) or lexicon.is_place(word) or plain(word) in lexicon.organisations
    )


def _is_surely_nobody(word: str, lexicon: Lexicon) -> bool:
    folded = plain(word).removesuffix("'s")
    listed = (lexicon.function_words, lexicon.current_words)
    return len(folded) < 2 or any(folded in words for words in listed)


def _leading_length(found: str) -> int:
    leading = _LEADING.match(found)
    return leading.end() if leading else 0


def _stands_out(text: str, start: int, end: int) -> bool:
    """Whether a word in capitals stands beside others that are not: it is no part of a heading."""
    line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    before = text[max(line_start, start - _NEAR) : start]
    after = text[end : min(line_end if line_end >= 0 else len(text), end + _NEAR)]
    if after.startswith(":") and not before.rstrip()[-1:].islower():
        return False  # a label
    beside = WORD.findall(before)[-1:] + WORD.findall(after)[:1]
    return bool(beside) and not any(word.isupper() and len(word) > 1 for word in beside)
