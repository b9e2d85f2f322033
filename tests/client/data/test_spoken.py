"""What is spelt out or said in words is found and replaced, and numbers that count things stay."""

from __future__ import annotations

import pytest

from client.deidentification.detection import Detector
from client.deidentification.findings import (
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    IDENTIFIER,
    NUMBER,
    PERSON,
    PHONE_NUMBER,
    URL,
)
from client.deidentification.identifiers import find_identifiers, find_online, find_phones
from client.deidentification.pipeline import Deidentified, Deidentifier, SourceRecord
from client.deidentification.policy import generalised
from client.deidentification.spoken import as_written, find_spoken


def spoken(text: str) -> set[tuple[str, str]]:
    return {(finding.kind, text[finding.start : finding.end]) for finding in find_spoken(text)}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("he is ninety-four years old", AGE, "ninety-four"),
        ("She was three years of age", AGE, "three"),
        ("a Seventy Two year-old", AGE, "Seventy Two"),
        ("aged about eighty one, frail", AGE, "eighty one"),
        ("at the age of one hundred and two", AGE, "one hundred and two"),
        ("who turned ninety last week", AGE, "ninety"),
        ("The patient is sixty-six and well", AGE, "sixty-six"),
        ("a lady of eighty-nine, frail", AGE, "eighty-nine"),
        ("a man of 91 with pain", AGE, "91"),
        ("his father died at 87.", AGE, "87"),
        ("menopause at fifty-one", AGE, "fifty-one"),
        ("in her late eighties", AGE, "eighties"),
        ("her ninetieth birthday", AGE, "ninetieth"),
        ("a nonagenarian with a fall", AGE, "nonagenarian"),
        ("on the twenty-second of October 1960", DATE_TIME, "twenty-second of October 1960"),
        ("on May the third", DATE_TIME, "May the third"),
        ("in June nineteen sixty-one", DATE_TIME, "June nineteen sixty-one"),
        ("born in nineteen oh seven", DATE_TIME, "nineteen oh seven"),
        ("came at 15.47h", DATE_TIME, "15.47"),
        ("ring oh-one-six-one 496 0733 now", PHONE_NUMBER, "oh-one-six-one 496 0733"),
        ("on zero seven double six 900 123", PHONE_NUMBER, "zero seven double six 900 123"),
        ("the code is four four seven one", NUMBER, "four four seven one"),
        ("write to j dot doe at example dot org", EMAIL_ADDRESS, "j dot doe at example dot org"),
        ("to ann_lee[at]post[dot]example", EMAIL_ADDRESS, "ann_lee[at]post[dot]example"),
        ("to a.lee (at) mail.ward dot uk", EMAIL_ADDRESS, "a.lee (at) mail.ward dot uk"),
        ("see www dot ward dot org slash ann", URL, "www dot ward dot org slash ann"),
    ],
)  # fmt: skip
def test_words_that_say_who_or_when(text: str, kind: str, value: str) -> None:
    assert (kind, value) in spoken(text)


@pytest.mark.parametrize(
    "text",
    [
        "one of ninety-four patients died within three years",
        "sixty patients turned up, and thirty of them were older",
        "in a series of forty; the group of 25 was small",
        "the first of three and the second of four trials",
        "for twenty minutes, twice in thirty days",
        "two thousand units, then fifteen hundred",
        "one, two or three doses, and four in all",
        "looked at quantum dot arrays at one point in time",
        "the point at which a dot in the field is seen",
        "at 7.35 and at 15.47 mmHg",
        "a mean of fifty-one, with a range of eight to ninety",
        "who is one of the patients",
        "the may first seen",
        "the half-lives in the early phase",
    ],
)
def test_numbers_and_words_that_count_things_stay(text: str) -> None:
    assert not spoken(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("parked behind the ward, AB 1234C", IDENTIFIER, "AB 1234C"),
        ("drove a blue van (12-D-3456) here", IDENTIFIER, "12-D-3456"),
        ("Pump s/n KD-11.2034.5 failed", IDENTIFIER, "KD-11.2034.5"),
    ],
)
def test_vehicles_and_devices(text: str, kind: str, value: str) -> None:
    assert (kind, value) in {(f.kind, text[f.start : f.end]) for f in find_identifiers(text)}


@pytest.mark.parametrize(
    "text", ["HLA DR 45 and CD 34 cells", "of 40 mg IV over 24 H", "parked in bay 4, level 2"]
)
def test_letters_and_digits_away_from_vehicles_stay(text: str) -> None:
    assert not list(find_identifiers(text))


def test_an_internal_extension_and_a_path_belong_to_the_address() -> None:
    text = "tel. 04-577.21.85 int 41, pictures on album.example/u/ann and see treatment/control"
    assert "04-577.21.85 int 41" in {text[f.start : f.end] for f in find_phones(text)}
    online = {text[f.start : f.end] for f in find_online(text)}
    assert "album.example/u/ann" in online
    assert not any("control" in found for found in online)


def test_an_initial_after_a_family_name_in_capitals(detector: Detector) -> None:
    text = "Seen with OGUNWALE BRANT, K. in clinic; a culture of DNA, E. coli grew"
    (findings,) = detector.detect([text])
    assert (PERSON, "OGUNWALE BRANT, K.") in {(f.kind, text[f.start : f.end]) for f in findings}
    assert "coli" not in {text[f.start : f.end] for f in findings}


@pytest.mark.parametrize(
    ("kind", "said", "written"),
    [
        (AGE, "One hundred and nineteen", "119"),
        (AGE, "seventies", "70s"),
        (AGE, "ninety-third", "93"),
        (AGE, "93", "93"),
        (DATE_TIME, "third of May two thousand and four", "3rd of May 2004"),
        (DATE_TIME, "nineteen hundred", "1900"),
        (DATE_TIME, "Monday", "Monday"),
        (PHONE_NUMBER, "0161 496 0733", "0161 496 0733"),
        (EMAIL_ADDRESS, "a_b [at] x [dot] org", "a_b@x.org"),
        (URL, "www dot ward dot org slash ann", "www.ward.org/ann"),
    ],
)
def test_what_was_said_as_it_is_written(kind: str, said: str, written: str) -> None:
    assert as_written(kind, said) == written


def test_nothing_of_what_was_said_is_stored(deidentifier: Deidentifier) -> None:
    text = (
        "He is seventy-three years old, a nonagenarian is his mother, in her late nineties. Born "
        "on the fourteenth of October nineteen fifty-two. Ring oh one six one double four nine "
        "3321 or jane dot roe at ward dot example."
    )
    (outcome,) = deidentifier.deidentify([SourceRecord("P-7", text)])
    assert isinstance(outcome, Deidentified)
    for word in ("seventy-three", "nonagenarian", "nineties", "90s", "fourteenth", "fifty-two"):
        assert word not in outcome.text
    for word in ("1952", "one six", "double", "3321", "jane", "roe", "ward"):
        assert word not in outcome.text
    assert "years old" in outcome.text


def test_an_age_in_words_is_generalised_as_its_figures_are() -> None:
    assert generalised(AGE, "ninety-three", 2026) == "90+"
    assert generalised(AGE, "sixty", 2026) == "60"
    assert generalised(DATE_TIME, "May nineteen ninety", 2026) == "1990"
