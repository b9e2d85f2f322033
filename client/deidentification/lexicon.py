"""What counts as an everyday English word, and what as a name.

* Everyday words come from the packaged spaCy model's lemma tables (WordNet), whose digest is
  checked before they are used; names and places come from the word lists beside this file.
* A word may be both ("Grace", "Will", "Park"): such names count only beside another name.
* Text is compared case-folded and, where a list is ASCII, also without accents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

from client.deidentification.slips import Slips

WORD = re.compile(r"[^\W\d_]+(?:['\u2019\-][^\W\d_]+)*")
"""A word: letters, joined by hyphens or apostrophes."""

MIN_JARGON_LETTERS = 7
"""Shorter words with a learned ending are often names ("Roma", "Selma")."""

MIN_MISSPELT_LETTERS = 5
"""Shorter strings of letters are one slip away from too much."""

MAX_JUDGED_WORDS = 50_000
"""Words whose judgement is remembered; more than the texts of one batch hold."""

_INFLECTIONS = (
    ("ies", "y"), ("ied", "y"), ("es", ""), ("es", "e"), ("s", ""), ("ed", ""), ("ed", "e"),
    ("ing", ""), ("ing", "e"), ("er", ""), ("er", "e"), ("est", ""), ("est", "e"), ("ly", ""),
    ("ness", ""), ("less", ""), ("able", ""), ("able", "e"), ("ier", "y"), ("iest", "y"),
    ("ily", "y"), ("ful", ""),
)  # fmt: skip
_LISTS = (
    "given_names.txt",
    "surnames.txt",
    "ambiguous_names.txt",
    "places.txt",
    "organisations.txt",
    "current_words.txt",
    "medicines.txt",
    "function_words.txt",
    "often_misspelt.txt",
    "groups.txt",
)
_PREFIXES = ("un", "re", "non", "pre", "post", "over", "under", "mis", "dis", "anti", "micro")

_JARGON_ENDINGS = re.compile(
    r"(?:itis|osis|a?emia|aemic|emic|oma|omas|omatous|pathy|pathic|ectomy|otomy|ostomy|oscopy|oscopic|"
    r"ology|ologist|ologic|ological|graphy|graphic|gram|algia|plasty|plasia|plastic|plegia|uria|pnea|"
    r"cardia|phobia|trophy|trophic|penia|cytosis|cytes?|cytic|blastic|genic|genesis|lytic|lysis|"
    r"pril|sartan|statin|olol|dipine|azole|prazole|tidine|mycin|cillin|floxacin|cycline|vir|mab|nib|"
    r"gliptin|flozin|glutide|xaban|parin|zepam|zolam|triptan|setron|caine|dronate|profen|coxib|"
    r"oxetine|azine|idone|barbital|thiazide|semide|lukast|terol|solone|onide|formin|platin|rubicin|"
    r"fentanil|toxin|kinin|vascular|ventricular|cellular|hepatic|gastric|renal|coronary|operative|"
    r"ically|i[sz]ation|i[sz]ed|i[sz]ing|ality|ability|ivity|ectomies|opathies)$"
)
"""Endings of drugs, diseases, procedures and learned words that no word list holds in full."""


def word_set(words: str) -> frozenset[str]:
    """The words of a text, as a set.

    >>> sorted(word_set("van der"))
    ['der', 'van']
    """
    return frozenset(words.split())


@lru_cache(MAX_JUDGED_WORDS)
def plain(word: str) -> str:
    r"""A word as the lists spell it: case-folded, straight apostrophes.

    >>> plain("O\u2019Neill")
    "o'neill"
    """
    return word.casefold().replace("\u2019", "'")


def in_small_letters(text: str) -> str:
    """The text in small letters, each in its place: what `lower` makes two letters of stays.

    >>> in_small_letters("In İzmir"), len("İ".lower())
    ('in İzmir', 2)
    """
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


_BARE_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"}
)


@lru_cache(MAX_JUDGED_WORDS)
def unaccented(word: str) -> str:
    """The word without accents and other combining marks, in letters that an English keyboard has.

    >>> unaccented("bożena"), unaccented("møller")
    ('bozena', 'moller')
    """
    if word.isascii():
        return word
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).translate(
        _BARE_LETTERS
    )


@dataclass(frozen=True)
class Lexicon:
    """Everyday words and names. Build it with `load_lexicon`.

    Attributes:
        words: Base and irregular forms of everyday words, lower case.
        other_than_nouns: Those of them that are verbs, adjectives or adverbs (too).
        given_names: Names that are hardly ever anything else.
        surnames: The same for family names.
        ambiguous_names: Names that are everyday words too.
        places: Countries, regions and cities, of one or several words.
        organisations: Public bodies and firms whose names are everyday words or letters.
        current_words: Words of banking, medicine and chat, and medicines.
        function_words: Grammar, greetings, titles.
        often_misspelt: What a word with a slip may be meant to be.
        groups: Nationalities, religions and political groups.
    """

    words: frozenset[str]
    other_than_nouns: frozenset[str]
    given_names: frozenset[str]
    surnames: frozenset[str]
    ambiguous_names: frozenset[str]
    places: frozenset[str]
    organisations: frozenset[str]
    current_words: frozenset[str]
    function_words: frozenset[str]
    often_misspelt: frozenset[str]
    groups: frozenset[str]

    @cached_property
    def place_words(self) -> frozenset[str]:
        """Places of a single word."""
        return frozenset(place for place in self.places if " " not in place)

    @cached_property
    def place_beginnings(self) -> dict[str, int]:
        """First words of places of several words: how many words the longest of them has."""
        longest: dict[str, int] = {}
        for words in (place.split() for place in self.places if " " in place):
            longest[words[0]] = max(len(words), longest.get(words[0], 0))
        return longest

    @cached_property
    def organisation(self) -> re.Pattern[str]:
        """Any of the organisations, in small letters."""
        longest_first = sorted(self.organisations, key=len, reverse=True)
        return re.compile(rf"(?<![\w&'.-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w&-])")

    def is_function_word(self, word: str) -> bool:
        """Whether the word is grammar rather than content."""
        return plain(word) in self.function_words

    def is_name(self, word: str) -> bool:
        """Whether the word is on a list of names that are hardly anything else."""
        folded = plain(word)
        bare = unaccented(folded)
        return any(w in self.given_names or w in self.surnames for w in (folded, bare))

    def is_given_name(self, word: str) -> bool:
        """Whether the word is a given name, everyday word or not."""
        folded = plain(word)
        return any(
            w in self.given_names or w in self.ambiguous_names for w in (folded, unaccented(folded))
        )

    def may_be_name(self, word: str) -> bool:
        """Whether the word is on any list of names."""
        return self.is_name(word) or plain(word) in self.ambiguous_names

    def is_place(self, word: str) -> bool:
        """Whether the word alone names a place."""
        return unaccented(plain(word)) in self.place_words

    def is_only_noun(self, word: str) -> bool:
        """Whether an everyday word is a noun and nothing else: many of those are family names."""
        folded = plain(word)
        return (
            folded in self.words
            and folded not in self.other_than_nouns
            and folded not in self.current_words
            and folded not in self.function_words
        )

    def is_everyday(self, word: str) -> bool:
        """Whether the word, in any inflection, is English and not (only) a name."""
        folded = plain(word)
        judged = self._judged
        if folded not in judged:
            if len(judged) >= MAX_JUDGED_WORDS:
                judged.clear()
            judged[folded] = self._is_everyday(folded)
        return judged[folded]

    @cached_property
    def _judged(self) -> dict[str, bool]:
        """Words that were asked for before: texts repeat a few thousand words."""
        return {}

    def _is_everyday(self, folded: str) -> bool:
        if folded in self.function_words or folded in self.current_words:
            return True
        if self.is_name(folded) or self.is_place(folded):
            return False
        if folded.endswith("s") and self.is_name(folded[:-1]):
            return False  # "Hermans" is no plural
        parts = folded.split("-")
        if len(parts) > 1 and any(self.is_name(part) for part in parts):
            return False
        return self._known(folded) or all(self._known(part) for part in parts)

    def is_jargon(self, word: str) -> bool:
        """Whether the word's ending is that of a drug, a disease or a learned word."""
        return len(word) >= MIN_JARGON_LETTERS and bool(_JARGON_ENDINGS.search(plain(word)))

    def is_misspelling(self, word: str) -> bool:
        """Whether one slip (insert, drop, replace, swap) away there is a word often misspelt.

        Not any word: half of all names are one slip away from some word of the dictionary.
        """
        folded = plain(word)
        if len(folded) < MIN_MISSPELT_LETTERS or not folded.isascii():
            return False
        return self._misspelt.near(folded)

    @cached_property
    def _misspelt(self) -> Slips:
        return Slips(self.often_misspelt)

    def _known(self, folded: str) -> bool:
        word = folded.removesuffix("'s").removesuffix("'")
        if self._known_base(word):
            return True
        return any(
            word.startswith(prefix)
            and len(word) - len(prefix) > 2
            and self._known_base(word.removeprefix(prefix).lstrip("-"))
            for prefix in _PREFIXES
        )

    def _known_base(self, word: str) -> bool:
        if word in self.words or word in self.current_words or word in self.function_words:
            return True
        for ending, replacement in _INFLECTIONS:
            stem = word.removesuffix(ending)
            if stem == word or len(stem) < 2:
                continue
            if stem + replacement in self.words:
                return True
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[:-1] in self.words:
                return True
        return False


def load_lexicon(words: Iterable[str], other_than_nouns: Iterable[str]) -> Lexicon:
    """The lexicon from the model's words and the lists beside this file.

    Args:
        words: Everyday words, lower case.
        other_than_nouns: Those that are not only nouns.
    """
    return Lexicon(
        words=frozenset(words),
        other_than_nouns=frozenset(other_than_nouns),
        given_names=_listed("given_names.txt"),
        surnames=_listed("surnames.txt"),
        ambiguous_names=_listed("ambiguous_names.txt"),
        places=_phrases("places.txt"),
        organisations=_phrases("organisations.txt"),
        current_words=_listed("current_words.txt") | medicines(),
        function_words=_listed("function_words.txt"),
        often_misspelt=_listed("often_misspelt.txt"),
        groups=_listed("groups.txt"),
    )


def medicines() -> frozenset[str]:
    """Names and brands of medicines."""
    return _listed("medicines.txt")


def word_list_bytes() -> bytes:
    """All word lists, for the digest of the pipeline."""
    return b"\x00".join(_read(name).encode() for name in _LISTS)


def _read(name: str) -> str:
    return (
        resources.files("client.deidentification").joinpath(f"wordlists/{name}").read_text("utf-8")
    )


def _body(name: str) -> str:
    return "\n".join(line for line in _read(name).splitlines() if not line.startswith("#"))


def _listed(name: str) -> frozenset[str]:
    return frozenset(_body(name).split())


def _phrases(name: str) -> frozenset[str]:
    """Entries of one or several words, a line or a semicolon after each."""
    entries = re.split(r"[;\n]", _body(name))
    return frozenset(" ".join(entry.split()) for entry in entries if entry.strip())


def one_slip_away(word: str) -> Iterable[str]:
    """Every string that a missing, added, wrong or swapped letter makes of a word; some twice."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        if tail:
            yield head + tail[1:]
            if len(tail) > 1:
                yield head + tail[1] + tail[0] + tail[2:]
            for letter in letters:
                yield head + letter + tail[1:]
        for letter in letters:
            yield head + letter + tail
