"""What street addresses and postcodes look like in several countries, as regular expressions."""

from __future__ import annotations

import re

WORD_IN_ADDRESS = r"[^\W\d_][\w'\u2019.-]*"
"""A word of a street's or a town's name, with the dots of abbreviations."""

_W = WORD_IN_ADDRESS
_NUMBER = r"\d{1,6}(?:\s?[A-Za-z](?!\w))?(?:\s?[-/]\s?\d{1,5}[A-Za-z]?)?"
_ENDING = r"""(?:street|st|str|road|rd|avenue|aven|ave?|boulevard|boul|blvd|lane|ln|drive|drv?|
    court|crt?|ct|place|pl|square|sq|terrace|terr?|way|close|cl|crescent|cres|highway|hwy|parkway|
    pkwy|pky|route|rte|trail|trl|row|walk|mews|gardens?|gdns?|grove|gr|hill|heights|circle|cir|
    alley|quay|wharf|plaza|plz|loop|rise|view|mount|bridge|park|green|common|meadows?|vale|valley|
    ridge|run|path|pass|pike|turnpike|bypass|crossing|expressway|freeway|fwy|esplanade|parade|
    promenade|point|ranch|springs|summit|villas?|yard|gate|fields?|end|side|bend|drift|link)"""
_LEADING = r"""(?:rue|avenue|av\.?|avda\.?|boulevard|bd\.?|bld\.?|all[ée]e|chemin|impasse|place|
    quai|cours|passage|route\s+d[eu]|via|viale|piazza|piazzale|corso|vicolo|largo|strada|contrada|
    localit[àa]|calle|c/|avenida|paseo|plaza|camino|carrera|carretera|rambla|rúa|ronda|travesía|
    glorieta|rua|travessa|praça|estrada|alameda|ulica|ul\.?|aleja|al\.|plac|pl\.|os\.|ulitsa|
    prospekt|pr\.|pereulok|straße|strasse|platz|am|an\s+der|im|auf\s+der|in\s+der|zum|zur|jalan|
    jl\.?|lorong|carrer|str\.|bulevardul|bd-ul|piața|οδός|leof\.?|odos|väg|rruga|cesta|calea)"""
_GLUED = r"""(?:straat|plaats|stra(?:ß|ss)e|str\.?|gasse|weg|laan|plein|platz|allee|ring|damm|ufer|
    v[äa]gen|gat(?:an|a)|vej|gade|veien|vegen|katu|kuja|polku|tie|utca|út|tér|gracht|kade|dijk|
    dreef|steeg|singel|steenweg|lei|baan|markt|hof|pad|park|plantsoen|stræde|stien|torg(?:et)?|
    backen|gränd|stígur|braut|gerði|holt)"""
_SEPARATE = r"""(?:u\.|utca|utc[áa]ja|út|útja|t[ée]r|tere|rakpart|k[öo]r[úu]t|s[ée]t[áa]ny|ulica|
    ulice|nad|plads|all[ée]e?|stra(?:ß|ss)e|weg|platz|gasse|ring|plein|straat|laan|v[äa]g|gata|vej|
    katu|tie|trg|cesta)"""
_UNIT = r"""(?:h\.?\s?no\.?|(?:old|new|house|door)\s+no\.?|plot(?:\s+no\.?)?|flat\s+no\.?|studio|
    interior|edif\.?|edificio|dep?to\.?|appartamento|lgh|lok\.|puerta|planta|etg\.?|sala|stiege|top|apt|apartment|suite|ste|unit|flat|room|rm|floor|fl|bldg|building|lot|block|box|
    p\.?\s?o\.?\s?box|postbus|postfach|hc|rr|psc|cmr|byt|appt|piso|int\.|apto)"""

STREETS = tuple(
    re.compile(pattern, re.IGNORECASE | re.VERBOSE)
    for pattern in (
        # 1432 Gemsbok St; 12B North Elm Street
        rf"""(?<![\w.,/-]){_NUMBER},?\s+
        (?P<words>(?:(?:{_W}|\d+(?:st|nd|rd|th))\s+){{1,4}}?){_ENDING}\b\.?(?:\s+[NSEW]{{1,2}}\b)?""",
        # 107 Rue Abdelaziz; Via Raffaele Conforti 74; ul. Lubartowska 42
        rf"(?<![\w.,/-]){_NUMBER},?\s+{_LEADING}\s+(?P<words>(?:{_W}\s?){{1,5}})",
        rf"""(?<!\w){_LEADING}\s+(?P<words>(?:{_W}\s+){{0,5}}?{_W}),?\s+(?:n[°ºo]?\.?\s?)?
        {_NUMBER}(?!\w|\.\d)""",
        # Nassaustraat 123
        rf"""(?<!\w)(?P<words>)(?:(?:[^\W\d_]{{2,30}}-){{1,4}}[^\W\d_]{{0,40}}|[^\W\d_]{{2,40}}){_GLUED}
        \s+{_NUMBER}(?!\w)""",
        # Agip u. 96., Frankfurter Allee 73
        rf"""(?<!\w)(?P<words>[^\W\d_][\w-]+\s)(?:[^\W\d_][\w-]+\s)?{_SEPARATE}\s+
        {_NUMBER}(?!\w)""",
        # 144, Das Marg; 38/186 Khosla Ganj; 215, chemin Clémence Loiseau
        rf"""(?<![\w.,/-]){_NUMBER},\s+(?P<words>(?:{_W}\s+){{1,2}})
        (?:marg|nagar|path|zila|chowk|ganj|road|street|circle|colony|layout|enclave|vihar|bagh)\b""",
        rf"""(?<![\w.,/-]){_NUMBER},\s+(?:chemin|rue|avenue|boulevard|place|all[ée]e|impasse|quai)
        \s+(?P<words>(?:{_W}\s?){{1,4}})""",
        # Suite 771, Apt. 018, PSC 7580, Box 2412
        rf"""(?<!\w){_UNIT}\.?\s*(?:\#|no\.?|number)?\s*(?P<words>)
        (?:\d[\w-]*|[A-Za-z]-?\d[\w-]*)(?!\w)""",
    )
)
"""Streets with their number, and units; the group `words` holds what must not be grammar."""

NAMED_STREET = re.compile(
    rf"(?<!\w)(?P<words>(?:{_W}\s+){{1,3}}?)"
    r"(?:Street|Road|Avenue|Boulevard|Lane|Drive|Court|Square|Terrace|Crescent|Close|Highway|"
    r"Parkway|Grove|Gardens|Mews)\b"
)
"""A street without a number; needs capitals."""

_STATES = (
    r"(?:A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|"
    r"T[NX]|UT|V[TA]|W[AVIY]|QLD|NSW|VIC|TAS|ACT|ON|QC|BC|AB|MB|SK|NS|NB|AA|AE|AP)"
)
POSTCODES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\w)(?i:[A-PR-UWYZ][A-HK-Y]?\d[A-Z\d]?\s?\d[ABD-HJLNP-UW-Z]{2})(?!\w)",  # UK
        r"(?<!\w)(?i:(?:(?:AB|BC|MB|NB|NL|NS|NT|NU|ON|PE|QC|SK|YT)\.?,?\s+)?"
        r"[ABCEGHJ-NPRSTVXY]\d[A-Z][ -]?\d[A-Z]\d)(?!\w)",  # Canada
        r"(?<!\w)(?i:[AC-FHKNPRTV-Y]\d[\dW]\s?(?=\d*[A-Z])(?=[A-Z]*\d)"
        r"[\dAC-FHKNPRTV-Y]{4})(?!\w)",  # Ireland
        r"(?<![\w-])\d{4}\s[A-Z]{2}(?!\w)",  # Netherlands
        r"(?<!\w)\d{5}-\d{4}(?!\w)",  # United States, ZIP+4
        r"(?<!\w)(?:[A-Z]{1,2}-)\d{4,5}(?!\w)",  # D-10115
        r"(?<=[A-Za-z])-\d{6}(?!\w)",  # India, after the town
        r"(?<![\w.,-])\d{3}\s\d{2}(?=\s+[A-ZÅÄÖÁČŽŠ])",  # Sweden, Czechia
        r"(?<![\w.,-])\d{2}-\d{3}(?=\s+[A-ZŁŚŻ])",  # Poland
        r"(?<![\w.,$£€-])\d{4,6}(?=,?\s+[A-ZÅÄÖÉÈÜŁŠŽÍÁ][^\W\d_]+\s*(?:$|[,.\n]))",  # 8001 Zürich
        rf"(?<=[,\s]){_STATES}\.?,?\s+\d{{4,5}}(?:-\d{{4}})?(?!\w)",
    )
)

TOWN_LINE = re.compile(
    rf"(?P<town>(?:{_W}[ \t]+){{0,4}}[^\W\d_][\w'\u2019-]*)"
    rf"(?:[ \t]*\n?[ \t]*,\s*{_STATES}|[ \t]+(?-i:{_STATES})|[ \t]*,\s*(?-i:[A-Z]{{2,5}})|"
    r"[ \t]+(?:al|ak|az|ar|ca|ct|dc|fl|ga|ia|il|ks|ky|la|md|mi|mn|ms|mt|nc|nd|ne|nh|nj|nm|nv|ny|oh|"
    r"ri|sc|sd|tn|tx|ut|va|vt|wa|wi|wv|wy))\.?[ \t]*\n?[ \t]*\d{5}(?:-\d{4})?(?!\w)",
    re.IGNORECASE,
)
"""Town, state and ZIP code, in any case: what stands before it is the street."""

MILITARY = re.compile(
    r"(?<!\w)(?:(?:USS|USNS|USCGC|USNV)\s+[^\W\d_][\w'-]*(?:\s+[^\W\d_][\w'-]*)?|"
    r"(?:PSC|unit|CMR)\s+\d+,?\s+box\s+\d+)[ \t]*,?\s*[AFD]PO[ \t]*,?\s*A[AEP]\s+\d{5}(?!\w)",
    re.IGNORECASE,
)
"""Addresses of armed forces."""

NUMBER_AND_NAMES = re.compile(
    r"(?:^|(?<=\n)|(?<=[,:(] )|(?<=\bat )|(?<=\bto )|(?<=\bof )|(?<=\bfrom )|(?<=\bin ))[ \t>]*"
    r"(?P<number>\d{1,6}[A-Za-z]?(?:[/-]\d{1,5})?),?[ \t]+"
    rf"(?P<words>{_W}(?:[ \t]+{_W}){{1,3}})(?=[ \t]*(?:[,.;?!\n]|$|\bis\b|\bin\b))"
)
"""A number and names to the end of a line or clause: a street of a kind that nobody lists."""

ANNOUNCEMENT = re.compile(
    r"\b(?:(?:billing|mailing|home|shipping|delivery|postal|new|old|current|permanent|residential|"
    r"street|his|her|my|our|their|the|patient|work|contact)\s+)*"
    r"address(?:\s+(?:is|was|to|at|as|now|for\s+\w+|on\s+file))*\s*[:;,-]*\s*|"
    r"\b(?:lives?|living|lived|resid(?:es?|ing|ed)|moved?|moving|located|situated|based|staying|"
    r"deliver(?:ed)?|sen[dt]|ship(?:ped)?|mail(?:ed)?|post(?:ed)?)\s+"
    r"(?:it\s+|them\s+|mail\s+|the\s+\w+\s+)?(?:at|in|to|on|from|near)\s*[:,]?\s+|"
    r"\b(?:where|location|residence|domicile)\s*:\s*",
    re.IGNORECASE,
)
"""Words after which an address comes."""

NAME_AND_NUMBER = re.compile(
    rf"(?:{_W}\s+){{1,4}}?\d{{1,5}}[A-Za-z]?(?:/\d{{1,4}}[A-Za-z]?)?(?!\w)|\d{{1,5}}[A-Za-z]?,?\s+(?:{_W}\s*){{1,4}}"
)
"""An address without any word for "street"; only after an announcement."""
