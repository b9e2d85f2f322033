"""Firms and institutions: by their legal form, their trade, their field in a form, or a list.

Reads truecased text. A firm's name grows over its neighbours in `names.grow_names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.findings import ORGANIZATION, PERSON, Finding
from client.deidentification.lexicon import WORD, Lexicon, in_small_letters, plain, word_set
from client.deidentification.name_runs import opens_sentence

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
_NAMED_AFTER = re.compile(
    r"(?<=\w )(?:for|at|by|with|from|through|joined|via|against)[ \t]+(?:the[ \t]+)?"
    r"(?P<name>[A-Z][a-z]+(?:[ \t]+(?:(?:of|and|&)[ \t]+)?[A-Z][\w'\u2019-]+){1,4})"
)
"""Several words with capitals where a sentence needs none: a name, whatever the words mean."""

INSTITUTION_OF = re.compile(
    r"(?<!\w)(?:(?:state|royal|technical|free|community|city|medical)[ \t]+)?"
    r"(?:university|college|institute|academy|school|bank|church|bishop|hospital|infirmary|museum)"
    r"[ \t]+of[ \t]+(?:the[ \t]+)?$|"
    r"(?<!\w)(?:city|town|county|shire|borough|diocese|archdiocese|ministry|"
    r"republic)[ \t]+of[ \t]+(?:the[ \t]+)?$|"
    r"(?<!\w)(?:hospital|cl[íi]nica|h[ôo]pital|ospedale|universi(?:dad|dade|t[ée]|t[àa])|escola|escuela|lyc[ée]e|"
    r"banco|banque|banca)(?:[ \t]+(?:de|da|do|del|della|du|des|la|le|los|las|general|"
    r"universit[a-z]+|"
    r"s[ãa]o|san|santa|saint))*[ \t]+$",
    re.IGNORECASE,
)
"""What stands before the name of a place or person in an institution's name."""

FIRM_TAIL = re.compile(
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

_NAMED_WITH = re.compile(
    r"(?<!\w)(?:(?:Hotel|Hostel|Caf[ée]|Restaurant|Ristorante|Trattoria|Bistro|Camp|Clinique|Cl[íi]nica|Klinik|Lyc[ée]e|Colegio|HM)"
    r"(?:[ \t]+(?:(?:and|&|de|of|the|del|la)[ \t]+)?[A-Z][\w'\u2019-]+){1,3}|"
    r"Our[ \t]+Lady[ \t]+of(?:[ \t]+(?:the[ \t]+)?[A-Z][\w'\u2019-]+){1,4}|"
    r"our[ \t]+lady[ \t]+of[ \t]+[a-z]+)"
)
"""Names that begin with what they name: "Hotel Lake Palace", "HM Revenue", "Our Lady of Grace"."""

_FIELD = re.compile(
    r"(?<!\w)(?:payer|payor|insurer|insurance|where|originator|trading|vet|dentist|optician|location|venue|workplace|"
    r"place[ \t]+of[ \t]+work|treated[ \t]+at|garage|"
    r"clinic|facility|practice|surgery|employer|company|firm|organi[sz]ation|hospital|"
    r"bank|school|college|university|pharmacy|merchant|retailer|supplier|vendor|charity|landlord|lender|issuer|"
    r"carrier|airline|hotel|store|seller)[ \t]*(?:name)?[ \t]*:[ \t]*"
    r"(?P<value>[^\W\d_][^\n,;:(|]{1,60})",
    re.IGNORECASE,
)
_FIELD_END = re.compile(r"[ \t]{2,}|\t|[.?!][ \t]|[ \t][-\u2013][ \t]|[ \t]+(?=\w+:)")
"""Where the value of a field ends before its line does."""

_TRADE = re.compile(
    r"(?<!\w)(?P<name>(?:[A-Z][\w'\u2019&.-]*[ \t]+(?:(?:and|&|of)[ \t]+)?){1,4}?)(?:"
    r"(?:(?:Family|Internal|Sports|Occupational|Veterinary)[ \t]+)?Medicine|Nursing[ \t]+(?:&|"
    r"and)[ \t]+Rehab(?:ilitation)?|Rehab|"
    r"Pa?ediatrics|Cardiology|Dermatology|Rheumatology|Orthopa?edics|Oncology|Radiology|Imaging|Diagnostics|Dental|Dentistry|"
    r"Chiropractic|Optometry|Obstetrics|Urology|Neurology|Mutual|Wealth|Vets|Timber|Lifts|Burgers|Electronics|Adjusters|Leisure|"
    r"Fund|Funds|Plumbing|Roofing|Builders|Scaffolding|Cleaners|Cleaning|Tyres|Autos|Cars|Taxis|Cabs|Travel|Tours|Foods|Furniture|"
    r"Carpets|Kitchens|Windows|Bikes|Cycles|Florists|Jewellers|Bakers|Butchers|Brewery|Tavern|Arms|Caf[ée]|Coffee|Pizza|Kebabs|"
    r"Grill|Diner|Salon|Barbers|Gym|Fitness|Yoga|Nurseries|Care|Homecare|Housing|Homes|Properties|Estates|Realty|Mortgages|"
    r"Finance|Financial|Loans|Savings|Pensions|Investments|Capital|Ventures|Advisors|Advisers|Law|Legal|Energy|Water|Gas|Broadband|"
    r"Telecom|Mobile|Airways|Air|Ferries|Railway|Rail|Buses|Coaches|Freight|Storage|Security|Printing|Publishing|Textiles|"
    r"Health|Joinery|Heating|Respiratory|Lines|Hearing|Funeral[ \t]+(?:Home|Directors)|Pharma|"
    r"Biotech|Labs|Robotics|Analytics|Networks|Steel|Mining|Farms|Dairy|Growers|Winery|Vineyards)"
    r"(?![\w-])(?:[ \t]+(?:&|and)[ \t]+(?:Sons?|Co|Partners))?"
)
"""A firm's name that ends with what it does; needs capitals."""

_NO_FIRM = word_set(
    "internal emergency general family sports acute geriatric geriatrics paediatric pediatric "
    "adult child children nuclear respiratory palliative community primary secondary tertiary "
    "social day home health medical nursing intensive critical mental urgent respite personal "
    "customer child's our your my the a an this that new old free private public local national "
    "international interventional diagnostic clinical department dept consultant professor "
    "director head chief senior junior mobile cold hot green black white fresh natural domestic "
    "business commercial student car life travel pet legal tax dear hi contact no first last any "
    "all some more what which for at in on to from by with duty life's fixed trust hedge pension "
    "mutual central electric solar wind renewable waste drinking bottled sparkling open working "
    "share human venture seed risk cyber information data network food border airport end "
    "standard basic self after health's"
)

_RELATED = word_set("wife husband daughter daughters mother father parents")


def find_firms(text: str, lexicon: Lexicon, *, careless: bool) -> Iterator[Finding]:
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
