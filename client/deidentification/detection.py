"""Detection: Presidio's analyzer with the packaged model and this package's recognisers.

* The model reads each text once, and once more in true case where its writer used no capitals;
  there a learned recogniser reads it too that looks at no capitals. It also reads the sentences in
  which a word has a capital that nothing explains.
* Every Presidio recogniser that is on by default runs too, at threshold 0: what it finds by luck
  is found.
* The result is settled: disjoint spans, each with one kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from audit.errors import NotFound
from client.deidentification.addresses import find_addresses
from client.deidentification.blocks import grow_blocks
from client.deidentification.casing import Casing, TrueCase, read_casing, true_case
from client.deidentification.dates import find_ages, find_dates
from client.deidentification.doubts import find_doubts
from client.deidentification.findings import (
    ADDRESS,
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    IBAN_CODE,
    IDENTIFIER,
    IP_ADDRESS,
    NUMBER,
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
from client.deidentification.lexicon import load_lexicon
from client.deidentification.names import (
    find_enumerated,
    find_groups,
    find_names,
    find_unknown,
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
from client.deidentification.presidio_results import may_be, names_in
from client.deidentification.recognizers import load_model_rule, pattern_rule
from client.deidentification.settings import BLANK, DEFAULTS, PACKAGED, Detection
from client.deidentification.small_letters import Asked, SmallLetters
from client.deidentification.spoken import find_spoken

MAX_PIECE_CHARACTERS = 6000
"""Longer texts are read in pieces, cut where a line or sentence ends: some rules look at a whole
text for each finding, and a text of a megabyte must not take hours."""

_MODEL = "SpacyRecognizer"
_PHONES = "PhoneRecognizer"
_NAMES = ["PERSON", "LOCATION", "ORGANIZATION", "DATE_TIME", "NRP"]

_MANY_DIGITS = re.compile(r"(?:\d[^\w\n]{0,4}){6,}\d")
"""A number can be a telephone's from seven digits."""

_RULES: tuple[tuple[str, tuple[str, ...], Callable[[str], Iterable[Finding]]], ...] = (
    ("identifiers", (IDENTIFIER, NUMBER, IBAN_CODE, ADDRESS), find_identifiers),
    ("phones", (PHONE_NUMBER, NUMBER), find_phones),
    ("online", (EMAIL_ADDRESS, URL, IP_ADDRESS), find_online),
    ("dates", (DATE_TIME,), find_dates),
    ("ages", (AGE,), find_ages),
    ("spoken", (AGE, DATE_TIME, PHONE_NUMBER, NUMBER, EMAIL_ADDRESS, URL), find_spoken),
)


_MOST_SURE = bytes.maketrans(b"\x01", b"\x00")
"""Of what is nobody, leaves what `Reading` says is so beyond the doubt of any word."""


class _Guess(NamedTuple):
    """What the model takes for names in a text, or in a part of it from `start`."""

    text: str
    start: int
    results: list[RecognizerResult]


@dataclass
class _Text:
    """A text, and what is known of it so far.

    Attributes:
        text: As it was written.
        versions: The same, and mended where it was broken.
        casing: How it uses capitals.
        nobody: 1 for each character of what the learned recogniser says is surely no name.
        disbelieved: The same where it outweighs the model's guess: where capitals say nothing, and
            elsewhere if it is most sure.
        case: In true case.
        guesses: What the packaged model takes for names.
        found: What rules, Presidio and the learned recogniser find.
        addresses: What stands in them.
    """

    text: str
    versions: list[str]
    casing: Casing
    nobody: bytearray
    disbelieved: bytearray
    case: TrueCase
    guesses: list[_Guess] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    addresses: list[Finding] = field(default_factory=list)

    @classmethod
    def plainly(cls, text: str) -> _Text:
        """A text of which nothing is known."""
        nobody = bytearray(len(text))
        return cls(text, [text], Casing(careless=False), nobody, nobody, TrueCase(text))


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
        read = [_Text.plainly(text) for text in texts]
        if self._language == LANGUAGE:
            self._read_casing(read)
        for own in read:
            own.found += [f for text in own.versions for rule in self._rules for f in rule(text)]
        readings = [(text, own, 0, True) for own in read for text in own.versions]
        readings += [
            (own.case.text[start:end], own, start, False)  # the second reading: names alone
            for own in read
            for start, end in own.case.changed
        ]
        analysed = self._engine.read(part for part, *_ in readings)
        for (part, own, start, whole), artifacts in zip(readings, analysed, strict=True):
            guess = _Guess(part, start, self._names_in.analyze(part, _NAMES, artifacts))
            own.guesses.append(guess)
            if whole:
                found = [*own.found, *self._believed(own, guess)]
                own.found.extend(self._by_presidio(part, artifacts, found))
        if self._language != LANGUAGE:
            settled = [settle(own.text, [*own.found, *self._guessed(own)]) for own in read]
        else:
            self._read_doubts(read)
            settled = [self._grown(own) for own in read]
        return [[f for f in own if f.kind not in self._settings.keep] for own in settled]

    def _read_casing(self, read: Sequence[_Text]) -> None:
        """How each text uses capitals, and what it says where they say nothing."""
        for own in read:
            mended_text = mended(own.text)
            if mended_text != own.text:
                own.versions.append(mended_text)
            own.casing = read_casing(own.versions[-1], self.lexicon)
        self._learn(read, (own.casing.silent for own in read))
        for own in read:
            own.disbelieved = own.nobody
            own.case = true_case(own.versions[-1], own.casing, self.lexicon, own.nobody)

    def _read_doubts(self, read: Sequence[_Text]) -> None:
        """What rules find in true case, and what is said of capitals that they do not explain."""
        for own in read:
            text, lexicon = own.case.text, self.lexicon
            own.found += find_names(text, lexicon, careless=own.casing.careless)
            own.found += [*find_groups(text, lexicon), *find_slipped(text)]
            own.found += find_joined_names(text, lexicon)
            own.addresses += find_addresses(text, lexicon)
        self._learn(read, map(self._doubts, read))
        for own in read:
            own.disbelieved = bytearray(map(max, own.disbelieved, own.nobody.translate(_MOST_SURE)))

    def _doubts(self, own: _Text) -> list[tuple[int, int]]:
        text, silent = own.case.text, own.casing.silent
        explained = covered(text, [*own.found, *own.addresses, *self._guessed(own)])
        return list(find_doubts(text, explained, silent, self.lexicon))

    def _guessed(self, own: _Text) -> Iterator[Finding]:
        """What the model takes for names, but for what is surely nobody's."""
        for guess in own.guesses:
            yield from self._believed(own, guess)

    def _believed(self, own: _Text, guess: _Guess) -> Iterator[Finding]:
        nobody = own.disbelieved[guess.start :]
        for result in guess.results:
            for found in names_in(guess.text, result, nobody, self.lexicon):
                yield Finding(guess.start + found.start, guess.start + found.end, found.kind)

    def _learn(self, read: Sequence[_Text], parts: Iterable[Sequence[tuple[int, int]]]) -> None:
        """Let the learned recogniser read parts of each text."""
        if self._small_letters is None:
            return
        asked = [
            Asked(own.versions[-1], own_parts, own.casing.careless)
            for own, own_parts in zip(read, parts, strict=True)
        ]
        for own, said in zip(read, self._small_letters.read(asked), strict=True):
            own.found += said.names
            own.nobody = bytearray(map(max, own.nobody, said.nobody))

    def _by_presidio(
        self, text: str, artifacts: NlpArtifacts, found: Sequence[Finding]
    ) -> Iterator[Finding]:
        """What Presidio's recognisers find; telephones only where no rule found the digits.

        Its telephone recogniser tries every number in eight countries and is a third of the cost.
        """
        for result in self._analyzer.analyze(text, self._language, nlp_artifacts=artifacts):
            if may_be(text, result, self.lexicon):
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

    def _grown(self, own: _Text) -> list[Finding]:
        """All findings of a text in true case, from the analyzer's and the rules for names."""
        text, lexicon, careless = own.case.text, self.lexicon, own.casing.careless
        names = [*own.found, *self._guessed(own)]
        names += find_unknown(text, lexicon, own.nobody, careless=careless)
        names += find_enumerated(text, names, lexicon)
        grown = list(grow_names(text, names, lexicon, careless=careless))
        return grow_blocks(text, [*grown, *own.addresses], lexicon)


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
