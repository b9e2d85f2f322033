"""People who do not exist, with everything that identifies a person to a hospital or a bank.

Numbers come from ranges that nobody is given where such ranges exist (Ofcom's drama numbers,
555-01xx, `example` domains), and are otherwise random.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import date, timedelta


def _listed(words: str) -> tuple[str, ...]:
    """The words of a text; "_" stands for a space within one."""
    return tuple(word.replace("_", " ") for word in words.split())


_GIVEN_NAMES = _listed(
    "Abena Adriana Agnieszka Aidan Aisling Alasdair Amadou Ananya Anouk Anton Aoife Ayesha "
    "Beatriz Bernadette Bronwyn Callum Camille Chidi Chiyo Clementine Connor Dagmar Dalisay "
    "Dariusz Declan Deirdre Demetrius Eamon Ebony Eleni Eluned Emeka Esperanza Ewan Farida "
    "Femi Fergus Fiona Florence Gareth Ghislaine Giulia Gwendolyn Hamish Hannelore Harriet "
    "Hiroshi Imogen Ines Ingrid Isobel Jamal Jerzy Joaquin Jolanta Kavita Keisha Kwame "
    "Lachlan Laszlo Leila Liesbeth Lorcan Lourdes Magnus Mairead Malcolm Marguerite Mei-Ling "
    "Mireille Mohamed Morag Nadezhda Ngozi Niamh Nikhil Nomvula Obinna Olufemi Oriana Padraig "
    "Pelagia Perpetua Priyanka Radoslaw Rhiannon Rosalind Rukhsana Ruairi Saoirse Seamus "
    "Selwyn Shanelle Sigrun Siobhan Solange Stellan Svetlana Tadeusz Tamika Thaddeus Theodora "
    "Tomasz Tremaine Uchenna Ursula Viggo Wilhelmina Xiomara Yasmin Yolande Yusuf Zainab "
    "Zbigniew Zsofia"
)
_FAMILY_NAMES = _listed(
    "Abernethy Achterberg Adeyemi Al-Rashid Applegarth Baczynski Bainbridge Banerjee "
    "Bartholomew Bellweather Blenkinsop Brzezinski Cadwallader Campbell-Hart Castellanos "
    "Chatterjee Cholmondeley Colquhoun Crabtree D'Amico Dabrowska de_Groot de_la_Cruz "
    "Delacroix Dimitriou Dunwoody Ebikeme Eichendorff Etxeberria Fairweather Featherstone "
    "Fitzwilliam Fotheringham Gallacher Giannopoulos Goldsworthy Grimshaw Gudmundsson "
    "Haddad Halloran Hargreaves Hathersage Heikkinen Holloway Huckerby Hussain Igwe "
    "Inchbald Iwasaki Jagger-Ross Jankowiak Kaminska Kavanagh Keogh Kilpatrick Kowalczyk "
    "Krishnamurthy Lachapelle Lagerkvist Langstaff Lindqvist Lombardi MacAllister Maddox "
    "Mahlangu Marchbanks McGillicuddy Merriweather Mkhize Montague Mwangi Nakagawa Ndiaye "
    "Nettleship Nkemelu O'Shaughnessy Oyelaran Okonjo Olofsdotter Osei-Bonsu Papadakis "
    "Parrish Pemberton Pfeiffer Popovich Quansah Quigley Quinones Radcliffe Ramirez-Ortega "
    "Rasmusdottir Ravenscroft Rhydderch Rosenthal Rutherglen Sandoval Satterthwaite "
    "Seagrave Shackleton Sienkiewicz Sommerfeld St._Clair Stavropoulos Strickland "
    "Szczepanik Takahashi Thistlewood Thorvaldsen Tremblay Tuckwell Uddin Underhill "
    "Urquhart Valderrama van_den_Heuvel van_Rensburg Vandermeer Venkataraman von_Bulow "
    "Waddington Wanjiru Weatherall Whitcombe Wigglesworth Wolstenholme Wrzesniewski "
    "Yarborough Yamazaki Zabludowicz Zielinski Zimmerli"
)
_STREETS = _listed(
    "Larch Copper_Beech Station Old_Mill St_Cuthbert's Harbour Ladysmith Quarry Windmill "
    "Elm_Tree Kestrel Priory Millpond Cathedral Hawthorn Jubilee Sycamore Market "
    "Upper_Brook Nightingale Foundry Rosebank Marlborough Spinney Canal Tannery Weavers "
    "Observatory Orchard Larkspur"
)
_STREET_KINDS = _listed("Road Street Close Lane Avenue Drive Crescent Terrace Gardens Court Way")
_TOWNS = _listed(
    "Harrowby Kirkmere Dunholme Ashcombe Wetherby Port_Ellery Saltmarsh Bramfield Northwick "
    "Castle_Rydal Penmarric Thornaby Little_Haddon Westmarch Ellesworth Corriedale "
    "Fallowfield Strathmore Maplewood Danbury"
)
_STATES = _listed("MA OH TX OR PA NJ MN GA")
_MAIL_HOSTS = _listed("postbox.example mailhaven.example inbox.example.net homemail.example.org")
_POST_AREAS = _listed("HB KM DN AC WE PE SM BR NW TH")
_FIRST_BIRTH = date(1931, 1, 1)


@dataclass(frozen=True)
class Person:
    """A person who does not exist.

    Attributes:
        subject_id: The id in the file.
        given_name, family_name: The parts of the name.
        record_number: Under which the site knows the person.
        born: Date of birth.
        phone, email: How to reach the person.
        street, town, postcode: The parts of the address.
        card, account, policy: Numbers of a card, a bank account and an insurance policy.
    """

    subject_id: str
    given_name: str
    family_name: str
    record_number: str
    born: date
    phone: str
    email: str
    street: str
    town: str
    postcode: str
    card: str
    account: str
    policy: str

    @property
    def full_name(self) -> str:
        """Given and family name."""
        return f"{self.given_name} {self.family_name}"


def make_person(number: int, site: str, source: random.Random) -> Person:
    """The `number`-th person of a site."""
    given, family = source.choice(_GIVEN_NAMES), source.choice(_FAMILY_NAMES)
    street, town, postcode = _address(source)
    return Person(
        subject_id=f"{_prefix(site)}-{number:05d}",
        given_name=given,
        family_name=family,
        record_number=_record_number(site, source),
        born=_FIRST_BIRTH + timedelta(days=source.randrange(75 * 365)),
        phone=_phone(source),
        email=_email(given, family, source),
        street=street,
        town=town,
        postcode=postcode,
        card=" ".join(_digits(source, 4) for _ in range(4)),
        account=_digits(source, 8),
        policy=f"{source.choice('ABCDGHKLM')}{source.choice('NPRTW')}{_digits(source, 7)}",
    )


def other_person(source: random.Random) -> str:
    """The name of somebody else: a doctor, a clerk, a relative."""
    return f"{source.choice(_GIVEN_NAMES)} {source.choice(_FAMILY_NAMES)}"


def _prefix(site: str) -> str:
    return "".join(char for char in site.upper() if char.isalnum())[:3] or "SUB"


def _record_number(site: str, source: random.Random) -> str:
    """Each site writes its numbers in its own way."""
    style = hashlib.sha256(site.encode()).digest()[0] % 4
    return (
        f"00{_digits(source, 6)}",
        f"H-{_digits(source, 4)}-{_digits(source, 3)}",
        f"PT{_digits(source, 8)}",
        f"{_digits(source, 3)}/{_digits(source, 5)}",
    )[style]


def _phone(source: random.Random) -> str:
    last = _digits(source, 3)
    return source.choice(
        (
            f"07700 900{last}",
            f"07700-900-{last}",
            f"+44 7700 900{last}",
            f"(0{source.randrange(113, 199)}) 496 0{last}",
            f"({source.randrange(201, 989)}) 555-01{last[:2]}",
            f"{source.randrange(201, 989)}-555-01{last[:2]} ext {last}",
            f"+31 6 {_digits(source, 4)} {_digits(source, 4)}",
        )
    )


def _email(given: str, family: str, source: random.Random) -> str:
    plain = "".join(char for char in f"{given}.{family}".lower() if char.isalnum() or char == ".")
    first, _, last = plain.partition(".")
    local = source.choice(
        (plain, f"{first[0]}{last}", f"{last}{_digits(source, 2)}", f"{first}_{_digits(source, 3)}")
    )
    return f"{local}@{source.choice(_MAIL_HOSTS)}"


def _address(source: random.Random) -> tuple[str, str, str]:
    number = source.randrange(1, 240)
    name, kind = source.choice(_STREETS), source.choice(_STREET_KINDS)
    town = source.choice(_TOWNS)
    form = source.randrange(4)
    if form == 0:
        street = f"Flat {source.randrange(1, 30)}, {number} {name} {kind}"
        return street, town, _uk_postcode(source)
    if form == 1:
        street = f"{number * 11} {name} {kind}"
        return street, town, f"{source.choice(_STATES)} {_digits(source, 5)}"
    return f"{number} {name} {kind}", town, _uk_postcode(source)


def _uk_postcode(source: random.Random) -> str:
    area = source.choice(_POST_AREAS)
    letters = "".join(source.choice("ABDEFGHJLNPQRSTUWXYZ") for _ in range(2))
    return f"{area}{source.randrange(1, 20)} {source.randrange(1, 10)}{letters}"


def _digits(source: random.Random, count: int) -> str:
    return "".join(source.choice("0123456789") for _ in range(count))
