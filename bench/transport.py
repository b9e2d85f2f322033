"""What the forms of transport cost in accuracy, and save in bytes.

    python -m bench.transport accuracy [REPETITIONS]    heart_disease, four hospitals, epsilon 8
    python -m bench.transport bytes                     MiniLM with LoRA and a probe before it

A repetition trains the same plan in each precision with the same sampling and noise, so that a
difference is one of rounding. `FIDUCIARY_DATA` names the folder with the data sets.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Final

import numpy as np

from bench.accuracy.datasets import DATASETS
from bench.accuracy.product import private_run
from bench.recipes import plan_for
from client.arrays import pack_arrays
from client.deflated import deflate
from client.learning.aggregation import advance_by, begin, combined_update, state_to_send
from client.learning.base_model import EMBEDDED_MODEL, resolve_base_model
from client.learning.metrics import accuracy
from client.learning.private_sgd import SiteTrainer
from client.learning.randomness import Keystream
from client.learning.tasks import build_model, read_examples
from client.learning.travelling import chosen, completed, names_in_task, names_in_update
from client.transport import Precision, decode, encode

PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "float16", "int8")
EPSILON: Final = 8
LABELS: Final = 5


def accuracies(repetitions: int) -> dict[Precision, list[float]]:
    """Of the released model, for each repetition."""
    read, _ = DATASETS["heart_disease"]
    folder = Path(os.environ.get("FIDUCIARY_DATA", "../shared/data")) / "heart_disease"
    run = private_run(read(folder), EPSILON, central=False)
    plan = run.plan()
    model = build_model(plan, resolve_base_model(run.dataset.base_model), seed=0)
    start = model.get_state()
    test = read_examples(plan, run.dataset.test)
    trainers = [
        SiteTrainer(model, plan, read_examples(plan, records), at)
        for at, records in enumerate(run.sites.values())
    ]
    found: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
    for repetition in range(repetitions):
        for precision in PRECISIONS:
            for at, trainer in enumerate(trainers):
                trainer.reseed(1000 * repetition + at)
            iterate = begin(start)
            for number in range(plan.rounds):
                state = state_to_send(iterate, plan)
                like = chosen(state, names_in_update(plan, number, state))
                updates = []
                for trainer in trainers:
                    update = trainer.train_round(number, state).update
                    sent = encode(chosen(update, frozenset(like)), precision, Keystream())
                    updates.append(decode(sent, precision, like))
                combined = combined_update(plan.aggregation, updates, like)
                iterate = advance_by(iterate, plan, completed(combined, state))
            confusion = trainers[0].evaluate(iterate.average, test).everybody.confusion
            found[precision].append(accuracy(confusion))
    return found


def sizes() -> dict[str, int]:
    """Bytes of one site in one round, documents alone."""
    plan = plan_for([f"label {n}" for n in range(LABELS)], 64, 100, "0.1", None)
    probe = plan.phases[0].model_copy(update={"kind": "probe"})
    plan = plan.model_copy(update={"phases": (probe, plan.phases[0])})
    state = build_model(plan, resolve_base_model(EMBEDDED_MODEL)).get_state()
    generator = np.random.default_rng(1)
    update = {
        name: generator.normal(scale=1e-3, size=array.shape).astype(np.float32)
        for name, array in state.items()
    }
    found = {"numbers": sum(array.size for array in state.values())}
    for number, phase in enumerate(plan.phases):
        task = chosen(update, names_in_task(plan, "train", number, state))
        found[f"{phase.kind} task"] = len(pack_arrays(task))
        shown = chosen(update, names_in_task(plan, "evaluate", number, state))
        found[f"{phase.kind} evaluation task"] = len(pack_arrays(shown))
        moved = chosen(update, names_in_update(plan, number, state))
        for precision in PRECISIONS:
            packed = pack_arrays(encode(moved, precision, Keystream(b"bench")))
            found[f"{phase.kind} update {precision}"] = len(packed)
            found[f"{phase.kind} update {precision} deflate"] = len(deflate(packed))
    found["whole state"] = len(pack_arrays(update))
    return found


def main(what: str, repetitions: str = "10") -> None:
    if what == "bytes":
        print(json.dumps(sizes(), indent=1))
        return
    for precision, values in accuracies(int(repetitions)).items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{precision}: {statistics.fmean(values):.4f} (deviation {spread:.4f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
