"""Plants identifiers in real abstracts, de-identifies them, and counts exactly what is left.

    python -m bench.planted [--abstracts 300] [--seed 0] [--accuracy] [--leave-planted]

* `medical_abstracts` of `FIDUCIARY_DATA` names no patient. Each abstract becomes a note about one
  invented person: `FORMS` says in which words that person's identifiers are planted, seeded. They
  were written down without looking at what the recognisers know, and are not tuned on.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from bench.accuracy.datasets import Dataset, read_medical_abstracts
from bench.accuracy.product import DELTA, EVERYTHING, Run, plain_run, scores_of
from client.deidentification.findings import covered
from client.deidentification.measurement import LabelledSpan, LabelledText
from client.deidentification.pipeline import Deidentified, Deidentifier, Outcome, SourceRecord
from client.learning.data import StoredRecord
from client.learning.intervals import wilson_interval
from client.learning.task_recipes import recommended_for
from client.recall.evaluation import evaluate, replaced_in

SECRET: Final = bytes(range(32))
FORMS_A_NOTE: Final = 6
BATCH: Final = 64

GIVEN = [
    "Ngozi",
    "Thandiwe",
    "Aurélien",
    "Siobhán",
    "Wojciech",
    "Ximena",
    "Kaito",
    "Bronagh",
    "Yusuf",
    "Ilse",
]
FAMILY = [
    "Okonkwo-Reyes",
    "Przybylski",
    "van der Merwe",
    "Nic Dhomhnaill",
    "Haraldsdóttir",
    "Quispe Mamani",
    "Al-Khatib",
    "Featherstonehaugh",
    "Ogunbanjo",
    "Thibodeaux",
]
STREETS = [
    "Cwm Nant Road",
    "Rua das Flores",
    "Lower Ormond Quay",
    "ulica Piękna",
    "Mt Eden Terrace",
    "Kvarngatan",
    "Old Mill Lne",
    "Chemin du Vieux-Moulin",
]
PLACES = [
    "Aberystwyth",
    "Timaru",
    "Zakopane",
    "Bloemfontein",
    "Trondheim",
    "Ouagadougou",
    "Chillicothe",
]
EMPLOYERS = [
    "Brightwater & Daughters",
    "Kestrel Haulage",
    "Pontcanna Primary School",
    "Orinoco Seeds Ltd",
    "the Halloway bakery",
    "Tadworth Fire Station",
]
MONTHS = ["Jan", "Feb", "March", "Apr", "May", "June", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec"]
ORDINALS = ["first", "third", "eighth", "fourteenth", "twenty-second", "thirtieth"]


@dataclass(frozen=True)
class Person:
    """An invented patient."""

    given: str
    family: str
    draw: random.Random

    def digits(self, pattern: str) -> str:
        """`#` is a digit, `?` a capital letter."""
        one = {"#": lambda: str(self.draw.randrange(10)), "?": self._letter}
        return "".join(one[char]() if char in one else char for char in pattern)

    def _letter(self) -> str:
        return self.draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ")

    def of(self, values: Sequence[str]) -> str:
        """One of them."""
        return self.draw.choice(values)


Form = tuple[str, str, Callable[[Person], str]]
"""Kind, the sentence with `{}` where the identifier stands, and how it is made."""

FORMS: Final[tuple[Form, ...]] = (
    ("name", "Pt {} was seen with a relative.", lambda p: f"{p.given} {p.family}"),
    ("name", "Re: {}.", lambda p: f"{p.family.upper()}, {p.given[0]}."),
    ("name", "discussed w/ {} at bedside", lambda p: f"{p.given} {p.family}".lower()),
    ("name", "Signed for by {} (self).", lambda p: f"{p.given[0]} {p.family}"),
    ("nickname", 'Known to the ward as "{}".', lambda p: f"{p.given[:3]}{p.given[2]}ie"),
    ("date", "b. {}.", lambda p: p.digits("1#-") + p.of(MONTHS) + p.digits("-6#")),
    (
        "date",
        "Born on the {}.",
        lambda p: f"{p.of(ORDINALS)} of {p.of(('April', 'October'))} {p.digits('19#')}0",
    ),
    ("date", "Admitted {}h.", lambda p: p.digits("2024.1#.0# at 1#.4#")),
    ("age", "The patient turned {} this week.", lambda p: p.of(("91", "ninety-three", "102"))),
    ("phone", "Ring {} after six.", lambda p: p.digits("+48 22 5## ## ##")),
    ("phone", "tel. {} (daughter)", lambda p: p.digits("0#-###.##.## int 4#")),
    ("phone", "Voicemail on {}.", lambda p: p.digits("oh-one-six-one ### ####")),
    (
        "email",
        "Writes from {}.",
        lambda p: f"{p.given} dot {p.family.split()[0]} at mailbox dot example".lower(),
    ),
    ("email", "cc {}", lambda p: p.digits("nurse.##@st-elm.hospital.example")),
    ("handle", "Posts about it as {}.", lambda p: f"@{p.given.lower()}_" + p.digits("##")),
    (
        "address",
        "Lives at {}.",
        lambda p: f"Flat {p.digits('#')}b, {p.digits('##')} {p.of(STREETS)}, {p.of(PLACES)}",
    ),
    (
        "address",
        "Post to: {}",
        lambda p: f"{p.of(STREETS)} {p.digits('##/#')}\n{p.digits('##-###')} {p.of(PLACES)}",
    ),
    ("town", "Travelled in from {} by coach.", lambda p: p.of(PLACES)),
    ("employer", "Off work from {}.", lambda p: p.of(EMPLOYERS)),
    ("record", "Chart {}.", lambda p: p.digits("A-##/####")),
    ("record", "hosp no {}", lambda p: p.digits("rq######k")),
    ("health-number", "NHS# {}.", lambda p: p.digits("4## ### ####")),
    ("policy", "Covered under {}.", lambda p: p.digits("Q?-###-##-P")),
    ("passport", "Travel document {} was copied.", lambda p: p.digits("?##?##?##")),
    ("plate", "Parked in bay 4, {}.", lambda p: p.digits("?? ####?")),
    ("device", "Pump s/n {} replaced.", lambda p: p.digits("??-##.####.#")),
    ("bank", "Refund to account {}.", lambda p: p.digits("sort ##-##-## no. ########")),
    ("web", "Photographs are on {}.", lambda p: p.digits("fotos.example/u/") + p.given.lower()),
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--abstracts", type=int, default=300, help="how many are planted in")
    parser.add_argument("--seed", type=int, default=0)
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
        told["planted"] = leaks(dataset, deidentifier, options.abstracts, options.seed)
    if options.accuracy:
        told["accuracy"] = cost(fewer(dataset, options.training), deidentifier, options.repetitions)
    told["cpu_seconds"] = round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1)
    print(json.dumps(told, sort_keys=True))


# --- what is left ---------------------------------------------------------------------------------


def planted_note(text: str, person: Person) -> LabelledText:
    """An abstract with `FORMS_A_NOTE` sentences about a person between its own."""
    sentences = [[(f"{part.strip()}. ", "")] for part in text.split(". ") if part.strip()]
    for kind, words, make in person.draw.sample(FORMS, FORMS_A_NOTE):
        before, _, after = words.partition("{}")
        at = person.draw.randrange(len(sentences) + 1)
        sentences.insert(at, [(before, ""), (make(person), kind), (f"{after} ", "")])
    note, spans = "", []
    for piece, kind in (one for sentence in sentences for one in sentence):
        if kind:
            end = len(note) + len(piece)
            spans.append(LabelledSpan(entity_type=kind, start_position=len(note), end_position=end))
        note += piece
    return LabelledText(full_text=note, spans=tuple(spans))


def notes(dataset: Dataset, count: int, seed: int) -> list[LabelledText]:
    """Planted notes; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a seed gives the same notes again
    texts = sorted({record.text for records in dataset.sites.values() for record in records})
    return [
        planted_note(text, Person(draw.choice(GIVEN), draw.choice(FAMILY), draw))
        for text in draw.sample(texts, min(count, len(texts)))
    ]


def leaks(dataset: Dataset, deidentifier: Deidentifier, count: int, seed: int) -> dict[str, Any]:
    """Plant, de-identify, and count what is left: whole, or in part."""
    texts = notes(dataset, count, seed)
    outcomes: list[Outcome] = []

    def deidentify(records: Sequence[SourceRecord]) -> list[Outcome]:
        made = deidentifier.deidentify(records)
        outcomes.extend(made)
        return made

    measured = evaluate(texts, deidentify)
    planted: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    partly: Counter[str] = Counter()
    for text, outcome in zip(texts, outcomes, strict=True):
        for span, left in zip(text.spans, left_of(text, outcome), strict=True):
            planted[span.entity_type] += 1
            whole[span.entity_type] += left == 1
            partly[span.entity_type] += 0 < left < 1
    total = planted.total()
    print(f"{total} identifiers in {len(texts)} notes: {whole.total()} left whole, ", end="")
    print(f"{partly.total()} in part")
    for kind, many in sorted(planted.items()):
        print(f"  {kind:<14} {whole[kind]:>4} whole {partly[kind]:>4} in part, of {many}")
    return {
        "notes": len(texts),
        "kept_out": measured.kept_out,
        "identifiers": total,
        "left_whole": whole.total(),
        "left_in_part": partly.total(),
        "by_kind": {
            kind: {"planted": many, "left_whole": whole[kind], "left_in_part": partly[kind]}
            for kind, many in sorted(planted.items())
        },
        "measured": measured.to_json(),
    }


def left_of(text: LabelledText, outcome: Outcome) -> list[float]:
    """Of each planted identifier, what share of its characters would be stored."""
    if not isinstance(outcome, Deidentified):
        return [0.0 for _ in text.spans]
    replaced = covered(text.full_text, replaced_in(outcome))
    shares = []
    for span in text.spans:
        inside = range(span.start_position, span.end_position)
        counted = [at for at in inside if not text.full_text[at].isspace()]
        shares.append(sum(not replaced[at] for at in counted) / len(counted))
    return shares


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
