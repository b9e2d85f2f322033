"""Truecasing: text typed without capitals (or only in them) gets them where names may be.

The named-entity model was trained on edited text and misses half of the names in "my doctor is
john smith". A sentence that carries no evidence of careful capitals gets a second reading in which
every word that is no everyday word begins with a capital.

* `truecased` has the same length as the text, character for character, so spans carry over.
* Sentences with capitals in mid-sentence are left as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from client.deidentification.lexicon import WORD, Lexicon

_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?\n]+|$)")

_TITLE_BEFORE = re.compile(
    r"\b(?:mr|mrs|ms|miss|dr|doctor|prof|professor|nurse|sister|sir|madam|rev|capt|sgt|officer)\b\.?\s+$",
    re.IGNORECASE,
)

CARELESS_SHARE = 0.5
"""A text is careless when at least this share of its sentences begins without a capital."""


@dataclass(frozen=True)
class Casing:
    """How a text uses capitals.

    Attributes:
        truecased: The text, with capitals where names may be; of the same length.
        careless: Whether the writer does without capitals, so that their absence says nothing.
    """

    truecased: str
    careless: bool


def read_casing(text: str, lexicon: Lexicon) -> Casing:
    """Judge the writer's use of capitals and make the second reading."""
    careless = _is_careless(text)
    pieces: list[str] = []
    for match in _SENTENCE.finditer(text):
        sentence = match.group()
        words = WORD.findall(sentence)
        if _is_shouted(words):
            pieces.append(_quietened(sentence, lexicon))
        elif not any(word[0].isupper() and word != "I" for word in words[1:]):
            pieces.append(_capitalised(sentence, lexicon, careless=careless))
        else:
            pieces.append(sentence)
    return Casing("".join(pieces), careless)


def _is_careless(text: str) -> bool:
    starts = [words[0] for words in map(WORD.findall, _SENTENCE.findall(text)) if words]
    if not starts:
        return False
    small = sum(1 for word in starts if word[0].islower())
    return small >= CARELESS_SHARE * len(starts) or text.isupper()


def _is_shouted(words: list[str]) -> bool:
    letters = "".join(words)
    return len(letters) > 5 and letters.isupper() and (len(words) > 1 or len(letters) > 8)


def _quietened(sentence: str, lexicon: Lexicon) -> str:
    """Upper-case text: everyday words in lower case, the others with one capital."""

    def quiet(match: re.Match[str]) -> str:
        word = match.group()
        titled = not lexicon.is_function_word(word) and bool(
            _TITLE_BEFORE.search(sentence[: match.start()])
        )
        if word == "I" or (lexicon.is_everyday(word) and not titled):
            return word if word == "I" else _same_length(word, word.lower())
        return _same_length(word, word.title())

    return WORD.sub(quiet, sentence)


def _capitalised(sentence: str, lexicon: Lexicon, *, careless: bool) -> str:
    """Lower-case text: a capital for words that may be names, and for the first."""
    words = list(WORD.finditer(sentence))
    out = list(sentence)
    for position, match in enumerate(words):
        word = match.group()
        if not word[0].islower():
            continue
        neighbours = words[max(0, position - 1) : position] + words[position + 1 : position + 2]
        listed = lexicon.is_name(word) or lexicon.is_place(word)
        unknown = careless and is_unknown(word, lexicon)
        beside = lexicon.may_be_name(word) and any(
            lexicon.is_name(other.group()) or (careless and is_unknown(other.group(), lexicon))
            for other in neighbours
        )
        if careless and position and lexicon.is_only_noun(word):
            beside = beside or _follows_given_name(words, position, lexicon)
        titled = not lexicon.is_function_word(word) and bool(
            _TITLE_BEFORE.search(sentence[: match.start()])
        )
        if listed or beside or unknown or titled or position == 0:
            for at in _name_starts(match):
                capital = out[at].upper()
                if len(capital) == 1:
                    out[at] = capital
    return "".join(out)


def _follows_given_name(words: list[re.Match[str]], position: int, lexicon: Lexicon) -> bool:
    """Whether a word comes after a given name that does not have its family name yet."""
    before = words[position - 1].group()
    given = lexicon.is_given_name(before) and not lexicon.is_everyday(before)
    if not given and not is_unknown(before, lexicon):
        return False
    earlier = words[position - 2].group() if position > 1 else ""
    return not (earlier and (lexicon.is_name(earlier) or is_unknown(earlier, lexicon)))


def is_unknown(word: str, lexicon: Lexicon) -> bool:
    """Whether a word is neither everyday English, nor jargon, nor a slip of the pen."""
    return (
        len(word) > 2
        and not lexicon.is_everyday(word)
        and not lexicon.is_jargon(word)
        and not lexicon.is_misspelling(word)
    )


def _name_starts(match: re.Match[str]) -> list[int]:
    """Where the capitals of a (double-barrelled) name stand."""
    word = match.group()
    starts = [match.start()]
    starts.extend(match.start() + at + 1 for at, char in enumerate(word[:-1]) if char == "-")
    return starts


def _same_length(word: str, other: str) -> str:
    return other if len(other) == len(word) else word
