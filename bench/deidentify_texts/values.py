"""Values for the slots of templates: people of many countries, and the numbers they are given."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from datetime import datetime
from typing import Any

LOCALES = {
    "seen": (
        "en_US", "en_US", "en_US", "en_GB", "en_GB", "de_DE", "fr_FR", "nl_NL", "pl_PL", "it_IT", "es_MX",
        "en_IN", "da_DK",
    ),
    "aside": (
        "en_US", "en_US", "en_CA", "en_AU", "en_GB", "sv_SE", "pt_BR", "cs_CZ", "tr_TR", "fi_FI", "es_ES",
        "de_AT", "fr_CH", "hr_HR", "hu_HU", "en_NZ", "no_NO",
    ),
}  # fmt: skip
_RELATIVES = (
    "wife",
    "husband",
    "daughter",
    "son",
    "mother",
    "father",
    "sister",
    "brother",
    "niece",
)
_TITLES = ("Mr.", "Mrs.", "Ms.", "Dr.", "Mr", "Ms", "Miss", "Prof.")
_NATIONALITIES = (
    "Mexican", "Nigerian", "Vietnamese", "Turkish", "Polish", "Syrian", "Brazilian", "Kenyan", "Irish",
    "Somali", "Peruvian", "Korean", "Iranian", "Ukrainian", "Lebanese", "Haitian",
)  # fmt: skip
_RELIGIONS = (
    "Catholic", "Muslim", "Hindu", "Buddhist", "Jehovah's Witness", "Sikh", "Lutheran", "Jew", "Mormon",
    "Baptist", "Anglican",
)  # fmt: skip
_HOSPITALS = (
    "{} General Hospital", "St. {}'s Hospital", "{} Medical Center", "{} Clinic", "{} Memorial Hospital",
    "{} Health Centre", "{} Family Practice", "{} Community Hospital", "{} Infirmary",
)  # fmt: skip
_UNIVERSITIES = ("University of {}", "{} University", "{} State University", "{} College")
_DATES = (
    "%m/%d/%Y", "%m/%d/%y", "%d/%m/%Y", "%d.%m.%Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y", "%b %d %Y",
    "%d-%b-%Y", "%d %b", "%B %d", "%A", "%A, %B %d", "%B %Y", "%m-%d-%Y", "%Y/%m/%d", "%d%b%Y", "%A %d %B",
)  # fmt: skip
_BETWEEN = (datetime(1996, 11, 26), datetime(2026, 11, 26))  # noqa: DTZ001 - nobody's clock
_CLOCKS = (" %H:%M", " %H:%M:%S", " at %I:%M %p", "T%H:%M:%SZ", ", %I:%M%p", " %H%M hrs", " %I %p")
_PLAIN_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_MBI = "123456789|ACDEFGHJKMNPQRTUVWXY|*|0123456789|ACDEFGHJKMNPQRTUVWXY|*|0123456789|ACDEFGHJKMNPQRTUVWXY|ACDEFGHJKMNPQRTUVWXY|0123456789|0123456789"
_RECORDS = (
    "#######", "########", "??-######", "?#######", "##-##-##", "???####", "##?####?", "####-####",
    "?##-####-#", "??####??", "######?", "MR###/####", "????-#####", "##.####.##",
)  # fmt: skip
_PLATES = (
    "???-####",
    "?##-???",
    "#???###",
    "??## ???",
    "###-???",
    "??-###-??",
    "??? ###",
    "?-?? ####",
    "####-???",
)
_SERIALS = (
    "SN#######",
    "??#####?",
    "#######-##",
    "??-####-??",
    "####?##??#",
    "?#?#-?###",
    "##########",
)
_PASSPORTS = ("?########", "#########", "??#######", "?#######")
_ACCOUNTS = (
    "########",
    "##########",
    "####-####-##",
    "### ### ###",
    "##-####-#######",
    "######-##",
)
_PHONES = (
    "({}) ###-####", "{}-###-####", "{}.###.####", "+1 {} ###-####", "1-{}-###-####", "{}-###-#### x####",
    "{} ### ####", "###-####",
)  # fmt: skip


class Values:
    """What stands in slots. One instance a text, so that a patient is one person."""

    def __init__(self, faker: Any, choice: random.Random) -> None:
        self._faker = faker
        self._choice = choice
        self.makers: dict[str, Callable[[], str]] = {
            "name": self._name,
            "NAME": lambda: self._name().upper(),
            "first": lambda: str(faker.first_name()),
            "last": lambda: str(faker.last_name()),
            "LAST": lambda: str(faker.last_name()).upper(),
            "initials": self._initials,
            "titled": lambda: f"{choice.choice(_TITLES)} {faker.last_name()}",
            "org": self._firm,
            "firm": lambda: "{}, {} and {}".format(*(faker.last_name() for _ in range(3))),
            "hospital": lambda: choice.choice(_HOSPITALS).format(self._proper()),
            "university": lambda: choice.choice(_UNIVERSITIES).format(self._proper()),
            "address": lambda: str(faker.address()).replace("\n", choice.choice(("\n", ", "))),
            "streetaddress": lambda: str(faker.street_address()).replace("\n", ", "),
            "street": lambda: str(faker.street_name()),
            "city": lambda: str(faker.city()),
            "state": lambda: str(getattr(faker, "state", faker.country)()),
            "country": self._country,
            "zip": lambda: str(faker.postcode()),
            "phone": self._phone,
            "email": lambda: str(faker.email()),
            "url": lambda: str(faker.url()),
            "username": lambda: str(faker.user_name()),
            "ip": lambda: str(choice.choice((faker.ipv4, faker.ipv4, faker.ipv6))()),
            "iban": lambda: str(faker.iban()),
            "card": lambda: str(faker.credit_card_number()),
            "ssn": lambda: self._digits("###-##-####"),
            "npi": lambda: self._digits("##########"),
            "mbi": self._mbi,
            "vin": lambda: "".join(choice.choices(_PLAIN_LETTERS + string.digits, k=17)),
            "record": lambda: self._digits(choice.choice(_RECORDS)),
            "plate": lambda: self._digits(choice.choice(_PLATES)),
            "serial": lambda: self._digits(choice.choice(_SERIALS)),
            "passport": lambda: self._digits(choice.choice(_PASSPORTS)),
            "account": lambda: self._digits(choice.choice(_ACCOUNTS)),
            "date": lambda: self._date(""),
            "datetime": lambda: self._date(choice.choice(_CLOCKS)),
            "oldage": lambda: str(choice.randint(90, 104)),
            "nationality": lambda: choice.choice(_NATIONALITIES),
            "religion": lambda: choice.choice(_RELIGIONS),
        }
        self.unlabelled: dict[str, Callable[[], str]] = {
            "relative": lambda: choice.choice(_RELATIVES),
            "Title": lambda: choice.choice(_TITLES),
            "title": lambda: choice.choice(_TITLES),
        }

    def _name(self) -> str:
        given, family = self._faker.first_name(), self._faker.last_name()
        letter = self._choice.choice(_PLAIN_LETTERS)
        forms = (
            f"{given} {family}", f"{given} {family}", f"{given} {family}", f"{given} {letter}. {family}",
            f"{given[0]}. {family}", f"{family}, {given}", f"{given} {letter} {family}",
            f"{given}-{self._faker.first_name()} {family}", f"{given} {family}-{self._faker.last_name()}",
            f"{given} {self._choice.choice(('van der', 'de', 'von', 'de la', 'di', 'bin', 'den'))} {family}",
        )  # fmt: skip
        return self._choice.choice(forms)

    def _initials(self) -> str:
        first, middle = self._choice.choices(_PLAIN_LETTERS, k=2)
        return f"{first}. {middle}. {self._faker.last_name()}"

    def _proper(self) -> str:
        return str(self._choice.choice((self._faker.last_name, self._faker.city))())

    def _firm(self) -> str:
        return str(self._faker.company())

    def _country(self) -> str:
        import faker

        return str(faker.Faker("en_US").country()) if self._choice.random() < 0.9 else "USA"

    def _phone(self) -> str:
        if self._choice.random() < 0.5:
            return str(self._faker.phone_number())
        area = self._digits("2##").replace("0", "3")
        return self._digits(self._choice.choice(_PHONES).format(area))

    def _mbi(self) -> str:
        classes = [c if c != "*" else "ACDEFGHJKMNPQRTUVWXY0123456789" for c in _MBI.split("|")]
        made = "".join(map(self._choice.choice, classes))
        return f"{made[:4]}-{made[4:7]}-{made[7:]}" if self._choice.random() < 0.4 else made

    def _date(self, clock: str) -> str:
        moment = self._faker.date_time_between(*_BETWEEN)
        return str(
            moment.strftime(self._choice.choice(_DATES if not clock else _DATES[:9]) + clock)
        )

    def _digits(self, mask: str) -> str:
        """The mask with digits for `#` and capitals for `?`."""
        return "".join(
            self._choice.choice("0123456789" if c == "#" else _PLAIN_LETTERS) if c in "#?" else c
            for c in mask
        )
