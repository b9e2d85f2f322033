"""Stand-ins: consistent, of the same kind, never the original, unlinkable between sites."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import MalformedInput
from client.deidentification.detection import Detector
from client.deidentification.findings import (
    ADDRESS,
    AGE,
    CREDIT_CARD,
    DATE_TIME,
    EMAIL_ADDRESS,
    IBAN_CODE,
    IDENTIFIER,
    IP_ADDRESS,
    LOCATION,
    ORGANIZATION,
    PERSON,
    PHONE_NUMBER,
    URL,
)
from client.deidentification.lexicon import plain
from client.deidentification.surrogates import KeyedChoice, SurrogateMaker
from client.deidentification.surrogates.choice import differing
from client.deidentification.surrogates.dates import shift_days, shifted
from tests.client.data.records import KEY, OTHER_KEY

KINDS = (
    ADDRESS, CREDIT_CARD, DATE_TIME, EMAIL_ADDRESS, IBAN_CODE, IDENTIFIER, IP_ADDRESS, LOCATION,
    ORGANIZATION, PERSON, PHONE_NUMBER, URL, "US_SSN",
)  # fmt: skip

ORIGINALS = (
    (PERSON, "Maria Lopez", r"[A-Z][a-z]+ [A-Z][a-z]+"),
    (PERSON, "Dr. J. K. van der Berg", r"Dr\. [A-Z]\. [A-Z]\. van der [A-Z][a-z]+"),
    (PERSON, "maria", r"[a-z]+"),
    (PERSON, "LOPEZ", r"[A-Z]+"),
    (PERSON, "O'Neill", r"[A-Z][a-z]+"),
    (PHONE_NUMBER, "(415) 555-2671 x22", r"\([2-9]\d\d\) 555-01\d\d x\d\d"),
    (PHONE_NUMBER, "+44 20 7946 0958", r"\+44 \d\d \d{4} \d{4}"),
    (PHONE_NUMBER, "07700 900123", r"0\d{4} \d{6}"),
    (IDENTIFIER, "MRN-0048213", r"MRN-\d{7}"),
    (IDENTIFIER, "AB123456C", r"[A-Z]{2}\d{6}[A-Z]"),
    (CREDIT_CARD, "4111 1111 1111 1111", r"9\d{3} \d{4} \d{4} \d{4}"),
    (IBAN_CODE, "GB29 NWBK 6016 1331 9268 19", r"GB00 [A-Z]{4} \d{4} \d{4} \d{4} \d\d"),
    ("US_SSN", "078-05-1120", r"9\d\d-\d\d-\d{4}"),
    (EMAIL_ADDRESS, "m.lopez82@mail.com", r"[a-z]\.[a-z]+\d\d@example\.(org|net|com)"),
    (IP_ADDRESS, "10.2.3.4", r"(192\.0\.2|198\.51\.100|203\.0\.113)\.\d{1,3}"),
    (IP_ADDRESS, "fe80:1:2:3::1", r"2001:db8::[0-9a-f]+:[0-9a-f]+"),
    (URL, "https://www.lopez.es/maria", r"https://[a-z]+\.example\.(org|net|com)"),
    (ADDRESS, "22 Elm Street, Springfield", r"\d\d [A-Z][a-z]+ Street, [A-Z][a-z]+"),
    (LOCATION, "France", r"[A-Z][a-z]+"),
    (LOCATION, "norwich", r"[a-z]+"),
    (ORGANIZATION, "Acme Holdings Ltd", r"[A-Z][a-z]+ Holdings Ltd"),
    (DATE_TIME, "2024-03-12", r"\d{4}-\d\d-\d\d"),
    (DATE_TIME, "12 March 2024", r"\d\d? [A-Z][a-z]+ \d{4}"),
    (AGE, "34", r"\d\d"),
)


@pytest.fixture(scope="module")
def maker(detector: Detector) -> SurrogateMaker:
    return SurrogateMaker(KEY, detector.lexicon)


@pytest.mark.parametrize(("kind", "original", "form"), ORIGINALS)
def test_a_stand_in_has_the_form_of_its_original(
    maker: SurrogateMaker, kind: str, original: str, form: str
) -> None:
    made = maker.surrogate(kind, original, "P-1")
    assert made != original
    assert re.fullmatch(form, made), made
    assert maker.surrogate(kind, original, "P-1") == made


@pytest.mark.parametrize(("kind", "original", "_form"), ORIGINALS)
def test_another_sites_secret_gives_another_stand_in(
    detector: Detector, maker: SurrogateMaker, kind: str, original: str, _form: str
) -> None:
    other = SurrogateMaker(OTHER_KEY, detector.lexicon)
    subjects = [f"P-{n}" for n in range(20)]
    ours = [maker.surrogate(kind, original, subject) for subject in subjects]
    theirs = [other.surrogate(kind, original, subject) for subject in subjects]
    assert ours != theirs


def test_one_person_stays_one_person(maker: SurrogateMaker) -> None:
    def of(name: str) -> str:
        return maker.surrogate(PERSON, name, "P-1")

    given, family = of("Maria Lopez").split()
    assert of("Lopez") == family
    assert of("LOPEZ, MARIA") == f"{family}, {given}".upper()
    assert of("maria lópez") == f"{given} {family}".lower()
    assert of("Lopez-Garcia").split("-")[0] == family
    assert maker.surrogate(PERSON, "Maria Lopez", "P-2") == f"{given} {family}"


def test_numbers_are_one_whatever_their_punctuation(maker: SurrogateMaker) -> None:
    spaced = maker.surrogate(PHONE_NUMBER, "07700 900 123", "P-1")
    dashed = maker.surrogate(PHONE_NUMBER, "07700-900-123", "P-2")
    assert re.sub(r"\D", "", spaced) == re.sub(r"\D", "", dashed)


def test_a_card_has_a_valid_check_digit(maker: SurrogateMaker) -> None:
    for original in ("4111111111111111", "5500000000000004", "340000000000009"):
        digits = [int(d) for d in maker.surrogate(CREDIT_CARD, original, "P")]
        doubled = [
            d if at % 2 == 0 else sum(divmod(2 * d, 10)) for at, d in enumerate(digits[::-1])
        ]
        assert sum(doubled) % 10 == 0


def test_form_words_alone_stay(maker: SurrogateMaker) -> None:
    assert maker.surrogate(PERSON, "Dr", "P") == "Dr"
    assert maker.surrogate(ADDRESS, "Flat", "P") == "Flat"
    assert maker.surrogate(LOCATION, "AS", "P") == "AS"
    assert maker.surrogate(PERSON, "AS", "P") != "AS"


def test_ages_stay_near_and_none_is_above_89(maker: SurrogateMaker) -> None:
    for age in (1, 2, 34, 89, 93, 104):
        for subject in map(str, range(30)):
            made = int(maker.surrogate(AGE, str(age), subject))
            assert made != age
            assert 1 <= made <= 89
            assert age > 89 or abs(made - age) <= 3


def test_digits_of_other_scripts_are_digits(maker: SurrogateMaker) -> None:
    assert re.fullmatch(r"9\d{3}", maker.surrogate(CREDIT_CARD, "\u0661\u0662\u0663\u0664", "P"))
    assert maker.surrogate(PHONE_NUMBER, "07700 900\u00b2", "P").endswith("\u00b2")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(kind=st.sampled_from(KINDS), original=st.text(min_size=1, max_size=30))
def test_a_stand_in_is_never_its_original(maker: SurrogateMaker, kind: str, original: str) -> None:
    if not any(char.isalnum() for char in original):
        return
    try:
        made = maker.surrogate(kind, original, "P-1")
    except MalformedInput:
        return  # the row is quarantined
    stays = maker.form_words(kind)
    assert made != original or all(plain(word) in stays for word in re.findall(r"\w+", original))


class TestDates:
    def test_intervals_of_one_subject_survive(self) -> None:
        days = shift_days(KEY, "P-1")
        first, second = shifted("2024-03-12", days), shifted("2024-05-01", days)
        assert first
        assert second
        assert date.fromisoformat(second) - date.fromisoformat(first) == timedelta(days=50)

    def test_subjects_and_sites_shift_differently(self) -> None:
        shifts = {shift_days(KEY, f"P-{n}") for n in range(50)}
        assert len(shifts) > 40
        assert all(60 <= abs(days) <= 360 and days % 7 for days in shifts)
        assert shift_days(KEY, "P-1") != shift_days(OTHER_KEY, "P-1")

    @pytest.mark.parametrize(
        ("original", "expected"),
        [
            ("12 March 2024", "20 June 2024"),
            ("March 28, 2026", "July 06, 2026"),
            ("28 mar", "06 jul"),
            ("4th of July 2023", "12th of October 2023"),
            ("04-Jul-23", "12-Oct-23"),
            ("July 2021", "October 2021"),
            ("2024-02-29", "2024-06-08"),
            ("29/02/2024", "08/06/2024"),
            ("3/14", "6/22"),
            ("12.11.24", "20.02.25"),
            ("2023-01-05T10:00:00Z", "2023-04-15T10:00:00Z"),
            ("1/2/1990 3:45 pm", "12/5/1990 3:45 pm"),
            ("MONDAY", "WEDNESDAY"),
            ("Sept 3rd '21", "Dec 12th '21"),
        ],
    )
    def test_a_date_keeps_its_notation(self, original: str, expected: str) -> None:
        assert shifted(original, 100) == expected

    @pytest.mark.parametrize("nonsense", ["garbage", "31/31/2020", "0000-00-00", "99.99.99", ""])
    def test_what_is_no_date_is_not_shifted(self, nonsense: str) -> None:
        assert shifted(nonsense, 100) is None


class TestChoice:
    def test_choices_are_reproducible_and_spread(self) -> None:
        drawn = [KeyedChoice(KEY, "p", str(n)).below(10) for n in range(2000)]
        assert drawn == [KeyedChoice(KEY, "p", str(n)).below(10) for n in range(2000)]
        assert all(120 < drawn.count(digit) < 280 for digit in range(10))
        assert drawn != [KeyedChoice(KEY, "q", str(n)).below(10) for n in range(2000)]

    def test_a_short_secret_is_refused(self) -> None:
        with pytest.raises(MalformedInput, match="32 bytes"):
            KeyedChoice(b"short", "p", "x")

    def test_an_attempt_that_never_differs_is_an_error(self) -> None:
        with pytest.raises(MalformedInput, match="no stand-in differs"):
            differing("same", lambda _attempt: "SAME")


def test_a_form_word_cut_off_from_its_place_stays_and_keeps_no_row_out(detector: Detector) -> None:
    assert SurrogateMaker(KEY, detector.lexicon).surrogate(LOCATION, "ST", "P-1") == "ST"
