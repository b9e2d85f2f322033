"""Street addresses and postcodes, in the forms of several countries, over one line or many.

A *core* is what is an address by itself: a number and a street, a unit, a box, a postcode. Around
a core, and after words that announce an address, neighbouring segments that could name a place are
taken too, as far as the next sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.address_forms import (
    ANNOUNCEMENT,
    MILITARY,
    NAME_AND_NUMBER,
    NAMED_STREET,
    NUMBER_AND_NAMES,
    POSTCODES,
    STREETS,
    TOWN_LINE,
)
from client.deidentification.findings import ADDRESS, Finding
from client.deidentification.lexicon import WORD, Lexicon, plain, word_set

MAX_NEIGHBOURS = 5
"""Segments (separated by comma or line) that one core may draw in."""

MAX_SEGMENT_WORDS = 5

_SEGMENT = re.compile(
    r"[^,\n;.!?|:]{0,120}(?:\b(?:St|Apt|Mt|Ste|No|Ave|Rd|Blvd|ul|Av)\.[^,\n;.!?|:]{0,120}){0,4}",
    re.IGNORECASE,
)
_GAP = re.compile(r"[ \t]*(?:\n?[ \t]*,[ \t]*|\n\s*|[ \t]+)")
_REGION_LETTERS = re.compile(r"[A-Z]{2,3}")
"""A region between a town and its country or postcode, though "SO", "US" or "VAN" is a word too."""

_LINE_ABOVE = re.compile(
    r"(?:^|[\n:;.]|\b(?:at|to|of|from|in)\b)[ \t>]*"
    r"(?P<street>(?=[^\n]*[^\W\d_]{2})\d{1,6}[^\n:;@]{3,60}),?\n[ \t>]*$"
)
_FIVE_DIGITS = re.compile(r"(?<!\d)\d{5}(?:-\d{4})?(?!\w)")
_DIGITS = re.compile(r"\d+")
_REACH = 60
"""Characters of a street's name before or after its number."""

_SMALL_IN_PLACES = word_set(
    "of the de la du des di da do dos del van der den upon le and en st nad am an"
)
_NO_STREET = word_set(
    "day days week weeks month months year years hour hours minute minutes times mg ml mm cm kg "
    "pounds dollars euros people percent am pm tablets pills doses steps cards card accounts "
    "account"
)
"""After a number these say how much: "3 days on the road" is no address."""

_BEFORE_NOUNS = word_set("the a an this my our his her your")
_REACH_OF_COMMA = 8
"""Characters in which a comma follows a number."""

_MONTHS = word_set(
    "january february march april may june july august september october november december jan feb "
    "mar apr jun jul aug sep sept oct nov dec"
)
_NO_PLACE = word_set(
    "fax office mobile home work cell phone tel telephone email mail ext extension address name "
    "iban ssn card"
)


def find_addresses(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Addresses with their town, region, postcode and country.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
    """
    for start, end in (*_cores(text, lexicon), *_announced(text, lexicon)):
        left = _grown_left(text, start, lexicon)
        yield Finding(left, _grown_right(text, end, lexicon), ADDRESS)


def _cores(text: str, lexicon: Lexicon) -> Iterator[tuple[int, int]]:
    for start, end in _near_digits(text):
        for pattern in STREETS:
            at = start
            while match := pattern.search(text, at, end):
                at = match.start() + 1  # "on Erzsébet tér 92" is none from "on", and one after it
                end_of_street = _street_end(match, lexicon)
                if end_of_street:
                    at = max(at, end_of_street)
                    yield match.start(), end_of_street
    for match in NAMED_STREET.finditer(text):
        start = match.end("words")
        for word in reversed(list(WORD.finditer(text, *match.span("words")))):
            if not word.group()[0].isupper() or lexicon.is_function_word(word.group()):
                break
            start = word.start()
        if start < match.end("words"):
            yield start, match.end()
    for pattern in (*POSTCODES, MILITARY):
        for match in pattern.finditer(text):
            yield match.span()
    for code in _FIVE_DIGITS.finditer(text):
        town = TOWN_LINE.search(text, max(0, code.start() - 2 * _REACH), code.end())
        if town is not None:
            yield _town_start(town, lexicon), town.end()
    for match in NUMBER_AND_NAMES.finditer(text):
        if _could_be_street(match.group("words"), lexicon) and _holds_name(match, lexicon):
            yield match.start("number"), match.end()


def _is_said_of(match: re.Match[str]) -> bool:
    """Whether words after a number are the sentence's: "2023, the court", "903 and the link"."""
    words = match.group("words").lower().split()
    if not words or words[-1] not in _BEFORE_NOUNS:
        return False
    return words[-1] != "the" or words[0] == "and" or "," in match.group()[:_REACH_OF_COMMA]


def _street_end(match: re.Match[str], lexicon: Lexicon) -> int:
    """Where a street ends that a pattern found; 0 where it is none.

    Words to the end of the match are cut at the first that belongs to the sentence.
    """
    if _is_said_of(match):
        return 0
    if _could_be_street(match.group("words"), lexicon):
        return match.end()
    end = 0
    if match.end("words") == match.end():
        for word in WORD.finditer(match.string, *match.span("words")):
            if not _could_be_street(word.group(), lexicon):
                break
            end = word.end()
    return end


def _near_digits(text: str) -> list[tuple[int, int]]:
    """The parts of a text in which a street with its number can be; the patterns cost much."""
    parts: list[tuple[int, int]] = []
    for digits in _DIGITS.finditer(text):
        start, end = max(0, digits.start() - _REACH), min(len(text), digits.end() + _REACH)
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and not text[end].isspace():
            end += 1
        if parts and start <= parts[-1][1]:
            start = parts.pop()[0]
        parts.append((start, end))
    return parts


def _town_start(match: re.Match[str], lexicon: Lexicon) -> int:
    """Where the town before a state and ZIP code begins: after the last word of grammar."""
    start = match.end("town")
    for word in reversed(list(WORD.finditer(match.string, *match.span("town")))):
        folded = plain(word.group())
        if (lexicon.is_function_word(folded) and folded not in _SMALL_IN_PLACES) or (
            folded in _NO_PLACE
        ):
            break
        start = word.start()
    return start


def _holds_name(match: re.Match[str], lexicon: Lexicon) -> bool:
    """Whether words after a number name something: one is a name, or all have capitals."""
    words = WORD.findall(match.group("words").removeprefix("The ").removeprefix("the "))
    if plain(words[0]) in _MONTHS or not words[0][0].isupper():
        return False
    named = [word for word in words if word[0].isupper() and not lexicon.is_function_word(word)]
    return any(not lexicon.is_everyday(w) or lexicon.may_be_name(w) for w in named) or (
        len(named) == len(words) and not all(word.isupper() for word in words)
    )


def _could_be_street(words: str, lexicon: Lexicon) -> bool:
    return not any(
        (lexicon.is_function_word(word) and plain(word) not in _SMALL_IN_PLACES)
        or plain(word) in _NO_STREET
        for word in WORD.findall(words)
    )


def _announced(text: str, lexicon: Lexicon) -> Iterator[tuple[int, int]]:
    """What follows "address:", "lives at" and the like, while it looks like an address."""
    for cue in ANNOUNCEMENT.finditer(text):
        begin = cue.end()
        match = NAME_AND_NUMBER.match(text, begin)
        if match is None or not _could_be_street(match.group(), lexicon):
            continue
        words = WORD.findall(match.group())
        if all(word[0].islower() and lexicon.is_everyday(word) for word in words):
            continue
        end = match.end()
        if text[begin].isdigit():
            end = begin + _place_like_length(match.group(), lexicon)
            if len(text[begin:end].split()) < 2:
                continue
        yield begin, end


def _grown_right(text: str, end: int, lexicon: Lexicon) -> int:
    """Where the address ends: on over segments that could be town, region, postcode, country."""
    for _ in range(MAX_NEIGHBOURS):
        gap = _GAP.match(text, end)
        if gap is None:
            break
        segment = _SEGMENT.match(text, gap.end())
        piece = segment.group().rstrip() if segment else ""
        length = _place_like_length(piece, lexicon)
        if _REGION_LETTERS.fullmatch(piece) and "," in gap.group():
            length = len(piece)
        inline = not re.search(r"[,\n]", gap.group())
        if not inline and length < len(piece) and not piece[:1].isdigit():
            break  # a segment of its own belongs as a whole, or not
        if length == 0 or len(piece[:length].split()) > MAX_SEGMENT_WORDS:
            break
        end = gap.end() + length
    return end


def _grown_left(text: str, start: int, lexicon: Lexicon) -> int:
    """Where the address begins: back over words that could be a street, to a house number."""
    line_start = max(text.rfind("\n", 0, start), text.rfind(":", 0, start), start - 120) + 1
    tokens = list(re.finditer(r"\S+", text[max(0, line_start) : start]))
    best = start
    near = tokens[-MAX_SEGMENT_WORDS - 2 :]
    for at in reversed(range(len(near))):
        token = near[at]
        word = token.group().strip("().,'\"")
        opens = plain(word) == "the" and at and near[at - 1].group()[-1:].isdigit()  # "3 The Oaks"
        if not word or (lexicon.is_function_word(word) and not opens):
            break
        if any(char.isdigit() for char in word):
            best = max(0, line_start) + token.start()
        elif token.group()[-1] in ".;!?" and len(word) > 3:
            break
    return best if best < start else _line_above(text, start, lexicon)


def _line_above(text: str, start: int, lexicon: Lexicon) -> int:
    """Where the address begins when the line above it is its street: short, with a number."""
    above = _LINE_ABOVE.search(text[max(0, start - 100) : start])
    if above is None:
        return start
    words = WORD.findall(above.group("street"))
    if len(words) > MAX_SEGMENT_WORDS + 1 or not _could_be_street(above.group("street"), lexicon):
        return start
    return max(0, start - 100) + above.start("street")


def _place_like_length(piece: str, lexicon: Lexicon) -> int:
    """Length of the words at the start of a segment that could be town, region or postcode."""
    length = 0
    for token in list(re.finditer(r"\S+", piece))[: MAX_SEGMENT_WORDS + 2]:
        if not _is_place_like(token.group().strip("().'\""), lexicon):
            break
        length = token.end()
    return length


def _is_place_like(word: str, lexicon: Lexicon) -> bool:
    if not word:
        return False
    if any(char.isdigit() for char in word) or plain(word) in _SMALL_IN_PLACES:
        return True
    if lexicon.is_function_word(word) or plain(word) in _NO_PLACE:
        return False
    return not word[0].islower() or lexicon.is_place(word)
