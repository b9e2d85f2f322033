"""Numbers and codes: records, accounts, customers, policies, phones, cards, plates, web addresses.

Presidio's own recognisers know well-formed national numbers. These rules find what a site's own
numbers look like: anything a label announces, and any run of digits too long to be a quantity.

* An amount of money, a measurement, a year, a clock time or a decimal is no identifier.
* Precision is worth less than recall here: a lost digit run costs a classifier nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.findings import (
    ADDRESS,
    EMAIL_ADDRESS,
    IBAN_CODE,
    IDENTIFIER,
    IP_ADDRESS,
    NUMBER,
    PHONE_NUMBER,
    URL,
    Finding,
)

MIN_DIGIT_RUN = 5
"""A bare run of digits this long is an identifier: amounts that long have separators or a sign."""

MIN_SEPARATED_DIGITS = 6
MAX_SEPARATED_DIGITS = 20

_LABEL = r"""
    (?:medical\s+record|hospital|patient|health(?:care)?|chart|case|file|record|encounter|episode|visit|
    admission|specimen|sample|lab|accession|order|prescription|rx|claim|policy|plan|group|member(?:ship)?|
    subscriber|beneficiary|insurance|insured|account|acct|a/c|customer|client|user|login|employee|staff|
    student|badge|passport|licen[cs]e|driver'?s?\s+licen[cs]e|driving\s+licen[cs]e|national\s+insurance|
    social\s+security|tax(?:payer)?|vat|identity|identification|id\s+card|nhs|ssn|sin|nin|nino|mrn|mbi|npi|
    dea|ehic|hic|nhi|chi|crn|tin|itin|ein|pan|aadhaar|cpf|nif|dni|bsn|vin|vehicle|chassis|registration|
    plate|number\s+plate|license\s+plate|serial|s/n|device|imei|model|invoice|receipt|booking|reservation|
    ticket|reference|ref|confirmation|transaction|transfer|payment|routing|sort|swift|bic|iban|loan|
    mortgage|contract|application|request|complaint|tracking|card|cvv|cvc|pin)
"""
_SMALL_LETTERS = r"""(?!(?:is|to|in|on|at|of|for|was|the|and|or|by|we|he|as|if|my|up|so|but|are|has|
    had|no|it|an|be)\b)[a-z]{2,3}\ (?=\d{3})"""
"""Letters before a number where nobody writes capitals: no words of grammar."""

_LAST_LETTER = r"(?:\ [A-Za-z](?=\s*(?:[.,;:)\n]|$)))?"
"""Of a number: "0092217 K"."""

_LABELLED = re.compile(
    rf"""(?<![\w]){_LABEL}
    (?:\s+(?:number|no|num|nr|id|code|ref(?:erence)?|key|card))?\.?
    (?:\s*(?:\#|:|=|-|\u2013|\()|\s+(?:is|was|of|being|(?:ends?|ending)(?:\s+in)?|number|no\.?|nr\.?|id|code))*\s*
    (?P<value>(?:(?-i:[A-Z]{{1,5}})\ (?=\d)|{_SMALL_LETTERS}|[A-Za-z]{{0,5}}[-/.\#]?)
    \d[\dA-Za-z]*(?:[-/.\ ]?[\dA-Za-z]*\d[\dA-Za-z]*)*
    (?:-[A-Za-z]{{1,3}}(?!\w))?{_LAST_LETTER})""",
    re.IGNORECASE | re.VERBOSE,
)
_POSTCODE = re.compile(
    r"\b(?:zip(?:\s*code)?|post\s?code|postal\s+code|plz|eircode|pin\s?code)\s*(?:is|to|[:=#-])?\s*"
    r"(?P<value>(?=[A-Za-z ]{0,4}\d)[A-Za-z\d]{2,8}"
    r"(?:[ -](?=[A-Za-z]*\d|[A-Z]{2}\b)[A-Za-z\d]{2,4})?)(?!\w)",
    re.IGNORECASE,
)
_PLATE_AFTER_CUE = re.compile(
    r"\b(?:plate|plates|registration|rego?|vrm|vrn|licen[cs]e\s+plate|tag|number\s+plate)(?:\s+(?:no|number|is))?"
    r"\s*[.:#]?\s*(?P<value>[A-Za-z]{1,3}[ -]\d{1,4}(?:-?[A-Za-z]{1,2}|-\d{2,4})?|"
    r"\d[A-Za-z]{2,3} ?\d{3}|\d{1,4}[ -][A-Za-z]{1,3}(?:[ -]\d{1,4})?|"
    r"[A-Za-z]{1,2}\d{2,3}[ -][A-Za-z]{2,3}|"
    r"[A-Za-z]{1,3}-[A-Za-z]{1,2} ?\d{1,4}|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z\d]{4,8})(?!\w)",
    re.IGNORECASE,
)
_SHORT_LABEL = re.compile(
    rf"""(?<![\w])(?:id|no|nr|num|number(?:ed)?|\#)\s*[.:\#]?\s*
    (?P<value>(?:(?-i:[A-Z]{{1,5}})\ (?=\d)|{_SMALL_LETTERS}|[A-Za-z]{{0,5}}-?)
    \d{{3,}}[\dA-Za-z/-]*{_LAST_LETTER})""",
    re.IGNORECASE | re.VERBOSE,
)
_DRIVER = re.compile(r"(?<!\w)[A-Z9]{5}[ -]?\d{6}[ -]?[A-Z9]{2}\d[A-Z]{2}(?!\w)", re.IGNORECASE)
"""British driving licences: five letters of the name, the date of birth, initials."""

_MASKED = re.compile(
    r"(?<![\w*])(?:\d{1,8}[ -]?)?(?:[*\u2022]{2,}[ -]?){1,4}\d{2,8}(?![\w*])|"
    r"(?<!\w)\d{0,6}x{3,}(?:[ -]x{2,4}){0,4}[ -]?\d{2,6}(?!\w)",
    re.IGNORECASE,
)
"""Numbers of which a part was made unreadable: "3049***218", "xxxx-xxxx-1234"."""

_BOOKING = re.compile(
    r"\b(?:booking|reservation|confirmation|pnr|(?:record\s+)?locator)"
    r"(?:\s+(?:ref(?:erence)?|code|number|no))?\.?\s*[:#]?\s*(?:is\s+)?"
    r"(?:was\s+)?(?P<value>(?-i:[A-Z0-9]{6}|[A-Z0-9]{2,4}-[A-Z0-9]{2,4})|(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{6})(?!\w)",
    re.IGNORECASE,
)
"""Airlines' codes: six letters and figures, of which few or none are figures."""

_USER_NAME = re.compile(
    r"\b(?:user\s?name|user\s?id|login(?:\s+name)?|screen\s+name)(?:\s+is|\s*[:=])\s*"
    r"(?P<value>[\w.@+-]{3,64}(?<![.,]))",
    re.IGNORECASE,
)
_HASH = re.compile(r"#\s?(?P<value>[A-Za-z]{0,4}-?\d[\dA-Za-z-]{2,})")
_CODE = re.compile(
    r"(?<![\w@.])(?=[A-Za-z0-9]*[A-Za-z])(?=(?:[A-Za-z/-]*\d){3})"
    r"[A-Za-z0-9]+(?:[-/][A-Za-z0-9]+)*(?![\w@])"
)
_SLASHED = re.compile(
    r"(?<![\w@./-])(?:\d{1,4}/(?:[A-Za-z]{1,4}/\d{3,}[A-Za-z]?|\d{4,}[A-Za-z])|"
    r"\d{4}/(?-i:[A-Z])|\d{5,}/(?!(?:day|wk|week|mo|month|yr|year|hr|hour|min|sec|ml|dl|kg|mm|cmm|ul|bed|head)\b)[A-Za-z]{1,4})(?![\w@/-])"
)
"""Case numbers such as 20/wm/18834 and 04/118223K."""

_MISREAD = re.compile(
    r"(?<![\w@.])(?=(?:[A-Za-z/-]*\d){6})\d{2,}[-/](?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]+(?:[-/][A-Za-z0-9]+)*(?![\w@])"
)
"""A long number in which a scan read letters: "086-5S5-O192"."""

_BIC = re.compile(
    r"\b(?:bic|swift)(?:\s+code)?\s*[:#]?\s*(?P<value>[a-z]{6}[a-z\d]{2}(?:[a-z\d]{3})?)(?!\w)",
    re.IGNORECASE,
)
_TOLD_DIGITS = re.compile(r"(?<![\w.,])\d(?:,?[ -]\d){5,}(?![\w]|[.,]\d)")
"""A number that was told digit by digit."""

_MISREAD_PHONE = re.compile(
    r"(?<![\w.])\(?[\dOolIS]{3,5}\)?(?:[ .-]{1,2}[\dOolIS]{2,5}){1,3}(?:[ \t]*(?:x|"
    r"ext\.?)[ \t]*\d{1,6})?(?!\w)"
)
"""A telephone number in which a scan read letters; most signs have to be digits."""

_OFFICER = re.compile(
    r"\b(?:pc|wpc|pcso|dc|ds|sgt|constable|officer|badge|candidate|centre|collar)\s+#?(?P<value>[a-z]{0,2}\d{2,6})(?!\w)",
    re.IGNORECASE,
)
_LETTERS_BEFORE = re.compile(
    r"(?<![\w-])(?!(?:NHS|MRN|ID|REF|TEL|FAX|PIN|DOB|MOB|NO|NR|PH|URN|UR|SSN|ACC|A/C|GMC|NMC|"
    r"EXT)\b)[A-Z]{1,3} $"
)
_LETTERS_AFTER = re.compile(r"-[A-Z]{1,3}(?!\w)|[ ][A-Z]{1,2}(?=[.,;)\n]|$)")

_RUN = re.compile(rf"(?<![\w.,$£€¥₹])\d{{{MIN_DIGIT_RUN},}}(?![\w]|[.,]\d)")
_SEPARATED = re.compile(
    r"(?<![\w.,$£€])\+?\(?\+?\d{1,12}\)?"
    r"(?:(?:[ .\-/\u2010-\u2015\u00a0]{1,3}|(?=\())\(?\d{1,12}\)?){1,7}(?!\w)"
)
_EXTENSION = re.compile(
    r"\s*(?:,\s*)?(?:x|ext\.?|extn\.?|extension|int\.?|internal|poste|#)\s*[.:]?\s*\d{1,6}(?!\w)",
    re.IGNORECASE,
)
_OWN_EXTENSION = re.compile(
    r"\b(?:ext|extn|extension|bleep|pager|beep)\b\.?:?\s+(?:number\s+|no\.?\s+|holder\s+)?(?:is\s+)?#?\d{3,6}(?![\w])",
    re.IGNORECASE,
)
_INTERNATIONAL = re.compile(r"(?<![\w])(?:\+|00)\s?\d[\d ().\-/]{5,20}\d(?!\w)")
_PLUS_EXTENSION = re.compile(
    r"\(?\+?\d[\d ().\-]{5,18}\d\s*(?:x|ext\.?|extn\.?|extension)\s*\d{1,6}(?!\w)", re.IGNORECASE
)
_NATIONAL_INSURANCE = re.compile(
    r"(?<!\w)[A-Z]{2}\s?\d{2}\s?\d{2}\s?\d{2}\s?[A-D](?!\w)", re.IGNORECASE
)
_PLATE = re.compile(
    r"(?<!\w)(?:[A-Z]{2}\d{2}\s[A-Z]{3}|[A-Z]{3}[- ]\d{4}|[A-Z]{1,3}-\d{3,4}(?:-?[A-Z]{1,3})?|"
    r"\d{2,3}-[A-Za-z]{1,2}-\d{1,6}|\d{1,3}-[A-Z]{2,3}-\d{1,4}|"
    r"[A-Z]{1,3}-[A-Z]{1,2} ?\d{2,4})(?!\w)"
)
_PLATE_LIKE = re.compile(
    r"(?<![\w-])(?:[A-Z]{1,3}|\d{1,4})(?:[ -]?(?:[A-Z]{1,4}|\d{1,4})){1,3}(?![\w-]|\.\d)"
)
_SMALL_PLATE = re.compile(r"(?<![\w-])[a-z]{2}\d{2}\s?[a-z]{3}(?![\w-])")
_VEHICLE = re.compile(
    r"\b(?:car|van|vehicle|lorry|truck|pick-?up|taxi|cab|motor(?:cycle|bike)|scooter|moped|minibus|"
    r"coach|caravan|trailer|ambulance|park(?:ed|ing|s)|dr(?:ove|ives?|iving|iver)|towed|clamped)\b"
    r"[^.\n]*$"
)
_VEHICLE_REACH = 60
"""Characters before a plate in which its vehicle is spoken of."""

_IBAN = re.compile(
    r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)", re.IGNORECASE
)
_EMAIL = re.compile(
    r"(?<![\w.+%'-])[\w.+%'-]{1,64}\s?(?:@|\(at\)|\[at\])\s?[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}|"
    r"(?<![\w.+-])[\w.+-]{1,64}\s+at\s+[\w-]{1,63}\s+dot\s+(?:com|org|net|edu|gov|co|uk|de|fr|es|it|nl|eu|io)\b",
    re.IGNORECASE,
)
_AT = re.compile(r"[^\s<>,;:()\"']{2,64}@[^\s<>,;:()\"']{2,64}")
"""An e-mail address that a scan has lost its dots of."""

_URL = re.compile(
    r"(?:https?://|ftp://|www\.)[^\s<>\"')\]]+|"
    r"(?<![@\w.])(?:[a-z0-9-]{1,63}\.){1,8}(?:com|org|net|edu|gov|io|co\.uk|org\.uk|ac\.uk|nhs\.uk|de|fr|es|it|"
    r"nl|eu|ch|at|be|info|biz)(?:/[^\s<>\"')\]]*)?(?![\w@])|\b[a-z]{3,5}:?//[^\s<>\"')\]]+",
    re.IGNORECASE,
)
_HOST_AND_PATH = re.compile(
    r"(?<![@\w./-])(?:[A-Za-z0-9-]{1,63}\.){1,8}(?:example|test|app|dev|blog|site|online|page|web|me|io|tv|cloud|"
    r"shop|store|xyz|link|social|photos?|pics|video|care|health|clinic|hospital|[a-z]{2,24}(?=/[~@]|/"
    r"(?:u|users?|profiles?|people|members?|in|p)/))/[^\s<>\"')\]]*"
)
_HANDLE = re.compile(r"(?<![\w@.])@[A-Za-z_][\w.]{2,30}(?<!\.)")
_IP = re.compile(
    r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)|(?<![\w:])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}(?![\w:])",
    re.IGNORECASE,
)
_DEVICE = re.compile(r"(?<![\w:])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:])", re.IGNORECASE)

_QUANTITY_AFTER = re.compile(
    r"[ \t]?(?:%|°|mg|mcg|µg|ug|g|kg|ml|dl|l|cl|mm|cm|m|km|iu|units?|mmol|mmhg|kcal|cal|bpm|hz|kb|"
    r"mb|gb|"
    r"dollars?|pounds?|euros?|pence|cents?|bucks|quid|usd|gbp|eur|chf|jpy|inr|rupees|yen|k|"
    r"people|patients?|subjects?|cells?|copies|times|years?|months?|weeks?|days?|hours?|minutes?|"
    r"seconds?|miles?|steps|calories|points)\b|[ \t]?[$£€¥₹]",
    re.IGNORECASE,
)
_MEASURED = re.compile(
    r"\d+(?:mg|mcg|ug|g|kg|ml|dl|l|mm|cm|m|km|iu|kb|mb|gb|k|am|pm|st|nd|rd|th|hrs?|mins?|yrs?|days?|"
    r"weeks?|months?|years?|x|usd|gbp|eur)|(?:19|20)\d0'?s",
    re.IGNORECASE,
)
_RAND = re.compile(r"R\d{1,3}(?:[ ,.]?\d{3})*(?:[.,]\d\d)?")
_THOUSANDS = re.compile(r"\d{1,3}(?:[., ]\d{3})+")
_YEAR = re.compile(r"(?:19|20)\d\d")


def find_identifiers(text: str) -> Iterator[Finding]:
    """Every number or code in the text that may belong to one person, account or thing."""
    for pattern in (_LABELLED, _SHORT_LABEL, _HASH):
        for match in pattern.finditer(text):
            value = match.group("value")
            if _is_identifier(value) and not _is_amount(text, match.start("value"), match.end()):
                yield Finding(match.start("value"), match.end(), IDENTIFIER)
    for match in _POSTCODE.finditer(text):
        yield Finding(*match.span("value"), ADDRESS)
    for match in _PLATE_AFTER_CUE.finditer(text):
        yield Finding(*match.span("value"), IDENTIFIER)
    for pattern in (_USER_NAME, _BOOKING):
        for match in pattern.finditer(text):
            yield Finding(*match.span("value"), IDENTIFIER)
    for match in _CODE.finditer(text):
        if (
            len(match.group()) >= MIN_DIGIT_RUN
            and not _MEASURED.fullmatch(match.group())
            and not _RAND.fullmatch(match.group())
        ):
            yield Finding(*match.span(), NUMBER)
    for pattern in (_SLASHED, _MISREAD):
        for match in pattern.finditer(text):
            yield Finding(*match.span(), IDENTIFIER)
    for pattern in (_OFFICER, _BIC):
        for match in pattern.finditer(text):
            yield Finding(*match.span("value"), IDENTIFIER)
    for match in _TOLD_DIGITS.finditer(text):
        yield Finding(*match.span(), NUMBER)
    for match in _RUN.finditer(text):
        if not _is_amount(text, *match.span()):
            yield Finding(*match.span(), NUMBER)
    for pattern in (_NATIONAL_INSURANCE, _PLATE, _DEVICE, _DRIVER, _MASKED):
        for match in pattern.finditer(text):
            yield Finding(*match.span(), IDENTIFIER)
    for match in _PLATE_LIKE.finditer(text):
        if _is_plate(text, *match.span()):
            yield Finding(*match.span(), IDENTIFIER)
    for match in _SMALL_PLATE.finditer(text):
        if _is_plate(text, *match.span()):
            yield Finding(*match.span(), IDENTIFIER)
    for match in _IBAN.finditer(text):
        if sum(char.isdigit() for char in match.group()) >= 8:
            yield Finding(*match.span(), IBAN_CODE)


def find_phones(text: str) -> Iterator[Finding]:
    """Telephone-like runs: groups of digits, country codes, extensions."""
    for match in _SEPARATED.finditer(text):
        if _is_separated_number(match.group()) and not _is_amount(text, *match.span()):
            kind = NUMBER if "/" in match.group() else PHONE_NUMBER
            end = match.end() - (match.group().count(")") > match.group().count("("))
            extension = _EXTENSION.match(text, end) or _LETTERS_AFTER.match(text, end)
            letters = _LETTERS_BEFORE.search(text[max(0, match.start() - 4) : match.start()])
            start = match.start() - (len(letters.group()) if letters else 0)
            yield Finding(start, extension.end() if extension else end, kind)
    for match in _MISREAD_PHONE.finditer(text):
        digits = sum(map(str.isdigit, match.group()))
        if digits < len(re.findall(r"\w", match.group())) and digits >= MIN_SEPARATED_DIGITS:
            yield Finding(*match.span(), PHONE_NUMBER)
    for match in _OWN_EXTENSION.finditer(text):
        yield Finding(*match.span(), PHONE_NUMBER)
    for pattern in (_INTERNATIONAL, _PLUS_EXTENSION):
        for match in pattern.finditer(text):
            extension = _EXTENSION.match(text, match.end())
            yield Finding(
                match.start(), extension.end() if extension else match.end(), PHONE_NUMBER
            )


def find_online(text: str) -> Iterator[Finding]:
    """E-mail and web addresses, handles and IP addresses."""
    for pattern, kind in (
        (_EMAIL, EMAIL_ADDRESS),
        (_AT, EMAIL_ADDRESS),
        (_URL, URL),
        (_HOST_AND_PATH, URL),
        (_HANDLE, URL),
        (_IP, IP_ADDRESS),
    ):
        for match in pattern.finditer(text):
            end = match.end()
            while text[end - 1] in ".,;:!?'":
                end -= 1
            yield Finding(match.start(), end, kind)


def _is_identifier(value: str) -> bool:
    """Whether what follows a label is a number of its own: three digits, or mixed with letters."""
    digits = sum(char.isdigit() for char in value)
    if _MEASURED.fullmatch(value) or _YEAR.fullmatch(value):
        return False
    return digits >= 3


def _is_plate(text: str, start: int, end: int) -> bool:
    """Whether letters and digits belong to the vehicle that the words before them speak of."""
    marks = [char for char in text[start:end] if char.isalnum()]
    digits = sum(map(str.isdigit, marks))
    if not 5 <= len(marks) <= 8 or not 1 < digits < len(marks):
        return False
    return bool(_VEHICLE.search(text[max(0, start - _VEHICLE_REACH) : start].lower()))


def _is_separated_number(value: str) -> bool:
    groups = re.findall(r"\d+", value)
    digits = sum(map(len, groups))
    if not MIN_SEPARATED_DIGITS <= digits <= MAX_SEPARATED_DIGITS:
        return False
    if all(_YEAR.fullmatch(group) for group in groups):
        return False
    if _THOUSANDS.fullmatch(value) and digits > 6:
        # "250 000 000" counts something, "696 418 253" calls somebody.
        return " " in value and digits > 7 and "000" not in groups
    return not re.fullmatch(r"\d+ ?- ?\d+", value) or digits > MIN_SEPARATED_DIGITS


def _is_amount(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 2) : start].strip()
    if text[start] == "0" and sum(map(str.isdigit, text[start:end])) >= MIN_DIGIT_RUN:
        return False
    if _RAND.fullmatch(text, start, end) or (before and before[-1] in "$£€¥₹"):
        return True
    return bool(_QUANTITY_AFTER.match(text, end))
