"""Measures de-identification on labelled text, beside plain Presidio with the same model.

    python -m bench.deidentify [LABELLED.json …] [--no-plain]

Without files it reads `deid/generated_small.json` and `deid/generated_large.json` of
`FIDUCIARY_DATA`. Each file is also read in small letters. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from client.deidentification.detection import Detector
from client.deidentification.findings import Finding
from client.deidentification.language_model import model_folder
from client.deidentification.measurement import LabelledText, measure, read_labelled

Detect = Callable[[Sequence[str]], list[list[Finding]]]

FIGURES = ("character_recall", "character_precision", "documents_with_leak")


def main() -> None:
    """Run and print."""
    warnings.simplefilter("ignore")
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--no-plain", action="store_true", help="leave plain Presidio out")
    options = parser.parse_args()
    files = options.files or _default_files()
    if not files:
        print("no labelled text: set FIDUCIARY_DATA, or name files")
        return
    detectors: dict[str, Detect] = {"": Detector().detect}
    if not options.no_plain:
        detectors["plain."] = _plain()
    results: dict[str, Any] = {}
    for path in files:
        for form, labelled in _forms(read_labelled(path)).items():
            speeds = {}
            for prefix, detect in detectors.items():
                name = f"{prefix}{path.stem}{form}"
                begin = time.perf_counter()
                found = detect([document.full_text for document in labelled])
                speeds[prefix] = len(labelled) / (time.perf_counter() - begin)
                measured = measure(labelled, found)
                results |= {f"{name}.{key}": round(getattr(measured, key), 4) for key in FIGURES}
                results[f"{name}.documents_per_second"] = round(speeds[prefix], 1)
                print(f"{name}: {measured}")
            if len(speeds) == 2:
                over = round(speeds[""] / speeds["plain."], 2)
                results[f"{path.stem}{form}.documents_per_second_over_plain"] = over
    print(json.dumps(results))


def _forms(labelled: list[LabelledText]) -> dict[str, list[LabelledText]]:
    """The texts as they are, and in small letters where that keeps every position."""
    small = [
        document.model_copy(update={"full_text": document.full_text.lower()})
        for document in labelled
        if len(document.full_text.lower()) == len(document.full_text)
    ]
    return {"": labelled, ".small_letters": small}


def _plain() -> Detect:
    """`AnalyzerEngine` as its quick start shows it, one text after the other."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    model = {"lang_code": "en", "model_name": str(model_folder())}
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [model]})
    analyzer = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"])

    def detect(texts: Sequence[str]) -> list[list[Finding]]:
        return [
            [Finding(r.start, r.end, r.entity_type) for r in analyzer.analyze(text, "en")]
            for text in texts
        ]

    return detect


def _default_files() -> list[Path]:
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "deid"
    names = ("generated_small.json", "generated_large.json")
    return [folder / name for name in names if (folder / name).is_file()]


if __name__ == "__main__":
    main()
