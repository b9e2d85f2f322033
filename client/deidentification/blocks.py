"""What stands between and beside findings: house numbers, and the lines of an address block.

* A short number directly beside a name belongs to it ("37 Margrethes Plads 17").
* In a run of short lines, such as an envelope or a signature, a line between two lines that name
  somebody names somebody too, and a line that is mostly found is found as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from client.deidentification.findings import (
    ADDRESS,
    LOCATION,
    ORGANIZATION,
    PERSON,
    Finding,
    settle,
)
from client.deidentification.lexicon import WORD, Lexicon, plain

MAX_LINE_WORDS = 7
"""Longer lines are sentences."""

_NUMBER_BEFORE = re.compile(r"(?<![\w$£€¥₹.,:/-])(?:\d{1,4}[A-Za-z]?[ \t]+){1,2}$")
_NUMBER_AFTER = re.compile(r"[ \t]+\d{1,5}[A-Za-z]?(?![\w%$£€¥₹]|[.,:/-]\d)")
_YEAR = re.compile(r"\s*(?:19|20)\d\d$")
_LINE = re.compile(r"[^\n]+")
LABEL_WORDS = frozenset(
    "name address phone telephone tel mobile cell fax office home work email mail date birth dob patient "
    "customer subject re from to cc when where who signed street city state zip postcode country company "
    "job title position occupation contact number id account card note notes client agent pt pts member "
    "holder cheers login user record reference policy".split()
)


def grow_blocks(text: str, findings: Iterable[Finding], lexicon: Lexicon) -> Iterator[Finding]:
    """The settled findings, and what the rules of this module add to them."""
    settled = settle(text, findings)
    yield from settled
    numbers = list(_numbers_beside(text, settled))
    yield from numbers
    yield from _lines(text, settle(text, [*settled, *numbers]), lexicon)


def _numbers_beside(text: str, findings: list[Finding]) -> Iterator[Finding]:
    for finding in findings:
        if finding.kind not in (PERSON, LOCATION, ORGANIZATION, ADDRESS):
            continue
        before = _NUMBER_BEFORE.search(text[: finding.start])
        if before and not _YEAR.match(before.group().strip()):
            yield Finding(before.start(), finding.start, ADDRESS)
        after = _NUMBER_AFTER.match(text, finding.end)
        if after and not _YEAR.match(after.group()) and _ends_phrase(text, after.end(), findings):
            yield Finding(finding.end, after.end(), ADDRESS)


def _ends_phrase(text: str, at: int, findings: list[Finding]) -> bool:
    """Whether after a number comes punctuation, a line's end, or another finding."""
    rest = re.match(r"[ \t]*", text[at:])
    following = at + (rest.end() if rest else 0)
    return (
        following >= len(text)
        or text[following] in ",.;\n)?!"
        or any(finding.start == following for finding in findings)
    )


def _lines(text: str, findings: list[Finding], lexicon: Lexicon) -> Iterator[Finding]:
    lines = [match.span() for match in _LINE.finditer(text) if match.group().strip()]
    if len(lines) < 2:
        return
    shares = [_found_share(text, line, findings) for line in lines]
    for at, line in enumerate(lines):
        if not 0 <= shares[at] < 1 or not _is_short(text, line, lexicon):
            continue
        beside = [shares[n] for n in (at - 1, at + 1) if 0 <= n < len(lines)]
        if shares[at] >= 0.5 or (len(beside) == 2 and min(beside) >= 0.5):
            yield from _rest_of_line(text, line, findings)


def _found_share(text: str, line: tuple[int, int], findings: list[Finding]) -> float:
    """Share of a line's letters and digits that lies in findings; -1 for a line without any."""
    places = [at for at in range(*line) if text[at].isalnum()]
    if not places:
        return -1
    found = sum(any(f.start <= at < f.end for f in findings) for at in places)
    return found / len(places)


def _is_short(text: str, line: tuple[int, int], lexicon: Lexicon) -> bool:
    content = text[slice(*line)].strip()
    words = WORD.findall(content)
    if len(content.split()) > MAX_LINE_WORDS + 3 or len(words) > MAX_LINE_WORDS or ":" in content:
        return False
    if content[-1] in "!?" or any(plain(word) in LABEL_WORDS for word in words):
        return False
    return not any(
        lexicon.is_function_word(word)
        and plain(word) not in ("of", "the", "and", "for", "in", "on")
        for word in words
    )


def _rest_of_line(text: str, line: tuple[int, int], findings: list[Finding]) -> Iterator[Finding]:
    for token in re.finditer(r"[^\s]*\w[^\s]*", text[slice(*line)]):
        start, end = line[0] + token.start(), line[0] + token.end()
        if not any(f.start <= at < f.end for f in findings for at in (start, end - 1)):
            kind = ADDRESS if any(char.isdigit() for char in token.group()) else ORGANIZATION
            yield Finding(start, end, kind)
