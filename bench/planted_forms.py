"""In which words identifiers are planted in texts: two families, with values of their own.

* `SEEN`: what was left of them was read, and rules for such kinds of forms were written since.
* `ASIDE`: written down before those rules were. What is left of them is counted and never read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from client.deidentification.measurement import LabelledSpan, LabelledText

FORMS_A_NOTE: Final = 6

_LINKS = re.compile(
    r"(?<!\w)(?:dot|at|underscore|dash|sort|code|account|acct|a/c|s/c|no|int|ext|of|the|and|on|in|"
    r"corner|flat|years?)(?!\w)",
    re.IGNORECASE,
)
"""Words inside a planted identifier that identify nobody by themselves."""

MONTHS = ["Jan", "Feb", "March", "Apr", "May", "June", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec"]
ORDINALS = ["first", "third", "eighth", "fourteenth", "twenty-second", "thirtieth"]


@dataclass(frozen=True)
class Person:
    """An invented patient."""

    given: str
    family: str
    draw: random.Random

    def digits(self, pattern: str) -> str:
        """`#` is a digit, `?` a capital letter."""
        one = {"#": lambda: str(self.draw.randrange(10)), "?": self._letter}
        return "".join(one[char]() if char in one else char for char in pattern)

    def _letter(self) -> str:
        return self.draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ")

    def of(self, values: Sequence[str]) -> str:
        """One of them."""
        return self.draw.choice(values)


Form = tuple[str, str, Callable[[Person], str]]
"""Kind, the sentence with `{}` where the identifier stands, and how it is made."""


@dataclass(frozen=True)
class Family:
    """Forms, and the names that fill them.

    Attributes:
        name: `seen` or `aside`.
        given: Given names.
        surnames: Family names.
        forms: In which words which kind of identifier is planted.
    """

    name: str
    given: Sequence[str]
    surnames: Sequence[str]
    forms: Sequence[Form]

    def note(self, text: str, draw: random.Random) -> LabelledText:
        """A text with `FORMS_A_NOTE` sentences about one invented person between its own."""
        person = Person(draw.choice(self.given), draw.choice(self.surnames), draw)
        return planted_note(text, person, self.forms)


def planted_note(text: str, person: Person, forms: Sequence[Form]) -> LabelledText:
    """A text with `FORMS_A_NOTE` sentences about a person between its own."""
    sentences = [[(f"{part.strip()}. ", "")] for part in text.split(". ") if part.strip()]
    for kind, words, make in person.draw.sample(forms, FORMS_A_NOTE):
        before, _, after = words.partition("{}")
        at = person.draw.randrange(len(sentences) + 1)
        sentences.insert(at, [(before, ""), (make(person), kind), (f"{after} ", "")])
    note, spans = "", []
    for piece, kind in (one for sentence in sentences for one in sentence):
        if kind:
            end = len(note) + len(piece)
            spans.append(LabelledSpan(entity_type=kind, start_position=len(note), end_position=end))
        note += piece
    return LabelledText(full_text=note, spans=tuple(spans))


def only_links(identifier: str, replaced: Sequence[int]) -> bool:
    """Whether what was not replaced of an identifier are words such as "dot" and marks.

    >>> only_links("k dot ito", [1, 1, 0, 0, 0, 0, 1, 1, 1])
    True
    """
    linking = {at for match in _LINKS.finditer(identifier) for at in range(*match.span())}
    return not any(
        char.isalnum() and not replaced[at] and at not in linking
        for at, char in enumerate(identifier)
    )


# --- seen ----------------------------------------------------------------------------------------

_STREETS = [
    "Cwm Nant Road",
    "Rua das Flores",
    "Lower Ormond Quay",
    "ulica Piękna",
    "Mt Eden Terrace",
    "Kvarngatan",
    "Old Mill Lne",
    "Chemin du Vieux-Moulin",
]
_PLACES = [
    "Aberystwyth",
    "Timaru",
    "Zakopane",
    "Bloemfontein",
    "Trondheim",
    "Ouagadougou",
    "Chillicothe",
]
_EMPLOYERS = [
    "Brightwater & Daughters",
    "Kestrel Haulage",
    "Pontcanna Primary School",
    "Orinoco Seeds Ltd",
    "the Halloway bakery",
    "Tadworth Fire Station",
]
SEEN: Final = Family(
    name="seen",
    given=[
        "Ngozi",
        "Thandiwe",
        "Aurélien",
        "Siobhán",
        "Wojciech",
        "Ximena",
        "Kaito",
        "Bronagh",
        "Yusuf",
        "Ilse",
    ],
    surnames=[
        "Okonkwo-Reyes",
        "Przybylski",
        "van der Merwe",
        "Nic Dhomhnaill",
        "Haraldsdóttir",
        "Quispe Mamani",
        "Al-Khatib",
        "Featherstonehaugh",
        "Ogunbanjo",
        "Thibodeaux",
    ],
    forms=(
        ("name", "Pt {} was seen with a relative.", lambda p: f"{p.given} {p.family}"),
        ("name", "Re: {}.", lambda p: f"{p.family.upper()}, {p.given[0]}."),
        ("name", "discussed w/ {} at bedside", lambda p: f"{p.given} {p.family}".lower()),
        ("name", "Signed for by {} (self).", lambda p: f"{p.given[0]} {p.family}"),
        ("nickname", 'Known to the ward as "{}".', lambda p: f"{p.given[:3]}{p.given[2]}ie"),
        ("date", "b. {}.", lambda p: p.digits("1#-") + p.of(MONTHS) + p.digits("-6#")),
        (
            "date",
            "Born on the {}.",
            lambda p: f"{p.of(ORDINALS)} of {p.of(('April', 'October'))} {p.digits('19#')}0",
        ),
        ("date", "Admitted {}h.", lambda p: p.digits("2024.1#.0# at 1#.4#")),
        ("age", "The patient turned {} this week.", lambda p: p.of(("91", "ninety-three", "102"))),
        ("phone", "Ring {} after six.", lambda p: p.digits("+48 22 5## ## ##")),
        ("phone", "tel. {} (daughter)", lambda p: p.digits("0#-###.##.## int 4#")),
        ("phone", "Voicemail on {}.", lambda p: p.digits("oh-one-six-one ### ####")),
        (
            "email",
            "Writes from {}.",
            lambda p: f"{p.given} dot {p.family.split()[0]} at mailbox dot example".lower(),
        ),
        ("email", "cc {}", lambda p: p.digits("nurse.##@st-elm.hospital.example")),
        ("handle", "Posts about it as {}.", lambda p: f"@{p.given.lower()}_" + p.digits("##")),
        (
            "address",
            "Lives at {}.",
            lambda p: f"Flat {p.digits('#')}b, {p.digits('##')} {p.of(_STREETS)}, {p.of(_PLACES)}",
        ),
        (
            "address",
            "Post to: {}",
            lambda p: f"{p.of(_STREETS)} {p.digits('##/#')}\n{p.digits('##-###')} {p.of(_PLACES)}",
        ),
        ("town", "Travelled in from {} by coach.", lambda p: p.of(_PLACES)),
        ("employer", "Off work from {}.", lambda p: p.of(_EMPLOYERS)),
        ("record", "Chart {}.", lambda p: p.digits("A-##/####")),
        ("record", "hosp no {}", lambda p: p.digits("rq######k")),
        ("health-number", "NHS# {}.", lambda p: p.digits("4## ### ####")),
        ("policy", "Covered under {}.", lambda p: p.digits("Q?-###-##-P")),
        ("passport", "Travel document {} was copied.", lambda p: p.digits("?##?##?##")),
        ("plate", "Parked in bay 4, {}.", lambda p: p.digits("?? ####?")),
        ("device", "Pump s/n {} replaced.", lambda p: p.digits("??-##.####.#")),
        ("bank", "Refund to account {}.", lambda p: p.digits("sort ##-##-## no. ########")),
        ("web", "Photographs are on {}.", lambda p: p.digits("fotos.example/u/") + p.given.lower()),
    ),
)


# --- aside ----------------------------------------------------------------------------------------

_ROADS = [
    "Bramble Close",
    "Calle del Pozo",
    "St Brigid's Walk",
    "Lindenstraße",
    "Av. Paulista",
    "Upper Kent St",
    "Nørregade",
    "Impasse des Lilas",
]
_TOWNS = ["Whanganui", "Tullamore", "Ljubljana", "Kimberley", "Poughkeepsie", "Tromsø", "Mbarara"]
_FIRMS = [
    "Lark & Osprey",
    "Fennimore Cabs",
    "St Jude's Nursery",
    "Pacific Bearings plc",
    "the Anchor Inn",
    "Delmonte Street Library",
]

ASIDE: Final = Family(
    name="aside",
    given=[
        "Oluwaseun",
        "Mirjam",
        "Tomasz",
        "Līga",
        "Ibrahim",
        "Saoirse",
        "Zofia",
        "Hamid",
        "Anneliese",
        "Rhiannon",
    ],
    surnames=[
        "O'Callaghan-Byrne",
        "Kowalczyk",
        "de la Fuente",
        "Mac Giolla Bhríde",
        "Sigurðsson",
        "Nguyen Thi",
        "El-Masri",
        "Cholmondeley",
        "Adeyemi",
        "Lindqvist",
    ],
    forms=(
        ("name", "{} attended alone.", lambda p: f"{p.given} {p.family}".upper()),
        ("name", "Copied to {}, who agrees.", lambda p: f"Dr {p.given[0]}. {p.family}"),
        ("name", "came with her sister {}", lambda p: p.given.lower()),
        ("name", "Consent given by {} on the day.", lambda p: f"{p.family} {p.given}"),
        ("name", "Sample of {}/ward 3.", lambda p: f"{p.given}_{p.family.split()[-1]}"),
        ("nickname", "Prefers to be called {}.", lambda p: f"{p.given[:4]}y"),
        ("date", "Last seen {}.", lambda p: p.digits("1#th ") + p.of(MONTHS) + p.digits(" '2#")),
        ("date", "Discharged {}", lambda p: p.digits("1#.11.2#")),
        (
            "date",
            "It began on {}.",
            lambda p: f"the {p.of(ORDINALS)} of May nineteen eighty-" + p.of(("eight", "two")),
        ),
        ("age", "A lady of {}.", lambda p: p.of(("ninety-four", "93", "a hundred and one"))),
        ("age", "Looks well at {} and still drives.", lambda p: p.of(("97", "ninety two"))),
        ("phone", "Mobile {}.", lambda p: p.digits("oh seven seven double four, ### ###")),
        ("phone", "reach on {} or by post", lambda p: p.digits("(0##) ####-####")),
        ("phone", "Work line 1.8{} most days.", lambda p: p.digits("##.###.#### x4#")),
        (
            "email",
            "Results to {} please.",
            lambda p: (
                f"{p.given} underscore {p.family.split()[-1]} at clinic dot example dot org"
            ).lower(),
        ),
        (
            "email",
            "e: {}",
            lambda p: f"{p.given}.{p.family.split()[-1]}[at]post[dot]example".lower(),
        ),
        ("handle", "insta: {}", lambda p: f"{p.given.lower()}.{p.family[:2].lower()}.xo"),
        (
            "address",
            "Now staying at {}.",
            lambda p: f"{p.digits('1##')} {p.of(_ROADS)}, {p.of(_TOWNS)} {p.digits('??# #??')}",
        ),
        (
            "address",
            "Collapsed on the {}.",
            lambda p: f"corner of {p.of(_ROADS)} and {p.of(_ROADS)}",
        ),
        ("town", "Moved here from {} last spring.", lambda p: p.of(_TOWNS)),
        ("employer", "Works nights at {}.", lambda p: p.of(_FIRMS)),
        ("record", "Unit number {}.", lambda p: p.digits("##-##-##")),
        ("record", "filed as {}", lambda p: p.digits("?#####/2#")),
        ("health-number", "PHN {}.", lambda p: p.digits("9### ### ###")),
        ("policy", "insurer ref {};", lambda p: p.digits("???/######/##")),
        ("passport", "Entered on {}, now expired.", lambda p: p.digits("?? #######")),
        ("plate", "Was driving a grey van, {}, when struck.", lambda p: p.digits("?##-???")),
        ("plate", "Came by taxi ({}).", lambda p: p.digits("?? ## ???")),
        ("device", "Pacemaker lot {} is recalled.", lambda p: p.digits("??####-##/?")),
        ("bank", "Pays from {}.", lambda p: p.digits("s/c ######, a/c ########")),
        ("bank", "card ending {}", lambda p: p.digits("####")),
        ("web", "Blog at {}", lambda p: f"{p.given.lower()}.blogsite.example/about"),
    ),
)
"""Never read one by one, so that they stay forms that no rule was written against."""

FAMILIES: Final = {family.name: family for family in (SEEN, ASIDE)}
