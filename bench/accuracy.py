"""Test accuracy of private federated training on real messages, beside training without privacy.

    python -m bench.accuracy [--quick] [--data DIR] [--seed N]

* Data: banking77 (77 intents of messages to a bank) in `FIDUCIARY_DATA`, by default ../shared/data.
  It names no people: *each row is taken for one data subject*.
* Four sites, label-skewed: each label's rows are dealt to the sites in shares drawn from a
  Dirichlet distribution with a fixed seed. The skew is printed.
* Training runs the product's own `SiteTrainer` and aggregation in one process, without network. A
  private run takes `recommended_phases` for its ε, as a plan without phases does; each site adds
  its own noise and spends its own ε at δ = 1e-5.
* The runs without privacy are the same code with noise and clipping too small to matter.
* The last line is one JSON object; progress goes to standard error.

Exit status: 0; 77 when the data is not there (what test harnesses call "skipped"); 2 for bad usage.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.learning.accounting import events_of, reported_epsilon
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.data import Example, examples_from_records
from client.learning.metrics import accuracy, macro_f1
from client.learning.private_sgd import SiteTrainer
from client.learning.recipes import recommended_phases
from client.learning.tasks import build_model
from compliance.statements import BaseModelReference, Phase, Privacy, TrainingPlan, utc_now

SITES = ("north", "east", "south", "west")
DELTA = Decimal("0.00001")
NOMINAL_SUBJECTS = 2500
"""Public constant of the plan: about how many subjects a site of this kind has."""

SKEW = 0.5
"""Dirichlet concentration: 0.5 leaves most labels mostly at one or two of four sites."""

SPLIT_SEED = 77
EXIT_SKIPPED = 77


@dataclass(frozen=True)
class Run:
    """One line of the result: who trains on what, under which phases."""

    key: str
    title: str
    phases: tuple[Phase, ...]
    sites: tuple[str, ...]
    nominal_subjects: int
    epsilon: Decimal | None


def private_run(epsilon: int) -> Run:
    phases = recommended_phases(
        Decimal(epsilon),
        DELTA,
        label_count=77,
        nominal_subjects=NOMINAL_SUBJECTS,
        site_count=len(SITES),
    )
    return Run(
        key=f"banking77.federated_dp_epsilon_{epsilon}",
        title=f"federated, each site's own DP, ε = {epsilon}",
        phases=phases,
        sites=SITES,
        nominal_subjects=NOMINAL_SUBJECTS,
        epsilon=Decimal(epsilon),
    )


def plain_run(key: str, title: str, sites: tuple[str, ...], subjects: int) -> Run:
    """No privacy: a millionth of the noise, and a clipping norm that no gradient reaches."""
    phase = Phase(
        kind="probe",
        rounds=100,
        steps_per_round=2,
        sampling_rate=Decimal("0.2"),
        learning_rate=Decimal(400),
        max_grad_norm=Decimal(20),
        noise_multiplier=Decimal("0.000001"),
    )
    return Run(key, title, (phase,), sites, subjects // len(sites), None)


def plan_of(run: Run, labels: Sequence[str], digest: str) -> TrainingPlan:
    return TrainingPlan(
        name="banking77",
        federation="bench",
        author="bench",
        created_at=utc_now(),
        base_model=BaseModelReference(name=EMBEDDED_MODEL, digest=digest),
        task="text-classification",
        labels=tuple(labels),
        max_tokens=64,
        phases=run.phases,
        privacy=Privacy(
            epsilon=run.epsilon or Decimal(100),
            delta=DELTA,
            nominal_subjects=run.nominal_subjects,
            max_records_per_subject=1,
        ),
        purpose="benchmark",
        legal_basis="consent",
        retention_days=1,
        sites=run.sites,
        quorum=len(run.sites),
    )


def read_rows(path: Path) -> list[tuple[str, str, str]]:
    """`(subject, text, label)` of each row; the subject is the row's own number."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            (f"{path.stem}-{number}", row["text"], row["category"])
            for number, row in enumerate(csv.DictReader(stream))
        ]


def deal(examples: Sequence[Example], site_count: int, label_count: int) -> list[list[Example]]:
    """Deal each label's examples to the sites in Dirichlet shares, always the same way."""
    random = np.random.default_rng(SPLIT_SEED)
    labels = np.array([example.label for example in examples])
    dealt: list[list[Example]] = [[] for _ in range(site_count)]
    for label in range(label_count):
        rows = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet([SKEW] * site_count)
        cuts = (np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for site, part in enumerate(np.split(rows, cuts)):
            dealt[site].extend(examples[int(row)] for row in part)
    return dealt


def describe_skew(dealt: Sequence[Sequence[Example]], label_count: int) -> Iterator[str]:
    """A line a site, and how far its labels are from everybody's (total variation, 0 to 1)."""
    counts = np.array(
        [np.bincount([e.label for e in site], minlength=label_count) for site in dealt]
    )
    everybody = counts.sum(0) / counts.sum()
    for name, row in zip(SITES, counts, strict=True):
        distance = 0.5 * np.abs(row / row.sum() - everybody).sum()
        yield (
            f"  {name:<6} {row.sum():>6} subjects, {np.count_nonzero(row):>3} of {label_count} "
            f"labels, largest label {row.max() / row.sum():.1%}, distance {distance:.2f}"
        )


def train(
    run: Run,
    labels: Sequence[str],
    dealt: Sequence[Sequence[Example]],
    test: Sequence[Example],
    seed: int | None,
    progress: Progress,
) -> tuple[float, float]:
    """Test accuracy and macro F1 of the model that the run would release."""
    base_path = resolve_base_model(EMBEDDED_MODEL)
    plan = plan_of(run, labels, base_model_digest(base_path))
    model = build_model(plan, base_path)
    trainers = [
        SiteTrainer(
            model,
            plan,
            examples,
            None if seed is None else seed * len(SITES) + number,
        )
        for number, examples in enumerate(dealt)
    ]
    steps = sum(phase.rounds * phase.steps_per_round for phase in plan.phases)
    task = progress.add_task(run.title, total=steps * len(trainers))
    iterate = begin(model.get_state())
    for round_index in range(plan.rounds):
        state = state_to_send(iterate, plan)
        updates = [
            trainer.train_round(
                round_index, state, lambda _done, _all: progress.advance(task)
            ).update
            for trainer in trainers
        ]
        iterate = advance(iterate, plan, updates)
    confusion = trainers[0].evaluate(iterate.average, test).everybody.confusion
    return accuracy(confusion), macro_f1(confusion)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.accuracy", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one private run only, ε = 8")
    parser.add_argument("--data", type=Path, help="folder with banking77/ (FIDUCIARY_DATA)")
    parser.add_argument("--seed", type=int, help="repeatable noise; fresh noise by default")
    options = parser.parse_args(arguments)
    data = options.data or Path(os.environ.get("FIDUCIARY_DATA", "../shared/data"))
    folder = data / "banking77"
    if not (folder / "train.csv").is_file() or not (folder / "test.csv").is_file():
        print(
            f"skipped: no train.csv and test.csv in {folder}; set FIDUCIARY_DATA to the folder "
            "that holds banking77/",
            file=sys.stderr,
        )
        return EXIT_SKIPPED

    train_rows, test_rows = read_rows(folder / "train.csv"), read_rows(folder / "test.csv")
    labels = sorted({label for _, _, label in train_rows})
    everybody = examples_from_records(train_rows, labels)
    test = examples_from_records(test_rows, labels)
    dealt = deal(everybody, len(SITES), len(labels))
    runs = [(private_run(8), dealt)]
    if not options.quick:
        plain = "banking77.federated_plain", "federated, no privacy", SITES
        central = "banking77.central_plain", "one site with all the data, no privacy", ("all",)
        runs += [
            (private_run(3), dealt),
            (plain_run(*plain, len(everybody)), dealt),
            (plain_run(*central, len(everybody)), [everybody]),
        ]

    print(
        f"banking77: {len(everybody)} training and {len(test)} test messages, {len(labels)} labels;"
        f" each row is one data subject. {len(SITES)} sites, split seed {SPLIT_SEED}:"
    )
    print("\n".join(describe_skew(dealt, len(labels))))
    results: dict[str, float] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    for run, parts in runs:
        started = time.monotonic()
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            right, f1 = train(run, labels, parts, test, options.seed, progress)
        results[run.key] = round(right, 4)
        spent = (
            f"ε = {reported_epsilon(events_of(run.phases), DELTA)} at δ = {DELTA}, each site"
            if run.epsilon
            else "no guarantee"
        )
        print(
            f"{run.title}: accuracy {right:.4f}, macro F1 {f1:.4f}; {spent}; "
            f"{time.monotonic() - started:.0f} s on {torch.get_num_threads()} threads",
            flush=True,
        )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
