"""What scanners and hurried hands do to names and dates, and how it is read all the same.

* `mended` gives letters back to words in which a scan read figures, "C0dyview", and figures to
  numbers in which it read letters, "2O24". Its result has the length of the text, so that spans
  carry over.
* A name beside a found one is a name in small letters too: "Yasmin U. lafleur".
* A month with one slip is a month where a day and a year stand beside it: "Ma 28, 2018".
* An age before "yeear old" is one still.
* A name that lost the space before it is one still: "byJohn".

Words of English, of medicine and their slips are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from client.deidentification.casing import is_unknown
from client.deidentification.findings import AGE, DATE_TIME, LOCATION, PERSON, Finding
from client.deidentification.lexicon import WORD, Lexicon, one_slip_away, unaccented
from client.deidentification.near_matches import within_slips

_LOOK_ALIKES: Final = {"0": "o", "1": "l", "5": "s"}
_LOUD_LOOK_ALIKES: Final = {"0": "O", "1": "I", "l": "I", "5": "S"}
_FIGURE_IN_LOUD_WORD = re.compile(
    r"(?<=[A-Z])(?:[01](?=[A-Z]{2})|l(?=[A-Z]))|(?<![\w.])5(?=[a-z]{4})(?!mmol|tabs|times|days|weeks|years|hours|mins|doses)"
)
_FIGURE_IN_WORD = re.compile(
    r"(?<=[A-Za-z])[015](?=[a-z]{2})|(?<=[a-z]{3})[01](?=[a-z](?!\w))|(?<![\w.])0(?=[a-z]{4})"
)
_FIGURES: Final = str.maketrans({"o": "0", "O": "0", "l": "1", "I": "1"})
_LETTER_IN_NUMBER = re.compile(
    r"(?<![^\W_])(?!\d+l(?!\w))(?=[\doOlI]*\d[oOlI]*\d)(?=\d*[oOlI])[\doOlI]+(?![^\W_])"
    r"|(?<=[/.-])[oO]\d(?!\w)|(?<!\w)[oO](?=\d[/.-][\doO])|(?<!\w)\d[lI](?=[/.-][\doO])"
)
"""Two figures and letters like figures, "2O24" but not "100l"; or one in a date, "13/O9"."""

_FIGURES_OF_CLOCKS_AND_DATES = re.compile(
    r"(?<![\w.:/-])(?=\S*\d)[\dOolI]{1,2}(?::[\dOolI]{2}(?!\w)|[:.][\dOolI]{2}(?=\s?[ap]\.?m\b))"
    r"|(?<![\w.:/-])(?=(?:[OolI ./-]*\d){2})"
    r"[\dOolI]{1,4}(?:[ ]?[./-][ ]?[\dOolI]{1,4}){1,3}(?![\w/-])"
)
_FIGURES_OF_LONG_NUMBERS = re.compile(
    r"(?<![^\W_])(?=(?:[OolI -]*\d){6})[\dOolI]{2,}(?:[ -][\dOolI]{2,})+(?![^\W_])"
)
"""Clocks, dates and numbers of several groups, in which any letter like a figure is one."""

_MONTH_START = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_FIGURES_OF_DAYS_AND_AGES = re.compile(
    rf"(?<!\w)(?:[lIO]\d|\d[lIO])(?=(?:st|nd|rd|th)?\s+(?:of\s+)?(?i:{_MONTH_START}[a-z]{{0,6}})\b)"
    rf"|(?<=[a-z]\s)[lIO]\d(?!\w)(?<=(?i:{_MONTH_START})\s..)"
    r"|(?<=\b[Aa]ge\s)[1-9][lIO](?!\w)|(?<=\b[Aa]ged\s)[1-9][lIO](?!\w)"
)
_JOINED = re.compile(r"(?<=[a-z])[A-Z][a-z]{2,}(?![\w-])")
_NEXT = re.compile(r"[ \t]+(?P<word>[a-z][^\W\d_]{3,}(?:-[^\W\d_]+)?)(?![\w.-]\w|')")
_BEFORE = re.compile(r"(?<![\w.-])(?P<word>[a-z][^\W\d_]{3,})[ \t]+$")
_REACH: Final = 30
"""Characters before a name in which the word before it stands."""

_MONTHS: Final = (
    "january", "february", "march", "april", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_SHORT_MONTHS: Final = ("may", *(month[:3] for month in _MONTHS), "sept")
_SLIPPED_DATES = tuple(
    re.compile(rf"(?<![\w/.-])(?:{pattern})(?!\w)")
    for pattern in (
        r"(?P<month>[^\W\d_]{2,10})\.?[ \t-]+\d{1,2}(?:st|nd|rd|th)?,?[ \t-]+(?:19|20)\d\d",
        r"\d{1,2}(?:st|nd|rd|th)?[ \t-]+(?:of[ \t]+)?(?P<month>[^\W\d_]{2,10})\.?,?[ \t-]+"
        r"(?:19|20)\d\d",
    )
)
_SLIPPED_DAYS = tuple(
    re.compile(rf"(?<![\w/.-])(?:{pattern})(?!\w)")
    for pattern in (
        r"\d{1,2}(?:st|nd|rd|th)[ \t]+(?:of[ \t]+)?(?P<month>[^\W\d_]{4,10})",
        r"(?:[12]?\d|3[01])[ \t]+(?P<month>[^\W\d_]{6,10})",
        r"(?P<month>[^\W\d_]{5,10}),?[ \t]+(?:19|20)\d\d",
        r"(?P<month>[^\W\d_]{4,10})[ \t]+\d{1,2}(?:st|nd|rd|th)",
    )
)
_LONG_NAMES_OF_DAYS: Final = (
    "sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday",
    *(month for month in _MONTHS if len(month) > 6),
)  # fmt: skip
_SLIPS_OF_DAYS: Final = frozenset(
    slip for name in _LONG_NAMES_OF_DAYS for slip in one_slip_away(name)
)
_LONG_WORD = re.compile(r"(?<![\w.@-])[^\W\d_]{6,10}(?![\w@-])")
_NO_SLIPPED_DAYS = frozenset(
    ("sundays", "mondays", "fridays", "sunday", "monday", "friday", "sundae")
)
_SLIPPED_AGE = re.compile(
    r"(?<![\w.])(?P<age>\d{1,3})[ \t-]*(?P<years>[^\W\d_]{3,6})[ \t-]+(?P<old>[^\W\d_]{2,4})(?!\w)"
)


def mended(text: str) -> str:
    """The text with letters where a scan read figures inside a word, and the other way round.

    >>> mended("C0dyview, Gr0up 5 and CYP1A2 on 2l.O3.2O25")
    'Codyview, Group 5 and CYP1A2 on 21.03.2025'
    """
    words = _FIGURE_IN_WORD.sub(lambda match: _LOOK_ALIKES[match.group()], text)
    words = _FIGURE_IN_LOUD_WORD.sub(_loud, words)
    for pattern in (
        _FIGURES_OF_DAYS_AND_AGES,
        _FIGURES_OF_CLOCKS_AND_DATES,
        _FIGURES_OF_LONG_NUMBERS,
        _LETTER_IN_NUMBER,
    ):
        words = pattern.sub(lambda match: match.group().translate(_FIGURES), words)
    return words


def _loud(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return (_LOUD_LOOK_ALIKES if before.isupper() else _LOOK_ALIKES)[match.group()]


def find_slipped(text: str) -> Iterator[Finding]:
    """Dates whose month is one slip away from a month, and ages before "yeear old"."""
    for match in _SLIPPED_AGE.finditer(text):
        years, old = match.group("years").lower(), match.group("old").lower()
        if (
            old[0] == "o"
            and within_slips(old, "old", 1)
            and any(within_slips(years, word, 1) for word in ("year", "years"))
        ):
            yield Finding(*match.span("age"), AGE)
    for pattern in _SLIPPED_DATES:
        for match in pattern.finditer(text):
            month = match.group("month").lower().replace("rn", "m")
            full = any(within_slips(month, name, 1) for name in _MONTHS)
            if full or any(within_slips(month, name, 1) for name in _SHORT_MONTHS):
                yield Finding(*match.span(), DATE_TIME)
    for match in _LONG_WORD.finditer(text):
        word = match.group().lower()
        if word in _SLIPS_OF_DAYS and word not in _NO_SLIPPED_DAYS:
            yield Finding(*match.span(), DATE_TIME)
    for pattern in _SLIPPED_DAYS:
        for match in pattern.finditer(text):
            month = match.group("month").lower().replace("rn", "m")
            if any(within_slips(month, name, 1) for name in _MONTHS):
                yield Finding(*match.span(), DATE_TIME)


def find_joined_names(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Listed names that stand right behind a word in small letters."""
    for match in _JOINED.finditer(text):
        if lexicon.is_name(match.group()):
            yield Finding(*match.span(), PERSON)
        elif lexicon.is_place(match.group()):
            yield Finding(*match.span(), LOCATION)


def small_neighbours(text: str, start: int, end: int, lexicon: Lexicon) -> tuple[int, int]:
    """Where a found name begins and ends with what belongs to it in small letters.

    After it that is a listed name or no word at all; before it a listed name, and where a line or
    what follows a colon begins, also no word at all.
    """
    words = WORD.findall(text[start:end])
    if not words or not _is_surely_name(words, lexicon):
        return start, end
    following = _NEXT.match(text, end)
    if following and _may_be_small_name(following.group("word"), lexicon):
        end = following.end("word")
    window = text[max(0, start - _REACH) : start]
    before = _BEFORE.search(window)
    if before:
        word, opens = (
            before.group("word"),
            window[: before.start()].rstrip(" \t")[-1:] in (":", "\n"),
        )
        if lexicon.is_name(word) or (opens and is_unknown(word, lexicon)):
            start -= len(before.group())
    return start, end


def _is_surely_name(words: list[str], lexicon: Lexicon) -> bool:
    """Whether at least one word is a listed name, and none a word of English."""
    listed = any(lexicon.is_name(part) for word in words for part in word.split("-"))
    return listed and not any(lexicon.is_everyday(word) for word in words if len(word) > 1)


def _may_be_small_name(word: str, lexicon: Lexicon) -> bool:
    return lexicon.is_name(word) or (unaccented(word).isalpha() and is_unknown(word, lexicon))
