"""Detection: Presidio's analyzer with the packaged model and this package's recognisers.

* The model reads each text once, and once more in true case where its writer used no capitals.
* Every Presidio recogniser that is on by default runs too, at threshold 0: what it finds by luck
  is found.
* The result is settled: disjoint spans, each with one kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from client.deidentification.addresses import find_addresses
from client.deidentification.blocks import grow_blocks
from client.deidentification.casing import Casing, read_casing
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
)
from client.deidentification.identifiers import find_identifiers, find_online, find_phones
from client.deidentification.language_model import (
    LANGUAGE,
    NamesOnlyEngine,
    check_model,
    model_folder,
)
from client.deidentification.lexicon import WORD, load_lexicon, plain
from client.deidentification.name_runs import LABEL_WORDS
from client.deidentification.names import (
    find_enumerated,
    find_groups,
    find_names,
    grow_names,
)
from client.deidentification.presidio import (
    AnalyzerEngine,
    ContextAwareEnhancer,
    EntityRecognizer,
    NlpArtifacts,
    RecognizerRegistry,
    RecognizerResult,
)

BATCH_TEXTS = 64
"""Texts that the model reads at once."""

MAX_PIECE_CHARACTERS = 6000
"""Longer texts are read in pieces, cut where a line or sentence ends: some rules look at a whole
text for each finding, and a text of a megabyte must not take hours."""

_MODEL = "SpacyRecognizer"

_NO_HOST = re.compile(r"[A-Z]\.[A-Z]\w{1,3}")
"""Initials and an abbreviation ("H.No."), which Presidio takes for a host in Norway."""

_LEADING = re.compile(r"(?:(?:the|a|an|on|in|at|since|from|about|around)\s+)*", re.IGNORECASE)
"""What the model takes in before a date."""

_RULES: tuple[tuple[str, tuple[str, ...], Callable[[str], Iterable[Finding]]], ...] = (
    ("identifiers", (IDENTIFIER, NUMBER, IBAN_CODE, ADDRESS), find_identifiers),
    ("phones", (PHONE_NUMBER, NUMBER), find_phones),
    ("online", (EMAIL_ADDRESS, URL, IP_ADDRESS), find_online),
    ("dates", (DATE_TIME,), find_dates),
    ("ages", (AGE,), find_ages),
)


class RuleRecognizer(EntityRecognizer):
    """A Presidio recogniser around one pure rule."""

    def __init__(
        self, name: str, kinds: Sequence[str], rule: Callable[[str], Iterable[Finding]]
    ) -> None:
        super().__init__(supported_entities=list(kinds), name=name, supported_language=LANGUAGE)
        self._rule = rule

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: object, nlp_artifacts: object) -> list[RecognizerResult]:  # noqa: ARG002 - Presidio's interface
        """What the rule finds, as Presidio results with score 1."""
        return [RecognizerResult(f.kind, f.start, f.end, 1.0) for f in self._rule(text)]


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

    def __init__(self) -> None:
        """Load the packaged model, after checking its digest.

        Raises:
            VerificationFailed: When its files are not the reviewed ones.
            NotFound: When it is not installed.
        """
        folder = model_folder()
        self.model_digest = check_model(folder)
        self._engine = NamesOnlyEngine(folder)
        self._engine.load()
        self.lexicon = load_lexicon(self._engine.words, self._engine.other_than_nouns)
        registry = RecognizerRegistry(supported_languages=[LANGUAGE])
        registry.load_predefined_recognizers(languages=[LANGUAGE], nlp_engine=self._engine)
        for name, kinds, rule in _RULES:
            registry.add_recognizer(RuleRecognizer(name, kinds, rule))
        self._analyzer = AnalyzerEngine(
            registry=registry,
            nlp_engine=self._engine,
            supported_languages=[LANGUAGE],
            context_aware_enhancer=_NoEnhancer(),
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
        casings = [read_casing(text, self.lexicon) for text in texts]
        found: list[list[Finding]] = [[] for _ in texts]
        readings: list[tuple[str, object]] = [(text, at) for at, text in enumerate(texts)]
        readings += [
            (casing.truecased, at)
            for at, casing in enumerate(casings)
            if casing.truecased != texts[at]
        ]
        analysed = self._engine.process_batch(
            readings, LANGUAGE, batch_size=BATCH_TEXTS, as_tuples=True
        )
        for reading, artifacts, at in cast("Iterator[tuple[str, NlpArtifacts, int]]", analysed):
            for result in self._analyzer.analyze(reading, LANGUAGE, nlp_artifacts=artifacts):
                found[at].extend(self._accepted(reading, result))
        return [self._grown(casing, own) for casing, own in zip(casings, found, strict=True)]

    def _grown(self, casing: Casing, found: list[Finding]) -> list[Finding]:
        """All findings of a text, from the analyzer's and the name and address rules."""
        text, lexicon, careless = casing.truecased, self.lexicon, casing.careless
        names = [*found, *find_names(text, lexicon, careless=careless)]
        names += find_groups(text, lexicon)
        names += find_enumerated(text, names, lexicon)
        grown = list(grow_names(text, names, lexicon, careless=careless))
        return grow_blocks(text, [*grown, *find_addresses(text, lexicon)], lexicon)

    def _accepted(self, text: str, result: RecognizerResult) -> Iterator[Finding]:
        """A Presidio result as findings; none where it is surely nobody's.

        The model's spans are cut at line breaks, and lose pieces made of everyday words of banking,
        medicine and grammar alone ("IBAN", "I'm", "Address").
        """
        if result.entity_type == URL and _NO_HOST.fullmatch(text, result.start, result.end):
            return
        if result.recognition_metadata["recognizer_name"] != _MODEL:
            yield Finding(result.start, result.end, result.entity_type)
            return
        if result.entity_type == GROUP and not _is_group_name(text[result.start : result.end]):
            return
        if result.entity_type == DATE_TIME:
            found = text[result.start : result.end]
            if names_a_time(found):
                yield Finding(result.start + _leading_length(found), result.end, DATE_TIME)
            return
        for line in re.finditer(r"[^\n]+", text[result.start : result.end]):
            start, end = result.start + line.start(), result.start + line.end()
            words = list(WORD.finditer(line.group()))
            if all(self._is_surely_nobody(word.group()) for word in words):
                continue
            everyday = all(self.lexicon.is_everyday(word.group()) for word in words)
            if everyday and (text[end : end + 1] == ":" or line.group().isupper()):
                continue
            if result.entity_type == PERSON:
                start += self._label_length(words)
            yield Finding(start, end, result.entity_type)

    def _label_length(self, words: list[re.Match[str]]) -> int:
        """Length of the labels before a name that the model took in ("Customer Ann Li")."""
        for word in words:
            folded = plain(word.group())
            if folded not in LABEL_WORDS and folded not in self.lexicon.function_words:
                return word.start()
        return 0

    def _is_surely_nobody(self, word: str) -> bool:
        folded = plain(word).removesuffix("'s")
        listed = (self.lexicon.function_words, self.lexicon.current_words)
        return len(folded) < 2 or any(folded in words for words in listed)


def _leading_length(found: str) -> int:
    leading = _LEADING.match(found)
    return leading.end() if leading else 0


def _is_group_name(found: str) -> bool:
    """Whether words that the model takes for a nationality or religion can be one."""
    return found[:1].isupper() and not any(char.isdigit() for char in found)


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
