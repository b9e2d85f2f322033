"""Ages, dates, telephone numbers, e-mail and web addresses that are spelt out or said in words.

* "ninety-four years old", "a lady of ninety-four", "in her late eighties", "a nonagenarian".
* "the twenty-second of October 1960", "nineteen eighty-eight" beside a month or after "born in".
* "oh one six one, double four nine ...": digits in words, alone or before figures.
* "jane dot doe at example dot org", "jane[at]example[dot]org", "www dot example dot org slash ann".

A number in words is an age only beside what says so: "one patient of ninety-four" stays.
`as_written` turns each into the notation that stand-ins are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from client.deidentification.findings import (
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    NUMBER,
    PHONE_NUMBER,
    URL,
    Finding,
)
from client.deidentification.lexicon import in_small_letters, word_set

MIN_SPOKEN_DIGITS: Final = 4
"""Fewer digits in words count something."""

MIN_SPOKEN_PHONE_DIGITS: Final = 7

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DAYS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth",
)  # fmt: skip
_VALUES: Final = (
    {word: value for value, word in enumerate((*_UNITS, *_TEENS), start=1)}
    | {word: 20 + 10 * at for at, word in enumerate(_TENS)}
    | {word: value for value, word in enumerate(_DAYS, start=1)}
    | {word[:-1] + "ieth": 20 + 10 * at for at, word in enumerate(_TENS)}
    | {"hundred": 100, "hundredth": 100, "a": 1, "an": 1}
)
_DIGITS: Final = {word: str(value) for value, word in enumerate(_UNITS, start=1)} | dict.fromkeys(
    ("oh", "o", "zero", "nought", "nil"), "0"
)


def _any(words: tuple[str, ...]) -> str:
    return rf"(?:{'|'.join(words)})"


_UNDER_100 = rf"(?:{_any(_TENS)}(?:[\s-]?{_any(_UNITS)})?|{_any(_TEENS)}|{_any(_UNITS)})(?![a-z])"
_AGE = rf"(?:(?:an?|one)[\s-]+hundred(?:[\s-]+(?:and[\s-]+)?{_UNDER_100})?|{_UNDER_100})"
_GROWN = (
    rf"(?:(?:an?|one)[\s-]+hundred(?:[\s-]+(?:and[\s-]+)?{_UNDER_100})?|"
    rf"(?!{_any(_UNITS)}\b){_UNDER_100})"
)
_ABOUT = r"(?:(?:about|around|nearly|almost|just|only|now|over|some|currently|approximately)\s+)?"
_ENDS = (
    r"(?=\s*(?:[.,;:!?)]|$|(?:and|but|now|today|when|this|last|next|with|who|years?|yrs?|was|is|has|had|"
    r"presented)\b))"
)
_PERSON = (
    r"(?:man|woman|lady|gentleman|male|female|boy|girl|widow|widower|pensioner|child|patient|pt|"
    r"mother|father|wife|husband|son|daughter|sister|brother|retiree|farmer|nurse|teacher)"
)
_DECADE = r"(?:twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties)"
_DAY_ORDINAL = (
    rf"(?:(?:twenty|thirty)[\s-]{_any(_DAYS[:9])}|twentieth|thirtieth|{_any(_DAYS)})(?![a-z])"
)
_AGE_ORDINAL = (
    rf"(?:{_any(_TENS)}[\s-]{_any(_DAYS[:9])}|{_any(tuple(w[:-1] + 'ieth' for w in _TENS))}|"
    rf"{_any(_DAYS)}|(?:one\s+)?hundredth)(?![a-z])"
)
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_SPOKEN_YEAR = (
    rf"(?:nineteen|twenty)[\s-]+(?:(?:hundred|(?:oh|o)[\s-]?{_any(_UNITS)})|(?!{_any(_UNITS)}\b){_UNDER_100})|"
    rf"two[\s-]thousand(?:[\s-]+(?:and[\s-]+)?{_UNDER_100})?"
)
_YEAR = rf"(?:(?:19|20)\d\d|'?\d\d|{_SPOKEN_YEAR})(?!\w)"

_NUMBERS = frozenset((*_UNITS, *_TEENS, *_TENS, "hundred"))
_GROWN_UP = frozenset((*_TEENS, *_TENS, "hundred"))
_ORDINALS = frozenset((*_DAYS, "twentieth", "thirtieth"))
_YEAR_BEGINS = frozenset(("nineteen", "twenty", "thousand"))
_MONTHS = word_set(
    "jan january feb february mar march apr april may jun june jul july aug august sep sept "
    "september oct october nov november dec december"
)
_DECADES = frozenset(_DECADE.strip("(?:)").split("|"))
_AT = _any(
    (
        "died",
        "dead",
        "married",
        "widowed",
        "retired",
        "menopause",
        "menarche",
        "diagnosed",
        "presented",
    )
)
_FIGURES = r"[1-9]\d|1[01]\d"

_RULES: Final[tuple[tuple[str, tuple[frozenset[str], ...], re.Pattern[str]], ...]] = tuple(
    (kind, tuple(map(frozenset, needed)), re.compile(pattern))
    for kind, needed, pattern in (
        (
            AGE,
            (_NUMBERS, ("old", "age", "young")),
            rf"\b(?P<value>{_AGE})[\s-]+(?:years?|yrs?|summers|winters)[\s-]*(?:old|of[\s-]age|young)\b",
        ),
        (AGE, (_NUMBERS, ("o", "yo")), rf"\b(?P<value>{_AGE})[\s-]*y/?o\b"),
        (
            AGE,
            (_NUMBERS, ("aged", "age")),
            rf"\b(?:aged|age(?:\s+(?:of|is|was|at\s+\w+))?\s*:?)\s+{_ABOUT}(?P<value>{_AGE})",
        ),
        (
            AGE,
            (_GROWN_UP, ("turned", "turns", "turning", "reached", "approaching", "celebrated")),
            rf"\b(?:turned|turns|turning|reached|approaching|celebrated)\s+{_ABOUT}(?P<value>{_GROWN}){_ENDS}",
        ),
        (
            AGE,
            (_GROWN_UP,),
            rf"\b(?:he|she|who|{_PERSON})(?:\s+(?:is|was|will\s+be|would\s+be)|['\u2019]s)\s+{_ABOUT}"
            rf"(?P<value>{_GROWN}){_ENDS}",
        ),
        (
            AGE,
            (("of",),),
            rf"\b{_PERSON}\s+of\s+{_ABOUT}(?P<value>{_GROWN}|{_FIGURES}){_ENDS}",
        ),
        (
            AGE,
            (_AT[3:-1].split("|"),),
            rf"\b{_AT}\s+at\s+{_ABOUT}(?P<value>{_GROWN}|{_FIGURES}){_ENDS}",
        ),
        (
            AGE,
            (_DECADES,),
            rf"\b(?:(?:his|her|their|my|the\s+patient'?s)\s+(?:(?:early|late|mid)[\s-]*)?|(?:early|late|mid)[\s-]+)"
            rf"(?P<value>{_DECADE})\b",
        ),
        (AGE, (("birthday",),), rf"\b(?P<value>{_AGE_ORDINAL})\s+birthday\b"),
        (
            DATE_TIME,
            (_ORDINALS, _MONTHS),
            rf"\b(?P<value>{_DAY_ORDINAL}(?:\s+day)?(?:\s+of)?\s+{_MONTH}\b\.?(?:,?\s+(?:in\s+)?{_YEAR})?)",
        ),
        (
            DATE_TIME,
            (_ORDINALS, _MONTHS),
            rf"\b(?P<value>(?:(?!may|march){_MONTH}|{_MONTH}\s+the)\s+{_DAY_ORDINAL}(?:,?\s+{_YEAR})?)",
        ),
        (
            DATE_TIME,
            (_YEAR_BEGINS, _MONTHS),
            rf"\b(?P<value>(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?)?{_MONTH}\.?,?\s+(?:{_SPOKEN_YEAR})(?!\w))",
        ),
        (
            DATE_TIME,
            (
                _YEAR_BEGINS,
                ("born", "since", "year", "until", "summer", "winter", "spring", "autumn"),
            ),
            rf"\b(?:born|since|year|until|summer|winter|spring|autumn)\s+(?:(?:in|of|the)\s+)*"
            rf"(?P<value>{_SPOKEN_YEAR})(?!\w)",
        ),
        (
            DATE_TIME,
            (("at",), ("h", "hr", "hrs", "hours", "uhr")),
            r"\bat\s+(?P<value>(?:[01]?\d|2[0-3])[.:][0-5]\d)(?=\s?(?:h|hrs?|hours|uhr)\b)",
        ),
    )
)
_VERY_OLD = re.compile(r"\b(?:(?:sexa|septua|octo|nona|supercente)genarians?|centenarians?)\b")

_SAID = (
    r"(?:(?:double|triple|treble)[\s-]+)?"
    r"(?:oh|zero|nought|one|two|three|four|five|six|seven|eight|nine)"
)
_DIGIT_RUN = re.compile(
    rf"(?<![\w-])\+?(?:plus\s+)?(?:\d+[\s.-]+|(?:[b-hj-z]\s+){{2,4}})?{_SAID}"
    rf"(?:(?:,?\s+|\s?-\s?|,)(?:{_SAID}(?:\s+hundred)?|\d+)){{2,24}}(?:\s+[b-hj-z](?!\w)){{0,3}}(?![\w])"
)
_TWO_DIGITS = re.compile(rf"\b{_SAID}[\s,-]{{1,3}}(?:{_SAID}\b|\d)")
_ONE_SAID = re.compile(rf"\b{_SAID}\b")
_WORDS = re.compile(r"[a-z]+")
_ONE_DIGIT = re.compile(rf"(?:(double|triple|treble)[\s-]+)?({_any(tuple(_DIGITS))})\b|(\d)")

_OPEN, _SHUT = r"\s?[\[({<]\s?", r"\s?[\])}>]\s?"
_W = r"[^\W_][\w'+]{0,63}"
_JOIN = (
    rf"(?:[._-]|\s+(?:dot|underscore|dash|hyphen|minus|plus)\s+|"
    rf"{_OPEN}(?:dot|\.|underscore|dash){_SHUT})"
)
_DOT = rf"(?:\.|\s+dot\s+|{_OPEN}(?:dot|\.){_SHUT})"
_SPOKEN_DOT = rf"(?:\s+dot\s+|{_OPEN}(?:dot|\.){_SHUT})"
_LAST = (
    r"(?:com|org|net|edu|gov|mil|int|info|biz|name|health|care|clinic|hospital|med|example|test|local|"
    r"invalid|app|dev|online|uk|de|fr|es|nl|eu|ie|ch|se|dk|fi|pl|pt|cz|sk|hu|gr|ro|au|nz|ca|us|za|jp|"
    r"cn|kr|br|mx|ar|cl|ke|ng|gh|il|ae|sg|hk|tr|ua|ru|io)(?![\w-])"
)
_DOMAIN = rf"{_W}(?:-{_W})*(?:{_JOIN}{_W}){{0,4}}"
_EMAILS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<![\w.+-]){_W}(?:{_JOIN}{_W}){{0,6}}\s+at\s+(?:the\s+)?{_DOMAIN}{_SPOKEN_DOT}{_LAST}",
        rf"(?<![\w.+-]){_W}(?:{_JOIN}{_W}){{0,6}}{_OPEN}(?:at|@){_SHUT}{_DOMAIN}{_DOT}{_LAST}",
        rf"(?<![\w.+-]){_W}(?:{_JOIN}{_W}){{0,6}}\s?@\s?{_DOMAIN}{_SPOKEN_DOT}{_LAST}",
    )
)
_SITES = re.compile(
    rf"\b(?:www|https?){_SPOKEN_DOT}{_DOMAIN}{_DOT}{_LAST}(?:\s+(?:slash|forward\s+slash)\s+{_W})*"
)


def find_spoken(text: str) -> Iterator[Finding]:
    """Everything that this module knows, in a text; most texts hold no word of most rules."""
    small = in_small_letters(text)
    words = frozenset(_WORDS.findall(small))
    for kind, needed, pattern in _RULES:
        if all(not words.isdisjoint(some) for some in needed):
            for match in pattern.finditer(small):
                yield Finding(*match.span("value"), kind)
    if "genarian" in small or "centenarian" in small:
        for match in _VERY_OLD.finditer(small):
            yield Finding(*match.span(), AGE)
    if _TWO_DIGITS.search(small):
        yield from _numbers(small)
    yield from _online(small, words)


def _numbers(small: str) -> Iterator[Finding]:
    for match in _DIGIT_RUN.finditer(small):
        said, digits = len(_ONE_SAID.findall(match.group())), len(_digits_of(match.group()))
        if said >= MIN_SPOKEN_DIGITS or (said > 1 and digits >= MIN_SPOKEN_PHONE_DIGITS):
            long = digits >= MIN_SPOKEN_PHONE_DIGITS
            yield Finding(*match.span(), PHONE_NUMBER if long else NUMBER)


def _online(small: str, words: frozenset[str]) -> Iterator[Finding]:
    spelt = not words.isdisjoint(("dot",)) or "[.]" in small or "(.)" in small
    if spelt or "at]" in small or "at)" in small or "at}" in small or "at>" in small:
        for pattern in _EMAILS:
            for match in pattern.finditer(small):
                yield Finding(*match.span(), EMAIL_ADDRESS)
    if spelt and not words.isdisjoint(("www", "http", "https")):
        for match in _SITES.finditer(small):
            yield Finding(*match.span(), URL)


def as_written(kind: str, original: str) -> str:
    """What was said in words, in the figures and marks that it stands for.

    >>> as_written("AGE", "ninety-four"), as_written("AGE", "a hundred and two")
    ('94', '102')
    >>> as_written("DATE_TIME", "twenty-second of October nineteen eighty-eight")
    '22nd of October 1988'
    >>> as_written("PHONE_NUMBER", "oh one six one, double four 27")
    '0161 4427'
    >>> as_written("EMAIL_ADDRESS", "jane dot doe at example dot org")
    'jane.doe@example.org'
    """
    small = original.lower()
    if kind == AGE and not any(map(str.isdigit, original)):
        return _in_figures(small) or original
    if kind == DATE_TIME and any(word in _MONTHS for word in _WORDS.findall(small)):
        years = re.sub(
            _SPOKEN_YEAR, lambda match: _year(match.group()), original, flags=re.IGNORECASE
        )
        return re.sub(
            rf"\b{_DAY_ORDINAL}", lambda m: _ordinal(m.group()), years, flags=re.IGNORECASE
        )
    if kind == DATE_TIME and re.fullmatch(_SPOKEN_YEAR, small):
        return _year(small)
    if kind in (PHONE_NUMBER, NUMBER) and _ONE_SAID.search(small):
        digits = _digits_of(small)
        return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))
    if kind in (EMAIL_ADDRESS, URL):
        return _with_marks(original)
    return original


def _in_figures(small: str) -> str:
    """An age in words, in figures; a decade as "80s"; empty for what is none."""
    if small in _DECADES:
        return f"{_VALUES[small[:-3] + 'y']}s"
    values = [_VALUES[word] for word in _WORDS.findall(small) if word in _VALUES]
    if 100 in values:
        return str(100 + sum(values[values.index(100) + 1 :]))
    return str(sum(values)) if values else ""


def _year(spoken: str) -> str:
    words = [word for word in _WORDS.findall(spoken.lower()) if word != "and"]
    if "thousand" in words:
        return str(2000 + sum(_VALUES[word] for word in words[words.index("thousand") + 1 :]))
    rest = sum(_VALUES.get(word, 0) for word in words[1:] if word != "hundred")
    return str(100 * _VALUES[words[0]] + rest)


def _ordinal(spoken: str) -> str:
    day = sum(_VALUES[word] for word in _WORDS.findall(spoken.lower()))
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _digits_of(small: str) -> str:
    found = []
    for match in _ONE_DIGIT.finditer(small):
        times = {"double": 2, "triple": 3, "treble": 3}.get(match.group(1) or "", 1)
        found.append(times * _DIGITS[match.group(2)] if match.group(2) else match.group(3))
    return "".join(found)


def _with_marks(original: str) -> str:
    """An address with its marks instead of their names."""
    written = original
    for mark, names in ((".", "dot|\\."), ("_", "underscore"), ("-", "dash|hyphen|minus")):
        inside = rf"{_OPEN}(?:{names}){_SHUT}"
        written = re.sub(rf"{inside}|\s+(?:{names})\s+", mark, written, flags=re.IGNORECASE)
    written = re.sub(r"\s+(?:forward\s+)?slash\s+", "/", written, flags=re.IGNORECASE)
    return re.sub(rf"{_OPEN}(?:at|@){_SHUT}|\s+at\s+", "@", written, flags=re.IGNORECASE)
