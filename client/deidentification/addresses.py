"""Street addresses and postcodes, in the forms of several countries, over one line or many.

A *core* is what is an address by itself: a number and a street ("12 Elm Street", "Nassaustraat 123",
"Rue Abdelaziz 107"), a unit, a box, a postcode. Around a core, and after words that announce an
address, neighbouring segments that could name a place are taken too, as far as the next sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.deidentification.findings import ADDRESS, Finding
from client.deidentification.lexicon import WORD, Lexicon, plain

MAX_NEIGHBOURS = 5
"""Segments (separated by comma or line) that one core may draw in on each side."""

MAX_SEGMENT_WORDS = 5

_W = r"[^\W\d_][\w'\u2019.-]*"
_NUMBER = r"\d{1,6}(?:\s?[A-Za-z](?![\w]))?(?:\s?[-/]\s?\d{1,5}[A-Za-z]?)?"
_ENDING = r"""(?:street|st|str|road|rd|avenue|aven|ave?|boulevard|boul|blvd|lane|ln|drive|drv?|court|crt?|ct|
    place|pl|square|sq|terrace|terr?|way|close|cl|crescent|cres|highway|hwy|parkway|pkwy|pky|route|rte|trail|trl|
    row|walk|mews|gardens?|gdns?|grove|gr|hill|heights|circle|cir|alley|quay|wharf|plaza|plz|loop|rise|view|
    mount|bridge|park|green|common|meadows?|vale|valley|ridge|run|path|pass|pike|turnpike|bypass|crossing|
    expressway|freeway|fwy|esplanade|parade|promenade|point|ranch|springs|summit|villas?|yard|gate|field|fields|
    end|side|bend|drift|link|street\s+(?:north|south|east|west))"""
_LEADING = r"""(?:rue|avenue|av\.?|avda\.?|boulevard|bd\.?|bld\.?|all[ée]e|chemin|impasse|place|quai|cours|passage|
    route\s+d[eu]|via|viale|piazza|piazzale|corso|vicolo|largo|strada|contrada|localit[àa]|calle|c/|avenida|
    paseo|plaza|camino|carrera|carretera|rambla|rúa|ronda|travesía|glorieta|rua|travessa|praça|estrada|alameda|
    ulica|ul\.?|aleja|al\.|plac|pl\.|os\.|ulitsa|prospekt|pr\.|pereulok|straße|strasse|platz|am|an\s+der|im|auf\s+der|
    in\s+der|zum|zur|jalan|jl\.?|lorong|carrer|strada|str\.|bulevardul|bd-ul|piața|οδός|leof\.?|odos|väg|
    rruga|cesta|calea|utca)"""
_GLUED = r"""(?:straat|stra(?:ß|ss)e|str\.?|gasse|weg|laan|plein|platz|allee|ring|damm|ufer|v[äa]gen|gat(?:an|a)|vej|
    gade|veien|vegen|gata|katu|kuja|polku|tie|utca|út|tér|gracht|kade|dijk|dreef|steeg|singel|steenweg|
    lei|baan|markt|hof|pad|park|plantsoen|stræde|stien|torg(?:et)?|backen|gränd|stígur|braut|gerði|holt)"""
_SEPARATE = r"""(?:u\.|utca|utc[áa]ja|út|útja|t[ée]r|tere|rakpart|k[öo]r[úu]t|s[ée]t[áa]ny|ulica|ulice|nad|plads|
    all[ée]e?|stra(?:ß|ss)e|weg|platz|gasse|ring|plein|straat|laan|v[äa]g|gata|vej|katu|tie|trg|cesta)"""
_UNIT = r"""(?:apt|apartment|suite|ste|unit|flat|room|rm|floor|fl|bldg|building|lot|block|box|p\.?\s?o\.?\s?box|
    postbus|postfach|hc|rr|psc|cmr|byt|appt|piso|int\.|apto)"""

_CORES = tuple(
    re.compile(pattern, re.IGNORECASE | re.VERBOSE)
    for pattern in (
        # 1432 Gemsbok St, 12B North Elm Street
        rf"(?<![\w.,/-]){_NUMBER},?\s+(?P<words>(?:(?:{_W}|\d+(?:st|nd|rd|th))\s+){{1,4}}?){_ENDING}\b\.?(?:\s+[NSEW]{{1,2}}\b)?",
        # 107 Rue Abdelaziz Thâalbi; Via Raffaele Conforti 74; ul. Lubartowska 42
        rf"(?<![\w.,/-]){_NUMBER},?\s+{_LEADING}\s+(?P<words>(?:{_W}\s?){{1,5}})",
        rf"(?<!\w){_LEADING}\s+(?P<words>(?:{_W}\s+){{1,6}}?),?\s?(?:n[°ºo]?\.?\s?)?{_NUMBER}(?![\w.])",
        # Nassaustraat 123, Velký Průhon 426
        rf"(?<!\w)(?P<words>)[^\W\d_]{{2,}}{_GLUED}\s+{_NUMBER}(?!\w)",
        # Agip u. 96., Árpád fejedelem útja 62, Frankfurter Allee 73
        rf"(?<!\w)(?P<words>[^\W\d_][\w-]+\s)(?:[^\W\d_][\w-]+\s)?{_SEPARATE}\s+{_NUMBER}(?!\w)",
        # Suite 771, Apt. 018, PSC 7580, Box 2412
        rf"(?<!\w){_UNIT}\.?\s*(?:\#|no\.?|number)?\s*(?P<words>)(?:\d[\w-]*|[A-Za-z]-?\d[\w-]*)(?!\w)",
    )
)
_STREET_NAME = re.compile(
    rf"(?<!\w)(?P<words>(?:{_W}\s+){{1,3}}?)"
    r"(?:Street|Road|Avenue|Boulevard|Lane|Drive|Court|Square|Terrace|Crescent|Close|Highway|Parkway|"
    r"Grove|Gardens|Mews)\b"
)
_POSTCODES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\w)(?i:[A-PR-UWYZ][A-HK-Y]?\d[A-Z\d]?\s?\d[ABD-HJLNP-UW-Z]{2})(?!\w)",  # UK
        r"(?<!\w)(?i:[ABCEGHJ-NPRSTVXY]\d[A-Z][ -]?\d[A-Z]\d)(?!\w)",  # Canada
        r"(?<![\w-])\d{4}\s[A-Z]{2}(?!\w)",  # Netherlands
        r"(?<!\w)\d{5}-\d{4}(?!\w)",
        r"(?<!\w)(?:[A-Z]{1,2}-)\d{4,5}(?!\w)",  # D-10115
        r"(?<![\w.,-])\d{3}\s\d{2}(?=\s+[A-ZÅÄÖÁČŽŠ])",  # Sweden, Czechia
        r"(?<![\w.,-])\d{2}-\d{3}(?=\s+[A-ZŁŚŻ])",  # Poland
        r"(?<![\w.,$£€-])\d{4,6}(?=,?\s+[A-ZÅÄÖÉÈÜŁŠŽÍÁ][^\W\d_]+\s*(?:$|[,.\n]))",  # 8001 Zürich
        r"(?<=[,\s])(?:A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|"
        r"S[CD]|T[NX]|UT|V[TA]|W[AVIY]|QLD|NSW|VIC|TAS|ACT|ON|QC|BC|AB|MB|SK|NS|NB|AA|AE|AP)\.?,?\s+\d{4,5}"
        r"(?:-\d{4})?(?!\w)",
    )
)
_ANNOUNCED = re.compile(
    r"\b(?:(?:billing|mailing|home|shipping|delivery|postal|new|old|current|permanent|residential|street|"
    r"his|her|my|our|their|the|patient|work|contact)\s+)*address(?:\s+(?:is|was|to|at|as|now|for\s+\w+|on\s+file))*"
    r"\s*[:;,-]*\s*|"
    r"\b(?:lives?|living|lived|resid(?:es?|ing|ed)|reside[ds]?|moved|move|moving|located|situated|based|staying|"
    r"deliver(?:ed)?|sen[dt]|ship(?:ped)?|mail(?:ed)?|post(?:ed)?)\s+(?:it\s+|them\s+|mail\s+|the\s+\w+\s+)?"
    r"(?:at|in|to|on|from|near)\s*[:,]?\s+|"
    r"\b(?:where|location|residence|domicile)\s*:\s*",
    re.IGNORECASE,
)
_NAME_AND_NUMBER = re.compile(
    rf"(?:{_W}\s+){{1,4}}?\d{{1,5}}[A-Za-z]?(?!\w)|\d{{1,5}}[A-Za-z]?,?\s+(?:{_W}\s*){{1,4}}"
)
_SEGMENT = re.compile(
    r"[^,\n;.!?|:]*(?:\b(?:St|Apt|Mt|Ste|No|Ave|Rd|Blvd|ul|Av)\.[^,\n;.!?|:]*)*", re.IGNORECASE
)


def find_addresses(text: str, lexicon: Lexicon, *, careless: bool) -> list[Finding]:
    """Addresses with their town, region, postcode and country.

    Args:
        text: The text, truecased where its writer used no capitals.
        lexicon: Tells everyday words from names.
        careless: Whether the writer used no capitals.
    """
    cores = sorted(_cores(text, lexicon))
    spans = [_grown(text, core, lexicon) for core in cores]
    spans.extend(_announced(text, lexicon))
    return [Finding(start, end, ADDRESS) for start, end in spans]


def _cores(text: str, lexicon: Lexicon) -> Iterator[tuple[int, int]]:
    for pattern in _CORES:
        for match in pattern.finditer(text):
            if _could_be_street(match.group("words"), lexicon):
                yield match.span()
    for match in _STREET_NAME.finditer(text):
        words = [w for w in WORD.findall(match.group("words"))]
        start = match.start()
        kept = 0
        for word in reversed(words):
            if not word[0].isupper() or lexicon.is_function_word(word):
                break
            kept += 1
        if kept:
            positions = [m.start() for m in WORD.finditer(match.group("words"))]
            yield start + positions[len(words) - kept], match.end()
    for pattern in _POSTCODES:
        for match in pattern.finditer(text):
            yield match.span()


def _could_be_street(words: str, lexicon: Lexicon) -> bool:
    """No grammar between number and street: "3 days on the road" is no address."""
    listed = WORD.findall(words)
    allowed = {
        "of",
        "the",
        "de",
        "la",
        "du",
        "des",
        "di",
        "da",
        "do",
        "dos",
        "del",
        "van",
        "der",
        "den",
        "and",
        "le",
        "st",
    }
    return all(
        not lexicon.is_function_word(word) or plain(word) in allowed for word in listed
    ) and not any(plain(word) in _TIME_AND_QUANTITY for word in listed)


_TIME_AND_QUANTITY = frozenset(
    "day days week weeks month months year years hour hours minute minutes times mg ml mm cm kg pounds dollars "
    "euros people percent times am pm years-old tablets pills doses steps cards card accounts account".split()
)


_NO_PLACE = frozenset(
    "fax office mobile home work cell phone tel telephone email mail ext extension address name iban ssn card".split()
)


def _grown(text: str, core: tuple[int, int], lexicon: Lexicon) -> tuple[int, int]:
    """The core with the segments around it that may belong to the same address."""
    start, end = core
    for _ in range(MAX_NEIGHBOURS):
        gap = re.match(r"[ \t]*(?:,[ \t]*|\n\s*|[ \t]+)", text[end:])
        if gap is None:
            break
        begin = end + gap.end()
        segment = _SEGMENT.match(text, begin)
        piece = segment.group().rstrip() if segment else ""
        inline = not re.search(r"[,\n]", gap.group())
        piece = _place_like_prefix(piece, lexicon, whole=not inline)
        if not piece:
            break
        end = begin + len(piece)
    return _grown_left(text, start, lexicon), end


def _grown_left(text: str, start: int, lexicon: Lexicon) -> int:
    """Where the address begins: back over words that could be a street, to a house number."""
    line_start = max(text.rfind("\n", 0, start), text.rfind(":", 0, start), -1) + 1
    tokens = list(re.finditer(r"\S+", text[line_start:start]))
    best = start
    for taken, token in enumerate(reversed(tokens)):
        word = token.group().strip("().,'\"")
        if taken >= MAX_SEGMENT_WORDS + 2 or not word or lexicon.is_function_word(word):
            break
        if any(char.isdigit() for char in word):
            best = line_start + token.start()
        elif token.group()[-1] in ".;!?" and len(word) > 3:
            break
        elif not _place_like(word, lexicon) and lexicon.is_everyday(word) and word[0].isupper():
            break
    return best


def _place_like_prefix(piece: str, lexicon: Lexicon, *, whole: bool) -> str:
    """As much of a segment, from its start, as could be town, region, postcode or country."""
    tokens = list(re.finditer(r"\S+", piece))
    taken = 0
    for token in tokens[: MAX_SEGMENT_WORDS + 2]:
        word = token.group().strip("().'\"")
        if not _place_like(word, lexicon):
            break
        taken += 1
    if taken == 0 or (whole and taken < len(tokens)):
        if whole and taken >= 1 and any(c.isdigit() for c in tokens[0].group()):
            return piece[: tokens[taken - 1].end()]
        return "" if whole or taken == 0 else piece[: tokens[taken - 1].end()]
    if whole and taken > MAX_SEGMENT_WORDS:
        return ""
    return piece[: tokens[taken - 1].end()]


def _place_like(word: str, lexicon: Lexicon) -> bool:
    if not word:
        return False
    if any(char.isdigit() for char in word):
        return True
    if plain(word) in {
        "of",
        "the",
        "de",
        "la",
        "du",
        "di",
        "da",
        "do",
        "del",
        "van",
        "der",
        "den",
        "upon",
        "le",
        "and",
        "en",
    }:
        return True
    if lexicon.is_function_word(word) or plain(word) in _NO_PLACE:
        return False
    return word[0].isupper() or not word[0].islower() or lexicon.is_place(word)


def _announced(text: str, lexicon: Lexicon) -> Iterator[tuple[int, int]]:
    """What follows "address:", "lives at" and the like, while it looks like an address."""
    for cue in _ANNOUNCED.finditer(text):
        begin = cue.end()
        match = _NAME_AND_NUMBER.match(text, begin)
        if match is None or not _could_be_street(match.group(), lexicon):
            continue
        words = WORD.findall(match.group())
        if not any(word[0].isupper() or not lexicon.is_everyday(word) for word in words):
            continue
        number_first = text[begin].isdigit()
        end = match.end()
        if number_first:
            prefix = _place_like_prefix(match.group(), lexicon, whole=False)
            if len(prefix.split()) < 2:
                continue
            end = begin + len(prefix)
        yield _grown(text, (begin, end), lexicon)
