"""Plants identifiers in real abstracts, de-identifies them, and counts exactly what is left.

    python -m bench.planted [--abstracts 300] [--seed 0] [--forms aside] [--accuracy]

* `medical_abstracts` of `FIDUCIARY_DATA` names no patient. Each abstract becomes a note about one
  invented person: `bench.planted_forms` says in which words that person's identifiers are planted,
  seeded. What was left of the forms `seen` was read while rules were written; of those `aside`
  nothing was but the counts.
* Where every planted character stands is known, and where a stand-in took its place: so what would
  be stored is counted exactly. An identifier is left whole when no character of it was replaced,
  in part when some were; a text leaks when one character of one is left.
* `--accuracy`: what de-identification costs a model. The same classifier is trained and tested on
  the abstracts as they are and as they come out, nothing planted, by the product's own trainer:
  a linear head on the frozen encoder, without privacy and at ε = 8. `--training` trains on fewer.

The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bench.accuracy.datasets import Dataset, read_medical_abstracts
from bench.accuracy.product import DELTA, EVERYTHING, Run, plain_run, scores_of
from bench.planted_forms import FAMILIES, Family, only_links
from client.deidentification.findings import covered
from client.deidentification.measurement import LabelledText
from client.deidentification.pipeline import Deidentified, Deidentifier, Outcome, SourceRecord
from client.learning.data import StoredRecord
from client.learning.intervals import wilson_interval
from client.learning.task_recipes import recommended_for
from client.recall.evaluation import evaluate, replaced_in

SECRET: Final = bytes(range(32))
BATCH: Final = 64


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--abstracts", type=int, default=300, help="how many are planted in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", choices=FAMILIES, action="append", help="of one family alone")
    parser.add_argument("--accuracy", action="store_true", help="measure the cost in accuracy")
    parser.add_argument("--repetitions", type=int, default=3, help="of private training")
    parser.add_argument("--training", type=int, default=10_000, help="abstracts to train on")
    parser.add_argument("--leave-planted", action="store_true", help="measure the cost alone")
    options = parser.parse_args()
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "medical_abstracts"
    if not (folder / "abstracts.csv").is_file():
        print(f"no data: {folder}/abstracts.csv is not there; set FIDUCIARY_DATA")
        raise SystemExit(4)
    dataset = read_medical_abstracts(folder)
    deidentifier = Deidentifier(SECRET)
    told: dict[str, Any] = {"pipeline": deidentifier.digest}
    if not options.leave_planted:
        for name, family in FAMILIES.items():
            if name in (options.forms or FAMILIES):
                print(name)
                planted = notes(dataset, family, options.abstracts, options.seed)
                told[f"planted.{name}"] = leaks(planted, deidentifier)
    if options.accuracy:
        told["accuracy"] = cost(fewer(dataset, options.training), deidentifier, options.repetitions)
    told["cpu_seconds"] = round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1)
    print(json.dumps(told, sort_keys=True))


# --- what is left ---------------------------------------------------------------------------------


def notes(dataset: Dataset, family: Family, count: int, seed: int) -> list[LabelledText]:
    """Planted notes; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a seed gives the same notes again
    texts = sorted({record.text for records in dataset.sites.values() for record in records})
    return [family.note(text, draw) for text in draw.sample(texts, min(count, len(texts)))]


def leaks(texts: Sequence[LabelledText], deidentifier: Deidentifier) -> dict[str, Any]:
    """De-identify planted notes, and count what is left: whole, in part, or links alone."""
    outcomes: list[Outcome] = []

    def deidentify(records: Sequence[SourceRecord]) -> list[Outcome]:
        made = deidentifier.deidentify(records)
        outcomes.extend(made)
        return made

    measured = evaluate(texts, deidentify)
    counts = {left: Counter[str]() for left in Left}
    for text, outcome in zip(texts, outcomes, strict=True):
        for span, left in zip(text.spans, left_of(text, outcome), strict=True):
            counts[left][span.entity_type] += 1
    planted = sum(counts.values(), Counter[str]())
    print(f"{planted.total()} identifiers in {len(texts)} notes: ", end="")
    print(", ".join(f"{counts[left].total()} {left}" for left in Left))
    for kind, many in sorted(planted.items()):
        print(
            f"  {kind:<14} {', '.join(f'{counts[left][kind]:>3} {left}' for left in Left)}, {many}"
        )
    return {
        "notes": len(texts),
        "kept_out": measured.kept_out,
        "identifiers": planted.total(),
        "left": {left: counts[left].total() for left in Left},
        "by_kind": {
            kind: {"planted": many, **{left: counts[left][kind] for left in Left}}
            for kind, many in sorted(planted.items())
        },
        "measured": measured.to_json(),
    }


class Left(StrEnum):
    """What would be stored of a planted identifier."""

    WHOLE = "left whole"
    PART = "left in part"
    LINKS = "of which only words such as 'dot' are left"
    NOTHING = "replaced"


def left_of(text: LabelledText, outcome: Outcome) -> list[Left]:
    """Of each planted identifier, what would be stored."""
    if not isinstance(outcome, Deidentified):
        return [Left.NOTHING for _ in text.spans]
    mask = covered(text.full_text, replaced_in(outcome))
    return [
        _left(text.full_text[s.start_position : s.end_position], mask[s.start_position :])
        for s in text.spans
    ]


def _left(identifier: str, replaced: Sequence[int]) -> Left:
    left = [not replaced[at] for at, char in enumerate(identifier) if not char.isspace()]
    if not any(left):
        return Left.NOTHING
    if all(left):
        return Left.WHOLE
    return Left.LINKS if only_links(identifier, replaced) else Left.PART


def stored_texts(deidentifier: Deidentifier, texts: Sequence[str]) -> list[str]:
    """What an ingest would store; empty where a text is kept out. Each is its own person."""
    stored: list[str] = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        records = [SourceRecord(f"x{start + at:09}x", text) for at, text in enumerate(batch)]
        stored += [
            outcome.text if isinstance(outcome, Deidentified) else ""
            for outcome in deidentifier.deidentify(records)
        ]
    return stored


# --- what it costs --------------------------------------------------------------------------------


def fewer(dataset: Dataset, training: int) -> Dataset:
    """The data set at one site, with at most so many training records, always the same."""
    records = [record for part in dataset.sites.values() for record in part]
    random.Random(0).shuffle(records)  # noqa: S311 - as above
    kept = records[:training]
    return replace(dataset, sites={EVERYTHING: kept}, nominal_subjects=len(kept))


def private_head(dataset: Dataset) -> Run:
    """The recommended head at ε = 8, without the rounds that train an adapter."""
    phases = recommended_for(
        dataset.task,
        Decimal(8),
        DELTA,
        base_model=dataset.base_model,
        label_count=len(dataset.labels),
        nominal_subjects=len(dataset.sites[EVERYTHING]),
        site_count=1,
        adapter_rounds=0,
    )
    return Run("head", "head at epsilon 8", dataset, dataset.sites, phases, 8)


def cost(dataset: Dataset, deidentifier: Deidentifier, repetitions: int) -> dict[str, Any]:
    """Accuracy on the held-out abstracts, as they are and as they come out."""
    changed, left_out = deidentified(dataset, deidentifier)
    told: dict[str, Any] = {
        "training_abstracts": len(changed.sites[EVERYTHING]),
        "test_abstracts": len(changed.test),
        "kept_out": left_out,
    }
    for name, variant in (("original", dataset), ("deidentified", changed)):
        for way, run, times in (
            ("no_privacy", plain_run(variant, central=True), 1),
            ("epsilon_8", private_head(variant), repetitions),
        ):
            scores = [score.accuracy for score in scores_of(run, times, None, lambda: None)]
            mean = sum(scores) / len(scores)
            low, high = wilson_interval(round(mean * len(variant.test)), len(variant.test))
            told[f"{name}.{way}"] = {
                "accuracy": [round(score, 4) for score in scores],
                "mean": round(mean, 4),
                "interval_of_the_test_set": [round(low, 4), round(high, 4)],
            }
            print(f"{name:<13} {way:<11} accuracy {mean:.4f} ({low:.4f} to {high:.4f})")
    return told


def deidentified(dataset: Dataset, deidentifier: Deidentifier) -> tuple[Dataset, int]:
    """The data set as an ingest would store it, and how many records were kept out.

    What is kept out of one is left out of neither: its text is empty, so both are as large.
    """
    everybody = [*dataset.test, *(one for records in dataset.sites.values() for one in records)]
    texts = stored_texts(deidentifier, [record.text for record in everybody])
    by_subject = {record.subject: text for record, text in zip(everybody, texts, strict=True)}

    def change(records: Sequence[StoredRecord]) -> list[StoredRecord]:
        return [replace(record, text=by_subject[record.subject]) for record in records]

    sites = {site: change(records) for site, records in dataset.sites.items()}
    return replace(dataset, sites=sites, test=change(dataset.test)), Counter(texts)[""]


if __name__ == "__main__":
    main()
