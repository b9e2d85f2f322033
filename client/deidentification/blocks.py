"""What stands between and beside findings: house numbers, and the lines of an address block.

* A short number directly beside a name belongs to it ("37 Margrethes Plads 17").
* Marks between two names, or between parts of an address or a date, belong to them ("Vance,
  Charles"; "Monday, 3 May"): a full name is one finding.
* In a run of short lines, such as an envelope or a signature, a line between two lines that name
  somebody names somebody too, and a line that is mostly found is found as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from client.deidentification.findings import (
    ADDRESS,
    DATE_TIME,
    LOCATION,
    NUMBER,
    ORGANIZATION,
    PERSON,
    Finding,
    covered,
    settle,
)
from client.deidentification.lexicon import WORD, Lexicon, plain, word_set
from client.deidentification.name_runs import LABEL_WORDS

MAX_LINE_WORDS = 7
"""Longer lines are sentences."""

MOSTLY = 0.5
"""Share of a line's letters and digits from which the line counts as found."""

MAX_BRIDGE_CHARACTERS = 6
"""A longer gap is more than marks and white space."""

_NAMED = frozenset({PERSON, ORGANIZATION, LOCATION})
_PLACES = frozenset({ADDRESS, LOCATION})
_BESIDE_PLACES = frozenset({ADDRESS, LOCATION, NUMBER, ORGANIZATION, PERSON})
_NAME_GAP = re.compile(r"[ \t]?[,&/][ \t]*|[ \t]?[-\u2013][ \t]?|\.[ \t]|\u0301")
_PLACE_GAP = re.compile(r"[ \t]*[,.]?[ \t]*\n?[ \t>]*[,/-]?[ \t]*\(?")
_INITIAL_GAP = re.compile(r"[ \t]+[^\W\d_]\.?[ \t]+")
"""The initial between two names of a person, which some write small."""

_CODE_GAP = re.compile(r"[ \t]*[,\n]?[ \t>]*\(?[^\W\d_]{1,3}\)?[ \t]*,?[ \t]*\n?[ \t>]*")
"""A region between a town and its postcode, or the letter of a district."""

_CORNER_GAP = re.compile(r"[ \t]+(?:and|&|und|y|et|e|corner(?:[ \t]+of)?)[ \t]+", re.IGNORECASE)
"""Between two streets that meet."""

_NUMBER_BEFORE = re.compile(r"(?<![\w$£€¥₹.,:/-])(?:\d{1,4}[A-Za-z]?[ \t]+){1,2}$")
_LABEL_BEFORE = re.compile(
    r"(?<![\w-])(?:(?:no|nr|number|plot|house|door|stand|erf|shop)\b\.?[ \t]*|#)$", re.IGNORECASE
)
_THE_BEFORE = re.compile(r"(?<=[a-z,:] )The[ \t]+$")
_PROVINCE_AFTER = re.compile(r"[ \t]*\([^\W\d_]{2}\)")
_NUMBER_AFTER = re.compile(r"[ \t]+\d{1,5}[A-Za-z]?(?![\w%$£€¥₹]|[.,:/-]\d)")
_CODE_AFTER = re.compile(r",?[ \t]+\d{4}(?![\w%$£€¥₹]|[.,:/-]\d|[ \t]*(?:hrs?|h|am|pm)\b)")
"""A postcode of four figures."""

_YEAR = re.compile(r"\s*(?:19|20)\d\d$")
_LINE = re.compile(r"[^\n]*\S[^\n]*")
_TOKEN = re.compile(r"\S*\w\S*")
_NO_REGION = word_set(
    "of for from by as if be it my we he she then than with in and or to is was are the at has a "
    "id no ref mrn dob npi ssn tel fax pin icd nhs"
)
_SMALL_WORDS = word_set("of the and for in on")


def grow_blocks(text: str, findings: Iterable[Finding], lexicon: Lexicon) -> list[Finding]:
    """The findings, settled, with what the rules of this module add to them.

    Args:
        text: The truecased text.
        findings: In any order; they may overlap.
        lexicon: Tells everyday words from names.
    """
    settled = settle(text, findings)
    settled = settle(text, [*settled, *_bridges(text, settled)])
    with_numbers = settle(text, [*settled, *_numbers_beside(text, settled)])
    whole = settle(text, [*with_numbers, *_lines(text, with_numbers, lexicon)])
    return settle(text, [*whole, *_bridges(text, whole)])


def _bridges(text: str, findings: list[Finding]) -> Iterator[Finding]:
    """Findings made longer by the marks between them and the next."""
    for left, right in pairwise(findings):
        gap = text[left.end : right.start]
        kinds = {left.kind, right.kind}
        if (
            PERSON in kinds
            and kinds <= _NAMED
            and _INITIAL_GAP.fullmatch(gap)
            and gap.strip(" .") != "I"
        ):
            yield Finding(left.start, right.end, PERSON)
        elif _is_within_address(text, left, right):
            yield Finding(left.start, right.end, ADDRESS)
        if len(gap) > MAX_BRIDGE_CHARACTERS or not gap.strip() or gap.isalnum():
            continue
        if kinds <= _PLACES and ADDRESS in kinds and _PLACE_GAP.fullmatch(gap):
            yield Finding(left.start, right.end, ADDRESS)
        elif kinds in ({DATE_TIME}, {PERSON}) and _NAME_GAP.fullmatch(gap):
            yield Finding(left.start, right.end, left.kind)
        elif (kinds <= _NAMED and _NAME_GAP.fullmatch(gap)) or (
            kinds <= _BESIDE_PLACES and kinds & _PLACES and _PLACE_GAP.fullmatch(gap)
        ):
            yield Finding(left.start, left.end + len(gap.rstrip()), left.kind)


def _is_within_address(text: str, left: Finding, right: Finding) -> bool:
    """Whether what stands between two findings is a part of the address that they are parts of."""
    gap = text[left.end : right.start]
    if right.kind == ADDRESS and left.kind in _NAMED and _CORNER_GAP.fullmatch(gap):
        return True
    return (
        left.kind in _NAMED | _PLACES
        and right.kind in (ADDRESS, NUMBER)
        and text[right.start].isdigit()
        and _CODE_GAP.fullmatch(gap) is not None
        and plain(gap.strip(" \t\n,()>")) not in _NO_REGION
    )


def _numbers_beside(text: str, findings: list[Finding]) -> Iterator[Finding]:
    starts = {finding.start for finding in findings}
    for finding in findings:
        if finding.kind not in (PERSON, LOCATION, ORGANIZATION, ADDRESS):
            continue
        window = max(0, finding.start - 20)
        before = _NUMBER_BEFORE.search(text[window : finding.start])
        if before and not _YEAR.match(before.group().strip()):
            yield Finding(window + before.start(), finding.start, ADDRESS)
        if finding.kind in (ADDRESS, ORGANIZATION):
            numbered = finding.kind == ADDRESS and text[finding.start].isdigit()
            opens = _LABEL_BEFORE if numbered else _THE_BEFORE
            opening = opens.search(text[window : finding.start])
            if opening:
                yield Finding(window + opening.start(), finding.start, finding.kind)
        province = _PROVINCE_AFTER.match(text, finding.end) if finding.kind in _PLACES else None
        if province:
            yield Finding(finding.end, province.end(), ADDRESS)
        after = _NUMBER_AFTER.match(text, finding.end)
        code = _CODE_AFTER.match(text, finding.end) if finding.kind == ADDRESS else None
        if code and not _YEAR.match(code.group()):
            yield Finding(finding.end, code.end(), ADDRESS)
        if after and not _YEAR.match(after.group()) and _ends_phrase(text, after.end(), starts):
            yield Finding(finding.end, after.end(), ADDRESS)


def _ends_phrase(text: str, at: int, starts: set[int]) -> bool:
    """Whether after a number comes punctuation, a line's end, or another finding."""
    while at < len(text) and text[at] in " \t":
        at += 1
    return at >= len(text) or text[at] in ",.;\n)?!" or at in starts


def _lines(text: str, findings: list[Finding], lexicon: Lexicon) -> Iterator[Finding]:
    lines = [match.span() for match in _LINE.finditer(text)]
    if len(lines) < 2:
        return
    mask = covered(text, findings)
    shares = [_found_share(text, line, mask) for line in lines]
    for at, line in enumerate(lines):
        if not 0 <= shares[at] < 1 or not _is_short(text[slice(*line)].strip(), lexicon):
            continue
        above = at > 0 and shares[at - 1] >= MOSTLY
        between = above and any(share >= MOSTLY for share in shares[at + 1 : at + 3])
        if shares[at] >= MOSTLY or between:
            yield from _rest_of_line(text, line, mask)


def _found_share(text: str, line: tuple[int, int], mask: bytearray) -> float:
    """Share of a line's letters and digits that lies in findings; -1 for a line without any."""
    places = [at for at in range(*line) if text[at].isalnum()]
    return sum(mask[at] for at in places) / len(places) if places else -1


def _is_short(content: str, lexicon: Lexicon) -> bool:
    words = WORD.findall(content)
    if len(words) > MAX_LINE_WORDS or len(content.split()) > MAX_LINE_WORDS + 3:
        return False
    if ":" in content or content[-1] in "!?":
        return False
    if words and plain(words[0]) in LABEL_WORDS:
        return False
    return not any(
        lexicon.is_function_word(word) and plain(word) not in _SMALL_WORDS for word in words
    )


def _rest_of_line(text: str, line: tuple[int, int], mask: bytearray) -> Iterator[Finding]:
    for token in _TOKEN.finditer(text, *line):
        if not mask[token.start()] and not mask[token.end() - 1]:
            has_digit = any(char.isdigit() for char in token.group())
            yield Finding(*token.span(), ADDRESS if has_digit else ORGANIZATION)
