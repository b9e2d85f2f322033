"""Dates that point to a day, and ages.

* A day, a month, a year, a weekday or a time of day is found, alone or together.
* A duration ("two weeks ago", "twice daily") names no point in time: it identifies nobody and
  stays, for the classifier needs it.
* `parse_date` reads what `find_dates` finds, so that a date can be shifted and written alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from client.deidentification.findings import AGE, DATE_TIME, Finding

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:\s?(?:st|nd|rd|th))?"
_TO = r"\s*(?:to|and|or|until|till|through|&|[-\u2013])\s*"
_YEAR = r"(?:(?:19|20)\d\d|'\d\d)"
_HALF = r"(?:\s?[ap]\.?m\b\.?)"
_CLOCK = (
    r"(?:(?:[01]?\d|2[0-3])(?:[:.]|\s?h\s?)[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
    rf"{_HALF}?(?:\s?(?:Z|UTC|GMT|[ECMP][SD]T|[+-]\d\d:?\d\d)\b)?(?:\s?(?:hrs?|h|hours|uhr)\b)?|"
    rf"(?:0?\d|1[0-2]){_HALF}|(?:[01]\d|2[0-3])[0-5]\d\s?(?:hrs?|h|hours)\b)"
)
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"

_PATTERNS = tuple(
    re.compile(
        rf"(?<![\w/.-]){body}(?:(?:,?\s+(?:(?:at|@)\s+)?|T){_CLOCK})?(?![\w]|[/-]\d)", re.IGNORECASE
    )
    for body in (
        r"(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])",
        r"(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.](?:(?:19|20)\d\d|\d\d)",
        rf"{_DAY}(?:\s+of)?[\s-]*{_MONTH}(?:,?[\s-]*(?:{_YEAR}|\d\d(?![.:h]\d)))?",
        rf"{_MONTH}[\s-]+{_DAY}(?:,?[\s-]+{_YEAR})?",
        rf"{_MONTH},?[\s/-]+{_YEAR}",
    )
)
_DAY_AND_MONTH = re.compile(
    r"\b(?!for\s+\d{1,2}/(?:7|12|52)\b)(?:on|by|from|to|until|till|since|due|dated|for|dob|clinic|"
    r"app(?:oin)?t(?:ment)?|f/u|follow[- ]?up|review(?:ed)?|seen|visit|"
    r"recheck|w/c|week\s+of|starting|booked|admitted|discharged)\s+"
    r"(?P<date>(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01]))(?![\w/])",
    re.IGNORECASE,
)
_TIMES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![\w.,])(?:1[0-2]|[1-9])\s?o'?clock\b",
        r"\b(?:for|till|until|by|this|next|last|from)\s+(?P<date>sat|sun)(?=\s*(?:[?.!,;)\n]|$))",
        r"(?<![\w/.,-])(?P<date>(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01]))(?=\s+at\s+\d)",
        r"\b(?:placed|removed|inserted|extubated|intubated|started|stopped|weaned\s+off|taken|sent|collected|repeated|scanned|died|born)\s+"
        r"(?P<date>(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|1[0-2]))(?![\w/%]|[.,]\d|\s+(?:of|the)\b)",
        r"\bon\s+the\s+(?P<date>(?:twenty[\s-]|thirty[\s-])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|"
        r"eleventh|twelfth|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|thirtieth)(?=\s*(?:[.,;!?)\n]|$))",
        r"(?<=[a-z])(?P<date>(?-i:January|February|March|April|June|July|August|September|October|November|December)(?!\w)"
        r"(?:\s+(?:[12]?\d|3[01])(?!\d))?(?:,?\s+(?:19|20)\d\d)?)",
        r"(?<![\w/.-])(?P<date>(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|1[0-2])\2(?:(?:19|20)\d\d|\d\d))(?=[a-z]{2})",
        r"\b(?:sat|sun)\s+(?:night|morning|afternoon|evening|am|pm)\b",
        rf"(?<![\w.:/-])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?{_HALF}?(?![\w:/])",
        rf"(?<![\w.:/-])(?:0?[1-9]|1[0-2])(?:\.[0-5]\d)?{_HALF}(?!\w)",
        r"\b(?:at|by|until|till|from|before|after)\s+(?P<date>(?:[01]\d|2[0-3])[0-5]\d)"
        r"(?![\w%]|[.,/-]\d|\s?(?:mg|ml|mcg|g|kg|m|km|kcal|rpm|people|patients|pounds|dollars|euros)\b)",
        r"\bat\s+(?P<date>(?:1?\d|2[0-3])\.[0-5]\d)(?![\w%]|[.,/-]\d|\s?(?:mg|ml|mcg|g|kg|mmol|cm|mm|m|km|l)\b)",
        r"(?<![\w.,/:+-])(?P<date>0\d[0-5]\d)(?![\w%]|[.,/:-]\d|\s\d)",
        r"(?:\b(?:in|since|until|till|from|of|by|during|after|before|around|year|between|and|class\s+of|spring|"
        r"summer|autumn|fall|winter|early|late|mid|born|est\.?|founded|to)[\s-]+|(?<=\())"
        r"(?P<date>(?:18|19|20)\d\d(?:'?s)?)(?![\w%]|[-/.,]\d|\s?(?:mg|ml|kg|g|km|m|patients?|people|cases|"
        r"dollars|euros|pounds|usd|eur|gbp|units?|steps|calories)\b)",
    )
)
_DAY_ALONE = re.compile(
    r"\b(?:(?:of|for|to)\s+the|(?:on|by|until|till|from|since|after|before)(?:\s+the)?|[a-z]{3,6}day(?:\s+the)?)\s+"
    r"(?P<date>(?:[12]?\d|3[01])(?:st|nd|rd|th))"
    r"(?=\s*(?:[.,;:!?)]|$)|\s+(?:at|and|is|was|says|said|i|we|he|she|they|but|or|if|please|when|not|to|with)\b)",
    re.IGNORECASE,
)
_MONTH_AFTER = re.compile(
    rf"\b(?:since|in|until|till|last|next|from)\s+(?P<date>(?!may\b|mar(?:ch)?\b){_MONTH})(?!\w)",
    re.IGNORECASE,
)
_DAY_BEFORE_MONTH = re.compile(
    r"(?<![\w/.,-])(?!24/7)(?:(?:1[3-9]|2\d|3[01])/(?:0?[1-9]|1[0-2])|(?:0?[1-9]|[12]\d|3[01])/0[1-9])"
    r"(?![\w/%]|[.,]\d|\s?(?:mg|ml|mmol|mcg|kg|points|patients|people)\b)"
)
"""Two numbers that can be a day and a month, written so that they are no fraction."""

_MONTH_ALONE = re.compile(
    r"(?:(?<=[a-z,] )|(?<=\())(?:January|February|April|June|July|August|September|October|"
    r"November|December|(?:(?<=in )|(?<=since )|(?<=until )|(?<=last ))(?:March|May))(?!\w)"
)
_POINT = re.compile(
    rf"\b(?:{_MONTH}(?!\w)|{_WEEKDAY}s?|(?:19|20)\d\d'?s?|'?\d0'?s)\b|\d:\d\d|\d\s?[ap]\.?m\b|'\d\d\b|"
    r"\b\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b|\b(?:christmas|easter|thanksgiving|ramadan|eid|diwali|hanukkah|"
    r"passover|new\s+year'?s|labor\s+day|memorial\s+day|halloween|valentine'?s)\b",
    re.IGNORECASE,
)
_WEEKDAYS = re.compile(
    rf"\b(?:{_WEEKDAY}|mon|tues?|weds?|thu|thurs?|fri|sat|sun)\b\.?,?\s+(?:the\s+)?"
    r"(?:[12]?\d|3[01])\s?(?:st|nd|rd|th)(?!\w)|"
    rf"\b{_WEEKDAY}\b(?:,?\s+(?:at\s+)?{_CLOCK})?|"
    r"(?<=\bon )(?:sat|sun)\b\.?|"
    rf"\b(?:mon|tues?|weds?|thu|thurs?|fri)\b\.?(?:\s+(?:at\s+)?{_CLOCK})?",
    re.IGNORECASE,
)
_FIRST_DAY = re.compile(
    rf"(?<![\w/.:-]){_DAY}{_TO}(?={_DAY}(?:\s+of)?[\s-]*{_MONTH}(?!\w))", re.IGNORECASE
)
_LAST_DAY = re.compile(
    rf"\b{_MONTH}[\s-]+{_DAY}(?P<date>{_TO}{_DAY}(?:,?\s+{_YEAR})?)(?![\w:]|[.,]\d|\s?{_MONTH}(?!\w))",
    re.IGNORECASE,
)
"""Of days that stand together: "2 to 9 October", "March 3-10"; the other is found by itself."""

_SHORT_WEEKDAY = re.compile(
    rf"\b(?:sat|sun)\b\.?,?\s+(?:the\s+)?(?=\d{{1,2}}(?:\s?(?:st|nd|rd|th))?(?:\s+of)?(?:[\s-]*{_MONTH}(?!\w)|[/.-]\d))",
    re.IGNORECASE,
)
"""Before a day: elsewhere these are verbs and nouns."""

_HOLIDAY = re.compile(
    r"\b(?:new\s+year'?s\s+(?:day|eve)|christmas\s+(?:day|eve)|boxing\s+day|good\s+friday|ash\s+wednesday|"
    r"(?:easter|palm|whit|remembrance)\s+(?:sunday|monday)|maundy\s+thursday|shrove\s+tuesday|hogmanay|"
    r"bonfire\s+night|(?:valentine|mother|father)'?s\s+day|st\.?\s+[a-z]+'s\s+day|thanksgiving(?:\s+day)?|"
    r"(?:labou?r|memorial|independence|veterans|remembrance|anzac|australia|canada|heritage|workers)\s+day|"
    r"juneteenth|yom\s+kippur|rosh\s+hashanah|eid\s+(?:al|ul)[- ]\w+|chinese\s+new\s+year)(?!\w)",
    re.IGNORECASE,
)
_CLOCK_IN_WORDS = re.compile(
    r"\b(?:(?:five|ten|(?:a\s+)?quarter|twenty(?:[\s-]five)?|half)\s+(?:past|to)\s+(?:one|two|three|four|five|six|seven|"
    r"eight|nine|ten|eleven|twelve)|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\s+o'?clock|"
    r"noon|midday|midnight)\b",
    re.IGNORECASE,
)
NEAR_DAY: Final = 40
"""Characters between a day and a time of day in words that belong to each other."""

_BIRTH = re.compile(
    r"\b(?:d\.?o\.?b\.?|date\s+of\s+birth|birth\s?(?:day|date)|born(?:\s+on|\s+in)?)\s*(?:is|was)?[:\s-]*"
    r"(?P<date>\d[\d\s./-]{3,12}\d)",
    re.IGNORECASE,
)
_AGES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?P<age>\d{1,3})[\s-]*(?:years?|yrs?|months?)[\s-]*old\b",
        r"\b(?P<age>\d{1,3})\s?(?:y/?o|yo[mf]?|y\.o\.|yrs?|y)\b(?!\s*ago)",
        r"\b(?P<age>\d{2})[\s-]?(?:year|yr)s?\s+of\s+age\b",
        r"(?<![\w./-])(?P<age>[1-9]\d)(?:M|F)\b(?=[\s,;.)])",
        r"\bin\s+(?:his|her|their|my)\s+(?:early\s+|late\s+|mid[\s-]?)?(?P<age>[1-9]0'?s)\b",
        r"\b(?:my|his|her|their)\s+(?P<age>\d{1,3}(?:st|nd|rd|th))\s+birthday\b",
        r"\b(?P<age>(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[\s-]"
        r"(?:one|two|three|four|five|six|seven|eight|nine))?)[\s-]years?[\s-]old\b",
        r"\b(?:age|aged|age\s+of|age\s+is|age:)\s*:?\s*(?P<age>\d{1,3})\b",
        r"\b(?:I(?:'|\u2019)?m|I\s+am|(?:he|she)\s+(?:is|was)|(?:he|she)(?:'|\u2019)s|who\s+is|now|turned|"
        r"turns|turning|became)\s+(?P<age>1?\d\d)(?=\s*(?:[.,;!?)]|and\b|now\b|today\b|when\b|this\b|last\b|on\b|in\b|$))",
        r"\b(?:(?:he|she|who|mum|mom|dad|gran|nan)\s+(?:is|was)|(?:shall|will)\s+be|(?:he|she)(?:'|\u2019)?s|i(?:'|\u2019)?m|i\s+am)\s+"
        r"(?P<age>9\d|1[01]\d)(?![\w%]|[.,:/]\d|\s*(?:%|kg|kilos?|mg|ml|cm|lbs?|pounds|euros|dollars|per\b|points|"
        r"miles|min|days|weeks|hours))",
        r"\b(?:patient|pt|man|woman|lady|gentleman|mother|father|[a-z]+-in-law|grandmother|grandfather|gran|nan|grandad|wife|husband|son|daughter|child)\s+"
        r"(?:is|was|aged)\s+(?P<age>1?\d\d)(?!\w|[.,:/]\d|\s*%)",
        r"[^\W\d_],?\s+\((?P<age>[1-9]\d)\)",
        r"[^\W\d_],?\s+\((?P<age>9\d|1[01]\d)(?=[,;]\s)",
        r"(?<=[A-Za-z], )(?P<age>[1-9]\d|1[01]\d)(?=,\s)",
    )
)


TOLD_AGE: Final = 90
"""From this age on an age identifies somebody (45 CFR 164.514(b)(2)(i)(C))."""


def find_dates(text: str) -> Iterator[Finding]:
    """Dates, years and times of day."""
    days: list[tuple[int, int]] = []
    for pattern in (*_PATTERNS, _FIRST_DAY, _SHORT_WEEKDAY, _HOLIDAY, _DAY_BEFORE_MONTH):
        days += [match.span() for match in pattern.finditer(text)]
    for pattern in (_DAY_ALONE, _LAST_DAY):
        days += [match.span("date") for match in pattern.finditer(text)]
    for start, end in days:
        yield Finding(start, start + len(text[start:end].rstrip()), DATE_TIME)
    for match in _CLOCK_IN_WORDS.finditer(text) if days else ():
        if any(
            start - NEAR_DAY < match.end() and match.start() < end + NEAR_DAY for start, end in days
        ):
            yield Finding(*match.span(), DATE_TIME)
    for pattern in (_DAY_AND_MONTH, _MONTH_AFTER, _BIRTH):
        for match in pattern.finditer(text):
            yield Finding(*match.span("date"), DATE_TIME)
    for pattern in (_WEEKDAYS, _MONTH_ALONE, *_TIMES):
        group = "date" if "date" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            yield Finding(*match.span(group), DATE_TIME)


def names_a_time(text: str) -> bool:
    """Whether words that the model takes for a time name a point in it, and no duration.

    >>> names_a_time("the summer of 1998"), names_a_time("two weeks ago"), names_a_time("daily")
    (True, False, False)
    """
    if not any(char.isalpha() for char in text) and sum(map(str.isdigit, text)) > 8:
        return False  # a telephone number may end like a year
    return bool(_POINT.search(text))


def find_ages(text: str) -> Iterator[Finding]:
    """Ages in years or months, the number alone; with "years old" where the age itself tells."""
    for pattern in _AGES:
        for match in pattern.finditer(text):
            age = match.group("age")
            whole = age.isdigit() and int(age) >= TOLD_AGE and match.start("age") == match.start()
            yield Finding(*match.span(0 if whole else "age"), AGE)
