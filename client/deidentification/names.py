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

MAX_ACRONYM_LETTERS = 6
"""Capitals up to this length are abbreviations ("COPD", "IBAN"), not names."""

_LEGAL_FORM = (
    r"(?:Ltd|Limited|Inc|Incorporated|LLC|LLP|LP|PLC|Corp|Corporation|Co|Company|GmbH|AG|KG|SA|S\.A|"
    r"SAS|SARL|SpA|S\.p\.A|SRL|BV|B\.V|NV|N\.V|AB|ASA|AS|A/S|ApS|Oy|Oyj|Pty|Group|Holdings?|"
    r"Partners|Associates|Brothers|Bros|and\s+Sons|&\s+Sons|Foundation|Trust|Institute|University|"
    r"College|School|Academy|Hospital|Clinic|Infirmary|Surgery|Pharmacy|Hospice|Practice|"
    r"Laborator(?:y|ies)|Bank|Bancorp|Insurance|Assurance|Airlines|Industries|Systems|Solutions|"
    r"Services|Software|Technologies|Consulting|Enterprises|Hotel|Restaurant|Club|Church|Press|"
    r"Media|Records|Motors|Stores?|Centre|Center|Studios?|Police|Constabulary|Council|Medical\s+(?:Aid|Scheme)|"
    r"Health\s+(?:Plan|Scheme|Board|Fund)|Credit\s+Union|Building\s+Society|Physiotherapy|Opticians|Logistics|"
    r"Haulage|Couriers|Removals|Lettings|Solicitors|Accountants|Recruitment)"
)
_FIRM = re.compile(
    r"(?<!\w)(?P<name>(?:[A-Z0-9][\w'\u2019&.-]*,?\s+(?:(?:and|&|of|the|for|de|y|und)\s+)?){1,5})"
    rf"{_LEGAL_FORM}\b\.?"
)
_SMALL_FIRM = re.compile(
    r"(?<!\w)(?P<name>(?:[\w'\u2019&-]+\s+){1,3})"
    r"(?:ltd|inc|llc|llp|plc|corp|corporation|gmbh|incorporated|limited|sarl|s\.a\.r\.l|"
    r"(?:and|&)\s+sons|&\s+(?:co|partners|associates|brothers))\b\.?",
    re.IGNORECASE,
)
_SMALL_INSTITUTION = re.compile(
    r"(?<!\w)(?P<name>(?:[\w'\u2019.-]+[ \t]+){1,3}?)"
    r"(?:(?:general|memorial|community|family|regional|district|medical|health)[ \t]+){0,2}"
    r"(?:hospital|infirmary|clinic|hospice|university|college|academy|institute|museum|"
    r"medical[ \t]cent(?:er|re)|health[ \t]cent(?:er|re)|(?:family|dental|group)[ \t]practice)\b",
    re.IGNORECASE,
)
_INSTITUTION_OF = re.compile(
    r"(?<!\w)(?:(?:state|royal|technical|free|community|city|medical)[ \t]+)?"
    r"(?:university|college|institute|academy|school|bank|church|bishop|hospital|infirmary|museum)"
    r"[ \t]+of[ \t]+(?:the[ \t]+)?$|"
    r"(?<!\w)(?:city|town|county|shire|borough|diocese|archdiocese|ministry|republic)[ \t]+of[ \t]+(?:the[ \t]+)?$|"
    r"(?<!\w)(?:hospital|cl[íi]nica|h[ôo]pital|ospedale|universi(?:dad|dade|t[ée]|t[àa])|escola|escuela|lyc[ée]e|"
    r"banco|banque|banca)(?:[ \t]+(?:de|da|do|del|della|du|des|la|le|los|las|general|universit[a-z]+|"
    r"s[ãa]o|san|santa|saint))*[ \t]+$",
    re.IGNORECASE,
)
"""What stands before the name of a place or person in an institution's name."""

_NAMED_AFTER = re.compile(
    r"(?<=\w )(?:for|at|by|with|from|through|joined|via|against)[ \t]+(?:the[ \t]+)?"
    r"(?P<name>[A-Z][a-z]+(?:[ \t]+(?:(?:of|and|&)[ \t]+)?[A-Z][\w'\u2019-]+){1,4})"
)
"""Several words with capitals where a sentence needs none: a name, whatever the words mean."""

_FIRM_TAIL = re.compile(
    r"(?:\s+(?:&|and|und|et|y|e|og)\s+(?:co|sons?|s[øo]n|s[öo]hne|partners?|associates|brothers|hijos|"
    r"figli|fils|asociados|associés)\b\.?)?"
    r"(?:,?\s+(?:(?:general|memorial|community|family|regional|district|medical|health|state|"
    r"children's|university|county|city|borough|district|royal|private|dental|veterinary|day|resource|leisure|"
    r"care|nursing|residential|ambulance|fire|c\s+of\s+e)\s+){0,2}"
    r"(?:ltd|limited|inc|incorporated|llc|llp|l\.l\.c|plc|corp|corporation|co|company|gmbh|ag|kg|kgaa|"
    r"ohg|ug|e\.?\s?v|s\.?\s?a|sas|sarl|s\.?\s?p\.?\s?a|s\.?\s?r\.?\s?l|s\.?\s?a\.?\s?r\.?\s?l|"
    r"s\.?\s?a\.?\s+de\s+c\.?\s?v|a\.c|s\.?\s?c|b\.?v|n\.?v|ab|asa|a/s|as|"
    r"aps|oy|oyj|pty|sp\.?\s?k|sp\.?\s?j|sp\.?\s?z\s?o\.?\s?o|z\.?\s?o\.?\s?o|s\.?r\.?o|a\.s|d\.?o\.?o|kft|"
    r"zrt|ltda|ltd[aş]|a\.ş|hospital|clinic|infirmary|surgery|pharmacy|hospice|practice|university|"
    r"college|academy|school|institute|foundation|bank|insurance|group|holdings?|centre|center|"
    r"laborator(?:y|ies)|bakery|brewery|dairy|nursery|library|garage|farm|pub|inn|(?<=care\s)home|(?<=nursing\s)home|"
    r"(?<=residential\s)home|(?<=ambulance\s)service|(?<=fire\s)service|council|police(?:\s+station)?|lettings|lets|"
    r"(?-i:Leader|Gazette|Herald|Tribune|Chronicle|Times|Mirror|Star|Post|News|Echo|Argus|Examiner|Courier|Observer|"
    r"Guardian|Journal|Dispatch|Bulletin|Inquirer|Standard|Telegraph|Advertiser|Mercury|Express)|"
    r"medical\s+(?:aid|scheme)|health\s+(?:plan|scheme|board|fund)|credit\s+union|physiotherapy|opticians|logistics|"
    r"(?<=\w\s)(?:homecare|vets|imaging|rehab|pa?ediatrics|joinery|heating|plumbing|electronics|adjusters|retirement\s+fund|"
    r"mutual|(?:freight|van|air)?\s?lines|hearing|station|funeral\s+(?:home|directors)|nurse\s+line|burgers|timber|lifts|leisure|"
    r"motors|tyres|taxis|cabs|dental|optical|eyecare|physio|fitness|tavern|arms|skin\s+clinic|urgent\s+clinic|heart\s+group|"
    r"library\s+service)|solicitors|estate\s+agents|roofing|builders|scaffolding|cycles|assisted\s+living|primary(?:\s+school)?|infants(?:\s+school)?|nhs\s+trust|annexe)(?!\w)\.?)*",
    re.IGNORECASE,
)
"""What comes after a name that is a firm's or an institution's."""

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
    r"\b(?:jehovah'?s?[ \t]+witness(?:es)?|(?:russian|greek|eastern|serbian|ukrainian|romanian|bulgarian|coptic|ethiopian|"
    r"syri(?:an|ac)|oriental)[ \t]+orthodox|roman[ \t]+catholic|church[ \t]+of[ \t]+(?:england|scotland|ireland|wales)|"
    r"native[ \t]+(?:hawaiian|american|alaskan)s?|first[ \t]+nations|pacific[ \t]+islanders?|"
    r"(?:torres[ \t]+strait|cook)[ \t]+islanders?|african[ -]americans?|latter[ -]day[ \t]+saints?|seventh[ -]day[ \t]+adventists?|born[ -]again[ \t]+christians?)(?!\w)",
    re.IGNORECASE,
)
"""Religions of several words."""

_LOUD_NAME = re.compile(r"(?<![\w-])[A-Z][A-Z'\u2019-]{2,}(?:[ -][A-Z'\u2019-]{2,}){0,2}(?=,)")
_RELATED = word_set("wife husband daughter daughters mother father parents")
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
_NAMED_WITH = re.compile(
    r"(?<!\w)(?:(?:Hotel|Hostel|Caf[ée]|Restaurant|Ristorante|Trattoria|Bistro|Camp|Clinique|Cl[íi]nica|Klinik|Lyc[ée]e|Colegio|HM)"
    r"(?:[ \t]+(?:(?:and|&|de|of|the|del|la)[ \t]+)?[A-Z][\w'\u2019-]+){1,3}|"
    r"Our[ \t]+Lady[ \t]+of(?:[ \t]+(?:the[ \t]+)?[A-Z][\w'\u2019-]+){1,4}|"
    r"our[ \t]+lady[ \t]+of[ \t]+[a-z]+)"
)
"""Names that begin with what they name: "Hotel Lake Palace", "HM Revenue and Customs", "Our Lady of Grace"."""

_TWO_NAMES = re.compile(
    r"(?<![\w'\u2019-])(?P<one>[A-Z][a-z]+)[ \t]+(?P<other>[A-Z][a-z]+)(?![\w'\u2019-]|[ \t]+[A-Z])"
)
"""Two words with capitals, each of which may be a name: "April Cummings"."""

_FIELD = re.compile(
    r"(?<!\w)(?:payer|payor|insurer|insurance|where|originator|trading|vet|dentist|optician|location|venue|workplace|"
    r"place[ \t]+of[ \t]+work|treated[ \t]+at|garage|"
    r"clinic|facility|practice|surgery|employer|company|firm|organi[sz]ation|hospital|"
    r"bank|school|college|university|pharmacy|merchant|retailer|supplier|vendor|charity|landlord|lender|issuer|"
    r"carrier|airline|hotel|store|seller)[ \t]*(?:name)?[ \t]*:[ \t]*(?P<value>[^\W\d_][^\n,;:(|]{1,60})",
    re.IGNORECASE,
)
_FIELD_END = re.compile(r"[ \t]{2,}|\t|[.?!][ \t]|[ \t][-\u2013][ \t]|[ \t]+(?=\w+:)")
"""Where the value of a field ends before its line does."""

_TRADE = re.compile(
    r"(?<!\w)(?P<name>(?:[A-Z][\w'\u2019&.-]*[ \t]+(?:(?:and|&|of)[ \t]+)?){1,4}?)(?:"
    r"(?:(?:Family|Internal|Sports|Occupational|Veterinary)[ \t]+)?Medicine|Nursing[ \t]+(?:&|and)[ \t]+Rehab(?:ilitation)?|Rehab|"
    r"Pa?ediatrics|Cardiology|Dermatology|Rheumatology|Orthopa?edics|Oncology|Radiology|Imaging|Diagnostics|Dental|Dentistry|"
    r"Chiropractic|Optometry|Obstetrics|Urology|Neurology|Mutual|Wealth|Vets|Timber|Lifts|Burgers|Electronics|Adjusters|Leisure|"
    r"Fund|Funds|Plumbing|Roofing|Builders|Scaffolding|Cleaners|Cleaning|Tyres|Autos|Cars|Taxis|Cabs|Travel|Tours|Foods|Furniture|"
    r"Carpets|Kitchens|Windows|Bikes|Cycles|Florists|Jewellers|Bakers|Butchers|Brewery|Tavern|Arms|Caf[ée]|Coffee|Pizza|Kebabs|"
    r"Grill|Diner|Salon|Barbers|Gym|Fitness|Yoga|Nurseries|Care|Homecare|Housing|Homes|Properties|Estates|Realty|Mortgages|"
    r"Finance|Financial|Loans|Savings|Pensions|Investments|Capital|Ventures|Advisors|Advisers|Law|Legal|Energy|Water|Gas|Broadband|"
    r"Telecom|Mobile|Airways|Air|Ferries|Railway|Rail|Buses|Coaches|Freight|Storage|Security|Printing|Publishing|Textiles|"
    r"Health|Joinery|Heating|Respiratory|Lines|Hearing|Funeral[ \t]+(?:Home|Directors)|Pharma|Biotech|Labs|Robotics|Analytics|Networks|Steel|Mining|Farms|Dairy|Growers|Winery|Vineyards)"
    r"(?![\w-])(?:[ \t]+(?:&|and)[ \t]+(?:Sons?|Co|Partners))?"
)
"""A firm's name that ends with what it does; needs capitals."""

_NO_FIRM = word_set(
    "internal emergency general family sports acute geriatric geriatrics paediatric pediatric adult child children nuclear respiratory "
    "palliative community primary secondary tertiary social day home health medical nursing intensive critical mental urgent "
    "respite personal customer child's our your my the a an this that new old free private public local national "
    "international interventional diagnostic clinical department dept consultant professor director head chief senior junior "
    "mobile cold hot green black white fresh natural domestic business commercial student car life travel pet legal tax "
    "dear hi contact no first last any all some more what which for at in on to from by with duty life's fixed trust hedge "
    "pension mutual central electric solar wind renewable waste drinking bottled sparkling open working share human "
    "venture seed risk cyber information data network food cyber border airport end standard basic self after health's"
)

_ENUMERATION = re.compile(
    rf"{_CAPITALISED}(?:,\s+{_CAPITALISED})*,?\s+(?:and|&|or)\s+{_CAPITALISED}"
)


def find_names(
    text: str, lexicon: Lexicon, nobody: bytearray, *, careless: bool
) -> Iterator[Finding]:
    """Names that cues, lists and the absence from English give away.

    Args:
        text: The truecased text.
        lexicon: Tells everyday words from names.
        nobody: 1 for each character of a word that is surely no name, unless a list has it.
        careless: Whether the writer used no capitals: then unknown words in small letters count.
    """
    yield from find_announced_names(text, lexicon)
    for match in WORD.finditer(text):
        if _is_listed(match.group(), lexicon) or (
            not nobody[match.start()] and _is_unknown(text, match, lexicon, careless)
        ):
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
    yield from _firms(text, lexicon, careless=careless)


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
            tail = _FIRM_TAIL.match(text, at)
            if tail and tail.end() > max(end, at):
                end, kind = tail.end(), ORGANIZATION
        institution = _INSTITUTION_OF.search(text, max(0, start - 40), start)
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


def _firms(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
    """Firms and institutions by their legal form or kind."""
    for match in _FIRM.finditer(text):
        start = _firm_start(match, lexicon)
        if start is not None:
            yield Finding(start, match.end(), ORGANIZATION)
    for match in _NAMED_AFTER.finditer(text):
        person = lexicon.is_given_name(WORD.findall(match.group("name"))[0])
        yield Finding(*match.span("name"), PERSON if person else ORGANIZATION)
    yield from _fields(text, lexicon)
    for match in _NAMED_WITH.finditer(text):
        yield Finding(*match.span(), ORGANIZATION)
    for match in _TRADE.finditer(text) if not careless else ():
        words = WORD.findall(match.group("name"))
        own = [word for word in words if plain(word) not in _NO_FIRM]
        if own and (len(words) > 1 or not opens_sentence(text, match.start())):
            yield Finding(*match.span(), ORGANIZATION)
    for match in lexicon.organisation.finditer(in_small_letters(text)):
        if careless or _is_written_as_name(text, *match.span(), lexicon):
            yield Finding(*match.span(), ORGANIZATION)
    for match in _SMALL_FIRM.finditer(text) if careless else ():
        start = match.end()
        for word in reversed(list(re.finditer(r"\S+", match.group("name")))):
            if lexicon.is_function_word(word.group()) or plain(word.group()) in _RELATED:
                break
            start = match.start() + word.start()
        if start < match.end():
            yield Finding(start, match.end(), ORGANIZATION)
    for match in _SMALL_INSTITUTION.finditer(text) if careless else ():
        start = match.end()
        for word in reversed(list(WORD.finditer(text, *match.span("name")))):
            if lexicon.is_function_word(word.group()) or not (
                lexicon.may_be_name(word.group()) or lexicon.is_place(word.group())
            ):
                break
            start = word.start()
        if start < match.end():
            yield Finding(start, match.end(), ORGANIZATION)


def _fields(text: str, lexicon: Lexicon) -> Iterator[Finding]:
    """Firms and institutions after their field's label: "Payer: Lone Star"; words of several."""
    for match in _FIELD.finditer(text):
        value = _FIELD_END.split(match.group("value"), maxsplit=1)[0].rstrip()
        words = WORD.findall(value)
        if len(words) < 2 or any(lexicon.is_function_word(word) for word in (words[0], words[-1])):
            continue
        yield Finding(match.start("value"), match.start("value") + len(value), ORGANIZATION)


def _is_written_as_name(text: str, start: int, end: int, lexicon: Lexicon) -> bool:
    """Whether a listed organisation has the capitals that a name has, and no others say why."""
    found = text[start:end]
    if not found[0].isupper() or (found.isupper() and len(found) > MAX_ACRONYM_LETTERS):
        return False
    everyday = all(lexicon.is_everyday(word) for word in WORD.findall(found))
    return found.isupper() or not everyday or not opens_sentence(text, start)


def _firm_start(match: re.Match[str], lexicon: Lexicon) -> int | None:
    """Where a firm's name begins: at its first word that is no grammar."""
    words = list(re.finditer(r"\S+", match.group("name")))
    for word in words:
        bare = word.group().strip(",.&")
        if not bare or lexicon.is_function_word(bare):
            continue
        if len(words) == 1 and len(bare) <= 3 and lexicon.is_everyday(bare):
            return None  # "My Bank", "Old School"
        return match.start() + word.start()
    return None
