"""Dates shifted by one secret number of days per subject, written as the original was.

* One subject's dates keep their intervals and their order; two subjects' shifts are unrelated.
* The shift is 60 to 359 days, forward or back, and never whole weeks: so day, month and weekday
  all change.
* A numeric date whose order is not clear is read day first.
"""

from __future__ import annotations

import re
from datetime import date, timedelta

from client.deidentification.surrogates.choice import KeyedChoice
from client.deidentification.surrogates.invented import cased_like

MIN_SHIFT_DAYS = 60
MAX_SHIFT_DAYS = 359

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ANY_WEEKDAY = re.compile(
    r"\b(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tues?|wed|thurs?|thu|fri|sat|sun)\b",
    re.IGNORECASE,
)
_LEAP_YEAR = 2024
"""Stands in for the year that "29 February" does not name."""

_MONTH_NAME = re.compile(r"[A-Za-z]{3,9}")
_NUMERIC = re.compile(
    r"(?P<a>\d{1,4})(?P<first>[-/.])(?P<b>\d{1,2})(?:(?P<second>[-/.])(?P<c>\d{2,4}))?"
)
_DAY = re.compile(r"(?<!\d)(\d{1,2})(\s?(?:st|nd|rd|th))?(?![\d:])", re.IGNORECASE)
_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?!\d)|'(\d\d)(?!\d)|(?<=-)(\d\d)$")


def shift_days(secret: bytes, subject: str) -> int:
    """The subject's shift in days: secret, fixed, never zero."""
    choice = KeyedChoice(secret, "date-shift", subject)
    days = MIN_SHIFT_DAYS + choice.below(MAX_SHIFT_DAYS - MIN_SHIFT_DAYS)
    if days % 7 == 0:
        days += 1
    return days if choice.below(2) else -days


def shifted(original: str, days: int) -> str | None:
    """The date moved by `days`, in the same notation; None when it cannot be read.

    >>> shifted("12 March 2024", 61), shifted("2024-03-12 14:05", -72), shifted("Monday", 61)
    ('12 May 2024', '2023-12-31 14:05', 'Saturday')
    """
    clock = re.search(r"(?:T|,?\s+(?:at\s+)?)\d{1,2}:\d\d.*$", original)
    body, rest = (original[: clock.start()], clock.group()) if clock else (original, "")
    moved = _weekday(body, days) or _numeric(body, days) or _written(body, days)
    return None if moved is None else moved + rest


def unreadable(original: str, choice: KeyedChoice) -> str:
    """A stand-in for what names a time and is no date: "10:30", "2019", "the 1990s", "Christmas".

    Hours stay hours and years years; of words alone another weekday or "that day" is made.
    """
    if not any(char.isdigit() for char in original):
        if _ANY_WEEKDAY.search(original):
            return _ANY_WEEKDAY.sub(lambda m: _another_weekday(m.group(), choice), original)
        return cased_like(original, "that day")

    def number(match: re.Match[str]) -> str:
        digits = match.group()
        if len(digits) == 4 and digits[:2] in ("19", "20"):
            decade = original[match.end() : match.end() + 1] in ("s", "'")
            return str(int(digits) - (1 + choice.below(3)) * (10 if decade else 1))
        if len(digits) <= 2 and int(digits) < 60:
            below = 12 if int(digits) <= 12 else 24 if int(digits) < 24 else 60
            return _padded_like(digits, 1 + choice.below(below - 1))
        return choice.like(digits)

    return re.sub(r"\d+", number, original)


def _another_weekday(name: str, choice: KeyedChoice) -> str:
    other = _WEEKDAYS[choice.below(7)]
    return cased_like(name, other if len(name) > 5 else other[:3])


def _weekday(body: str, days: int) -> str | None:
    bare = body.strip().rstrip(".").casefold()
    for at, name in enumerate(_WEEKDAYS):
        if bare == name.casefold() or (len(bare) in (3, 4, 5) and name.casefold().startswith(bare)):
            moved = _WEEKDAYS[(at + days) % 7]
            return cased_like(body, moved if len(bare) > 5 else moved[:3])
    return None


def _numeric(body: str, days: int) -> str | None:
    match = _NUMERIC.fullmatch(body.strip())
    if match is None:
        return None
    a, b, c = match.group("a"), match.group("b"), match.group("c")
    if len(a) == 4:
        order = "ymd" if c else "ym"
    elif int(a) > 12 or (int(b) <= 12 and c is not None):
        order = "dmy"
    else:
        order = "mdy"
    parts = dict(zip(order, (a, b, c), strict=False))
    day = _date_of(parts.get("y"), parts.get("m"), parts.get("d"))
    if day is None:
        return None
    moved = day + timedelta(days)
    texts = {
        "y": _year_like(parts.get("y") or "0000", moved.year),
        "m": _padded_like(parts.get("m") or "00", moved.month),
        "d": _padded_like(parts.get("d") or "00", moved.day),
    }
    written = texts[order[0]] + match.group("first") + texts[order[1]]
    return written + (match.group("second") + texts[order[2]] if c and len(order) > 2 else "")


def _written(body: str, days: int) -> str | None:
    """A date with the month's name."""
    month = next((m for m in _MONTH_NAME.finditer(body) if _month_number(m.group())), None)
    if month is None:
        return None
    around = body[: month.start()] + "\x00" * len(month.group()) + body[month.end() :]
    year = _YEAR.search(around)
    day = next(
        (m for m in _DAY.finditer(around) if year is None or m.start() != _digits_at(year)), None
    )
    original = _date_of(
        next(filter(None, year.groups())) if year else None,
        str(_month_number(month.group())),
        day.group(1) if day else None,
    )
    if original is None:
        return None
    moved = original + timedelta(days)
    edits = [(month.start(), month.end(), _month_like(month.group(), moved.month))]
    if day:
        ending = _ordinal_like(day.group(2), moved.day) if day.group(2) else ""
        edits.append((day.start(), day.end(), _padded_like(day.group(1), moved.day) + ending))
    if year:
        digits = next(filter(None, year.groups()))
        edits.append((_digits_at(year), year.end(), _year_like(digits, moved.year)))
    for start, end, text in sorted(edits, reverse=True):
        body = body[:start] + text + body[end:]
    return body


def _digits_at(year: re.Match[str]) -> int:
    return year.start() + year.group().startswith("'")


def _date_of(year: str | None, month: str | None, day: str | None) -> date | None:
    number = _LEAP_YEAR if year is None else int(year)
    if number < 100:
        number += 2000 if number < 40 else 1900
    try:
        return date(number, int(month or 6), int(day or 15))
    except ValueError:
        return None


def _month_number(word: str) -> int:
    folded = word.casefold()
    for at, name in enumerate(_MONTHS, start=1):
        full = name.casefold()
        if folded == full or (len(folded) in (3, 4) and full.startswith(folded)):
            return at
    return 0


def _month_like(original: str, month: int) -> str:
    name = _MONTHS[month - 1]
    full = _MONTHS[_month_number(original) - 1]
    short = len(original) < len(full)
    return cased_like(original, name[:3] if short else name)


def _padded_like(original: str, number: int) -> str:
    return f"{number:02d}" if len(original) == 2 else str(number)


def _year_like(original: str, year: int) -> str:
    return f"{year % 100:02d}" if len(original) == 2 else str(year)


def _ordinal_like(original: str, day: int) -> str:
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return (" " if original[0].isspace() else "") + cased_like(original.strip(), ending)
