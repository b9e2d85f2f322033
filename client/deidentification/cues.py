"""Names that the words around them announce: "Dr", "my name is", "Patient:", a sign-off."""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.findings import LOCATION, PERSON, Finding
from client.deidentification.lexicon import WORD, Lexicon, plain, word_set
from client.deidentification.name_runs import LABEL_WORDS, is_particle, run_end

_TITLES = (
    r"(?:mr|mrs|ms|miss|mx|dr|doctor|prof|professor|sir|dame|lady|lord|rev|reverend|fr|father|"
    r"sister|brother|nurse|judge|justice|capt|captain|col|colonel|lt|sgt|sergeant|major|officer|"
    r"senator|president|pc|wpc|pcso|dc|ds|supt|insp|inspector|constable|warden|midwife|king|queen|prince|princess|madam|madame|monsieur|mme|mlle|herr|frau|"
    r"señor|señora|sr|sra|don|doña|attorney|consultant|surgeon)"
)
_WHOSE = r"(?:my|his|her|our|their|the|your|\w+'s)"
_WHICH = r"(?:(?:full|first|last|middle|maiden|legal|new|old|birth|given|family)\s+)?"
_BEFORE_CAPITALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_TITLES}\b\.?\s+",
        r"\b(?:calls?|called|calling)\s+(?:me|him|her|us|them|myself)\s+",
        rf"\b{_WHOSE}\s+{_WHICH}(?:name|surname)(?:\s+(?:is|was|to|as|being|in\s+full))?"
        r"\s*[:,]?\s+",
        r"\b(?:(?:first|last|full|middle|maiden|given|family|patient|customer|account|card)"
        r"[\s-]*)?(?:sur)?name\s*:\s*",
        r"\b(?:named|called|name\s+of|known\s+as|aka|a\.k\.a\.|née|nee|on\s+behalf\s+of|"
        r"signed(?:\s+by)?|written\s+by|seen\s+by|referred\s+by|reviewed\s+by|dictated\s+by|"
        r"authori[sz]ed\s+by|taken\s+by|payable\s+to|attn\.?|attention|c/o|cc|care\s+of|"
        r"speaking\s+(?:with|to)|spoke\s+(?:with|to)|talked\s+to|this\s+is|it's|i\s+am|i'm|"
        r"account\s+holder|cardholder|beneficiary|payee|sender|recipient)\s*:?\s+",
        r"\b(?:dear|hi|hello|hey|regards|sincerely|thanks|thank\s+you|cheers|best|yours\s+truly|"
        r"yours|faithfully|cordially|respectfully|love|sent\s+by|from|to|contact|patient|client|"
        r"customer|member|guarantor|next\s+of\s+kin|nok|emergency\s+contact|guardian|carer|"
        r"provider|physician|doctor|gp|attending|wife|husband|partner|spouse|son|daughter|mother|"
        r"father|mum|mom|dad|brother|sister|aunt|uncle|cousin|niece|nephew|grandson|"
        r"granddaughter|grandmother|grandfather|friend|neighbou?r|colleague|boss|tenant|landlord|"
        r"fianc[ée]e?|girlfriend|boyfriend|child|baby|twin)\s*[:,\n-]?\s+",
    )
)
_TITLED = re.compile(r"\b(?:mr|mrs|ms|miss|mx|dr|prof)\b\.?[ \t]+", re.IGNORECASE)
_W = r"[^\W\d_][\w'\u2019-]*"
_SIGN_OFF = re.compile(
    r"\b(?:thanks|thank\s+you|thx|thnx|cheers|regards|wishes|sincerely|faithfully|yours|truly|love|loving|best)"
    rf"[,.!\s-]{{1,4}}(?P<name>{_W}\.?(?:[ \t]+{_W}\.?){{0,3}})[ \t.!]*(?:\n|$)",
    re.IGNORECASE,
)
_NO_SIGN_OFF = word_set(
    "advance again much help all everyone everybody team guys folks lot lots indeed soon support "
    "time bunch kindly sincerely regards wishes truly faithfully"
)
_NAME_IS = re.compile(
    r"\b(?:my|his|her|their|the\s+patient'?s|the\s+customer'?s)\s+"
    r"(?:(?:full|last|first|maiden|new)\s+)?(?:sur)?name(?:\s+is|\s+was|'s)(?:\s+now)?\s+"
    rf"(?P<name>{_W}(?:[ \t]+{_W})?)",
    re.IGNORECASE,
)
_GREETED = re.compile(
    rf"\b(?:dear|hi|hello|hey|hiya)[ \t]+(?P<name>{_W})[ \t]*(?:[,!]|\n)", re.IGNORECASE
)
_NOBODY_GREETED = word_set(
    "all there team everyone everybody folks guys sir sirs madam mum dad both colleagues customer "
    "friend friends ladies gentlemen mate love darling doctor nurse support you again parent "
    "parents resident residents tenant guest member members patient applicant user neighbour "
    "neighbours world sweetheart honey dear hun babe pal colleague manager guardian carer valued"
)
_BY_INITIALS = re.compile(
    r"\b(?:approved|signed|seen|reviewed|checked|entered|logged|typed|dictated|authori[sz]ed|completed|prepared|updated|handled|"
    r"actioned|witnessed|verified|taken|given|recorded|discussed\s+with|d/w|handed\s+over\s+to)(?:\s+(?:by|to|with))?\s+"
    r"(?P<name>(?-i:[A-Z]{2,3}|[A-Z]\.[ ]?[A-Z]\.?)|(?<=by )[a-z]{2})(?=[ \t]*(?:[.,;)]|\n|$))",
    re.IGNORECASE,
)
_DATE_AND_INITIALS = re.compile(
    r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}[ \t]+(?P<name>[A-Z]{2,3}|[a-z]{2})[ \t]*(?:\n|$)"
)
"""Who wrote an entry, after its day."""

_INITIALS_AND_ROLE = re.compile(
    r"(?:^|(?<=[.!?\n] )|(?<=[.!?] {2})|(?<=\n))(?P<name>[A-Z]{2,3}),[ \t]*"
    r"(?:ANP|RN|SHO|CNS|GP|MD|NP|PA-C|RMN|RGN|OT|PT|SALT|CPN|AHP|HCA|FY1|FY2|ST\d|SpR|StR|Reg(?:istrar)?|Cons(?:ultant)?)\b"
)
_IN_BED = re.compile(
    rf"\b(?:bed|bay|room|rm|side[ \t]?room)[ \t]+\w{{1,4}}[:,.]?[ \t]+(?P<name>{_W}(?:[ \t]+{_W})?)"
    r"(?=,?[ \t]+(?:\d{2,3}\b|\())",
    re.IGNORECASE,
)
_NAME_FIELD = re.compile(
    r"(?<![\w-])(?:(?:first|last|middle|maiden|given|family|full|patient'?s?|child'?s|client'?s?|"
    r"customer'?s?|account|legal)[ \t]*)?"
    r"(?:(?:sur|fore)?names?|known[ \t]+as|preferred[ \t]+name|patient|claimant|insured|proposer|"
    r"policyholder|originator|payee|beneficiary|"
    r"witness|next[ \t]+of[ \t]+kin|nok|caller|applicant|tenant|employee|account[ \t]+holder|"
    r"cardholder|resident)[ \t]*:[ \t]*"
    rf"(?P<name>{_W}\.?(?:[ \t]{_W}\.?){{0,3}})(?=[ \t]*(?:[,;(\n|/]|$)|[ \t]{{2,}}|\t)",
    re.IGNORECASE,
)
"""A field of a form that holds a name, to its end."""

_GOES_BY = re.compile(
    r"\b(?:goes\s+by|nicknamed|(?:likes|prefers|answers\s+to)(?=\s+[\"'\u201c\u2018])|(?:prefers|likes|wants)\s+(?:to\s+be\s+(?:called|known\s+as)|the\s+name)|calls\s+(?:himself|herself))"
    rf"(?:\s+the\s+name(?:\s+of)?)?\s+(?P<open>[\"'\u201c\u2018])?(?P<name>{_W})",
    re.IGNORECASE,
)
_NO_NAME = word_set(
    "spelled spelt misspelled misspelt wrong incorrect incorrectly different missing shown listed "
    "written changed printed correct still being unknown common confidential"
)
_FROM = re.compile(rf"[ \t]+from[ \t]+(?P<place>{_W}(?:[ \t]+{_W})?)")


def find_announced_names(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Names after a cue.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
    """
    for cue in _BEFORE_CAPITALS:
        for match in cue.finditer(text):
            end = run_end(text, match.end(), lexicon)
            if end > match.end():
                yield Finding(match.end(), end, PERSON)
    for match in _TITLED.finditer(text):
        end = run_end(text, match.end(), lexicon)
        word = WORD.match(text, match.end())
        if end == match.end() and word and _may_follow_title(word, lexicon):
            end = run_end(text, word.end() + 1, lexicon)
            end = end if end > word.end() + 1 else word.end()
        if end > match.end():
            yield Finding(match.start(), end, PERSON)
    yield from _in_fields(text, lexicon)
    for match in _GOES_BY.finditer(text):
        if match.group("open") or not lexicon.is_everyday(match.group("name")):
            yield Finding(*match.span("name"), PERSON)
    yield from _signed_off(text, lexicon)
    yield from _told(text, lexicon)


def _in_fields(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Names whose place alone says that they are names, everyday words and initials too."""
    for pattern in (_BY_INITIALS, _DATE_AND_INITIALS, _INITIALS_AND_ROLE):
        for match in pattern.finditer(text):
            trade = plain(match.group("name")) in lexicon.current_words  # "seen by GI"
            if not lexicon.is_function_word(match.group("name")) and (
                pattern is _DATE_AND_INITIALS or not trade
            ):
                yield Finding(*match.span("name"), PERSON)
    for match in _GREETED.finditer(text):
        word = match.group("name")
        if plain(word) not in _NOBODY_GREETED and not lexicon.is_function_word(word):
            yield Finding(*match.span("name"), PERSON)
    for pattern in (_NAME_FIELD, _IN_BED):
        for match in pattern.finditer(text):
            words = WORD.findall(match.group("name"))
            if not any(_says_no_name(word, lexicon) for word in words):
                yield Finding(*match.span("name"), PERSON)


def _says_no_name(word: str, lexicon: Lexicon) -> bool:
    """Whether a word in a name's field says that none stands there: "not known", "as above"."""
    folded = plain(word)
    return (
        folded in _NO_NAME
        or folded in LABEL_WORDS
        or folded in lexicon.current_words
        or (
            lexicon.is_function_word(word)
            and not is_particle(word)
            and not lexicon.may_be_name(word)
        )
    )


def _may_follow_title(match: re.Match[str], lexicon: Lexicon) -> bool:
    """Whether a word after "Ms" is her name, though it is an everyday word."""
    word = match.group()
    if lexicon.is_function_word(word):
        ends = match.string[match.end() : match.end() + 1] in ("", ".", ",", ";", ":", ")", "\n")
        return lexicon.may_be_name(word) or (ends and word[0].isupper() and len(word) > 1)
    return word[0].isupper() or lexicon.may_be_name(word)


def find_home(text: str, end: int, lexicon: Lexicon, *, careless: bool) -> Finding | None:
    """Where the person whose name ends at `end` is from, when the text says so next.

    Args:
        text: The truecased text.
        end: Where the name ends.
        lexicon: Tells everyday words from names.
        careless: Whether the writer used no capitals.
    """
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


def _signed_off(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """The last words of a letter, everyday words in small letters too."""
    for match in _SIGN_OFF.finditer(text):
        words = WORD.findall(match.group("name"))
        if words and not any(
            plain(word) in _NO_SIGN_OFF
            or (lexicon.is_function_word(word) and not is_particle(word))
            for word in words
        ):
            yield Finding(*match.span("name"), PERSON)


def _told(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """What follows "my name is", everyday words in small letters too."""
    for match in _NAME_IS.finditer(text):
        start = end = match.start("name")
        for word in WORD.finditer(text, start, match.end("name")):
            if plain(word.group()) in _NO_NAME or lexicon.is_function_word(word.group()):
                break
            end = word.end()
        if end > start:
            yield Finding(start, end, PERSON)
