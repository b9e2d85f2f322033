"""Values for the slots of the templates: people, firms, places and addresses that nobody knows.

Half of what fills a slot is from the package's word lists. The other half is no list's: words that
are put together from pieces of listed ones, and everyday words, so that what is learned is the words
around a name and not the names.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from bench.small_letters import words
from client.deidentification.lexicon import Lexicon, medicines


class Values:
    """Makes the value of each slot.

    Args:
        lexicon: Whose lists fill half of the slots.
        common: Everyday words, frequent ones first.
        choice: Decides everything.
    """

    def __init__(self, lexicon: Lexicon, common: Sequence[str], choice: random.Random) -> None:
        self._choice = choice
        self._given = sorted(lexicon.given_names)
        self._family = sorted(lexicon.surnames)
        self._both = sorted(lexicon.ambiguous_names)
        self._places = sorted(lexicon.places)
        self._invented_family = _Pieces(self._family, choice)
        self._invented_place = _Pieces(
            [place for place in self._places if place.isalpha()] + self._family[::4], choice
        )
        known = [word for word in common if word not in lexicon.function_words and len(word) > 2]
        self._nouns = [w for w in known if w in lexicon.words and not lexicon.may_be_name(w)]
        self._adjectives = [
            w
            for w in self._nouns
            if w in lexicon.other_than_nouns and w[-2:] in words.ADJECTIVE_ENDINGS
        ]
        self._only_nouns = [w for w in self._nouns if w not in lexicon.other_than_nouns]
        self._medicines = sorted(medicines())
        self._learned = sorted(word for word in lexicon.words if lexicon.is_jargon(word)) + [
            word for word in self._nouns if lexicon.is_jargon(word)
        ]
        self.labelled: dict[str, tuple[str, Callable[[], str]]] = {
            "first": ("PERSON", self.first),
            "last": ("PERSON", self.last),
            "name": ("PERSON", self.name),
            "org": ("ORGANIZATION", self.firm),
            "loc": ("LOCATION", self.place),
            "addr": ("ADDRESS", self.address),
            "street": ("ADDRESS", self.street),
        }
        self.plain: dict[str, Callable[[], str]] = {
            "n": self.noun,
            "adj": lambda: choice.choice(self._adjectives),
            "med": self.learned_word,
            "drug": lambda: choice.choice(self._medicines),
            "code": self.code,
            "rel": lambda: choice.choice(words.RELATIVES),
            "job": lambda: choice.choice(words.JOBS),
            "num": lambda: str(choice.choice((choice.randint(1, 99), choice.randint(100, 9_999_999)))),
            "year": lambda: str(choice.randint(1930, 2026)),
            "time": lambda: f"{choice.randint(0, 23):02}:{choice.randint(0, 59):02}",
            "date": self.date,
            "money": lambda: choice.choice(("$", "£", "€", "")) + f"{choice.randint(1, 9999)}"
            + choice.choice(("", ".00", ".50", " euros", " pounds")),
            "phone": lambda: self._digits(choice.choice(
                ("###-###-####", "0#### ######", "+## ## ### ## ##", "(###) ###-####", "07### ######")
            )),
            "mail": lambda: f"{choice.choice(self._given)}{choice.randint(1, 99)}@example.org",
        }  # fmt: skip

    def noun(self) -> str:
        """An everyday noun."""
        return self._frequent(self._only_nouns if self._choice.random() < 0.7 else self._nouns)

    def learned_word(self) -> str:
        """A disease, a drug, a procedure; half of them made up of the pieces that such words have."""
        choice = self._choice
        if choice.random() < 0.5:
            return choice.choice(self._learned)
        start = choice.choice(("", "", *words.LEARNED_STARTS))
        return start + choice.choice(words.LEARNED_STEMS) + choice.choice(words.LEARNED_ENDINGS)

    def code(self) -> str:
        """A reference, which other rules find."""
        return self._digits(
            self._choice.choice(("??-####", "######", "?######", "???##", "##-####/#", "#?##?#"))
        )

    def first(self) -> str:
        """A given name."""
        chance = self._choice.random()
        if chance < 0.52:
            return self._choice.choice(self._given)
        if chance < 0.88:
            return self._choice.choice(self._both)
        if chance < 0.95:
            return self._invented_family()
        return f"{self._choice.choice(self._given)}-{self._choice.choice(self._given)}"

    def last(self) -> str:
        """A family name."""
        chance = self._choice.random()
        if chance < 0.4:
            return self._choice.choice(self._family)
        if chance < 0.6:
            return self._choice.choice(self._both)
        if chance < 0.78:
            return self._invented_family()
        if chance < 0.88:
            return self._frequent(self._only_nouns)
        if chance < 0.94:
            return f"{self._choice.choice(words.PARTICLES)} {self._choice.choice(self._family)}"
        mark = self._choice.choice("--''")
        return (self._choice.choice(("o", "d")) if mark == "'" else self.last()) + mark + (
            self._choice.choice(self._family)
        )  # fmt: skip

    def name(self) -> str:
        """A person, as people are written."""
        choice, chance = self._choice, self._choice.random()
        if chance < 0.52:
            return f"{self.first()} {self.last()}"
        if chance < 0.60:
            return self.first()
        if chance < 0.65:
            return self.last()
        if chance < 0.74:
            return f"{self.first()} {choice.choice('abcdefghijklmnoprstvwxyz')}{choice.choice(('', '.'))} {self.last()}"
        if chance < 0.80:
            dots = choice.choice((".", ".", ""))
            return f"{choice.choice('abcdefghjklmnprstw')}{dots} {self.last()}"
        if chance < 0.83:
            return f"{self.last()}, {self.first()}"
        if chance < 0.92:
            return f"{choice.choice(words.TITLES)} {choice.choice((self.last(), f'{self.first()} {self.last()}'))}"
        if chance < 0.95:
            return f"{self.first()} {self.last()}{choice.choice((' ', ', '))}{choice.choice(words.DEGREES)}"
        return f"{self.first()} {self.first()} {self.last()}"

    def firm(self) -> str:
        """A firm or an institution."""
        choice, chance = self._choice, self._choice.random()
        if chance < 0.14:
            return choice.choice(words.BRANDS)
        if chance < 0.22:
            return f"{self.last()} {choice.choice(words.LEGAL)}"
        if chance < 0.30:
            joined = choice.choice((" & ", " and ", "-", ", "))
            tail = choice.choice(("", "", f" and {self.last()}", f" {choice.choice(words.LEGAL)}"))
            return f"{self.last()}{joined}{self.last()}{tail}"
        if chance < 0.58:
            first = choice.choice(
                (self.last, self.place, self.noun, self.noun, self._adjective, self._invented_place)
            )()
            second = choice.choice(
                ("", "", f" {self.noun()}", f" {choice.choice(words.FIRM_WORDS)}")
            )
            tail = choice.choice(("", "", "", "", f" {choice.choice(words.LEGAL)}"))
            return f"{first}{second} {choice.choice(words.FIRM_WORDS)}{tail}"
        if chance < 0.70:
            first = choice.choice((self._adjective, self.noun, self.noun))()
            return choice.choice(("", "", "", "the ")) + f"{first} {self.noun()}"
        if chance < 0.75:
            word = choice.choice((self.noun(), f"{self.noun()}s"))
            return f"{word} {choice.choice(('of', 'and', '&', 'for', 'in', '+'))} {self.noun()}"
        if chance < 0.80:
            start = choice.choice(
                ("university of", "bank of", "college of", "institute of", "department of", "friends of",
                 "first", "american", "national", "royal", "royal college of", "society for", "st.", "new",
                 "international", "open", "green", "blue", "united", "general", "global", "church of")
            )  # fmt: skip
            return f"{start} {choice.choice((self.place, self.noun, self.last))()}"
        if chance < 0.87:
            return self.noun() if choice.random() < 0.4 else self._glued()
        if chance < 0.93:
            return self._invented_place()
        if chance < 0.97:
            letters = "".join(
                choice.choice("abcdefgiklmnoprstuvw") for _ in range(choice.randint(2, 4))
            )
            return f"{letters} {choice.choice(('', choice.choice(words.FIRM_WORDS)))}".strip()
        return f"{choice.choice(('', 'st. ', 'the '))}{self._word_or_name()} {choice.choice(words.FIRM_WORDS)} {choice.choice(words.FIRM_WORDS)}"

    def place(self) -> str:
        """A town, region or country."""
        choice, chance = self._choice, self._choice.random()
        if chance < 0.46:
            return choice.choice(self._places)
        if chance < 0.62:
            return self._invented_place() + choice.choice(
                ("", "", "", "ville", "ton", "burg", "stad", "ham")
            )
        if chance < 0.70:
            return choice.choice(words.LONG_COUNTRIES)
        if chance < 0.76:
            return choice.choice(words.PLACE_WORDS)
        if chance < 0.90:
            start = choice.choice(
                ("new", "north", "south", "east", "west", "port", "lake", "saint", "san", "santa", "fort", "mount",
                 "st.", "el", "la", "los", "le", "den", "bad", "upper", "lower", "villa", "san juan", "nova",
                 "cité", "ciudad", "velika", "nowy", "ust-")
            )  # fmt: skip
            return f"{start} {choice.choice((self.first, self.last, self._invented_place, self.noun))()}"
        tail = choice.choice(
            ("beach", "springs", "city", "falls", "heights", "park", "an der elbe", "sur mer", "am main", "on sea",
             "de la frontera", "nad labem", "county", "island", "islands", "district", "central", "v", "k", "c", "17",
             "upon avon", "del monte", "province", "(tn)", "valley", "bay", "hills", "under lyne", "sobre")
        )  # fmt: skip
        return f"{choice.choice((self._invented_place, self.last, self.first))()} {tail}"

    def street(self) -> str:
        """A street with its number, mostly."""
        choice, chance = self._choice, self._choice.random()
        number = choice.choice((str(choice.randint(1, 250)), str(choice.randint(1, 19999))))
        number += choice.choice(
            ("", "", "", "", "a", "b", f"-{choice.randint(1, 99)}", f"/{choice.randint(1, 9)}")
        )
        if chance < 0.42:
            return f"{number} {choice.choice(('', '', '', 'n. ', 'west ', 'old '))}{self._word_or_name()} {choice.choice(words.STREET_ENDINGS)}"
        if chance < 0.58:
            named = choice.choice((self.name, self.last, self.noun, self._invented_place))()
            start = choice.choice(words.STREET_STARTS)
            comma = choice.choice((" ", " ", ", "))
            return choice.choice(
                (f"{start} {named}{comma}{number}", f"{number}{comma}{start} {named}")
            )
        if chance < 0.76:
            tail = choice.choice(words.STREET_TAILS)
            joined = choice.choice(("", "", "-"))
            word = choice.choice((self._invented_place, self.last))().replace(" ", "-")
            return f"{word}{joined}{tail}{choice.choice((' ', ' ', ', '))}{number}"
        if chance < 0.84:
            return f"{self._word_or_name()} {number}"
        if chance < 0.88:
            return f"p.o. box {choice.randint(1, 9999)}"
        if chance < 0.94:
            return choice.choice(
                (f"{self._word_or_name()} {choice.choice(words.STREET_ENDINGS)}",
                 f"the corner of {self._word_or_name()} street and {self._word_or_name()} {choice.choice(words.STREET_ENDINGS)}",
                 f"{self.first()} and {self._word_or_name()} {number}")
            )  # fmt: skip
        return f"{choice.choice(words.UNITS)} {choice.randint(1, 999)} {number} {self._word_or_name()} {choice.choice(words.STREET_ENDINGS)}"

    def address(self) -> str:
        """A street, its town and more."""
        choice, line = self._choice, self._choice.choice((", ", ", ", ", ", "\n", "\n", " "))
        parts = [self.street()]
        if choice.random() < 0.3:
            parts.append(f"{choice.choice(words.UNITS)} {choice.randint(1, 999)}")
        code = self._digits(choice.choice(
            ("#####", "#####", "####", "######", "#####-####", "## ###", "##-###", "?#? #?#", "??# #??", "?## #??", "#### ??")
        ))  # fmt: skip
        town = self.place()
        form = choice.random()
        if form < 0.3:
            parts.append(f"{town}, {choice.choice(words.REGIONS)} {code}")
        elif form < 0.5:
            parts.append(f"{code} {town}")
        elif form < 0.7:
            parts += [town, code]
        elif form < 0.8:
            parts.append(f"{town} {choice.choice(words.REGIONS)}")
        elif form < 0.9:
            parts.append(f"{town} {code}")
        else:
            parts.append(f"{code}, {town} ({choice.choice(words.REGIONS)})")
        if choice.random() < 0.25:
            parts.append(
                choice.choice((choice.choice(words.LONG_COUNTRIES), choice.choice(self._places)))
            )
        return line.join(parts)

    def date(self) -> str:
        """A date."""
        choice = self._choice
        day, month, year = choice.randint(1, 28), choice.randint(1, 12), choice.randint(1930, 2026)
        months = words.MONTHS
        return choice.choice(
            (f"{day}/{month}/{year}", f"{year}-{month:02}-{day:02}", f"{day} {months[month - 1]}",
             f"{months[month - 1]} {day}", f"{months[month - 1]} {year}", "monday", "friday", "tuesday", f"{day}.{month}.{year}")
        )  # fmt: skip

    def _adjective(self) -> str:
        return self._frequent(self._adjectives)

    def _word_or_name(self) -> str:
        return self._choice.choice((self.last, self.first, self.noun, self._invented_place))()

    def _glued(self) -> str:
        """A brand of two everyday words, or of a piece of one."""
        one, two = self.noun(), self.noun()
        return self._choice.choice(
            (one + two, one[:4] + two[:5], one + self._choice.choice(("ly", "ify", "io", "hub", "tech", "soft", "pay", "360", ".com")))
        )  # fmt: skip

    def _frequent(self, among: Sequence[str]) -> str:
        """One of the words; the frequent ones, which stand first, more often."""
        return among[int(len(among) * self._choice.random() ** 1.5)]

    def _digits(self, pattern: str) -> str:
        signs = {"#": "0123456789", "?": "abcdefghjklmnprstw"}
        return "".join(
            self._choice.choice(signs[sign]) if sign in signs else sign for sign in pattern
        )


class _Pieces:
    """Invents words that sound like given ones, three letters deciding the next."""

    def __init__(self, known: Iterable[str], choice: random.Random) -> None:
        self._choice = choice
        self._next: dict[str, list[str]] = defaultdict(list)
        for word in known:
            padded = f"  {word} "
            for at in range(2, len(padded)):
                self._next[padded[at - 2 : at]].append(padded[at])

    def __call__(self) -> str:
        while True:
            word = "  "
            while len(word) < 15:
                letter = self._choice.choice(self._next[word[-2:]])
                if letter == " ":
                    break
                word += letter
            if len(word) > 5:
                return word.strip()
