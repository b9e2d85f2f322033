"""What de-identification costs a model in accuracy, measured in pairs.

    python -m bench.deidentified_accuracy [--abstracts N] [--folds 5] [--repetitions 1]

* The abstracts of `medical_abstracts` are taken as they are and as an ingest would store them. Each
  is tested by a model that was trained on the others: by the product's own trainer, a linear head
  on the frozen encoder, without privacy and at ε = 8. Both variants have the same folds, the same
  samples of each step and the same noise.
* An abstract that occurs twice, with two labels, is in one fold. What is kept out of the one
  variant stays in it as an empty text, so both are as large.
* Intervals: bootstrap over texts, 95 %. They tell of the abstracts and not of another training.

The last line is one JSON document, and each fold prints what is known so far.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bench.accuracy.datasets import Dataset, read_medical_abstracts
from bench.accuracy.product import DELTA, EVERYTHING, Run, plain_run
from client.deidentification.pipeline import Deidentified, Deidentifier, SourceRecord
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import resolve_base_model
from client.learning.data import StoredRecord
from client.learning.frozen import Compute, FrozenValues
from client.learning.passes import Passes, Settings
from client.learning.private_sgd import SiteTrainer
from client.learning.task_recipes import recommended_for
from client.learning.tasks import build_model, read_examples

SECRET: Final = bytes(range(32))
BATCH: Final = 64
RESAMPLES: Final = 2000


class OfSome(FrozenValues):
    """What frozen layers made of some of a larger set's records.

    Args:
        whole: Of all records.
        numbers: By number among the some, the number among all.
    """

    def __init__(self, whole: FrozenValues, numbers: Sequence[int]) -> None:
        super().__init__()
        self._whole, self._numbers = whole, numbers

    def of(self, kind: str, records: Sequence[int], compute: Compute) -> list[Tensor]:
        """Values of records, in their order."""
        own = {self._numbers[record]: record for record in records}
        return self._whole.of(
            kind,
            [self._numbers[record] for record in records],
            lambda missing: compute([own[number] for number in missing]),
        )

    def has(self, kind: str, record: int) -> bool:
        """Whether a record's value is kept."""
        return self._whole.has(kind, self._numbers[record])


class Variant:
    """The abstracts in one form, and what the frozen encoder makes of them."""

    def __init__(self, dataset: Dataset, records: Sequence[StoredRecord]) -> None:
        self.dataset = replace(dataset, sites={EVERYTHING: records}, nominal_subjects=len(records))
        plan = plain_run(self.dataset, central=True).plan()
        base = resolve_base_model(dataset.base_model)
        self._model = build_model(plan, base, seed=0)
        self.examples = read_examples(plan, records)
        self._frozen = FrozenValues()
        self._model.network.eval()
        passes = Passes(self._model, self.examples, Settings(), frozen=self._frozen)
        passes.prepare("probe", range(len(records)))

    def correct(self, way: str, seed: int, rest: Sequence[int], tested: Sequence[int]) -> list[int]:
        """Whether each tested abstract gets its label from a model trained on the rest."""
        own = replace(
            self.dataset,
            sites={EVERYTHING: [self.dataset.sites[EVERYTHING][at] for at in rest]},
            nominal_subjects=len(rest),
        )
        plan = (plain_run(own, central=True) if way == "no_privacy" else private_head(own)).plan()
        model = build_model(plan, resolve_base_model(own.base_model), seed=0)
        start = model.get_state()
        trainer = SiteTrainer(
            model,
            plan,
            [self.examples[at] for at in rest],
            seed,
            frozen=(OfSome(self._frozen, rest), FrozenValues()),
        )
        iterate = begin(start)
        for round_index in range(plan.rounds):
            update = trainer.train_round(round_index, state_to_send(iterate, plan)).update
            iterate = advance(iterate, plan, [update])
        model.set_state(iterate.average)
        examples = [self.examples[at] for at in tested]
        passes = Passes(model, examples, Settings(), frozen=OfSome(self._frozen, tested))
        logits = passes.results_of(model.kind_of_state(), range(len(tested)))
        return [
            int(np.argmax(row) == example.label)
            for row, example in zip(logits, examples, strict=True)
        ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--abstracts", type=int, default=100_000, help="the first so many")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=1, help="of private training")
    options = parser.parse_args()
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "medical_abstracts"
    if not (folder / "abstracts.csv").is_file():
        print(f"no data: {folder}/abstracts.csv is not there; set FIDUCIARY_DATA")
        raise SystemExit(4)
    dataset = read_medical_abstracts(folder)
    records = some_of(dataset, options.abstracts)
    deidentifier = Deidentifier(SECRET)
    stored = stored_texts(deidentifier, [record.text for record in records])
    changed = [replace(one, text=text) for one, text in zip(records, stored, strict=True)]
    told = {
        "pipeline": deidentifier.digest,
        "abstracts": len(records),
        "kept_out": stored.count(""),
    }
    print(json.dumps(told), flush=True)
    variants = {
        "original": Variant(dataset, records),
        "deidentified": Variant(dataset, changed),
    }
    told |= compare(variants, [record.text for record in records], options)
    told["cpu_seconds"] = round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1)
    print(json.dumps(told))


def some_of(dataset: Dataset, count: int) -> list[StoredRecord]:
    """At most so many abstracts, always the same; those with the same text stand together."""
    records = [*dataset.test, *(one for part in dataset.sites.values() for one in part)]
    texts = sorted({record.text for record in records})
    random.Random(0).shuffle(texts)  # noqa: S311 - always the same
    place = {text: at for at, text in enumerate(texts)}
    return sorted(records, key=lambda one: (place[one.text], one.label))[:count]


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


def compare(
    variants: Mapping[str, Variant], texts: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Fold after fold, both variants in both ways; what is known after each is printed."""
    fold_of = folds(texts, options.folds)
    hits: dict[tuple[str, str], dict[int, float]] = {}
    told: dict[str, Any] = {}
    for fold in range(options.folds):
        tested = [at for at, own in enumerate(fold_of) if own == fold]
        rest = [at for at, own in enumerate(fold_of) if own != fold]
        for way, times in (("no_privacy", 1), ("epsilon_8", options.repetitions)):
            for name, variant in variants.items():
                runs = [
                    variant.correct(way, fold * times + time, rest, tested) for time in range(times)
                ]
                mean = np.mean(runs, axis=0)
                hits.setdefault((way, name), {}).update(zip(tested, mean.tolist(), strict=True))
        told = {"folds": fold + 1}
        for way in ("no_privacy", "epsilon_8"):
            told |= paired(way, hits[way, "original"], hits[way, "deidentified"], texts)
        print(json.dumps(told), flush=True)
    return told


def folds(texts: Sequence[str], count: int) -> list[int]:
    """The fold of each text; equal texts are in one."""
    number = {text: at for at, text in enumerate(dict.fromkeys(texts))}
    return [number[text] % count for text in texts]


def paired(
    way: str, original: Mapping[int, float], changed: Mapping[int, float], texts: Sequence[str]
) -> dict[str, Any]:
    """Both accuracies and what the one loses, in points, with intervals over texts."""
    rows = sorted(original)
    groups: dict[str, list[int]] = {}
    for at in rows:
        groups.setdefault(texts[at], []).append(at)
    sums = np.array(
        [
            [len(own), sum(original[at] for at in own), sum(changed[at] for at in own)]
            for own in groups.values()
        ]
    )
    chance = np.random.default_rng(0)
    drawn = [sums[chance.integers(0, len(sums), len(sums))].sum(axis=0) for _ in range(RESAMPLES)]
    every = np.array([sums.sum(axis=0), *drawn])
    shares = every[:, 1:] / every[:, :1]
    return {
        f"{way}.original": _with_interval(shares[:, 0]),
        f"{way}.deidentified": _with_interval(shares[:, 1]),
        f"{way}.loses": _with_interval(shares[:, 0] - shares[:, 1]),
    }


def _with_interval(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": round(values[0], 4), "interval": [round(low, 4), round(high, 4)]}


if __name__ == "__main__":
    main()
