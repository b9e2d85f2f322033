"""Dates that point to a day, and ages.

* A day, a month of a year, or a weekday is found, with the time of day that follows it.
* A bare year, a duration ("two weeks ago") and a clock time alone identify nobody and stay: the
  classifier needs them.
* `parse_date` reads what `find_dates` finds, so that a date can be shifted and written alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.findings import AGE, DATE_TIME, Finding

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:\s?(?:st|nd|rd|th))?"
_YEAR = r"(?:(?:19|20)\d\d|'\d\d)"
_CLOCK = (
    r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:\s?[ap]\.?m\.?)?"
    r"(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"
)
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"

_PATTERNS = tuple(
    re.compile(
        rf"(?<![\w/.-]){body}(?:(?:,?\s+(?:at\s+)?|T){_CLOCK})?(?![\w]|[/-]\d)", re.IGNORECASE
    )
    for body in (
        r"(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])",
        r"(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.](?:(?:19|20)\d\d|\d\d)",
        rf"{_DAY}(?:\s+of)?[\s-]+{_MONTH}(?:,?[\s-]+(?:{_YEAR}|\d\d))?",
        rf"{_MONTH}[\s-]+{_DAY}(?:,?[\s-]+{_YEAR})?",
        rf"{_MONTH},?[\s/-]+{_YEAR}",
    )
)
_DAY_AND_MONTH = re.compile(
    r"\b(?:on|by|from|to|until|till|since|due|dated|for|dob)\s+"
    r"(?P<date>(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01]))(?![\w/])",
    re.IGNORECASE,
)
_WEEKDAYS = re.compile(rf"\b{_WEEKDAY}\b", re.IGNORECASE)
_BIRTH = re.compile(
    r"\b(?:d\.?o\.?b\.?|date\s+of\s+birth|birth\s?(?:day|date)|born(?:\s+on|\s+in)?)\s*(?:is|was)?[:\s-]*"
    r"(?P<date>\d[\d\s./-]{3,12}\d)",
    re.IGNORECASE,
)
_AGES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?P<age>\d{1,3})[\s-]*(?:years?|yrs?|months?)[\s-]*old\b",
        r"\b(?P<age>\d{1,3})\s?(?:y/?o|yo[mf]?|y\.o\.)\b",
        r"\b(?:age|aged|age\s+of|age\s+is|age:)\s*:?\s*(?P<age>\d{1,3})\b",
        r"\b(?:I(?:'|\u2019)m|I\s+am|(?:he|she)\s+is|turned|turning)\s+(?P<age>1?\d\d)(?=\s*(?:[.,;!?]|and\b|now\b|$))",
    )
)


def find_dates(text: str) -> Iterator[Finding]:
    """Dates that point to a day or a month."""
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            yield Finding(*match.span(), DATE_TIME)
    for pattern in (_DAY_AND_MONTH, _BIRTH):
        for match in pattern.finditer(text):
            yield Finding(*match.span("date"), DATE_TIME)
    for match in _WEEKDAYS.finditer(text):
        yield Finding(*match.span(), DATE_TIME)


def find_ages(text: str) -> Iterator[Finding]:
    """Ages in years or months, the number alone."""
    for pattern in _AGES:
        for match in pattern.finditer(text):
            yield Finding(*match.span("age"), AGE)
