"""Detection: Presidio's analyzer with the packaged model and this package's recognisers.

* The model reads each text once, and once more in true case where its writer used no capitals;
  there a learned recogniser reads it too that looks at no capitals.
* Every Presidio recogniser that is on by default runs too, at threshold 0: what it finds by luck
  is found.
* The result is settled: disjoint spans, each with one kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from audit.errors import NotFound
from client.deidentification.addresses import find_addresses
from client.deidentification.blocks import grow_blocks
from client.deidentification.casing import Casing, TrueCase, is_listed, read_casing, true_case
from client.deidentification.dates import find_ages, find_dates, names_a_time
from client.deidentification.findings import (
    ADDRESS,
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    GROUP,
    IBAN_CODE,
    IDENTIFIER,
    IP_ADDRESS,
    NUMBER,
    PERSON,
    PHONE_NUMBER,
    URL,
    Finding,
    covered,
    settle,
)
from client.deidentification.identifiers import find_identifiers, find_online, find_phones
from client.deidentification.language_model import (
    LANGUAGE,
    NamesOnlyEngine,
    check_model,
    configured_folder,
    model_folder,
)
from client.deidentification.lexicon import WORD, load_lexicon, plain
from client.deidentification.name_runs import LABEL_WORDS, is_particle, opens_sentence
from client.deidentification.names import (
    find_enumerated,
    find_groups,
    find_names,
    grow_names,
)
from client.deidentification.noise import find_joined_names, find_slipped, mended
from client.deidentification.presidio import (
    AnalyzerEngine,
    ContextAwareEnhancer,
    EntityRecognizer,
    NlpArtifacts,
    RecognizerRegistry,
    RecognizerResult,
)
from client.deidentification.recognizers import load_model_rule, pattern_rule
from client.deidentification.settings import BLANK, DEFAULTS, PACKAGED, Detection
from client.deidentification.small_letters import Asked, Reading, SmallLetters
from client.deidentification.spoken import find_spoken

MAX_PIECE_CHARACTERS = 6000
"""Longer texts are read in pieces, cut where a line or sentence ends: some rules look at a whole
text for each finding, and a text of a megabyte must not take hours."""

_MODEL = "SpacyRecognizer"
_PHONES = "PhoneRecognizer"
_NAMES = ["PERSON", "LOCATION", "ORGANIZATION", "DATE_TIME", "NRP"]

_MANY_DIGITS = re.compile(r"(?:\d[^\w\n]{0,4}){6,}\d")
"""A number can be a telephone's from seven digits."""

_LICENSE = "US_DRIVER_LICENSE"
_NO_HOST = re.compile(r"[A-Z]\.[A-Z]\w{1,3}")
"""Initials and an abbreviation ("H.No."), which Presidio takes for a host in Norway."""

_LOST_SPACE = re.compile(
    r"(?P<word>[A-Za-z]{2,})\.(?:am|an|as|at|be|by|do|go|in|is|it|me|my|no|so|to|us)", re.IGNORECASE
)
"""The end of a sentence and the beginning of the next."""

MIN_LICENSE_SIGNS = 5
"""No state's driving licence is shorter; "x2" is a dose."""

_TWO_NUMBERS = re.compile(r"\d{1,2}/\d{1,2}")
_OF_A_YEAR = ("/7", "/12")
_LASTS = re.compile(r"\b(?:in|for|x|every|over|after|last|past)\s+$", re.IGNORECASE)
"""Doctors write "for 3/12" for three months, and 52 is always weeks."""

_SCORES = re.compile(
    r"\b(?:pain|score[ds]?|rate[sd]?|nrs)(?:\s+(?:is|of|was|it))?\s+$", re.IGNORECASE
)
_LEADING = re.compile(r"(?:(?:the|a|an|on|in|at|since|from|about|around)\s+)*", re.IGNORECASE)
"""What the model takes in before a date."""

_DOTTED_CAPITALS = re.compile(r"[A-Z](?:\.[A-Z])+\.?")
"""What an organisation's initials look like ("U.N.")."""

_NEAR = 40
"""Characters around a word in which its neighbours are looked for."""

_HOUSE_NUMBER = re.compile(
    r"\d{1,5}(?=$|\s+(?:last|this|next|yesterday|today|tonight|tomorrow)\b)", re.IGNORECASE
)
_WORD_BEFORE = re.compile(r"([^\W\d_][\w'\u2019-]*)[ \t]+$")

_RULES: tuple[tuple[str, tuple[str, ...], Callable[[str], Iterable[Finding]]], ...] = (
    ("identifiers", (IDENTIFIER, NUMBER, IBAN_CODE, ADDRESS), find_identifiers),
    ("phones", (PHONE_NUMBER, NUMBER), find_phones),
    ("online", (EMAIL_ADDRESS, URL, IP_ADDRESS), find_online),
    ("dates", (DATE_TIME,), find_dates),
    ("ages", (AGE,), find_ages),
    ("spoken", (AGE, DATE_TIME, PHONE_NUMBER, NUMBER, EMAIL_ADDRESS, URL), find_spoken),
)


class _NoEnhancer(ContextAwareEnhancer):
    """Scores are not used, so nothing need raise them."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, 0)

    def enhance_using_context(
        self,
        text: str,  # noqa: ARG002 - Presidio's interface
        raw_results: list[RecognizerResult],
        *_: Any,
        **__: Any,
    ) -> list[RecognizerResult]:
        return raw_results


class Detector:
    """Finds what identifies people. Loading takes a second; keep one."""

    def __init__(self, settings: Detection = DEFAULTS) -> None:
        """Load the models, after checking their digests.

        Args:
            settings: The site's; the packaged model and every rule by default.

        Raises:
            VerificationFailed: When a model's files are not the reviewed ones.
            NotFound: When a model, or what reads it, is not installed.
        """
        self._settings, self._language = settings, settings.language
        folder = model_folder()
        self.model_digest = check_model(folder)
        other = None
        if settings.model not in (PACKAGED, BLANK):
            other = configured_folder(settings.model)
            self.model_digest = check_model(other, settings.model_digest)
        self._engine = NamesOnlyEngine(
            folder, settings.language, other, blank=settings.model == BLANK
        )
        self._engine.load()
        self.lexicon = load_lexicon(self._engine.words, self._engine.other_than_nouns)
        english = settings.language == LANGUAGE
        self._small_letters = (
            SmallLetters(self.lexicon) if english and settings.small_letters else None
        )
        registry = RecognizerRegistry(supported_languages=[self._language])
        registry.load_predefined_recognizers(languages=[self._language], nlp_engine=self._engine)
        self._names_in = _taken_out(registry, _MODEL)
        self._phones_in = _taken_out(registry, _PHONES)
        for name in settings.recognizers_off:
            _taken_out(registry, name)
        self._rules = [rule for _, _, rule in _RULES]
        self._rules += [pattern_rule(pattern) for pattern in settings.pattern]
        self._rules += [load_model_rule(model) for model in settings.model_recognizer]
        self._analyzer = AnalyzerEngine(
            registry=registry,
            nlp_engine=self._engine,
            supported_languages=[self._language],
            context_aware_enhancer=_NoEnhancer(),
            default_score_threshold=settings.minimum_score,
        )

    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Disjoint findings of each text, in order.

        Args:
            texts: English, of any length that fits into memory.
        """
        pieces = [
            (at, start, piece) for at, text in enumerate(texts) for start, piece in _pieces(text)
        ]
        found: list[list[Finding]] = [[] for _ in texts]
        for (at, start, _), own in zip(
            pieces, self._detect([piece for _, _, piece in pieces]), strict=True
        ):
            found[at].extend(Finding(start + f.start, start + f.end, f.kind) for f in own)
        return found

    def _detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        english = self._language == LANGUAGE
        read_as = [mended(text) if english else text for text in texts]
        casings = [
            read_casing(text, self.lexicon) if english else Casing(careless=False)
            for text in read_as
        ]
        learned = [Reading([], bytearray(len(text))) for text in read_as]
        if self._small_letters:
            learned = self._small_letters.read(
                Asked(text, casing.silent, casing.careless)
                for text, casing in zip(read_as, casings, strict=True)
            )
        true_cases = [
            true_case(text, casing, self.lexicon, reading.nobody) if english else TrueCase(text)
            for text, casing, reading in zip(read_as, casings, learned, strict=True)
        ]
        found = [[f for rule in self._rules for f in rule(text)] for text in texts]
        for text, mended_text, own in zip(texts, read_as, found, strict=True):
            if mended_text != text:
                own.extend(f for rule in self._rules for f in rule(mended_text))
        for own, reading in zip(found, learned, strict=True):
            own.extend(reading.names)
        readings = [(text, at, 0, True) for at, text in enumerate(texts)]
        readings += [(text, at, 0, True) for at, text in enumerate(read_as) if text != texts[at]]
        readings += [
            (case.text[start:end], at, start, False)  # the second reading is about names alone
            for at, case in enumerate(true_cases)
            for start, end in case.changed
        ]
        analysed = self._engine.read(part for part, *_ in readings)
        for (part, at, start, whole), artifacts in zip(readings, analysed, strict=True):
            nobody = learned[at].nobody[start:]
            for result in self._names_in.analyze(part, _NAMES, artifacts):
                found[at].extend(
                    Finding(start + f.start, start + f.end, f.kind)
                    for f in self._accepted(part, result, nobody)
                )
            if whole:
                found[at].extend(self._by_presidio(part, artifacts, found[at]))
        settled = [
            self._grown(case.text, casing, reading, own) if english else settle(case.text, own)
            for case, casing, reading, own in zip(true_cases, casings, learned, found, strict=True)
        ]
        return [[f for f in own if f.kind not in self._settings.keep] for own in settled]

    def _by_presidio(
        self, text: str, artifacts: NlpArtifacts, found: Sequence[Finding]
    ) -> Iterator[Finding]:
        """What Presidio's recognisers find; telephones only where no rule found the digits.

        Its telephone recogniser tries every number in eight countries and is a third of the cost.
        """
        for result in self._analyzer.analyze(text, self._language, nlp_artifacts=artifacts):
            if self._may_be(text, result):
                yield Finding(result.start, result.end, result.entity_type)
        mask = covered(text, found)
        for match in _MANY_DIGITS.finditer(text):
            if all(mask[at] for at in range(*match.span()) if text[at].isdigit()):
                continue
            start = max(0, match.start() - 3)
            for result in self._phones_in.analyze(
                text[start : match.end() + 12], [PHONE_NUMBER], artifacts
            ):
                yield Finding(start + result.start, start + result.end, PHONE_NUMBER)

    def _may_be(self, text: str, result: RecognizerResult) -> bool:
        """Whether what one of Presidio's patterns found can be what it is taken for."""
        found = text[result.start : result.end]
        if result.entity_type == URL:
            if _NO_HOST.fullmatch(found) or text[result.end : result.end + 1].isalnum():
                return False
            joined = _LOST_SPACE.fullmatch(found)
            return joined is None or not self.lexicon.is_everyday(joined.group("word"))
        if result.entity_type == _LICENSE:
            return len(found) >= MIN_LICENSE_SIGNS
        if result.entity_type == DATE_TIME and _TWO_NUMBERS.fullmatch(found):
            before = text[max(0, result.start - _NEAR) : result.start]
            lasts = found.endswith(_OF_A_YEAR) and _LASTS.search(before)
            return not (found.endswith("/52") or lasts or _SCORES.search(before))
        return True

    def _grown(
        self, text: str, casing: Casing, reading: Reading, found: list[Finding]
    ) -> list[Finding]:
        """All findings of a text in true case, from the analyzer's and the rules for names."""
        lexicon, careless = self.lexicon, casing.careless
        names = [*found, *find_names(text, lexicon, reading.nobody, careless=careless)]
        names += [*find_groups(text, lexicon), *find_slipped(text)]
        names += find_joined_names(text, lexicon)
        names += find_enumerated(text, names, lexicon)
        grown = list(grow_names(text, names, lexicon, careless=careless))
        return grow_blocks(text, [*grown, *find_addresses(text, lexicon)], lexicon)

    def _accepted(
        self, text: str, result: RecognizerResult, nobody: bytearray
    ) -> Iterator[Finding]:
        """What the model found, as findings; none where it is surely nobody's.

        The model's spans are cut at line breaks, and lose pieces made of everyday words of banking,
        medicine and grammar alone ("IBAN", "I'm", "Address").
        """
        if result.entity_type == GROUP and not self._is_group(text[result.start : result.end]):
            return
        if result.entity_type == DATE_TIME:
            found = text[result.start : result.end]
            if names_a_time(found):
                yield Finding(result.start + _leading_length(found), result.end, DATE_TIME)
            elif number := self._house_number(text, result.start, found):
                yield number
            return
        for line in re.finditer(r"[^\n]+", text[result.start : result.end]):
            start, end = result.start + line.start(), result.start + line.end()
            words = [
                word
                for word in WORD.finditer(text, start, end)
                if not nobody[word.start()] or is_listed(word.group(), self.lexicon)
            ]
            inside = self._without_grammar(words)
            if not inside:
                continue
            if not _DOTTED_CAPITALS.fullmatch(line.group()) and self._says_nothing(text, inside):
                continue
            if inside[0] is not words[0] or any(nobody[start : words[0].start()]):
                start = inside[0].start()
            if inside[-1] is not words[-1] or any(nobody[words[-1].end() : end]):
                end = inside[-1].end()
            if result.entity_type == PERSON:
                start = max(start, self._label_end(inside))
            yield Finding(start, end, result.entity_type)

    def _without_grammar(self, words: list[re.Match[str]]) -> list[re.Match[str]]:
        """The words but for small ones of grammar and of the trade at either end: "the ... ref"."""
        kept = [
            at
            for at, word in enumerate(words)
            if not word.group().islower()
            or is_particle(word.group())
            or not self._is_surely_nobody(word.group())
        ]
        return words[kept[0] : kept[-1] + 1] if kept else []

    def _house_number(self, text: str, start: int, found: str) -> Finding | None:
        """A number after a word that is no English, which the model takes for a time."""
        number = _HOUSE_NUMBER.match(found)
        before = _WORD_BEFORE.search(text[max(0, start - _NEAR) : start])
        if number is None or before is None or self.lexicon.is_everyday(before.group(1)):
            return None
        return Finding(start, start + number.end(), NUMBER)

    def _label_end(self, words: list[re.Match[str]]) -> int:
        """Where the name begins behind labels that the model took in ("Customer Ann Li")."""
        for word in words:
            folded = plain(word.group())
            if folded not in LABEL_WORDS and folded not in self.lexicon.function_words:
                return word.start()
        return 0

    def _is_group(self, found: str) -> bool:
        """Whether what the model takes for a nationality or religion can be one."""
        listed = plain(found) in self.lexicon.groups
        return (found[:1].isupper() or listed) and not any(char.isdigit() for char in found)

    def _says_nothing(self, text: str, words: list[re.Match[str]]) -> bool:
        """Whether words that the model took for a name are nobody's."""
        if all(self._is_surely_nobody(word.group()) for word in words):
            return True
        start, end = words[0].start(), words[-1].end()
        if not all(self.lexicon.is_everyday(word.group()) for word in words):
            return False
        if text[start:end].isupper():
            return not _stands_out(text, start, end)
        if (
            len(words) == 1
            and opens_sentence(text, start)
            and self._names_nothing(words[0].group())
        ):
            return True
        return text[end : end + 1] == ":"

    def _names_nothing(self, word: str) -> bool:
        """Whether an everyday word is on no list of names, places or organisations."""
        lexicon, folded = self.lexicon, plain(word)
        return not (
            lexicon.may_be_name(word) or lexicon.is_place(word) or folded in lexicon.organisations
        )

    def _is_surely_nobody(self, word: str) -> bool:
        folded = plain(word).removesuffix("'s")
        listed = (self.lexicon.function_words, self.lexicon.current_words)
        return len(folded) < 2 or any(folded in words for words in listed)


def _leading_length(found: str) -> int:
    leading = _LEADING.match(found)
    return leading.end() if leading else 0


def _stands_out(text: str, start: int, end: int) -> bool:
    """Whether a word in capitals stands beside others that are not: it is no part of a heading."""
    line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    before = text[max(line_start, start - _NEAR) : start]
    after = text[end : min(line_end if line_end >= 0 else len(text), end + _NEAR)]
    if after.startswith(":") and not before.rstrip()[-1:].islower():
        return False  # a label
    beside = WORD.findall(before)[-1:] + WORD.findall(after)[:1]
    return bool(beside) and not any(word.isupper() and len(word) > 1 for word in beside)


def _taken_out(registry: RecognizerRegistry, name: str) -> EntityRecognizer:
    """One of the recognisers, which the registry then no longer holds.

    Raises:
        NotFound: When there is none of that name.
    """
    known = {str(recognizer.id): recognizer for recognizer in registry.recognizers}
    names = {key: str(vars(recognizer)["name"]) for key, recognizer in known.items()}
    for key, recognizer in known.items():
        if names[key] == name:
            registry.recognizers = [other for other in known.values() if other is not recognizer]
            return recognizer
    listed = ", ".join(sorted(names.values()))
    raise NotFound(
        f"there is no recogniser {name}", fix=f"recognizers_off of deidentify.toml: {listed}"
    )


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text in pieces of at most `MAX_PIECE_CHARACTERS`, each with its start."""
    start = 0
    while len(text) - start > MAX_PIECE_CHARACTERS:
        window = text[start : start + MAX_PIECE_CHARACTERS]
        end = max(window.rfind("\n"), window.rfind(". "), MAX_PIECE_CHARACTERS // 2)
        if end == MAX_PIECE_CHARACTERS // 2:
            end = max(window.rfind(" "), end)
        yield start, window[: end + 1]
        start += end + 1
    yield start, text[start:]
