"""Which parts of a text with capitals are read: words that nothing explains, and what is near."""

from __future__ import annotations

import pytest

from client.deidentification.doubts import REACH, find_doubts
from client.deidentification.findings import PERSON, Finding, covered
from client.deidentification.lexicon import Lexicon, load_lexicon

WORDS = "golden helix met was seen at by after the letter came he she with and word doctor"


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon(WORDS.split(), ["met", "came", "seen"])


def doubts(text: str, lexicon: Lexicon, explained: str = "", silent: str = "") -> list[str]:
    """The parts that are read, where two pieces of the text are known."""

    def mask(known: str) -> bytearray:
        start = text.index(known)
        return covered(text, [Finding(start, start + len(known), PERSON)])

    at = text.index(silent)
    found = find_doubts(text, mask(explained), [(at, at + len(silent))] if silent else [], lexicon)
    return [text[start:end] for start, end in found]


def test_a_sentence_with_a_capital_that_nothing_explains_is_read(lexicon: Lexicon) -> None:
    text = "The letter came. He met Golden Helix at the word. She was seen."
    assert doubts(text, lexicon) == [" He met Golden Helix at the word."]
    assert doubts(text, lexicon, explained="Golden Helix") == []
    assert doubts(text, lexicon, silent=" He met Golden Helix at the word.") == []


def test_a_word_beside_a_found_name_goes_with_it(lexicon: Lexicon) -> None:
    text = "He met Ann Golden at the word."
    assert doubts(text, lexicon, explained="Ann") == []
    assert doubts("He met Ann at Golden.", lexicon, explained="Ann") == ["He met Ann at Golden."]


def test_a_word_of_no_list_is_no_doubt(lexicon: Lexicon) -> None:
    assert doubts("He was seen by Zyskovar.", lexicon) == []


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Golden was seen.", False),  # a sentence begins
        ("He was seen by Golden.", True),
        ("He was seen at QXZV.", False),  # an abbreviation
        ("He was seen by G.", False),
        ("He came after Monday with the letter.", False),
        ("He met the German doctor.", False),
        ("He said I'm Doctor: the word.", False),  # a label
        ("he was seen.", False),
        ("", False),
    ],
)
def test_a_capital_with_another_reason_is_no_doubt(text: str, read: bool, lexicon: Lexicon) -> None:
    assert doubts(text, lexicon) == [text] * read


def test_of_a_long_sentence_only_what_is_near_is_read(lexicon: Lexicon) -> None:
    words = ["word"] * 100
    words[30], words[40], words[95] = "Golden", "Helix", "Golden"
    text = " ".join(words) + "."
    assert doubts(text, lexicon) == [
        " ".join(words[30 - REACH : 40 + REACH + 1]),
        " ".join(words[95 - REACH :]) + ".",
    ]
