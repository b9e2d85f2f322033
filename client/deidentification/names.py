"""Names of people, places and firms, beyond what the named-entity model sees.

* After a cue ("Dr", "my name is", "Dear", "Patient:") the capitalised words that follow are a name.
* A listed given name with what follows it, and any word that is no everyday word and carries a
  capital, is a name.
* A found name grows over its neighbours: initials, particles ("van der"), further capitalised
  words, "A, B and C", and a firm's legal form.

All of this reads the truecased text, so it works for writers who use no capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from client.deidentification.casing import is_unknown
from client.deidentification.findings import LOCATION, ORGANIZATION, PERSON, Finding
from client.deidentification.lexicon import WORD, Lexicon, plain

PARTICLES = frozenset(
    "van von der den de del della dello di da das dos do du la le el al bin ibn bint abu ter ten zu zur "
    "zum af av y e st san santa mac mc o' d' l' het 't op vom ben abd dela las los degli dei".split()
)
"""Words between the parts of a name that are written small."""

_TITLES = (
    r"(?:mr|mrs|ms|miss|mx|dr|doctor|prof|professor|sir|dame|lady|lord|rev|reverend|fr|father|sister|"
    r"brother|nurse|judge|justice|capt|captain|col|colonel|lt|sgt|sergeant|major|officer|senator|"
    r"president|king|queen|prince|princess|madam|madame|monsieur|mme|mlle|herr|frau|señor|señora|sr|sra|"
    r"don|doña|attorney|consultant|surgeon)"
)
_CUES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_TITLES}\b\.?\s+",
        r"\b(?:calls?|called|calling)\s+(?:me|him|her|us|them|myself)\s+",
        r"\b(?:my|his|her|our|their|the|your|(?:\w+'s))\s+(?:full\s+|first\s+|last\s+|middle\s+|maiden\s+|legal\s+|"
        r"new\s+|old\s+|birth\s+)?(?:name|surname)(?:\s+(?:is|was|to|as|being|in\s+full))?\s*[:,]?\s+",
        r"\b(?:(?:first|last|full|middle|maiden|given|family|patient|customer|account|card)[\s-]*)?(?:sur)?name\s*:\s*",
        r"\b(?:named|called|name\s+of|known\s+as|aka|a\.k\.a\.|née|nee|in\s+the\s+name\s+of|on\s+behalf\s+of|signed(?:\s+by)?|"
        r"written\s+by|seen\s+by|referred\s+by|reviewed\s+by|dictated\s+by|authori[sz]ed\s+by|payable\s+to|attn\.?|"
        r"attention|c/o|cc|care\s+of|speaking\s+(?:with|to)|spoke\s+(?:with|to)|talked\s+to|this\s+is|it's|"
        r"i\s+am|i'm|account\s+holder|cardholder|beneficiary|payee|sender|recipient)\s*:?\s+",
        r"\b(?:dear|hi|hello|hey|regards|sincerely|thanks|thank\s+you|cheers|best|yours\s+truly|yours|faithfully|"
        r"cordially|respectfully|love|sent\s+by|from|to|contact|patient|client|customer|member|guarantor|"
        r"next\s+of\s+kin|nok|emergency\s+contact|guardian|carer|provider|physician|doctor|gp|attending|"
        r"wife|husband|partner|spouse|son|daughter|mother|father|mum|mom|dad|brother|sister|aunt|uncle|cousin|niece|"
        r"nephew|grandson|granddaughter|grandmother|grandfather|friend|neighbou?r|colleague|boss|tenant|landlord|"
        r"fianc[ée]e?|girlfriend|boyfriend|child|baby|twin)\s*[:,\n-]?\s+",
    )
)
_SIGN_OFF = re.compile(
    r"\b(?:thanks|thank\s+you|cheers|regards|wishes|sincerely|faithfully|yours|truly|love|best)"
    r"[,.!\s-]{1,4}(?P<name>[^\W\d_][\w'\u2019.-]*(?:[ \t]+[^\W\d_][\w'\u2019.-]*){0,3})[ \t.!]*(?:\n|$)",
    re.IGNORECASE,
)
_SIGN_OFF_WORDS = frozenset(
    "advance again much help all everyone everybody team guys folks lot lots indeed soon support time "
    "bunch kindly sincerely regards wishes truly faithfully".split()
)
_NAME_IS = re.compile(
    r"\b(?:my|his|her|their|the\s+patient'?s|the\s+customer'?s)\s+(?:full\s+|last\s+|first\s+|maiden\s+|new\s+)?"
    r"(?:sur)?name(?:\s+is|\s+was|'s)(?:\s+now)?\s+(?P<name>[^\W\d_][\w'\u2019-]*(?:[ \t]+[^\W\d_][\w'\u2019-]*)?)",
    re.IGNORECASE,
)
_NOT_AFTER_NAME_IS = frozenset(
    "spelled spelt misspelled misspelt wrong incorrect incorrectly different missing shown listed written "
    "changed printed correct still being unknown common confidential".split()
)
_FROM = re.compile(r"[ \t]+from[ \t]+(?P<place>[^\W\d_][\w'\u2019-]*(?:[ \t]+[^\W\d_][\w'\u2019-]*)?)")
_TITLED = re.compile(r"\b(?:mr|mrs|ms|miss|mx|dr|prof)\b\.?[ \t]+", re.IGNORECASE)
_LEGAL_FORM = (
    r"(?:Ltd|Limited|Inc|Incorporated|LLC|LLP|LP|PLC|Corp|Corporation|Co|Company|GmbH|AG|KG|SA|S\.A|SAS|SARL|SpA|"
    r"S\.p\.A|SRL|BV|B\.V|NV|N\.V|AB|ASA|AS|A/S|ApS|Oy|Oyj|Pty|Group|Holdings?|Partners|Associates|Brothers|Bros|"
    r"and\s+Sons|&\s+Sons|Foundation|Trust|Institute|University|College|School|Academy|Hospital|Clinic|Infirmary|"
    r"Surgery|Pharmacy|Hospice|Practice|Laborator(?:y|ies)|Bank|Bancorp|Insurance|Assurance|Airlines|Industries|"
    r"Systems|Solutions|Services|Software|Technologies|Consulting|Enterprises|Hotel|Restaurant|Club|Church|Press|"
    r"Media|Records|Motors|Stores?|Centre|Center|Studios?)"
)
_FIRM = re.compile(
    rf"(?<!\w)(?P<name>(?:[A-Z0-9][\w'\u2019&.-]*,?\s+(?:(?:and|&|of|the|for|de|y|und)\s+)?){{1,5}}){_LEGAL_FORM}\b\.?"
)
_LIST_TAIL = re.compile(
    r"(?:,\s+(?:and\s+|&\s+)?|\s+(?:and|&|or)\s+)(?P<name>[A-Z][^\W\d_]+(?:[-'\u2019][^\W\d_]+)*)"
)
_ENUMERATION = re.compile(
    r"[A-Z][^\W\d_]+(?:[-'\u2019][^\W\d_]+)*(?:,\s+[A-Z][^\W\d_]+(?:[-'\u2019][^\W\d_]+)*)*,?\s+(?:and|&|or)\s+"
    r"[A-Z][^\W\d_]+(?:[-'\u2019][^\W\d_]+)*"
)
_WEAK_FIRM = re.compile(
    r"(?<!\w)(?P<name>(?:[\w'\u2019&-]+\s+){1,3})(?:ltd|inc|llc|llp|plc|corp|corporation|gmbh|incorporated|limited)\b\.?",
    re.IGNORECASE,
)
_INITIAL = re.compile(r"(?!I\b(?!\.))[A-Z]\.?(?:[A-Z]\.)*(?=\s|$|,)")
_NAME_WORD = re.compile(r"[^\W\d_]+(?:['\u2019\-][^\W\d_]+)*")

MAX_NAME_WORDS = 6


def find_names(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
    """Names that cues, lists and the absence from English give away.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
        careless: Whether the writer used no capitals: then unknown words in small letters count too.
    """
    for cue in _CUES:
        for match in cue.finditer(text):
            end = _name_end(text, match.end(), lexicon)
            if end > match.end():
                yield Finding(match.end(), end, PERSON)
    yield from _introduced(text, lexicon)
    for match in _TITLED.finditer(text):
        end = _name_end(text, match.end(), lexicon)
        if end > match.end():
            yield Finding(match.start(), end, PERSON)
    for match in WORD.finditer(text):
        word = match.group()
        if _is_listed(text, match, lexicon) or _is_unknown_proper(text, match, lexicon, careless):
            kind = LOCATION if lexicon.is_place(word) else PERSON
            yield Finding(*_without_possessive(match), kind)
    yield from _places(text, lexicon)
    yield from find_firms(text, lexicon, careless=careless)


def _introduced(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Names that a sign-off or "my name is" announces, everyday words in small letters too."""
    for match in _SIGN_OFF.finditer(text):
        words = WORD.findall(match.group("name"))
        if words and not any(
            plain(word) in _SIGN_OFF_WORDS or lexicon.is_function_word(word) and not _is_particle(word)
            for word in words
        ):
            yield Finding(*match.span("name"), PERSON)
    for match in _NAME_IS.finditer(text):
        end = match.start("name")
        for word in WORD.finditer(text, match.start("name"), match.end("name")):
            if plain(word.group()) in _NOT_AFTER_NAME_IS or lexicon.is_function_word(word.group()):
                break
            end = word.end()
        if end > match.start("name"):
            yield Finding(match.start("name"), end, PERSON)


def _place_after(text: str, end: int, lexicon: Lexicon, *, careless: bool) -> Finding | None:
    """Where a named person comes from."""
    match = _FROM.match(text, end)
    if match is None:
        return None
    last = match.start("place")
    for count, word in enumerate(WORD.finditer(text, match.start("place"), match.end("place"))):
        small = word.group()[0].islower()
        if lexicon.is_function_word(word.group()) or (small and (count or not careless)):
            break
        last = word.end()
    return Finding(match.start("place"), last, LOCATION) if last > match.start("place") else None


def find_enumerated(text: str, found: Iterable[Finding], lexicon: Lexicon) -> Iterator[Finding]:
    """The other members of a list of which one is a found name: "Maslow, Anthony and Perry"."""
    spans = [(f.start, f.end) for f in found if f.kind in (PERSON, ORGANIZATION)]
    for match in _ENUMERATION.finditer(text):
        members = list(WORD.finditer(text, match.start(), match.end()))
        if any(start < match.end() and end > match.start() for start, end in spans):
            for member in members:
                word = member.group()
                if word[0].isupper() and (
                    not lexicon.is_everyday(word) or lexicon.may_be_name(word)
                ):
                    yield Finding(*_without_possessive(member), PERSON)


def find_firms(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
    """Firms and institutions by their legal form or kind."""
    for match in _FIRM.finditer(text):
        start = _firm_start(match, lexicon)
        if start is not None:
            yield Finding(start, match.end(), ORGANIZATION)
    if careless:
        for match in _WEAK_FIRM.finditer(text):
            words = list(re.finditer(r"\S+", match.group("name")))
            start = match.end()
            for word in reversed(words):
                if lexicon.is_function_word(word.group()):
                    break
                start = match.start() + word.start()
            if start < match.end():
                yield Finding(start, match.end(), ORGANIZATION)


def grow_names(
    text: str, findings: Iterable[Finding], lexicon: Lexicon, *, careless: bool
) -> Iterator[Finding]:
    """Found names with the initials, particles and further names that stand beside them."""
    for finding in findings:
        if finding.kind not in (PERSON, ORGANIZATION, LOCATION):
            yield finding
            continue
        start = _grown_left(text, finding.start, lexicon)
        end = _grown_right(text, finding.end, lexicon)
        yield Finding(start, end, finding.kind)
        if finding.kind == PERSON:
            place = _place_after(text, end, lexicon, careless=careless)
            if place is not None:
                yield place
            at = end
            while tail := _LIST_TAIL.match(text, at):
                if lexicon.is_everyday(tail.group("name")) and not lexicon.may_be_name(
                    tail.group("name")
                ):
                    break
                at = _grown_right(text, tail.end(), lexicon)
                yield Finding(tail.start("name"), at, PERSON)


def _name_end(text: str, start: int, lexicon: Lexicon) -> int:
    """Where the run of name words that begins at `start` ends; `start` itself when there is none."""
    at, end, count = start, start, 0
    while count < MAX_NAME_WORDS:
        initial = _INITIAL.match(text, at)
        word = _NAME_WORD.match(text, at)
        if initial and (not word or len(word.group()) == 1 or initial.end() >= word.end()):
            end = initial.end()
        elif word is None:
            break
        elif (
            _is_particle(word.group())
            and count > 0
            or _is_particle(word.group())
            and word.group()[0].islower()
        ):
            pass
        elif _may_continue(word.group(), lexicon, first=count == 0):
            end = _without_possessive(word)[1]
            if end < word.end():
                break
        else:
            break
        count += 1
        following = (
            word.end()
            if word and (not initial or word.end() > initial.end())
            else (initial.end() if initial else at)
        )
        gap = re.match(r"[ \t]+", text[following:])
        if gap is None:
            break
        at = following + gap.end()
    return end if re.search(r"[^\W\d_]", text[start:end]) else start


def _may_continue(word: str, lexicon: Lexicon, *, first: bool) -> bool:
    if not word[0].isupper():
        return False
    if lexicon.is_function_word(word) and not lexicon.may_be_name(word):
        return False
    if len(word) > 1 and word.isupper() and lexicon.is_everyday(word) and len(word) < 5:
        return False
    return not lexicon.is_everyday(word) or lexicon.may_be_name(word) or not first


def _is_listed(text: str, match: re.Match[str], lexicon: Lexicon) -> bool:
    word = match.group()
    if not word[0].isupper():
        return False
    parts = re.split(r"['\u2019-]", word)
    return (
        lexicon.is_name(word)
        or lexicon.is_place(word)
        or (len(parts) > 1 and any(lexicon.is_name(part) for part in parts if len(part) > 2))
    )


def _is_unknown_proper(text: str, match: re.Match[str], lexicon: Lexicon, careless: bool) -> bool:
    word = match.group()
    base = text[match.start() : _without_possessive(match)[1]]
    if len(base) < 3:
        return False
    if word[0].isupper() or not word[0].islower():
        if base.isupper() and len(base) <= 6 and base.isascii():
            return False  # an acronym
        if _opens_sentence(text, match.start()):
            return is_unknown(base, lexicon)
        return not lexicon.is_everyday(base) and not lexicon.is_jargon(base)
    return careless and is_unknown(base, lexicon)


def _opens_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \t\"'([*-")
    return not before or before[-1] in ".!?:\n"


def _places(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Places of several words, whatever their case."""
    words = list(WORD.finditer(text))
    for at, match in enumerate(words):
        for length in (4, 3, 2):
            if at + length > len(words):
                continue
            last = words[at + length - 1]
            phrase = " ".join(plain(text[match.start() : last.end()]).split())
            if phrase in lexicon.places:
                yield Finding(match.start(), last.end(), LOCATION)
                break


def _firm_start(match: re.Match[str], lexicon: Lexicon) -> int | None:
    """Where a firm's name begins: after any everyday first word that only opens the sentence."""
    words = list(re.finditer(r"\S+", match.group("name")))
    for position, word in enumerate(words):
        bare = word.group().strip(",.&")
        if not bare or (lexicon.is_function_word(bare)):
            continue
        if (
            position == 0
            and len(words) == 1
            and lexicon.is_everyday(bare)
            and not lexicon.may_be_name(bare)
        ):
            return match.start() if len(bare) > 3 else None
        return match.start() + word.start()
    return None


def _grown_left(text: str, start: int, lexicon: Lexicon) -> int:
    for _ in range(MAX_NAME_WORDS):
        before = re.search(r"(?<!\S)(?P<word>[A-Z]\.|[^\W\d_][\w'\u2019-]*)[ \t]+$", text[:start])
        if before is None:
            break
        word = before.group("word")
        sentence_start = (
            before.start() == 0
            or text[: before.start()].rstrip()[-1:] in ".!?\n:"
            or "\n" in text[before.start() - 1 : before.start()]
        )
        if re.fullmatch(r"[A-Z]\.?", word) and word not in ("I", "A"):
            start = before.start("word")
        elif (
            word[0].isupper()
            and not lexicon.is_function_word(word)
            and (
                lexicon.may_be_name(word)
                or lexicon.is_place(word)
                or (not lexicon.is_everyday(word) and len(word) > 1)
            )
        ):
            start = before.start("word")
        elif (
            _is_particle(word)
            and word[0].islower()
            and plain(word) not in ("do", "e", "y", "la", "le", "op", "ten", "las", "los")
        ):
            start = before.start("word")
        elif (
            word[0].isupper()
            and not sentence_start
            and not lexicon.is_function_word(word)
            and not lexicon.is_everyday(word)
        ):
            start = before.start("word")
        else:
            break
    return start


def _grown_right(text: str, end: int, lexicon: Lexicon) -> int:
    gap = re.match(r"[ \t]+", text[end:])
    if gap is None:
        return end
    begin = end + gap.end()
    at = begin
    # particles only count when a name follows them
    grown = _name_end(text, at, lexicon) if _continues(text, at, lexicon) else at
    return grown if grown > begin else end


def _continues(text: str, at: int, lexicon: Lexicon) -> bool:
    word = _NAME_WORD.match(text, at)
    if word is None:
        return False
    if len(word.group()) == 1 and word.group() != "I":
        return word.group().isupper()
    if _is_particle(word.group()):
        return True
    return _may_continue(word.group(), lexicon, first=True)


def _is_particle(word: str) -> bool:
    return plain(word) in PARTICLES


def _without_possessive(match: re.Match[str]) -> tuple[int, int]:
    word = match.group()
    cut = len(word)
    for ending in ("'s", "\u2019s"):
        if word.endswith(ending) and len(word) > 3:
            cut -= 2
    return match.start(), match.start() + cut
