"""The same federation with the product's own commands: nothing is left out, nothing stood in for.

A compliance service, a coordinator and a `client start` for each site, over TLS on loopback, all
durable. A site's training is as small as its guard lets it be: one private step over a few of 80
subjects, on a network for tables with as many weights as stock Flower's app has. So a round holds,
beside what Flower does, the guard's decision, the site's ledger and journal, noise, evaluation,
signed reports, and the round's entry in the audit log.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bench.federation.shape import Shape
from client.learning.base_model import base_model_digest
from demo.federation import Federation
from demo.processes import CommandFailed, Processes

NETWORK: Final = "bench-network"
SUBJECTS: Final = 80
JOIN_SECONDS: Final = 120
RUN_SECONDS: Final = 300

SECURE: Final = {"secure_aggregation": True, "quorum": 3}

_PLAN: Final = """
[plan]
name = "{name}"
task = "tabular-classification"
base_model = "{network}"
labels = ["no", "yes"]
sites = {sites}
minimum_subjects = 50
purpose = "bench"
legal_basis = "consent"
retention_days = 30
{options}
[[features]]
name = "age"
kind = "number"
low = 0
high = 100

[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 80
max_records_per_subject = 1

[[phases]]
kind = "full"
rounds = {rounds}
steps_per_round = 1
sampling_rate = 0.1
learning_rate = 0.1
max_grad_norm = 1.0
"""


@dataclass(frozen=True)
class Run:
    """What a run took.

    Attributes:
        seconds: From the first round's start to its last one's entry in the audit log.
        rounds: Seconds of each round, between the entries; the first warms up.
    """

    seconds: float
    rounds: tuple[float, ...]

    @property
    def seconds_per_round(self) -> float:
        """The mean, the first round included."""
        return self.seconds / len(self.rounds)


def measure_ours(folder: Path, shape: Shape, options: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a round, and processor time of it by kind of process.

    Two plans are run, one after the other. The second is what is compared; the first, right after
    all processes were started, also loads what trains into them. Two more sum securely; in the
    first of them the sites learn each other's keys.
    """
    folder.mkdir()
    with Processes(folder) as processes:
        bench = Bench(folder, shape, processes)
        bench.start()
        first = bench.run("first", options)
        before = processes.cpu_seconds()
        run = bench.run("second", options)
        spent = {
            name: (after - before[name]) / shape.rounds
            for name, after in processes.cpu_seconds().items()
        }
        bench.run("meets", {**SECURE, **options})
        secure = bench.run("secure", {**SECURE, **options})
    figures = {
        "seconds_per_round": run.seconds_per_round,
        "seconds_per_round_secure": secure.seconds_per_round,
        "seconds_per_round_after_start": first.seconds_per_round,
        "cpu_seconds_compliance": spent.pop("compliance"),
        "cpu_seconds_coordinator": spent.pop("server"),
        "cpu_seconds_each_site": sum(spent.values()) / shape.sites,
    }
    return {name: round(value, 3) for name, value in figures.items()}


class Bench:
    """A federation on its feet; plans can be run in it one after another.

    Args:
        folder: Where it lies; it must not exist.
        shape: How many sites, and how large the network.
        processes: Run it.
    """

    def __init__(self, folder: Path, shape: Shape, processes: Processes) -> None:
        self._folder = folder
        self._shape = shape
        self._processes = processes
        self._federation = Federation(folder, processes)
        self._sites = [f"site-{number}" for number in range(shape.sites)]

    def start(self) -> None:
        """Start everybody; returns when every site waits for tasks."""
        self._federation.start(
            "bench", ("python", "-m", "bench.federation.coordinator", "federation", "times")
        )
        self._write_network()
        for number, site in enumerate(self._sites):
            self._federation.join(site)
            self._federation.allow(
                site,
                purposes=["bench"],
                tasks=["tabular-classification"],
                base_models=[base_model_digest(self._folder / NETWORK)],
                max_epsilon_total=100,
                max_epsilon_per_period=100,
            )
            models = self._folder / site / "models"
            models.mkdir(exist_ok=True)
            (models / NETWORK).symlink_to(self._folder / NETWORK)
            self._write_records(site, number)
            self._processes.run(
                "client", "data", "add", f"{site}.csv", "--dir", site, "--dataset", "people",
                "--subject", "person", "--kind", "table", "--features", "age", "--label", "state",
                "--purpose", "bench", "--legal-basis", "consent",
            )  # fmt: skip
        for site in self._sites:
            self._processes.start(site, "client", "start", "--dir", site)
        self._federation.until(self._all_connected, JOIN_SECONDS)

    def run(self, name: str, options: Mapping[str, Any] | None = None) -> Run:
        """Run a plan.

        Args:
            name: The plan's.
            options: More lines of its `[plan]`, by name.
        """
        lines = (f"{key} = {json.dumps(value)}" for key, value in (options or {}).items())
        text = _PLAN.format(
            name=name,
            network=NETWORK,
            sites=json.dumps(self._sites),
            rounds=self._shape.rounds,
            options="\n".join(lines),
        )
        plan_file = self._folder / f"{name}.toml"
        plan_file.write_text(text, encoding="utf-8")
        self._federation.approve("plan", self._federation.submit(plan_file.name))
        ended = f"{name}: completed", f"{name}: failed"
        self._federation.until(
            lambda: any(event.get("note", "").startswith(ended) for event in self._events()),
            RUN_SECONDS,
        )
        return _run_of(name, self._events())

    def _all_connected(self) -> bool:
        logs = (self._folder / "logs" / f"{site}.log" for site in self._sites)
        return all("waiting for tasks" in log.read_text("utf-8") for log in logs)

    def _events(self) -> list[dict[str, Any]]:
        lines = (self._folder / "times").read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _write_network(self) -> None:
        network = {
            "model_type": "fiduciary-table",
            "version": 1,
            "architecture": "mlp",
            "width": self._shape.width,
            "layers": 2,
        }
        (self._folder / NETWORK).mkdir()
        (self._folder / NETWORK / "config.json").write_text(json.dumps(network), encoding="utf-8")

    def _write_records(self, site: str, number: int) -> None:
        chance = random.Random(number)  # noqa: S311  the same people in every run
        with (self._folder / f"{site}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["person", "age", "state"])
            for person in range(SUBJECTS):
                age = chance.randint(1, 99)
                writer.writerow([f"p{number}-{person}", age, "yes" if age > 60 else "no"])


def _run_of(name: str, events: list[dict[str, Any]]) -> Run:
    started: float | None = None
    recorded: list[float] = []
    before = 0.0
    for event in events:
        note, shown = event.get("note", ""), event.get("show", "")
        if note.startswith(f"{name}: failed"):
            raise CommandFailed(note)
        if note.startswith(f"{name}: approved"):
            started, recorded = None, []
        if shown.startswith("training") and started is None:
            started = before  # what was shown when the round began
        if re.match(rf"{re.escape(name)}: round \d+ of ", note):
            recorded.append(float(event["time"]))
        before = float(event["time"])
    if started is None or not recorded:
        raise CommandFailed(f"{name}: the coordinator told no round")
    marks = [started, *recorded]
    return Run(
        seconds=marks[-1] - marks[0],
        rounds=tuple(after - first for first, after in pairwise(marks)),
    )
