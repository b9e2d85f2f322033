"""Which words of a text with capitals the learned recogniser is asked about, and what it reads.

To read all of a text would cost as much as everything else together. Most names are found by rules,
lists, cues and the model. An everyday word is in doubt when it has a capital that none of them
explains: it may be a firm or a place, which nothing else would find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from re import Match
from typing import Final

from client.deidentification.casing import SENTENCE, is_unknown
from client.deidentification.findings import Finding, covered
from client.deidentification.firms import MAX_ACRONYM_LETTERS
from client.deidentification.lexicon import WORD, Lexicon, plain, word_set

REACH: Final = 6
"""Words on either side that are read with a word in doubt, within its sentence."""

_CALENDAR: Final = word_set(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may "
    "june july august september october november december"
)

Mask = bytes | bytearray
"""One byte for each character of a text."""


def find_doubts(
    text: str,
    explained: Mask,
    silent: Sequence[tuple[int, int]],
    lexicon: Lexicon,
) -> Iterator[tuple[int, int]]:
    """Parts of a text that are worth a reading, in order, as starts and ends.

    Args:
        text: As its writer used capitals.
        explained: 1 for each character of what is found already.
        silent: Sentences that are read anyway.
        lexicon: Tells everyday words.
    """
    read = covered(text, [Finding(start, end, "") for start, end in silent])
    for sentence in SENTENCE.finditer(text):
        if not sentence.group() or read[sentence.start()]:
            continue
        words = list(WORD.finditer(text, *sentence.span()))
        doubtful = [at for at in range(len(words)) if _is_doubtful(words, at, explained, lexicon)]
        yield from _parts(sentence, words, doubtful)


def _parts(
    sentence: Match[str], words: Sequence[Match[str]], doubtful: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Words of a sentence with what stands near them; those that are near together."""
    groups: list[list[int]] = []
    for at in doubtful:
        if groups and at - groups[-1][-1] <= 2 * REACH:
            groups[-1].append(at)
        else:
            groups.append([at])
    for group in groups:
        first, last = group[0] - REACH, group[-1] + REACH
        yield (
            words[first].start() if first > 0 else sentence.start(),
            words[last].end() if last < len(words) - 1 else sentence.end(),
        )


def _is_doubtful(words: Sequence[Match[str]], at: int, explained: Mask, lexicon: Lexicon) -> bool:
    word = words[at].group()
    if not word[0].isupper() or explained[words[at].start()] or len(word) < 2:
        return False
    if word.isupper() and len(word) <= MAX_ACRONYM_LETTERS:
        return False
    if at == 0 or is_unknown(word, lexicon):
        return False  # everybody writes a capital; a word of no list is taken for a name anyway
    beside = [words[near] for near in (at - 1, at + 1) if 0 <= near < len(words)]
    if any(near.group()[0].isupper() and explained[near.start()] for near in beside):
        return False  # the name beside it grows over it
    return not _is_nobody(words[at], lexicon)


def _is_nobody(match: Match[str], lexicon: Lexicon) -> bool:
    """Whether a word has its capital for another reason than being a name, or is a label."""
    word = plain(match.group()).removesuffix("'s")
    listed = (lexicon.function_words, lexicon.current_words, lexicon.groups, _CALENDAR)
    return (
        any(word in words for words in listed)
        or word.startswith("i'")
        or lexicon.is_jargon(word)
        or match.string[match.end() : match.end() + 1] == ":"
    )
