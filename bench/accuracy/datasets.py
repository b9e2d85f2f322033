"""Three public data sets as four sites hold them, and what is held out.

* `banking77`: 77 intents of messages to a bank. *Each row is taken for one data subject*: it names
  no people. Four sites, label-skewed: each label's rows are dealt in shares drawn from a Dirichlet
  distribution. Its own test set.
* `medical_abstracts`: five conditions. Likewise; a fixed fifth of the abstracts is held out. Some
  occur twice, with two labels: both copies are held out, or neither.
* `heart_disease`: four real hospitals, a subject a row; a fixed fifth of each one's is held out.

Deals and splits have fixed seeds: only the noise of training differs between runs.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import numpy as np

from client.learning.base_model import EMBEDDED_MODEL
from client.learning.data import StoredRecord
from compliance.statements import Feature

SITES: Final = ("north", "east", "south", "west")
HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")

SKEW: Final = 0.5
"""Dirichlet concentration: 0.5 leaves most labels mostly at one or two of four sites."""

SPLIT_SEED: Final = 77
HELD_OUT: Final = 0.2


@dataclass(frozen=True)
class Dataset:
    """What sites hold, and what a plan over it says.

    Attributes:
        nominal_subjects: Public constant of a plan: about how many subjects such a site has.
        sites: Training records by site.
        test: Records that nobody trains on.
    """

    name: str
    task: str
    base_model: str
    labels: tuple[str, ...]
    nominal_subjects: int
    sites: Mapping[str, Sequence[StoredRecord]]
    test: Sequence[StoredRecord]
    max_tokens: int = 128
    features: tuple[Feature, ...] = ()


def read_banking77(folder: Path) -> Dataset:
    train, test = (_rows(folder / f"{part}.csv", "text", "category") for part in ("train", "test"))
    labels = tuple(sorted({record.label for record in train}))
    sites = deal(train, SITES, labels)
    return Dataset(
        "banking77", "text-classification", EMBEDDED_MODEL, labels, 2500, sites, test, 64
    )


def read_medical_abstracts(folder: Path) -> Dataset:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        names = {row["condition_label"]: row["condition_name"] for row in csv.DictReader(stream)}
    records = [
        StoredRecord(record.subject, record.text, names[record.label])
        for record in _rows(folder / "abstracts.csv", "medical_abstract", "condition_label")
    ]
    labels = tuple(names[key] for key in sorted(names))
    train, test = hold_out(records)
    sites = deal(train, SITES, labels)
    return Dataset(
        "medical_abstracts", "text-classification", EMBEDDED_MODEL, labels, 580, sites, test, 256
    )


def read_heart_disease(folder: Path) -> Dataset:
    sites: dict[str, list[StoredRecord]] = {}
    test: list[StoredRecord] = []
    for hospital in HOSPITALS:
        records = []
        with (folder / f"processed.{hospital}.data").open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.reader(stream)):
                cells = dict(zip((feature.name for feature in HEART), row, strict=False))
                for column in ("trestbps", "chol"):  # no living person's pressure or lipids are 0
                    if cells[column] != "NaN" and not float(cells[column]):
                        cells[column] = ""
                label = "disease" if int(row[-1]) else "healthy"
                records.append(StoredRecord(f"{hospital}-{number}", json.dumps(cells), label))
        sites[hospital], held_out = hold_out(records, by=lambda record: record.subject)
        test += held_out
    return Dataset(
        "heart_disease",
        "tabular-classification",
        "tabular:linear",
        ("healthy", "disease"),
        200,
        sites,
        test,
        features=HEART,
    )


DATASETS: Final[Mapping[str, tuple[Callable[[Path], Dataset], tuple[str, ...]]]] = {
    "banking77": (read_banking77, ("train.csv", "test.csv")),
    "medical_abstracts": (read_medical_abstracts, ("abstracts.csv", "labels.csv")),
    "heart_disease": (read_heart_disease, tuple(f"processed.{name}.data" for name in HOSPITALS)),
}
"""By name: how it is read, and the files that must be there."""


def number(name: str, low: int, high: int) -> Feature:
    return Feature(name=name, kind="number", low=Decimal(low), high=Decimal(high))


def category(name: str, values: str) -> Feature:
    return Feature(name=name, kind="category", values=tuple(values))


HEART: Final = (
    number("age", 20, 100),
    category("sex", "01"),
    category("cp", "1234"),
    number("trestbps", 80, 200),
    number("chol", 100, 400),
    category("fbs", "01"),
    category("restecg", "012"),
    number("thalach", 60, 220),
    category("exang", "01"),
    number("oldpeak", -1, 3),
    category("slope", "123"),
    number("ca", 0, 3),
    category("thal", "367"),
)
"""Ranges are medical knowledge, as a plan would state them (blood pressure below 80 is shock), and
categories the code book's. None was read from the data."""


def hold_out(
    records: Sequence[StoredRecord], by: Callable[[StoredRecord], str] = lambda record: record.text
) -> tuple[list[StoredRecord], list[StoredRecord]]:
    """`(training, held out)`: always the same `HELD_OUT` of what records are told apart by."""
    values = sorted({by(record) for record in records}, key=_digest)
    kept_aside = set(values[: round(len(values) * HELD_OUT)])
    training = [record for record in records if by(record) not in kept_aside]
    return training, [record for record in records if by(record) in kept_aside]


def deal(
    records: Sequence[StoredRecord], sites: Sequence[str], labels: Sequence[str]
) -> dict[str, list[StoredRecord]]:
    """Deal each label's records to the sites in Dirichlet shares, always the same way."""
    random = np.random.default_rng(SPLIT_SEED)
    label_of = np.array([labels.index(record.label) for record in records])
    dealt: dict[str, list[StoredRecord]] = {site: [] for site in sites}
    for label in range(len(labels)):
        rows = random.permutation(np.flatnonzero(label_of == label))
        shares = random.dirichlet([SKEW] * len(sites))
        cuts = (np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for site, part in zip(sites, np.split(rows, cuts), strict=True):
            dealt[site].extend(records[int(row)] for row in part)
    return dealt


def describe_skew(dataset: Dataset) -> Iterator[str]:
    """A line a site, and how far its labels are from everybody's (total variation, 0 to 1)."""
    counts = np.array(
        [
            [sum(record.label == label for record in records) for label in dataset.labels]
            for records in dataset.sites.values()
        ]
    )
    everybody = counts.sum(0) / counts.sum()
    for site, row in zip(dataset.sites, counts, strict=True):
        distance = 0.5 * np.abs(row / row.sum() - everybody).sum()
        yield (
            f"  {site:<12} {row.sum():>6} subjects, {np.count_nonzero(row):>3} of {len(row)} "
            f"labels, largest label {row.max() / row.sum():.1%}, distance {distance:.2f}"
        )


def _rows(path: Path, text: str, label: str) -> list[StoredRecord]:
    """Each row a subject: the subject is the row's own number."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            StoredRecord(f"{path.stem}-{at}", row[text], row[label])
            for at, row in enumerate(csv.DictReader(stream))
        ]


def _digest(value: str) -> bytes:
    return hashlib.sha256(f"{SPLIT_SEED} {value}".encode()).digest()
