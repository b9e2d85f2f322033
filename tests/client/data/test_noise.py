"""Names and dates that a scan or a hurried hand distorted are found, and other words are not."""

from __future__ import annotations

import pytest

from client.deidentification.detection import Detector
from client.deidentification.findings import DATE_TIME, Finding
from client.deidentification.noise import (
    find_joined_names,
    find_slipped,
    mended,
    small_neighbours,
)


def covered_words(detector: Detector, text: str) -> str:
    (findings,) = detector.detect([text])
    return " | ".join(text[finding.start : finding.end] for finding in findings)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Her notes say that Yasmin lafleurt came in.", "lafleurt"),
        ("The form was signed by amanda Kowalski at noon.", "amanda"),
        ("Notes.\nAssistant: edhikav Kowalski was there.", "edhikav"),
        ("She moved to C0penhagen in spring and stayed.", "C0penhagen"),
        ("The letter was typed byMichael in the office.", "Michael"),
        ("It happened on Ma 28, 2018 at home.", "Ma 28, 2018"),
        ("It happened on 24-Jaan-2020 at home.", "24-Jaan-2020"),
        ("They met on Thur5day in the ward.", "Thur5day"),
        ("An 83 yeear old was seen.", "83"),
        ("Born O4/11/1947 in the town.", "O4/11/1947"),
        ("Seen again on 21 Feb 2O22 at home.", "2O22"),
        ("Moved on 2l.O3.2O25 to the ward.", "2l.O3.2O25"),
        ("Sent at O9:42 from the ward.", "O9:42"),
        ("Seen in the clinic on l7 Aug 2020 again.", "l7 Aug 2020"),
        ("Aged 9l and frail, she fell.", "9l"),
        ("Ring 9OO 655 44l2 at home.", "9OO 655 44l2"),
        ("It was moved to the 6th Ocotber instead.", "6th Ocotber"),
        ("He has been in the ward since Febuary.", "Febuary"),
        ("It was sent on 9 Decernber to them.", "9 Decernber"),
        ("They came on Wendesday with flowers.", "Wendesday"),
        ("She worked at Kowalski Hernandez and Przybylski until May.", "and Przybylski"),
    ],
)
def test_what_noise_did_is_read_all_the_same(detector: Detector, text: str, word: str) -> None:
    assert word in covered_words(detector, text)


@pytest.mark.parametrize(
    "text",
    [
        "CYP1A2, H1N1 and p53",
        "Il-6, type I-II",
        "a 5HT1A block",
        "0.5mg, then 1ml",
        "O2 at 2l or 15l",
        "T10, IO 12",
    ],
)
def test_codes_are_no_words_that_a_scan_distorted(text: str) -> None:
    assert mended(text) == text


def test_letters_and_figures_that_a_scan_mixed_up_are_told_apart() -> None:
    assert mended("C0UNTY TlMES, 0mbudsman 5upply") == "COUNTY TIMES, ombudsman supply"
    assert mended("l7 Aug, ll:3O, 5mmol, 33l") == "17 Aug, 11:30, 5mmol, 33l"


@pytest.mark.parametrize(
    "text",
    [
        "a sundae on sundays",
        "augustus and mondays",
        "about 28 2018 units",
        "Fig 12, 2018",
        "of 12 cases 2010",
        "83 years cold",
        "30 rod old",
    ],
)
def test_other_words_beside_figures_are_no_dates(text: str) -> None:
    assert not list(find_slipped(text))


def test_a_name_grows_over_its_small_neighbours_alone(detector: Detector) -> None:
    lexicon = detector.lexicon
    for text, name, grown in (
        ("saw Yasmin today", "Yasmin", "Yasmin"),
        ("saw Yasmin lafleurt today", "Yasmin", "Yasmin lafleurt"),
        ("the Yasmin carcinoma", "Yasmin", "Yasmin"),
        ("the Yasmin recieved", "Yasmin", "Yasmin"),
        ("saw amanda Kowalski", "Kowalski", "amanda Kowalski"),
        ("saw xqzt Kowalski", "Kowalski", "Kowalski"),
    ):
        start = text.index(name)
        begin, end = small_neighbours(text, start, start + len(name), lexicon)
        assert text[begin:end] == grown


def test_a_joined_name_is_a_listed_one(detector: Detector) -> None:
    text = "byMichael and theHeLa, mRNA, aGroup"
    assert [text[f.start : f.end] for f in find_joined_names(text, detector.lexicon)] == ["Michael"]


def test_a_date_keeps_its_span() -> None:
    assert list(find_slipped("on Ma 28, 2018")) == [Finding(3, 14, DATE_TIME)]
