"""Names of people, places and firms, beyond what the named-entity model sees.

* A listed name, and any word that is no everyday word and carries a capital, is a name.
* A found name grows over its neighbours: initials, particles ("van der"), further capitalised
  words, "A, B and C", and a firm's legal form.

All of this reads the truecased text, so it works for writers who use no capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from client.deidentification.casing import PLACES_TOO, is_unknown
from client.deidentification.cues import find_announced_names, find_home
from client.deidentification.findings import (
    GROUP,
    IDENTIFIER,
    LOCATION,
    OCCUPATION,
    ORGANIZATION,
    PERSON,
    Finding,
)
from client.deidentification.firms import (
    FIRM_TAIL,
    INSTITUTION_OF,
    MAX_ACRONYM_LETTERS,
    find_firms,
)
from client.deidentification.lexicon import WORD, Lexicon, in_small_letters, plain, word_set
from client.deidentification.name_runs import (
    grown_left,
    grown_right,
    is_particle,
    may_be_in_name,
    opens_sentence,
    without_possessive,
)
from client.deidentification.noise import small_neighbours

_ACCOUNT_NAME = re.compile(
    r"\b(?:user(?:\s?name|\s?id)?|login|handle|logged\s+in\s+as|signed\s+in\s+as|posted\s+by|"
    r"sent\s+(?:from|by)|reported\s+by|account\s+of|nick(?:name)?|by(?!\s+user))\s*:?\s+"
    r"(?P<value>(?:(?-i:[a-z])[\w.-]{3,40}|[A-Z][\w-]{0,30}[._\d][\w.-]{1,30})(?<![.-]))",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"(?<![\w@.-])(?P<value>(?P<letters>[A-Za-z]{3,})(?:\d{1,4}|_\w{1,30}|\.(?P<more>[a-z]{3,})\d{0,4}))"
    r"(?![\w@-]|\.\w)|(?<![\w@./-])(?P<account>[A-Za-z]{2,30}\.\w{0,20}_\w{1,20})(?![\w@-])"
)
"""A name and a number, or two words joined: what people call themselves online."""

_OCCUPATION = re.compile(
    r",\s+(?:the|our|their|an?|his|her|my)\s+(?P<what>(?:[^\W\d_][\w/&-]*\s+){0,6}?"
    r"(?:[^\W\d_][\w-]*(?:er|or|ist|ian|ant|ent|man|lead|head)|(?:[^\W\d_][\w-]*)?(?:clerk|nurse|chef|aide|"
    r"cook|pilot|agent|tech|guard|executive|surgeon|therapist|attendant|officer|chief)))(?=\s*[,.;:]|\s+(?:of|at|for|said|from)\b)",
    re.IGNORECASE,
)
_COUNTRY_LETTERS = re.compile(r"(?<![\w.])(?:U\.S\.A\.?|U\.S\.|U\.K\.|USA|UK|UAE|usa|uae)(?![\w-])")
_COMMA_AND_INITIALS = re.compile(r",[ \t]?[A-Z]\.(?:[ \t]?[A-Z]\.){0,2}(?![\w-])")
_SMALL_INITIAL_BEFORE = re.compile(r"(?:^|[\s(])(?P<initial>[b-hj-mo-qstvz]\.?\s)$")
_SMALL_INITIAL_AFTER = re.compile(r"[ \t](?:[b-hj-moqtvz]\.?(?=[\s,;)]|$)|[nprsw](?=[,;)\n]|$))")
_SMALL_INITIAL_TITLED = re.compile(r"\b(?:mr|mrs|ms|miss|dr)\.?[ \t](?P<initial>[a-z]\.?[ \t])$")
_SPELT = re.compile(r"(?<![\w'])(?:[a-z][ -]){3,14}[a-z](?![\w'])", re.IGNORECASE)
"""A name that is spelt out: "n o l a n"."""

_DOTTED_INITIALS = re.compile(
    r"(?<![\w.])(?!(?:e\.g|i\.e|a\.m|p\.m|p\.s|n\.b|p\.o|b\.d|o\.d|q\.d|a\.d|b\.c|p\.a|p\.r|c\.c|u\.k|u\.s|d\.c|c\.f)\b)"
    r"[a-z]\.[a-z]\.(?:[a-z]\.)?(?![\w])"
)
"""Initials that stand for a name where nobody writes capitals."""

_RELIGION = re.compile(
    r"\b(?:jehovah'?s?[ \t]+witness(?:es)?|(?:russian|greek|eastern|serbian|ukrainian|romanian|"
    r"bulgarian|coptic|ethiopian|"
    r"syri(?:an|ac)|oriental)[ \t]+orthodox|roman[ \t]+catholic|church[ \t]+of[ \t]+(?:england|"
    r"scotland|ireland|wales)|"
    r"native[ \t]+(?:hawaiian|american|alaskan)s?|first[ \t]+nations|pacific[ \t]+islanders?|"
    r"(?:torres[ \t]+strait|cook)[ \t]+islanders?|african[ -]americans?|"
    r"latter[ -]day[ \t]+saints?|seventh[ -]day[ \t]+adventists?|"
    r"born[ -]again[ \t]+christians?)(?!\w)",
    re.IGNORECASE,
)
"""Religions of several words."""

_LOUD_NAME = re.compile(r"(?<![\w-])[A-Z][A-Z'\u2019-]{2,}(?:[ -][A-Z'\u2019-]{2,}){0,2}(?=,)")
_MONTHS = word_set("may april march june august")
_LAST_WORD = re.compile(r"([^\W\d_][\w'\u2019-]*)\W*$")
_CAPITALISED = r"[A-Z][^\W\d_]+(?:[-'\u2019][^\W\d_]+)*"
_NICKNAME = re.compile(
    rf"{_CAPITALISED}\s+[\"\u201c'\u2018]{_CAPITALISED}[\"\u201d'\u2019]\s+{_CAPITALISED}"
)
"""What somebody is called, between their names: Wendell "Dub" Hatch."""

_PLACE_AFTER = re.compile(
    r"(?<=[a-z,] )(?:in|to|from|at|near|via)\s+(?P<place>[A-Z][a-z]+)(?![\w-])(?!\s+[A-Z])"
)
_NEXT_IN_LIST = re.compile(rf"(?:,\s+(?:and\s+|&\s+)?|\s+(?:and|&|or)\s+)(?P<name>{_CAPITALISED})")
_MEMBER = r"(?:(?:van|von|de|der|den|di|da|el|al|la|le|du|del|dos)\s+){0,2}[^\W\d_][\w'\u2019-]*"
_FIRM_OF_NAMES = re.compile(
    rf"(?<![\w'-]){_MEMBER}(?:,\s+{_MEMBER}){{1,3}},?\s+(?:and|&|y|e|et|und|og|en|i)\s+{_MEMBER}"
)
_FIRM_WITHOUT_COMMA = re.compile(
    rf"\b(?:at|for|by|join(?:ed|ing|s)?)\s+(?P<name>{_CAPITALISED}\s+{_CAPITALISED}\s+(?:and|&)\s+{_CAPITALISED})"
    r"(?!\s+[A-Z])"
)
_DOES = re.compile(
    r"\s+(?:is|was|has|had|will|would|can|could|said|says|told|asked|wrote|called|shouted|replied|and\s+I|"
    r"went|lives|reports?|reported|denies|states|stated|works|worked|wants|needs|came|gave)\b"
)
_BETWEEN = re.compile(rf"\bbetween\s+(?P<one>{_CAPITALISED})\s+and\s+(?P<other>{_CAPITALISED})")
_TWO_NAMES = re.compile(
    r"(?<![\w'\u2019-])(?P<one>[A-Z][a-z]+)[ \t]+(?P<other>[A-Z][a-z]+)(?![\w'\u2019-]|[ \t]+[A-Z])"
)
"""Two words with capitals, each of which may be a name: "April Cummings"."""

_ENUMERATION = re.compile(
    rf"{_CAPITALISED}(?:,\s+{_CAPITALISED})*,?\s+(?:and|&|or)\s+{_CAPITALISED}"
)


def find_unknown(
    text: str, lexicon: Lexicon, nobody: bytearray, *, careless: bool
) -> Iterator[Finding]:
    """Words that are names for being nothing else.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
        nobody: 1 for each character of a word that is surely no name.
        careless: Whether the writer used no capitals: then unknown words in small letters count.
    """
    for match in WORD.finditer(text):
        if (
            not nobody[match.start()]
            and _is_unknown(text, match, lexicon, careless)
            and not _is_listed(match.group(), lexicon)
        ):
            yield Finding(*without_possessive(match), PERSON)


def find_names(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
    """Names that cues and lists give away.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
        careless: Whether the writer used no capitals.
    """
    yield from find_announced_names(text, lexicon)
    for match in WORD.finditer(text):
        if _is_listed(match.group(), lexicon):
            kind = LOCATION if lexicon.is_place(match.group()) else PERSON
            yield Finding(*without_possessive(match), kind)
        elif _is_name_by_its_capital(text, match, lexicon):
            yield Finding(*without_possessive(match), PERSON)
    for match in _TWO_NAMES.finditer(text):
        if all(plain(match.group(part)) in lexicon.ambiguous_names for part in ("one", "other")):
            yield Finding(*match.span(), PERSON)
    for match in _NICKNAME.finditer(text):
        yield Finding(*match.span(), PERSON)
    for match in _DOTTED_INITIALS.finditer(in_small_letters(text)) if careless else ():
        yield Finding(*match.span(), PERSON)
    for match in _SPELT.finditer(text):
        yield Finding(*match.span(), PERSON)
    for match in _PLACE_AFTER.finditer(text):
        if plain(match.group("place")) in PLACES_TOO:
            yield Finding(*match.span("place"), LOCATION)
    for match in _LOUD_NAME.finditer(text):
        end = _initials_end(text, match.end(), lexicon)
        if end > match.end():
            yield Finding(match.start(), end, PERSON)
    yield from _account_names(text, lexicon)
    for match in _COUNTRY_LETTERS.finditer(text):
        yield Finding(*match.span(), LOCATION)
    yield from _places(text, lexicon)
    yield from find_firms(text, lexicon, careless=careless)


def find_groups(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Nationalities, religions and political groups, with a capital as English writes them."""
    for match in _RELIGION.finditer(text):
        yield Finding(*match.span(), GROUP)
    for match in WORD.finditer(text):
        start, end = without_possessive(match)
        word = plain(text[start:end])
        if word[:1] != text[start] and (word in lexicon.groups or word[:-1] in lexicon.groups):
            yield Finding(start, end, GROUP)


def find_enumerated(text: str, found: Iterable[Finding], lexicon: Lexicon) -> Iterator[Finding]:
    """The other members of a list of which some are found: "Maslow, Anthony and Perry".

    Three names or more with "and" before the last are one finding: so firms are called.
    """
    spans = [(f.start, f.end) for f in found if f.kind in (PERSON, ORGANIZATION, LOCATION)]
    starts = {at for start, end in spans for at in range(start, end)}
    for match in _FIRM_OF_NAMES.finditer(text):
        members = [word for word in WORD.finditer(text, *match.span()) if _is_member(word)]
        known = sum(word.start() in starts for word in members)
        if known >= 2 and not any(lexicon.is_function_word(word.group()) for word in members):
            yield Finding(*match.span(), ORGANIZATION)
    for match in _BETWEEN.finditer(text):
        if {match.start("one"), match.start("other")} & starts:
            yield Finding(*match.span("one"), LOCATION)
            yield Finding(*match.span("other"), LOCATION)
    for match in _FIRM_WITHOUT_COMMA.finditer(text):
        members = [word for word in WORD.finditer(text, *match.span("name")) if _is_member(word)]
        if all(word.start() in starts for word in members):
            yield Finding(*match.span("name"), ORGANIZATION)
    for match in _ENUMERATION.finditer(text):
        if any(start < match.end() and end > match.start() for start, end in spans):
            loose = "&" in match.group()
            for member in WORD.finditer(text, match.start(), match.end()):
                if may_be_in_name(member.group(), lexicon, first=not loose):
                    yield Finding(*without_possessive(member), PERSON)


def _is_member(word: re.Match[str]) -> bool:
    """Whether a word of a list is one of its names, and not what joins them."""
    return not is_particle(word.group()) and plain(word.group()) not in ("and", "et", "und", "og")


def grow_names(
    text: str, findings: Iterable[Finding], lexicon: Lexicon, *, careless: bool
) -> Iterator[Finding]:
    """Found names with the initials, particles and further names that stand beside them."""
    for finding in findings:
        if finding.kind not in (PERSON, ORGANIZATION, LOCATION):
            yield finding
            continue
        end = grown_right(text, finding.end, lexicon)
        start, kind = grown_left(text, finding.start, lexicon), finding.kind
        if kind == PERSON and careless:
            start, end = _with_small_initials(text, start, end)
        if kind == PERSON:
            end = _initials_end(text, end, lexicon)
            start, end = small_neighbours(text, start, end, lexicon)
        last_word = start + max(text.rfind(" ", start, end) - start, 0)
        possessive = end + 2 * (text[end : end + 2] in ("'s", "\u2019s"))  # "St Ann's Primary"
        for at in (end, last_word, possessive):  # the last word may be the beginning of "Sp. k."
            tail = FIRM_TAIL.match(text, at)
            if tail and tail.end() > max(end, at):
                end, kind = tail.end(), ORGANIZATION
        institution = INSTITUTION_OF.search(text, max(0, start - 40), start)
        if institution:
            start, kind = institution.start(), ORGANIZATION
        yield Finding(start, end, kind)
        if finding.kind == PERSON:
            home = find_home(text, end, lexicon, careless=careless)
            if home is not None:
                yield home
            yield from _rest_of_list(text, end, lexicon)
            occupation = _OCCUPATION.match(text, end)
            if occupation:
                yield Finding(*occupation.span("what"), OCCUPATION)


def _with_small_initials(text: str, start: int, end: int) -> tuple[int, int]:
    """A name of a writer without capitals with the initial before or after it: "j yeung"."""
    before = _SMALL_INITIAL_BEFORE.search(
        text[max(0, start - 4) : start]
    ) or _SMALL_INITIAL_TITLED.search(in_small_letters(text[max(0, start - 9) : start]))
    after = _SMALL_INITIAL_AFTER.match(text, end)
    return start - len(before.group("initial")) if before else start, after.end() if after else end


def _rest_of_list(text: str, end: int, lexicon: Lexicon) -> Iterator[Finding]:
    while following := _NEXT_IN_LIST.match(text, end):
        if not may_be_in_name(following.group("name"), lexicon, first=True):
            break
        end = grown_right(text, following.end(), lexicon)
        yield Finding(following.start("name"), end, PERSON)


def _initials_end(text: str, end: int, lexicon: Lexicon) -> int:
    """Where initials end that follow a family name, which stands first; no species ("E. coli")."""
    initials = _COMMA_AND_INITIALS.match(text, end)
    if initials is None:
        return end
    following = WORD.match(text, initials.end() + 1)
    species = (
        following and following.group().islower() and not lexicon.is_everyday(following.group())
    )
    return end if species else initials.end()


def _is_listed(word: str, lexicon: Lexicon) -> bool:
    if not word[0].isupper():
        return False
    if lexicon.is_name(word) or lexicon.is_place(word):
        return True
    parts = re.split(r"['\u2019-]", word)
    if len(parts) > 1 and any(lexicon.is_name(part) for part in parts if len(part) > 2):
        return True
    double = word.split("-")  # "Ruby-Rose"
    return len(double) == 2 and all(
        part[:1].isupper() and plain(part) in lexicon.ambiguous_names for part in double
    )


def _is_unknown(text: str, match: re.Match[str], lexicon: Lexicon, careless: bool) -> bool:
    """Whether a word is a name because it is nothing else."""
    start, end = without_possessive(match)
    word = text[start:end]
    if len(word) < 3:
        return False
    if word[0].islower():
        return careless and is_unknown(word, lexicon)
    if word.isupper() and len(word) <= MAX_ACRONYM_LETTERS and word.isascii():
        return False
    if opens_sentence(text, start):
        return is_unknown(word, lexicon)
    return not lexicon.is_everyday(word) and not lexicon.is_jargon(word)


def _is_name_by_its_capital(text: str, match: re.Match[str], lexicon: Lexicon) -> bool:
    """Whether a word that is a name too has a capital that nothing else explains."""
    start, end = without_possessive(match)
    word = text[start:end]
    if len(word) < 3 or not word[0].isupper() or word.isupper():
        return False
    if plain(word) not in lexicon.ambiguous_names or lexicon.is_function_word(word):
        return False
    if opens_sentence(text, start):
        return plain(word) not in _MONTHS and _DOES.match(text, end) is not None
    if plain(word) in _MONTHS:
        return False
    before, after = text[:start].rstrip()[-1:], text[end : end + 2]
    previous = _LAST_WORD.search(text[max(0, start - 30) : start])
    beside_capital = (previous and previous.group(1)[0].isupper() and before.isalpha()) or (
        after[:1] == " " and after[1:].isupper()
    )
    return not beside_capital


def _account_names(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """What people call themselves online."""
    for match in _ACCOUNT_NAME.finditer(text):
        value = match.group("value")
        if value.isalpha() and lexicon.is_everyday(value):
            continue
        yield Finding(*match.span("value"), IDENTIFIER)
    for match in _JOINED.finditer(text):
        parts = filter(None, (match.group("letters"), match.group("more")))
        if (
            match.group().isupper()
            and len(match.group()) <= MAX_ACRONYM_LETTERS
            and "." not in match.group()
        ):
            continue  # "FEV1", "MATB1"
        if not all(lexicon.is_everyday(part) or lexicon.is_jargon(part) for part in parts) or (
            "_" in match.group() and not match.group().isupper()
        ):
            yield Finding(*match.span(), IDENTIFIER)


def _places(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Places of several words, whatever their case."""
    words = list(WORD.finditer(text))
    for at, first in enumerate(words):
        longest = lexicon.place_beginnings.get(plain(first.group()), 0)
        for last in reversed(words[at + 1 : at + longest]):
            phrase = " ".join(plain(text[first.start() : last.end()]).split())
            if phrase in lexicon.places:
                yield Finding(first.start(), last.end(), LOCATION)
                break
