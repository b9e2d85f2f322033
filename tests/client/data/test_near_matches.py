"""Known names and numbers are found as people mistype them, and other words are left alone."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.deidentification.detection import Detector
from client.deidentification.near_matches import near_numbers, slips_allowed, within_slips
from client.deidentification.person_level import SubjectSearch, known_identifiers
from client.deidentification.pipeline import Deidentified, Deidentifier, SourceRecord

NAMES = ("okonkwo", "thibodeaux", "merwe", "anderson", "quispe", "haraldsdottir", "kowalczyk")
KNOWN = (
    "Ngozi Okonkwo-Reyes",
    "Jan van der Merwe",
    "Sean McDonald",
    "Søren Møller",
    "Carter Will",
    "0770 900 123",
    "22 Elmwood Road, Haverford",
)


def found(detector: Detector, text: str, known: tuple[str, ...] = KNOWN) -> set[str]:
    search = SubjectSearch((), detector.lexicon, known_identifiers(known))
    return {text[finding.start : finding.end] for finding in search.find(text)}


@st.composite
def slips(draw: st.DrawFn, words: tuple[str, ...], letters: str) -> tuple[str, str]:
    """A word, and the same with one slip."""
    word = draw(st.sampled_from(words))
    at = draw(st.integers(0, len(word) - 1))
    head, tail = word[:at], word[at:]
    letter = draw(st.sampled_from(letters))
    made = (head + tail[1:], head + letter + tail, head + letter + tail[1:], word + letter)
    return word, draw(st.sampled_from((*made, head + tail[1:2] + tail[:1] + tail[2:])))


@given(slips(NAMES, string.ascii_lowercase))
@example(("merwe", "mewre"))
@settings(max_examples=300, deadline=None)
def test_every_single_slip_of_a_known_name_is_found(
    detector: Detector, slip: tuple[str, str]
) -> None:
    name, written = slip
    lexicon = detector.lexicon
    text = f"the {written.title()} notes say so"
    hit = written.title() in found(detector, text, (f"Bo {name.title()}",))
    assert hit or lexicon.is_everyday(written) or lexicon.is_jargon(written)


@given(slips(("0770900123", "12345678", "9876543"), string.digits))
@settings(max_examples=200, deadline=None)
def test_every_single_slip_of_a_long_number_is_found(slip: tuple[str, str]) -> None:
    number, written = slip
    assert (5, 5 + len(written)) in set(near_numbers(f"xxxxx{written}yyy", number))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ngzoi came", "ngzoi"),
        ("seen by Okonkow again", "Okonkow"),
        ("OKONKWOREYES WAS SEEN", "OKONKWOREYES"),
        ("mc donald was here", "mc donald"),
        ("mr Mc-Donald was here", "Mc-Donald"),
        ("vandermerwe was seen", "vandermerwe"),
        ("mrs van dermerwe", "dermerwe"),
        ("mrs ok onk wo", "ok onk wo"),
        ("a scan read M3rwe", "M3rwe"),
        ("Soren and Moller", "Soren"),
        ("Soren and Moeller", "Moeller"),
        ("on elmwod rd", "elmwod"),
        ("ring 0770-900-132", "0770-900-132"),
        ("ring 0770.900.23", "0770.900.23"),
    ],
)
def test_what_is_known_is_found_as_it_is_mistyped(
    detector: Detector, text: str, value: str
) -> None:
    assert value in found(detector, text)


@pytest.mark.parametrize(
    "text",
    [
        "a garter and a crater, cater for the charter",  # words, not "Carter"
        "he will not, while they fill",  # "Will" is too short for slips
        "the merge of two series",
        "sen and jam",
        "0771 900 124 and 123456",  # two slips, and no number of hers
        "on the road to elm",
        "donate and modern",
    ],
)
def test_other_words_are_left_alone(detector: Detector, text: str) -> None:
    assert not found(detector, text)


def test_what_was_only_found_in_text_is_not_searched_for_misspelt(detector: Detector) -> None:
    known = known_identifiers(("Ngozi Okonkwo",))
    search = SubjectSearch(known, detector.lexicon)
    assert list(search.find("okonkwo"))
    assert not list(search.find("okonkow"))


def test_what_an_email_address_calls_its_owner_is_searched_for(detector: Detector) -> None:
    known = ("zofia.okafor@mail.example", "ward@mail.example")
    assert found(detector, "saw zofia on the ward, Mr Okafor too", known) == {"zofia", "Okafor"}


def test_short_names_and_numbers_must_be_right(detector: Detector) -> None:
    assert not found(detector, "kimy and lees", ("Kim Lee",))
    assert not list(near_numbers("123457", "123456"))


@pytest.mark.parametrize(
    ("one", "other", "slips"), [("ab", "ba", 1), ("abc", "ca", 3), ("kitten", "sitting", 3)]
)
def test_the_distance_is_that_of_optimal_string_alignment(one: str, other: str, slips: int) -> None:
    assert within_slips(one, other, slips)
    assert within_slips(other, one, slips)
    assert not within_slips(one, other, slips - 1)


def test_two_slips_are_for_long_names_alone(detector: Detector) -> None:
    assert slips_allowed(7) == 1
    assert "thibodexau" in found(detector, "thibodexau", ("Al Thibodeaux",))
    assert "quisep" in found(detector, "quisep", ("Al Quispe",))
    assert not found(detector, "quiset", ("Al Quispe",))


def test_a_mistyped_name_of_a_column_is_replaced(deidentifier: Deidentifier) -> None:
    text = "saw jhon okonkow today, all well, call 0770-900-132 or 0770900123"
    record = SourceRecord("P-1", text, ("Ngozi Okonkwo", "0770900123"))
    (outcome,) = deidentifier.deidentify([record])
    assert isinstance(outcome, Deidentified)
    assert "okonkow" not in outcome.text
    assert "900" not in outcome.text
    assert "all well" in outcome.text
