"""What hostile hospitals do to each rule, and what server optimisers and FedProx change.

    python -m bench.aggregation [--seeds 4] [--data DIR] [--only REGEX]

`heart_disease`, four real hospitals, the phases that a plan gets which states ε = 8 at δ = 1e-5, a
fifth of each hospital held out; the product's own `SiteTrainer` and aggregation in one process.

* `hospitals`: the four. `wards`: each hospital's records dealt to two sites, so that Krum, which
  needs five sites to bear one, has enough. The plan's nominal subjects are halved with them.
* `attacked`: one site sends its own update turned round, as long as `server.replies.norm_bound`
  lets through, in every round. Each repetition has another hostile site, in order.
* `stated`: the same, where the plan's `batch_limit` states how many subjects a site has at most,
  and the bound is that much shorter.
* `momentum`, `adam`: the server's optimiser, without an attack. `proximal`: eight rounds of five
  steps in place of forty of one, as FedProx needs more than one; mu = 0 is FedAvg.

Figures are accuracies on the held-out people, means over `--seeds` runs with fresh noise; standard
deviations are printed. The last line is one JSON object of means.

Exit status: 0; 77 when the data is not there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.accuracy.datasets import DATASETS, Dataset
from bench.accuracy.product import private_run
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import resolve_base_model
from client.learning.data import StoredRecord
from client.learning.metrics import accuracy
from client.learning.plan_model import PlanModel, State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model, read_examples
from compliance.statements import Aggregation, BatchLimit, TrainingPlan
from server.replies import norm_bound, norm_of

EXIT_SKIPPED: Final = 77
EPSILON: Final = 8
NAME: Final = "heart_disease"

ROBUST: Final = ("trimmed-mean", "median", "krum")
MOST_SUBJECTS: Final = {"hospitals": 300, "wards": 150}
"""What a plan would state: half again as many as its nominal subjects."""

PROXIMAL_STEPS: Final = 5
PROXIMALS: Final = ("0", "0.003", "0.01", "0.03")
OPTIMIZERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "momentum_0.5": {"server": "momentum", "momentum": "0.5", "learning_rate": "0.5"},
    "momentum_0.9": {"server": "momentum", "momentum": "0.9", "learning_rate": "0.1"},
    "adam_0.1": {"server": "adam", "learning_rate": "0.1"},
    "adam_0.3": {"server": "adam", "learning_rate": "0.3"},
    "adam_1": {"server": "adam", "learning_rate": "1"},
}


@dataclass(frozen=True)
class Case:
    """One figure.

    Attributes:
        sites: `hospitals` or `wards`.
        aggregation: Of the plan.
        attacked: Whether one site is hostile.
        phase: Changes of the plan's only phase.
        stated: Whether the plan states how many subjects a site has at most.
    """

    key: str
    sites: str = "hospitals"
    aggregation: Mapping[str, Any] = field(default_factory=dict)
    attacked: bool = False
    phase: Mapping[str, Any] = field(default_factory=dict)
    stated: bool = False


def cases() -> Iterator[Case]:
    """All figures, in the order of the table."""
    for sites, rules in (("hospitals", ROBUST[:2]), ("wards", ROBUST)):
        for rule in ("mean", *rules):
            chosen = {"rule": rule, "tolerated": 0 if rule == "mean" else 1}
            yield Case(f"{sites}.{rule}", sites, chosen)
            yield Case(f"{sites}.{rule}.attacked", sites, chosen, attacked=True)
        stated = f"{sites}.mean.attacked_stated"
        yield Case(stated, sites, attacked=True, stated=True)
    for name, settings in OPTIMIZERS.items():
        yield Case(f"hospitals.{name}", aggregation=settings)
    for mu in PROXIMALS:
        changes = {"proximal": Decimal(mu)}
        yield Case(f"hospitals.proximal_{mu}", phase=changes)


def wards_of(dataset: Dataset) -> Dataset:
    """Each hospital's records dealt to two sites in turn."""
    sites: dict[str, Sequence[StoredRecord]] = {
        f"{hospital}-{ward + 1}": records[ward::2]
        for hospital, records in dataset.sites.items()
        for ward in (0, 1)
    }
    return replace(dataset, sites=sites, nominal_subjects=dataset.nominal_subjects // 2)


def plan_of(dataset: Dataset, case: Case) -> TrainingPlan:
    """As a coordinator would propose it."""
    run = private_run(dataset, EPSILON, central=False)
    (phase,) = run.phases
    changes = dict(case.phase)
    if "proximal" in changes:
        steps = PROXIMAL_STEPS
        changes |= {"rounds": phase.rounds // steps, "steps_per_round": steps}
    if case.stated:
        most = MOST_SUBJECTS[case.sites]
        changes["batch_limit"] = BatchLimit(subjects=most, max_population=most)
    plan = run.plan()
    fields = plan.body() | {
        "phases": [phase.model_copy(update=changes).model_dump()],
        "aggregation": Aggregation.model_validate(dict(case.aggregation)).model_dump(),
    }
    fields.pop("kind", None)
    return TrainingPlan.model_validate(fields)


def turned_round(update: State, bound: float) -> State:
    """An update's opposite, as long as is accepted."""
    scale = -(1 - 1e-6) * bound / max(norm_of(update), 1e-30)
    return {name: (scale * array).astype(np.float32) for name, array in update.items()}


def scores_of(dataset: Dataset, case: Case, repetitions: int) -> Iterator[float]:
    """Accuracy of the model that each repetition would release."""
    plan = plan_of(dataset, case)
    model: PlanModel = build_model(plan, resolve_base_model(dataset.base_model), seed=0)
    start = model.get_state()
    trainers = [
        SiteTrainer(model, plan, read_examples(plan, records)) for records in dataset.sites.values()
    ]
    test = read_examples(plan, dataset.test)
    for repetition in range(repetitions):
        iterate = begin(start)
        for number in range(plan.rounds):
            state = state_to_send(iterate, plan)
            updates = [trainer.train_round(number, state).update for trainer in trainers]
            if case.attacked:
                hostile = repetition % len(updates)
                bound = norm_bound(plan, number, state, model.stretch())
                updates[hostile] = turned_round(updates[hostile], bound)
            iterate = advance(iterate, plan, updates)
        counts = trainers[0].evaluate(iterate.average, test).everybody
        yield accuracy(counts.confusion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4, help="runs a figure (default 4)")
    parser.add_argument("--data", type=Path, help="folder with the data sets (FIDUCIARY_DATA)")
    parser.add_argument("--only", default="", help="figures whose key has this regular expression")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    data = options.data or Path(os.environ.get("FIDUCIARY_DATA", "../shared/data"))
    read, files = DATASETS[NAME]
    if not all((data / NAME / file).is_file() for file in files):
        print(f"skipped: no {NAME} in {data}; set FIDUCIARY_DATA", file=sys.stderr)
        return EXIT_SKIPPED
    hospitals = read(data / NAME)
    datasets = {"hospitals": hospitals, "wards": wards_of(hospitals)}
    results: dict[str, float] = {}
    for case in cases():
        if not re.search(options.only, case.key):
            continue
        scores = list(scores_of(datasets[case.sites], case, options.seeds))
        mean = statistics.mean(scores)
        spread = statistics.stdev(scores) if len(scores) > 1 else math.nan
        lowest = min(scores)
        print(f"{case.key}: accuracy {mean:.4f} ± {spread:.4f}, lowest {lowest:.4f}", flush=True)
        results[case.key] = round(mean, 4)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
