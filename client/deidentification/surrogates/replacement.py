"""Each finding gets a stand-in of its own kind; the same original gets the same one everywhere.

* Names are replaced word by word, so "Maria Lopez", "Ms Lopez" and "LOPEZ, Maria" stay one person.
  Case and accents of the original do not matter to the choice.
* Dates move by the subject's secret shift; ages by one to three years, and none above 89 stays.
* Nothing depends on what else is in the data: a later ingest makes the same choices.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from client.deidentification.findings import (
    ADDRESS,
    AGE,
    CREDIT_CARD,
    DATE_TIME,
    EMAIL_ADDRESS,
    GROUP,
    IBAN_CODE,
    IP_ADDRESS,
    LOCATION,
    OCCUPATION,
    ORGANIZATION,
    PERSON,
    PHONE_NUMBER,
    URL,
)
from client.deidentification.lexicon import WORD, Lexicon, plain, unaccented, word_set
from client.deidentification.name_runs import PARTICLES
from client.deidentification.spoken import as_written
from client.deidentification.surrogates import dates, invented, numbers
from client.deidentification.surrogates.choice import KeyedChoice, differing
from client.deidentification.surrogates.invented import cased_like

OLDEST_AGE = 89
"""Ages above are identifying by themselves (HIPAA 45 CFR 164.514(b)(2)(i)(C))."""

_PIECE = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]{2,})?|\d+[^\W_]*|[^\w\s]+|\s+|_+")
_COUNTRIES = frozenset(plain(country) for country in invented.COUNTRIES)
_SEXED_TITLES = ("Mr", "Mrs", "Ms")
_TITLES = word_set("mr mrs ms miss mx dr prof")
_KEPT_IN_FIRMS = word_set(
    "ltd limited inc incorporated llc llp plc corp corporation co company gmbh ag kg sa bv nv ab "
    "oy pty group holdings partners associates foundation trust institute university college "
    "school academy hospital clinic infirmary surgery pharmacy hospice practice laboratory "
    "laboratories bank insurance assurance department of the and for st saint"
)
_KEPT_IN_ADDRESSES = word_set(
    "street st road rd avenue ave av boulevard blvd lane ln drive dr court ct place pl square sq "
    "terrace way close crescent highway hwy parkway route row walk mews gardens grove hill circle "
    "alley plaza rue via calle rua avenida ulica ul strasse straße platz weg apt apartment suite "
    "ste unit flat room floor building bldg block box po p o psc of the and de la du del der van "
    "den north south east west n s e w"
)


class SurrogateMaker:
    """Makes stand-ins with one site's secret."""

    def __init__(self, secret: bytes, lexicon: Lexicon) -> None:
        """Use the site's secret.

        Args:
            secret: 32 bytes; whoever has it can test guesses, so it never leaves the site.
            lexicon: Tells given names from family names.
        """
        self._secret = secret
        self._lexicon = lexicon
        self._rules: dict[str, Callable[[str, int], str]] = {
            PERSON: self._person,
            LOCATION: self._location,
            ORGANIZATION: self._organization,
            ADDRESS: self._address,
            EMAIL_ADDRESS: self._email,
            GROUP: self._listed("group", invented.GROUPS),
            OCCUPATION: self._listed("occupation", invented.OCCUPATIONS),
            PHONE_NUMBER: self._laid_out("phone", numbers.phone),
            CREDIT_CARD: self._laid_out("card", numbers.card),
            IBAN_CODE: self._laid_out("iban", numbers.iban),
            IP_ADDRESS: self._laid_out("ip", numbers.ip_address),
            URL: self._laid_out("url", numbers.web_address),
            "US_SSN": self._laid_out("ssn", numbers.social_security_number),
        }
        self._other = self._laid_out("identifier", numbers.identifier)

    def surrogate(self, kind: str, original: str, subject: str) -> str:
        """The stand-in of one finding.

        Args:
            kind: The finding's kind.
            original: The text that was found.
            subject: The subject whose record it is in; dates and ages move with the subject.

        Raises:
            MalformedInput: When none differs from the original.
        """
        original = as_written(kind, original)
        if kind == DATE_TIME:
            return self._date(original, subject)
        if kind == AGE:
            return self._age(original, subject)
        if self._is_generic(kind, original):
            return original
        rule = self._rules.get(kind, self._other)
        return differing(original, lambda attempt: rule(original, attempt))

    def _is_generic(self, kind: str, original: str) -> bool:
        """Whether a finding is only a form word, cut off from what it belongs to ("Flat", "Dr")."""
        kept = self.form_words(kind)
        return all(plain(piece) in kept for piece in re.findall(r"\w+", original))

    def form_words(self, kind: str) -> frozenset[str]:
        """Words that identify nobody: a finding of nothing but these stays as it is."""
        return {
            PERSON: _TITLES | PARTICLES,
            ADDRESS: _KEPT_IN_ADDRESSES,
            LOCATION: self._lexicon.function_words | PARTICLES,
        }.get(kind, frozenset())

    # --- names ----------------------------------------------------------------------------------

    def _person(self, original: str, attempt: int) -> str:
        title = self._titled(original)

        def part(piece: str) -> str:
            folded = plain(piece)
            if folded in _TITLES:
                return title(piece)
            if folded in PARTICLES and piece[0].islower():
                return piece
            return self._name_word(piece, attempt)

        return _by_piece(original, part)

    def _name_word(self, word: str, attempt: int) -> str:
        """The stand-in of one word of a name, or of an initial."""
        if word.isdigit() or not word[0].isalpha():
            return self._choice("digits", word, attempt).like(word)
        choice = self._choice("name", word, attempt)
        if len(word) == 1:
            return invented.cased_like(word, choice.like(word))
        if self._lexicon.is_given_name(word):
            made = choice.one_of(invented.GIVEN_NAMES)
        else:
            made = invented.family_name(choice)
        if plain(made) == plain(word):
            return self._name_word(word, attempt + 1)
        return invented.cased_like(word, made)

    def _titled(self, original: str) -> Callable[[str], str]:
        """Mr, Mrs or Ms by the person's name; professional titles stay."""
        choice = self._choice("title", original, 0)

        def title(piece: str) -> str:
            if plain(piece) in ("dr", "prof", "mx"):
                return piece
            return invented.cased_like(piece, choice.one_of(_SEXED_TITLES))

        return title

    def _location(self, original: str, attempt: int) -> str:
        choice = self._choice("place", original, attempt)
        place = unaccented(plain(original))
        if place in _COUNTRIES:
            return invented.cased_like(original, choice.one_of(invented.COUNTRIES))
        if " " in original and place in self._lexicon.places:
            return invented.cased_like(original, invented.town(choice))
        return _by_piece(original, lambda piece: self._place_word(piece, attempt))

    def _place_word(self, word: str, attempt: int) -> str:
        if not word[0].isalpha():
            return self._choice("digits", word, attempt).like(word)
        if self._lexicon.is_function_word(word) or plain(word) in PARTICLES:
            return word
        made = invented.town(self._choice("place", word, attempt))
        return invented.cased_like(word, made)

    def _organization(self, original: str, attempt: int) -> str:
        pieces = [plain(word) for word in WORD.findall(original)]
        keep = not all(piece in _KEPT_IN_FIRMS for piece in pieces)

        def part(piece: str) -> str:
            if keep and plain(piece) in _KEPT_IN_FIRMS:
                return piece
            return self._name_word(piece, attempt)

        return _by_piece(original, part)

    def _address(self, original: str, attempt: int) -> str:
        def part(piece: str) -> str:
            if piece[0].isdigit():
                made = self._choice("house", piece, attempt).like(piece)
                return made.replace("0", "7", 1) if made[0] == "0" and piece[0] != "0" else made
            if plain(piece) in _KEPT_IN_ADDRESSES:
                return piece
            choice = self._choice("street", piece, attempt)
            if len(piece) <= 2:
                return choice.like(piece)
            return invented.cased_like(piece, invented.street(choice))

        return _by_piece(original, part)

    def _email(self, original: str, attempt: int) -> str:
        local = re.split(r"@|\(at\)|\[at\]|\s+at\s+", original, maxsplit=1, flags=re.IGNORECASE)[0]
        made = _by_piece(local.strip(), lambda piece: self._name_word(piece, attempt).lower())
        return f"{made}@{numbers.mail_domain(self._choice('mail', original, attempt))}"

    # --- numbers --------------------------------------------------------------------------------

    def _laid_out(
        self, purpose: str, rule: Callable[[KeyedChoice, str], str]
    ) -> Callable[[str, int], str]:
        """A rule for numbers, of which only letters and digits decide the choice."""

        def make(original: str, attempt: int) -> str:
            normal = re.sub(r"[\W_]", "", original)
            return rule(self._choice(purpose, normal, attempt), original)

        return make

    def _listed(self, purpose: str, stand_ins: tuple[str, ...]) -> Callable[[str, int], str]:
        """A rule that takes one of a list, with the original's capitals."""

        def make(original: str, attempt: int) -> str:
            return invented.cased_like(
                original, self._choice(purpose, original, attempt).one_of(stand_ins)
            )

        return make

    def _date(self, original: str, subject: str) -> str:
        moved = dates.shifted(original, dates.shift_days(self._secret, subject))
        if moved is not None:
            return moved
        return differing(
            original,
            lambda attempt: dates.unreadable(original, self._choice("date", original, attempt)),
        )

    def _age(self, original: str, subject: str) -> str:
        digits = re.search(r"\d+", original)
        if digits is None:  # "nonagenarian"
            return cased_like(original, "adults" if original.endswith("s") else "adult")
        age = int(digits.group())
        choice = self._choice("age", subject, 0)
        if re.match(r"'?s", original[digits.end() :]):
            decade = min(age, OLDEST_AGE + 1) - 10 * (1 + choice.below(2))
            return original[: digits.start()] + str(max(decade, 20)) + original[digits.end() :]
        step, up = 1 + choice.below(3), bool(choice.below(2))
        if age > OLDEST_AGE:
            moved = OLDEST_AGE - step
        elif up:
            moved = age + step if age + step <= OLDEST_AGE else age - step
        else:
            moved = age - step if age > step else age + step
        return original[: digits.start()] + str(moved) + original[digits.end() :]

    def _choice(self, purpose: str, original: str, attempt: int) -> KeyedChoice:
        normal = unaccented(plain(original))
        return KeyedChoice(self._secret, f"{purpose}/{attempt}", normal)


def _by_piece(text: str, part: Callable[[str], str]) -> str:
    """The text with every word and number replaced; spaces, marks and possessives stay."""

    def replaced(match: re.Match[str]) -> str:
        piece = match.group()
        possessive = piece in ("s", "S") and text[match.start() - 1 : match.start()] in "'\u2019"
        return part(piece) if piece[0].isalnum() and not possessive else piece

    return _PIECE.sub(replaced, text)
