"""Truecasing: text typed without capitals (or only in them) gets them where names may be.

The named-entity model was trained on edited text and misses half of the names in "my doctor is
john smith". A sentence that carries no evidence of careful capitals gets a second reading in which
every word that is no everyday word begins with a capital.

* It has the same length as the text, character for character, so spans carry over.
* Sentences with capitals in mid-sentence are left as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from client.deidentification.lexicon import WORD, Lexicon, in_small_letters, plain, word_set

SENTENCE = re.compile(
    r"(?:[^.!?\n]+|(?:(?<=[\W\d_][^\W\d_])|(?<=^[^\W\d_])|(?<=\bmr)|(?<=\bmrs)|(?<=\bms)|(?<=\bdr)|"
    r"(?<=\bst)|(?<=\bprof))\.(?=\s?[^\W\d_]))*(?:[.!?\n]+|$)",
    re.IGNORECASE,
)
"""A sentence ends neither after an initial nor after a title."""

_INITIALS_AND_NAME = re.compile(
    r"(?<![\w.@'\u2019/])(?P<initials>(?:[^\W\d_]\.[ \t]?){1,3})"
    r"(?P<name>[^\W\d_]{2,}(?:['\u2019-][^\W\d_]+)*)"
)
_IN_NAMES = word_set("van von der den de del della di da dos du la le el al bin ibn ter ten")
_RELATIONS = word_set(
    "wife husband daughter son mother father mum mom dad sister brother niece nephew aunt uncle "
    "cousin partner friend colleague neighbour neighbor driver boss agent nurse named called "
    "grandson granddaughter hi hello hey dear"
)
_PREPOSITIONS = word_set("in to from of at near via")
PLACES_TOO = word_set(
    "turkey chad jordan china chile guinea georgia mali niger oman cuba reading bath nice mobile "
    "cork hull buffalo phoenix lima orange bend split essen tours troy"
)
"""Places that are everyday words: places after a preposition."""

_NO_GROUPS = word_set("polish pole conservative labour orthodox evangelical independent jain roma")
"""Groups that mean something else where nobody writes capitals."""

_BEFORE_TOWNS = word_set(
    "new north south east west port lake saint san santa st fort mount el la los las le"
)
"""Words that stand before a town's own name and are part of it."""

_TITLE_BEFORE = re.compile(
    r"\b(?:mr|mrs|ms|miss|dr|doctor|prof|professor|nurse|sister|sir|madam|rev|capt|sgt|officer)\b\.?\s+$",
    re.IGNORECASE,
)

_REACH = 16
"""Characters before a word in which a title can stand."""

CARELESS_SHARE = 0.5
"""A text is careless when at least this share of its sentences begins without a capital."""

SLIPS_SHARE = 0.08
"""A text is slipshod when at least this share of its words in small letters are no words."""

MIN_SLIPS = 2

WILD_SHARE = 0.12
"""A text is wild when at least this share of its everyday words is in capitals for no reason."""

MIN_WILD = 4
MIN_WILD_LETTERS = 3
_MIN_SLIP_LETTERS = 4

SHOUTED_SHARE = 0.7
"""A sentence is in capitals when at least this share of its words is."""


@dataclass(frozen=True)
class Casing:
    """How a text uses capitals.

    Attributes:
        careless: Whether the writer does without capitals, so that their absence says nothing.
        silent: Where capitals say nothing: the text of a careless writer or one full of slips,
            sentences in capitals. Starts and ends, neighbours together.
        wild: Whether capitals stand anywhere: all of the text is read as if it had none.
    """

    careless: bool
    silent: tuple[tuple[int, int], ...] = ()
    wild: bool = False


@dataclass(frozen=True)
class TrueCase:
    """A text with capitals where names may be.

    Attributes:
        text: Of the same length as what was written.
        changed: Where sentences are that got capitals: starts and ends, neighbours together.
    """

    text: str
    changed: tuple[tuple[int, int], ...] = ()


def read_casing(text: str, lexicon: Lexicon) -> Casing:
    """Judge the writer's use of capitals."""
    sentences = [(match.span(), WORD.findall(match.group())) for match in SENTENCE.finditer(text)]
    if _is_wild([words for _, words in sentences], lexicon):
        return Casing(careless=True, silent=((0, len(text)),), wild=True)
    careless = _is_careless(text, [words for _, words in sentences])
    if careless or _is_slipshod(text, lexicon):
        return Casing(careless, silent=((0, len(text)),))
    silent: list[tuple[int, int]] = []
    for span, words in sentences:
        if _is_shouted(words):
            _append(silent, span)
    return Casing(careless, tuple(silent))


def true_case(text: str, casing: Casing, lexicon: Lexicon, nobody: bytearray) -> TrueCase:
    """The second reading.

    Args:
        text: As it was written.
        casing: What `read_casing` says of it.
        lexicon: Tells everyday words from names.
        nobody: 1 for each character of a word that is surely no name: it gets a capital only
            where it is on a list of names.
    """
    pieces: list[str] = []
    changed: list[tuple[int, int]] = []
    for match in SENTENCE.finditer(text):
        sentence = match.group()
        words = WORD.findall(sentence)
        own = nobody[match.start() : match.end()]
        if casing.wild:
            small = in_small_letters(sentence)
            pieces.append(_capitalised(small, lexicon, own, careless=True))
        elif _is_shouted(words):
            pieces.append(_capitalised(_quietened(sentence), lexicon, own, careless=True))
        elif not any(word[0].isupper() and word != "I" for word in words[1:]):
            pieces.append(_capitalised(sentence, lexicon, own, careless=casing.careless))
        else:
            pieces.append(sentence)
        if pieces[-1] != sentence:
            _append(changed, match.span())
    return TrueCase("".join(pieces), tuple(changed))


def _append(parts: list[tuple[int, int]], span: tuple[int, int]) -> None:
    """Put a sentence to the others, joined to the one before where they touch."""
    joins = bool(parts) and parts[-1][1] == span[0]
    parts.append((parts.pop()[0] if joins else span[0], span[1]))


def _is_careless(text: str, sentences: list[list[str]]) -> bool:
    """Whether sentences begin in small letters, or all of the text is in capitals."""
    starts = [words[0] for words in sentences if words]
    small = sum(1 for word in starts if word[0].islower())
    return bool(starts) and (small >= CARELESS_SHARE * len(starts) or text.isupper())


def _is_slipshod(text: str, lexicon: Lexicon) -> bool:
    """Whether many words in small letters are neither words nor names."""
    words = [
        word for word in WORD.findall(text) if word[0].islower() and len(word) >= _MIN_SLIP_LETTERS
    ]
    slips = sum(
        not (lexicon.is_everyday(word) or lexicon.is_jargon(word) or is_listed(word, lexicon))
        for word in words
        if word.isalpha()
    )
    return slips >= MIN_SLIPS and slips >= SLIPS_SHARE * len(words)


def _is_wild(sentences: list[list[str]], lexicon: Lexicon) -> bool:
    """Whether everyday words are in capitals here and there, beside others that are not."""
    loud = quiet = 0
    for words in sentences:
        if _is_shouted(words):
            continue
        for word in words[1:]:
            folded = plain(word)
            if len(word) < MIN_WILD_LETTERS or not (
                folded in lexicon.function_words or folded in lexicon.words
            ):
                continue
            loud += word.isupper()
            quiet += word.islower()
    return loud >= MIN_WILD and loud >= WILD_SHARE * (loud + quiet)


def _is_shouted(words: list[str]) -> bool:
    """Whether a sentence is in capitals, but for a value or two that were filled in."""
    letters = "".join(words)
    if letters.isupper():
        return len(letters) > 5 and (len(words) > 1 or len(letters) > 8)
    loud = sum(word.isupper() and len(word) > 1 for word in words)
    return len(words) > 3 and loud >= SHOUTED_SHARE * len(words)


def _quietened(sentence: str) -> str:
    """The sentence with every word that is in capitals in small letters."""

    def quiet(match: re.Match[str]) -> str:
        word = match.group()
        return _same_length(word, word.lower()) if word.isupper() and word != "I" else word

    return WORD.sub(quiet, sentence)


def _capitalised(sentence: str, lexicon: Lexicon, nobody: bytearray, *, careless: bool) -> str:
    """Lower-case text: a capital for words that may be names, and for the first."""
    words = list(WORD.finditer(sentence))
    out = list(sentence)
    for position, match in enumerate(words):
        if (
            match.group()[0].islower()
            and (
                not nobody[match.start()]
                or is_listed(match.group(), lexicon)
                or (careless and _is_group(match.group(), lexicon))
            )
            and _takes_capital(words, position, lexicon, careless)
        ):
            _capitalise(out, match)
    for match in _INITIALS_AND_NAME.finditer(sentence):
        if _may_follow_initial(match.group("name"), lexicon):
            _upper_at(out, match.start("name"))
            for at in range(*match.span("initials")):
                _upper_at(out, at)
    return "".join(out)


def is_listed(word: str, lexicon: Lexicon) -> bool:
    """Whether a word is a name or a place and hardly anything else."""
    parts = (_bare(word), *(part for part in word.split("-") if len(part) > 2))
    return lexicon.is_place(word) or any(lexicon.is_name(part) for part in parts)


def _takes_capital(
    words: list[re.Match[str]], position: int, lexicon: Lexicon, careless: bool
) -> bool:
    if position == 0 and careless:
        return True
    match = words[position]
    word = match.group()
    if is_listed(word, lexicon):
        return True
    if careless and (is_unknown(word, lexicon) or _is_group(word, lexicon)):
        return True
    if not lexicon.is_function_word(word) and _follows_title(match):
        return True
    surely = [
        lexicon.is_name(other) or (careless and is_unknown(other, lexicon))
        for other in _neighbours(words, position)
    ]
    beside = lexicon.may_be_name(_bare(word)) or plain(word) in _BEFORE_TOWNS
    if any(surely) and (beside or (careless and _is_no_word(word, lexicon))):
        return True
    if careless and position:
        before = plain(words[position - 1].group())
        if before in _RELATIONS and lexicon.may_be_name(word):
            return True
        if before in _PREPOSITIONS and plain(word) in PLACES_TOO:
            return True
    return careless and lexicon.is_only_noun(word) and _follows_given_name(words, position, lexicon)


def _neighbours(words: list[re.Match[str]], position: int) -> list[str]:
    """The words beside a word in the same phrase; beyond initials and particles."""
    match, found = words[position], []
    for step in (-1, 1):
        at, near = position + step, match
        while 0 <= at < len(words):
            other = words[at]
            gap = match.string[min(near.end(), other.end()) : max(near.start(), other.start())]
            if len(gap) > 2:
                break
            if len(other.group()) > 1 and plain(other.group()) not in _IN_NAMES:
                found.append(_bare(other.group()))
                break
            near, at = other, at + step
    return found


def _bare(word: str) -> str:
    return word[:-2] if word.endswith(("'s", "\u2019s")) and len(word) > 3 else word


def _is_no_word(word: str, lexicon: Lexicon) -> bool:
    return len(word) > 2 and not lexicon.is_everyday(word) and not lexicon.is_jargon(word)


def _follows_title(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _REACH) : match.start()]
    return bool(_TITLE_BEFORE.search(before))


def _is_group(word: str, lexicon: Lexicon) -> bool:
    folded = plain(word)
    return folded in lexicon.groups and folded not in _NO_GROUPS


def _may_follow_initial(word: str, lexicon: Lexicon) -> bool:
    return (
        lexicon.may_be_name(word)
        or is_unknown(word, lexicon)
        or (len(word) > 3 and lexicon.is_only_noun(word))
    )


def _capitalise(out: list[str], match: re.Match[str]) -> None:
    for at in _name_starts(match):
        _upper_at(out, at)


def _upper_at(out: list[str], at: int) -> None:
    capital = out[at].upper()
    if len(capital) == 1:
        out[at] = capital


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
