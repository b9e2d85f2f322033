"""Plants identifiers in real abstracts, de-identifies them, and counts exactly what is left.

    python -m bench.planted [--abstracts 300] [--seed 0] [--forms aside]

* `medical_abstracts` of `FIDUCIARY_DATA` names no patient. Each abstract becomes a note about one
  invented person: `bench.planted_forms` says in which words that person's identifiers are planted,
  seeded. What was left of the forms `seen` was read while rules were written; of those `aside`
  nothing was but the counts.
* Where every planted character stands is known, and where a stand-in took its place: so what would
  be stored is counted exactly. An identifier is left whole when no character of it was replaced,
  in part when some were; a text leaks when one character of one is left.

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
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bench.accuracy.datasets import Dataset, read_medical_abstracts
from bench.planted_forms import FAMILIES, Family, only_links
from client.deidentification.findings import covered
from client.deidentification.measurement import LabelledText
from client.deidentification.pipeline import Deidentified, Deidentifier, Outcome, SourceRecord
from client.recall.evaluation import evaluate, replaced_in

SECRET: Final = bytes(range(32))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--abstracts", type=int, default=300, help="how many are planted in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", choices=FAMILIES, action="append", help="of one family alone")
    options = parser.parse_args()
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "medical_abstracts"
    if not (folder / "abstracts.csv").is_file():
        print(f"no data: {folder}/abstracts.csv is not there; set FIDUCIARY_DATA")
        raise SystemExit(4)
    dataset = read_medical_abstracts(folder)
    deidentifier = Deidentifier(SECRET)
    told: dict[str, Any] = {"pipeline": deidentifier.digest}
    for name, family in FAMILIES.items():
        if name in (options.forms or FAMILIES):
            print(name)
            planted = notes(dataset, family, options.abstracts, options.seed)
            told[f"planted.{name}"] = leaks(planted, deidentifier)
    told["cpu_seconds"] = round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1)
    print(json.dumps(told, sort_keys=True))


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


if __name__ == "__main__":
    main()
