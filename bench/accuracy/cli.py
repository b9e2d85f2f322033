"""The bench's command: what is run, and how it is told."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import bench.accuracy
from bench.accuracy import product, tutorials
from bench.accuracy.datasets import DATASETS, Dataset, describe_skew
from bench.accuracy.product import DELTA, Score, distributed_run, plain_run, private_run

EPSILONS: Final = (8, 3)
EXIT_SKIPPED: Final = 77


@dataclass(frozen=True)
class Entry:
    """One figure of the result.

    Attributes:
        promise: What its sites promise.
        total: Steps of progress in one repetition.
        scores: Runs it, calling its argument after each step.
    """

    key: str
    title: str
    promise: str
    repetitions: int
    total: int
    scores: Callable[[Callable[[], None]], Iterator[Score]]


def entries(
    dataset: Dataset,
    seeds: int,
    seed: int | None,
    *,
    quick: bool,
    with_tutorials: Literal["too", "alone"] | None,
) -> Iterator[Entry]:
    """What is run over a data set, in order. Opacus on text takes longest: only when asked for."""
    if quick:
        yield _product(private_run(dataset, EPSILONS[0], central=False), 1, seed)
        return
    if with_tutorials != "alone":
        yield from _products(dataset, seeds, seed)
    if with_tutorials or dataset.task == "tabular-classification":
        for epsilon in EPSILONS:
            yield _tutorial(dataset, epsilon, seeds, seed)


def _products(dataset: Dataset, seeds: int, seed: int | None) -> Iterator[Entry]:
    for epsilon in EPSILONS:
        yield _product(private_run(dataset, epsilon, central=False), seeds, seed)
    for epsilon in EPSILONS:
        yield _product(distributed_run(dataset, epsilon), seeds, seed)
    yield _product(plain_run(dataset, central=False), 1, seed)
    for epsilon in EPSILONS:
        yield _product(private_run(dataset, epsilon, central=True), seeds, seed)
    yield _product(plain_run(dataset, central=True), 1, seed)


def _product(run: product.Run, repetitions: int, seed: int | None) -> Entry:
    return Entry(
        run.key,
        run.title,
        run.promise(),
        repetitions,
        run.steps,
        lambda advance: product.scores_of(run, repetitions, seed, advance),
    )


def _tutorial(dataset: Dataset, epsilon: int, seeds: int, seed: int | None) -> Entry:
    repetitions = seeds if dataset.task == "tabular-classification" else 1
    return Entry(
        f"{dataset.name}.opacus_fedavg_epsilon_{epsilon}",
        f"{dataset.name}, Opacus' tutorials and FedAvg, ε = {epsilon}",
        f"ε = {epsilon} at δ = {DELTA}, each site, for records",
        repetitions,
        tutorials.rounds_of(dataset),
        lambda advance: tutorials.scores_of(dataset, epsilon, repetitions, seed, advance),
    )


def tell(entry: Entry, scores: Sequence[Score], seconds: float) -> str:
    """A line: mean and spread of a figure."""
    rights = [score.accuracy for score in scores]
    spread = f" ± {statistics.stdev(rights):.4f}" if len(rights) > 1 else ""
    runs = f"{len(rights)} runs" if len(rights) > 1 else "1 run"
    return (
        f"{entry.title}: accuracy {statistics.mean(rights):.4f}{spread} ({runs}), "
        f"macro F1 {statistics.mean(score.macro_f1 for score in scores):.4f}; {entry.promise}; "
        f"{seconds:.0f} s on {torch.get_num_threads()} threads"
    )


def gaps(dataset: str, results: dict[str, float]) -> Iterator[str]:
    """What privacy costs beside the federated run without it."""
    plain = results.get(f"{dataset}.federated_plain")
    for epsilon in EPSILONS:
        private = results.get(f"{dataset}.federated_dp_epsilon_{epsilon}")
        if plain is not None and private is not None:
            points = 100 * (plain - private)
            yield f"{dataset}: ε = {epsilon} costs {points:.1f} points of accuracy"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.accuracy", description=(bench.accuracy.__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="one run: banking77, four sites, ε = 8"
    )
    parser.add_argument(
        "--tutorials",
        nargs="?",
        const="too",
        choices=("too", "alone"),
        help="Opacus' tutorials on text too, or nothing but the tutorials: over an hour",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs that a mean and a spread are over (default 3)"
    )
    parser.add_argument("--data", type=Path, help="folder with the data sets (FIDUCIARY_DATA)")
    parser.add_argument("--only", choices=tuple(DATASETS), help="this data set alone")
    parser.add_argument("--seed", type=int, help="repeatable noise; fresh noise by default")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    data = options.data or Path(os.environ.get("FIDUCIARY_DATA", "../shared/data"))
    names = (options.only,) if options.only else tuple(DATASETS)[: 1 if options.quick else None]
    for name in names:
        missing = [file for file in DATASETS[name][1] if not (data / name / file).is_file()]
        if missing:
            print(
                f"skipped: no {' and '.join(missing)} in {data / name}; set FIDUCIARY_DATA to the "
                f"folder that holds {name}/",
                file=sys.stderr,
            )
            return EXIT_SKIPPED

    results: dict[str, float] = {}
    for name in names:
        dataset = DATASETS[name][0](data / name)
        print(
            f"{name}: {sum(map(len, dataset.sites.values()))} training and {len(dataset.test)} "
            f"test records, {len(dataset.labels)} labels; each row is one data subject:"
        )
        print("\n".join(describe_skew(dataset)))
        chosen = entries(
            dataset,
            options.seeds,
            options.seed,
            quick=options.quick,
            with_tutorials=options.tutorials,
        )
        for entry in chosen:
            started = time.monotonic()
            scores = _run(entry)
            results[entry.key] = round(statistics.mean(s.accuracy for s in scores), 4)
            print(tell(entry, scores, time.monotonic() - started), flush=True)
        print("\n".join(gaps(name, results)), flush=True)
    print(json.dumps(results))
    return 0


def _run(entry: Entry) -> list[Score]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(entry.title, total=entry.total * entry.repetitions)
        return list(entry.scores(lambda: progress.advance(task)))
