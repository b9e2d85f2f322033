"""Measures de-identification on labelled text, beside plain Presidio with the same model.

    python -m bench.deidentify [LABELLED.json …] [--no-plain] [--generated]

Without files it reads `deid/generated_small.json` and `deid/generated_large.json` of
`FIDUCIARY_DATA`; with `--generated` also texts of both families of `bench.deidentify_texts`, which
need Faker (`pip install faker==40.63.0`) and are the same each time. Each is also read in small
letters, in capitals and with noise. Plain Presidio is `AnalyzerEngine` and `AnonymizerEngine` as
their quick start has them, one text after the other; ours is a site's whole pipeline over all
cores, each text a subject of its own. The last line is one JSON document:

* `character_recall`, `character_precision`, `documents_with_leak`: of all files' texts as written,
  and of each form of each file;
* `documents_per_second_over_plain`: the smaller of `.notes` (4 kB of the files' texts each) and
  `.messages` (the texts one by one); processor time per core beside it, for busy machines;
* `characters_only_plain_found`: identifying characters that plain Presidio finds and ours does not,
  as a share of what plain finds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audit.errors import NotFound
from bench.deidentify_texts import FAMILIES, forms, generate
from client.deidentification.detection import Detector
from client.deidentification.findings import Finding, covered
from client.deidentification.language_model import model_folder
from client.deidentification.measurement import LabelledText, measure, read_labelled
from client.deidentification.pipeline import SourceRecord
from client.deidentifier_pool import DeidentifierPool

Detect = Callable[[Sequence[str]], list[list[Finding]]]

FIGURES = ("character_recall", "character_precision", "documents_with_leak")
NOTE_CHARACTERS = 4000
NOTES = 60
MESSAGES = 1500
GENERATED = 600


def main() -> None:
    """Run and print."""
    warnings.simplefilter("ignore")
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--no-plain", action="store_true", help="leave plain Presidio out")
    parser.add_argument("--generated", action="store_true", help="generated texts too")
    options = parser.parse_args()
    sets = {path.stem: read_labelled(path) for path in options.files or _default_files()}
    if not sets and not options.generated:
        print("no labelled text: set FIDUCIARY_DATA, or name files")
        return
    given = [text for labelled in sets.values() for text in labelled]
    if options.generated:
        try:
            sets |= {family: generate(family, GENERATED) for family in FAMILIES}
        except NotFound as error:
            print(f"error: {error}\n  fix: {error.fix}", file=sys.stderr)
            sys.exit(int(error.exit_code))
        given = given or [text for labelled in sets.values() for text in labelled]
    results = _quality(sets, given, None if options.no_plain else _Plain().detect)
    if not options.no_plain:
        results |= _speed(given)
    print(json.dumps(results))


def _quality(
    sets: dict[str, list[LabelledText]], given: list[LabelledText], plain: Detect | None
) -> dict[str, Any]:
    """Figures of each form of each set, and of all that was given as it is written."""
    ours = Detector().detect
    results: dict[str, Any] = {}
    for name, written in sets.items():
        for form, labelled in forms(written).items():
            for prefix, detect in (("", ours), ("plain.", plain)):
                if detect is None or (prefix and form):
                    continue
                measured = measure(labelled, detect([text.full_text for text in labelled]))
                figures = " ".join(f"{key} {getattr(measured, key):.4f}" for key in FIGURES)
                print(f"{prefix}{name}{form}: {figures} {measured.full_span_recall}")
                results |= {
                    f"{prefix}{name}{form}.{key}": round(getattr(measured, key), 4)
                    for key in FIGURES
                }
    texts = [text.full_text for text in given]
    found = ours(texts)
    overall = measure(given, found)
    results |= {key: round(getattr(overall, key), 4) for key in FIGURES}
    if plain is not None:
        results["characters_only_plain_found"] = _only(given, plain(texts), found)
    return results


def _only(
    given: list[LabelledText], plain: list[list[Finding]], ours: list[list[Finding]]
) -> float:
    """Share of the identifying characters that one found and the other did not."""
    hit = lost = 0
    for document, one, other in zip(given, plain, ours, strict=True):
        text = document.full_text
        spans = [Finding(s.start_position, s.end_position, "") for s in document.spans]
        truth, by_one, by_other = (covered(text, found) for found in (spans, one, other))
        for at, char in enumerate(text):
            if truth[at] and by_one[at] and not char.isspace():
                hit += 1
                lost += not by_other[at]
    return round(lost / hit, 5) if hit else 0.0


def _speed(given: list[LabelledText]) -> dict[str, Any]:
    """Texts a second of ours over plain's, on notes and on messages."""
    plain = _Plain()
    workers = os.cpu_count() or 1
    results: dict[str, Any] = {"workers": workers}
    with DeidentifierPool(bytes(32), workers) as pool:
        pool.deidentify(_records(["warm up"] * workers))
        for kind, texts in (("notes", _notes(given)), ("messages", _messages(given))):
            alone = _clocked(lambda texts=texts: plain.anonymize(texts))  # type: ignore[misc]
            together = _clocked(lambda texts=texts: pool.deidentify(_records(texts)))  # type: ignore[misc]
            results |= {
                f"{kind}.documents_per_second": round(len(texts) / together, 1),
                f"plain.{kind}.documents_per_second": round(len(texts) / alone, 1),
                f"documents_per_second_over_plain.{kind}": round(alone / together, 2),
            }
    detector = Detector()
    for kind, texts in (("notes", _notes(given)), ("messages", _messages(given))):
        alone = _processor(lambda texts=texts: plain.anonymize(texts))  # type: ignore[misc]
        ours = _processor(lambda texts=texts: detector.detect(texts))  # type: ignore[misc]
        results[f"processor_time_over_plain.{kind}"] = round(alone / ours, 2)
    ratios = [results[f"documents_per_second_over_plain.{kind}"] for kind in ("notes", "messages")]
    return results | {"documents_per_second_over_plain": min(ratios)}


def _records(texts: Sequence[str]) -> list[SourceRecord]:
    return [SourceRecord(f"S-{number}", text) for number, text in enumerate(texts)]


def _notes(given: list[LabelledText]) -> list[str]:
    """Texts put together to the length of a clinical note, each another."""
    notes, note = [], ""
    for document in given:
        note += document.full_text + "\n"
        if len(note) >= NOTE_CHARACTERS:
            notes.append(note)
            note = ""
    return notes[:NOTES] or [note]


def _messages(given: list[LabelledText]) -> list[str]:
    return [document.full_text for document in given[:MESSAGES]]


def _clocked(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _processor(work: Callable[[], object]) -> float:
    """Processor seconds of this process, its threads with it."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class _Plain:
    """`AnalyzerEngine` and `AnonymizerEngine` as their quick start shows them."""

    def __init__(self) -> None:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
        from presidio_anonymizer import AnonymizerEngine

        model = {"lang_code": "en", "model_name": str(model_folder())}
        provider = NlpEngineProvider(
            nlp_configuration={"nlp_engine_name": "spacy", "models": [model]}
        )
        self._analyzer = AnalyzerEngine(
            nlp_engine=provider.create_engine(), supported_languages=["en"]
        )
        self._anonymizer: Any = AnonymizerEngine()  # type: ignore[no-untyped-call]

    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        return [
            [Finding(r.start, r.end, r.entity_type) for r in self._analyzer.analyze(text, "en")]
            for text in texts
        ]

    def anonymize(self, texts: Sequence[str]) -> list[str]:
        return [
            str(self._anonymizer.anonymize(text, self._analyzer.analyze(text, "en")).text)
            for text in texts
        ]


def _default_files() -> list[Path]:
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "deid"
    names = ("generated_small.json", "generated_large.json")
    return [folder / name for name in names if (folder / name).is_file()]


if __name__ == "__main__":
    main()
