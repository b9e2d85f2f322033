"""Where a name begins and ends: runs of capitalised words, initials and particles.

Reads truecased text, so a capital means that the word may be a name.
"""

from __future__ import annotations

import re

from client.deidentification.lexicon import WORD, Lexicon, plain, word_set

MAX_NAME_WORDS = 6
"""Longer runs of capitals are headlines."""

PARTICLES = word_set(
    "van von der den de del della dello di da das dos do du la le el al bin ibn bint abu ter ten "
    "zu zur zum af av y e st san santa mac mc o' d' l' het 't op vom ben abd dela las los degli dei"
)
"""Words between the parts of a name that are written small."""

LABEL_WORDS = word_set(
    "name address phone telephone tel mobile cell fax office home work email mail date birth dob "
    "patient customer subject re from to cc when where who signed street city state zip postcode "
    "country company job title position occupation contact number id account card note notes "
    "client agent pt pts member holder cheers login user record reference policy policyholder "
    "hospital doctor nurse consultant caller owner manager"
)
"""What stands before a name or another value in a form; never a name itself."""

_OPENING_PARTICLES = PARTICLES - word_set("do e y la le op ten las los")
"""Those that may open a name; the others are too common before one."""

_INITIAL = re.compile(r"(?!I\b(?!\.))[A-Z]\.?(?:[A-Z]\.)*(?=\s|$|,)")
_GAP = re.compile(r"[ \t]+")
_WORD_BEFORE = re.compile(r"(?<!\S)([A-Z]\.|[^\W\d_][\w'\u2019-]*)[ \t]+$")

_REACH = 80
"""Characters before a name that are looked at for one word more."""


def is_particle(word: str) -> bool:
    """Whether the word is a particle such as "van"."""
    return plain(word) in PARTICLES


def run_end(text: str, start: int, lexicon: Lexicon) -> int:
    """Where the run of name words that begins at `start` ends; `start` when there is none."""
    at = end = start
    for count in range(MAX_NAME_WORDS):
        initial, word = _INITIAL.match(text, at), WORD.match(text, at)
        if initial and (not word or initial.end() >= word.end()):
            end = following = initial.end()
        elif word is None:
            break
        else:
            following = word.end()
            if is_particle(word.group()) and (count or word.group()[0].islower()):
                pass  # counts only when a name follows
            elif may_be_in_name(word.group(), lexicon, first=count == 0):
                end = without_possessive(word)[1]
                if end < word.end():
                    break
            else:
                break
        gap = _GAP.match(text, following)
        if gap is None:
            break
        at = gap.end()
    return end if any(char.isalpha() for char in text[start:end]) else start


def grown_right(text: str, end: int, lexicon: Lexicon) -> int:
    """Where a name that is known to reach to `end` really ends."""
    gap = _GAP.match(text, end)
    if gap is None:
        return end
    word = WORD.match(text, gap.end())
    if word is None or word.group() == "I":
        return end
    continues = is_particle(word.group()) or (
        word.group().isupper()
        if len(word.group()) == 1
        else may_be_in_name(word.group(), lexicon, first=True)
    )
    if not continues and _is_family_name(text, end, word.group(), lexicon):
        return without_possessive(word)[1]
    grown = run_end(text, gap.end(), lexicon) if continues else gap.end()
    return grown if grown > gap.end() else end


def _is_family_name(text: str, end: int, word: str, lexicon: Lexicon) -> bool:
    """Whether an everyday word with a capital stands where a given name's family name does."""
    given = _WORD_BEFORE.search(text[max(0, end - _REACH) : end])
    return (
        given is not None
        and word[0].isupper()
        and (word[1:].islower() and len(word) > 2)
        and lexicon.is_name(given.group(1))
        and lexicon.is_given_name(given.group(1))
        and not lexicon.is_function_word(word)
        and plain(word) not in LABEL_WORDS
        and plain(word) not in lexicon.current_words
    )


def grown_left(text: str, start: int, lexicon: Lexicon) -> int:
    """Where a name that is known to begin at `start` really begins."""
    for _ in range(MAX_NAME_WORDS):
        window = max(0, start - _REACH)
        before = _WORD_BEFORE.search(text[window:start])
        if before is None:
            break
        at = window + before.start(1)
        unexpected = before.group(1)[0].isupper() and not opens_sentence(text, at)
        if not _belongs_before(before.group(1), lexicon, unexpected_capital=unexpected):
            break
        start = at
    return start


def opens_sentence(text: str, start: int) -> bool:
    """Whether a word stands where everybody writes a capital."""
    before = text[max(0, start - 10) : start].rstrip(" \t\"'([*-")
    return not before or before[-1] in ".!?:\n"


def _belongs_before(word: str, lexicon: Lexicon, *, unexpected_capital: bool) -> bool:
    if re.fullmatch(r"[A-Z]\.?", word):
        return word not in ("I", "A")
    if is_particle(word) and word[0].islower():
        return plain(word) in _OPENING_PARTICLES
    if not word[0].isupper() or plain(word) in LABEL_WORDS:
        return False
    if lexicon.is_function_word(word):
        return lexicon.is_given_name(word)
    if unexpected_capital and not word.isupper():
        return True
    return lexicon.may_be_name(word) or lexicon.is_place(word) or not lexicon.is_everyday(word)


def may_be_in_name(word: str, lexicon: Lexicon, *, first: bool) -> bool:
    """Whether a word may stand in a name: capitalised, and at its start no everyday word."""
    if not word[0].isupper():
        return False
    everyday, listed = lexicon.is_everyday(word), lexicon.may_be_name(word)
    if lexicon.is_function_word(word) and not listed:
        return False
    if 1 < len(word) < 5 and word.isupper() and everyday:
        return False
    return not everyday or listed or not first


def without_possessive(match: re.Match[str]) -> tuple[int, int]:
    """Span of a word without its "'s"."""
    word = match.group()
    possessive = len(word) > 3 and word.endswith(("'s", "\u2019s"))
    return match.start(), match.end() - (2 if possessive else 0)
