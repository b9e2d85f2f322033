"""Detection: Presidio's analyzer with the packaged model and this site's recognisers.

* The model reads each text once, and once more in true case where its writer used no capitals.
* Every Presidio recogniser that is on by default runs too, at threshold 0: what it finds by luck
  is found.
* The result is settled: disjoint spans, each with one kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry, RecognizerResult
from presidio_analyzer.context_aware_enhancers import ContextAwareEnhancer
from presidio_analyzer.nlp_engine import NlpArtifacts

from client.deidentification.addresses import find_addresses
from client.deidentification.blocks import LABEL_WORDS, grow_blocks
from client.deidentification.casing import Casing, read_casing
from client.deidentification.dates import find_ages, find_dates
from client.deidentification.findings import (
    ADDRESS,
    AGE,
    DATE_TIME,
    EMAIL_ADDRESS,
    IDENTIFIER,
    IP_ADDRESS,
    LOCATION,
    ORGANIZATION,
    PERSON,
    PHONE_NUMBER,
    URL,
    IBAN_CODE,
    Finding,
    settle,
)
from client.deidentification.identifiers import find_identifiers, find_online, find_phones
from client.deidentification.language_model import (
    LANGUAGE,
    NamesOnlyEngine,
    check_model,
    model_folder,
)
from client.deidentification.lexicon import WORD, Lexicon, load_lexicon, plain
from client.deidentification.names import find_enumerated, find_names, grow_names

BATCH_TEXTS = 64


class RuleRecognizer(EntityRecognizer):  # type: ignore[misc]
    """A Presidio recogniser around one pure rule."""

    def __init__(
        self, name: str, kinds: Sequence[str], rule: Callable[[str], Iterable[Finding]]
    ) -> None:
        super().__init__(supported_entities=list(kinds), name=name, supported_language=LANGUAGE)
        self._rule = rule

    def load(self) -> None:
        """Nothing to load."""

    def analyze(
        self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts
    ) -> list[RecognizerResult]:
        """What the rule finds, as Presidio results with score 1."""
        return [RecognizerResult(f.kind, f.start, f.end, 1.0) for f in self._rule(text)]


class _NoEnhancer(ContextAwareEnhancer):  # type: ignore[misc]
    """Scores are not used, so nothing need raise them."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, 0)

    def enhance_using_context(
        self, text: str, raw_results: list[RecognizerResult], *args: Any, **kwargs: Any
    ) -> list[RecognizerResult]:
        return raw_results


class Detector:
    def __init__(self) -> None:
        folder = model_folder()
        self.model_digest = check_model(folder)
        self._engine = NamesOnlyEngine(folder)
        self._engine.load()
        self.lexicon = load_lexicon(self._engine.words, self._engine.other_than_nouns)
        registry = RecognizerRegistry(supported_languages=[LANGUAGE])
        registry.load_predefined_recognizers(languages=[LANGUAGE], nlp_engine=self._engine)
        for r in (
            RuleRecognizer("identifiers", [IDENTIFIER, IBAN_CODE], find_identifiers),
            RuleRecognizer("phones", [PHONE_NUMBER], find_phones),
            RuleRecognizer("online", [EMAIL_ADDRESS, URL, IP_ADDRESS], find_online),
            RuleRecognizer("dates", [DATE_TIME], find_dates),
            RuleRecognizer("ages", [AGE], find_ages),
        ):
            registry.add_recognizer(r)
        self._analyzer = AnalyzerEngine(
            registry=registry,
            nlp_engine=self._engine,
            supported_languages=[LANGUAGE],
            context_aware_enhancer=_NoEnhancer(),
        )

    def detect(self, texts: Sequence[str]) -> Iterator[list[Finding]]:
        castings = [read_casing(t, self.lexicon) for t in texts]
        readings: list[str] = []
        owner: list[int] = []
        for i, (t, c) in enumerate(zip(texts, castings, strict=True)):
            readings.append(t)
            owner.append(i)
            if c.truecased != t:
                readings.append(c.truecased)
                owner.append(i)
        found: list[list[Finding]] = [[] for _ in texts]
        for i, (reading, artifacts) in zip(
            owner,
            self._engine.process_batch(readings, LANGUAGE, batch_size=BATCH_TEXTS),
            strict=True,
        ):
            rs = self._analyzer.analyze(reading, LANGUAGE, nlp_artifacts=artifacts)
            found[i].extend(f for r in rs for f in self._accepted(reading, r))
        for t, c, fs in zip(texts, castings, found, strict=True):
            names = [*fs, *find_names(c.truecased, self.lexicon, careless=c.careless)]
            names += find_enumerated(c.truecased, names, self.lexicon)
            grown = list(grow_names(c.truecased, names, self.lexicon, careless=c.careless))
            grown += find_addresses(c.truecased, self.lexicon, careless=c.careless)
            yield settle(t, grow_blocks(c.truecased, grown, self.lexicon))

    def _accepted(self, text: str, result: RecognizerResult) -> Iterator[Finding]:
        """A Presidio result as findings; none where it is surely nobody's.

        The model's spans are cut at line breaks, and lose pieces made of everyday words of banking,
        medicine and grammar alone ("IBAN", "I'm", "Address").
        """
        span = text[result.start : result.end]
        name = result.recognition_metadata["recognizer_name"]
        if name != "SpacyRecognizer":
            yield Finding(result.start, result.end, result.entity_type)
            return
        if result.entity_type in ("NRP", DATE_TIME):
            return
        for line in re.finditer(r"[^\n]+", span):
            words = list(WORD.finditer(line.group()))
            following = text[result.start + line.end() : result.start + line.end() + 1]
            everyday = all(self.lexicon.is_everyday(word.group()) for word in words)
            if all(self._is_surely_nobody(word.group()) for word in words):
                continue
            if everyday and (following == ":" or line.group().isupper()):
                continue
            start = line.start()
            if result.entity_type == PERSON:
                start += self._label_length(words)
            yield Finding(result.start + start, result.start + line.end(), result.entity_type)

    def _label_length(self, words: list[re.Match[str]]) -> int:
        """Length of the labels before a name that the model took in ("Customer Ann Li")."""
        for word in words:
            folded = plain(word.group())
            if folded not in LABEL_WORDS and folded not in self.lexicon.function_words:
                return word.start()
        return 0

    def _is_surely_nobody(self, word: str) -> bool:
        folded = plain(word).removesuffix("'s")
        return (
            folded in self.lexicon.function_words
            or folded in self.lexicon.current_words
            or len(folded) < 2
        )
