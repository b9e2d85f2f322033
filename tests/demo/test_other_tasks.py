"""A table, labelled parts of texts and language: one federation of real processes, a plan of each.

Two sites hold all three kinds of records; the base model of the language plan is a folder of the
sites' own. Releases are read by the code on their own model cards.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.learning.base_model import base_model_digest
from demo.federation import Federation
from demo.processes import Processes
from tests.client.learning.tiny_models import save_decoder

pytestmark = pytest.mark.skipif(
    "FIDUCIARY_LONG" not in os.environ,
    reason="keeps two cores busy for minutes; run it with: make long",
)

SITES = ("north", "south")
SUBJECTS = 80
RUN_SECONDS = 150
DECODER = "tiny-decoder"

PLAN = """
[plan]
name = "{name}"
task = "{task}"
labels = {labels}
max_tokens = 24
sites = ["north", "south"]
minimum_subjects = 50
purpose = "{name}"
legal_basis = "consent"
retention_days = 30
{more}
[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 80
max_records_per_subject = 2
"""

TABLE = """
rounds = 4
[[features]]
name = "age"
kind = "number"
low = 20
high = 100
[[features]]
name = "pain"
kind = "category"
values = ["none", "some", "much"]
"""

SPANS = """
rounds = 4
adapter_rounds = 1
"""

LANGUAGE = f"""
base_model = "{DECODER}"
rounds = 2
[adapter]
rank = 2
alpha = 4
target_modules = ["q_proj", "v_proj"]
"""

PLANS = {
    "hearts": ("tabular-classification", '["healthy", "ill"]', TABLE),
    "summed": (
        "tabular-classification",
        '["healthy", "ill"]',
        TABLE.replace("rounds = 4", "rounds = 4\nsecure_aggregation = true"),
    ),
    "drugs": ("token-classification", '["O", "drug"]', SPANS),
    "letters": ("causal-language-modelling", "[]", LANGUAGE),
}


def write_records(folder: Path, number: int) -> None:
    """The three files of one site: 80 people, whose illness follows from age and pain."""
    folder.mkdir()
    chance = random.Random(number)
    hearts, drugs, letters = [], [], []
    for person in range(SUBJECTS):
        subject = f"p{number}-{person}"
        age, pain = chance.randint(21, 99), chance.choice(["none", "some", "much"])
        hearts.append([subject, age, pain, "ill" if age > 60 or pain == "much" else "healthy"])
        drug = chance.choice(["aspirin", "insulin", "codeine", "morphine"])
        start, end = chance.choice(
            [("the nurse gave ", " after dinner"), ("we stopped ", " again"), ("more ", " please")]
        )
        span = {"start": len(start), "end": len(start) + len(drug), "label": "drug"}
        drugs.append([subject, start + drug + end, json.dumps([span])])
        letters.append([subject, f"thank you for the {drug} and the kind words"])
    for name, header, rows in (
        ("hearts", ["person", "age", "pain", "state"], hearts),
        ("drugs", ["person", "note", "parts"], drugs),
        ("letters", ["person", "letter"], letters),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])


COLUMNS = {
    "hearts": ("--kind", "table", "--features", "age", "--categories", "pain", "--label", "state"),
    "drugs": ("--kind", "spans", "--text", "note", "--spans", "parts"),
    "letters": ("--kind", "language", "--text", "letter"),
}


ALSO_FOR = {"hearts": ("--purpose", "summed")}
"""Other plans that may use a dataset."""


class Clinics:
    """A federation whose sites hold all three kinds of records."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.federation = Federation(folder, processes)

    def start(self) -> None:
        self.federation.start("clinics")
        save_decoder("llama", self.folder / DECODER)
        digest = base_model_digest(self.folder / DECODER)
        for number, site in enumerate(SITES):
            self.federation.join(site)
            self.federation.allow(
                site,
                purposes=list(PLANS),
                tasks=sorted({task for task, _, _ in PLANS.values()}),
                base_models=["any-embedded", digest],
                max_epsilon_total=30,
                max_epsilon_per_period=30,
            )
            models = self.folder / site / "models"
            models.mkdir(exist_ok=True)
            (models / DECODER).symlink_to(self.folder / DECODER)
            write_records(self.folder / f"records-{site}", number)
        for name, columns in COLUMNS.items():
            for site in SITES:
                self.processes.start(
                    f"{name}-{site}", "client", "data", "add", f"records-{site}/{name}.csv",
                    "--dir", site, "--dataset", name, "--subject", "person", *columns,
                    "--purpose", name, *ALSO_FOR.get(name, ()), "--legal-basis", "consent",
                )  # fmt: skip
            for site in SITES:
                code = self.processes.wait(f"{name}-{site}", 60)
                assert code == 0, self.processes.tail(f"{name}-{site}")
        for site in SITES:
            self.processes.start(site, "client", "start", "--dir", site)

    def train(self, name: str) -> tuple[dict[str, Any], Path]:
        """Take a plan to its release; returns the plan's status and the release as fetched."""
        task, labels, more = PLANS[name]
        plan_file = f"{name}.toml"
        text = PLAN.format(name=name, task=task, labels=labels, more=more)
        (self.folder / plan_file).write_text(text, encoding="utf-8")
        federation = self.federation
        plan_id = federation.submit(plan_file)
        federation.approve("plan", plan_id)

        def completed() -> bool:
            plan = federation.plan_status(plan_id)
            assert plan["stage"] != "failed", plan["reason"] + self.processes.tail("north")
            return bool(plan["stage"] == "completed")

        federation.until(completed, RUN_SECONDS)
        release_id = federation.await_release(plan_id)
        federation.approve("release", release_id)
        consumer = f"consumer-of-{name}"
        key = federation.add_consumer(consumer)
        federation.grant(release_id, consumer, key, name)
        self.processes.run(*federation.fetch_command(release_id, consumer, f"model-{name}"))
        return federation.plan_status(plan_id), self.folder / f"model-{name}"


@pytest.fixture(scope="module")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinics]:
    folder = tmp_path_factory.mktemp("tasks")
    with Processes(folder) as processes:
        started = Clinics(folder, processes)
        started.start()
        yield started


def test_a_plan_that_sums_securely_comes_to_a_release_and_the_coordinator_saw_no_update(
    clinics: Clinics,
) -> None:
    plan, model = clinics.train("summed")
    assert plan["rounds_done"] == 4
    assert float(plan["accuracy"]) > 0.5
    for site in SITES:
        journal = ("audit", "show", f"{site}/journal.sqlite", "--action")
        revealed = clinics.processes.json(*journal, "round-revealed")["entries"]
        assert len(revealed) == 8, "updates and counts of four rounds"
        assert len(clinics.processes.json(*journal, "peer-learned")["entries"]) == 1
    assert (model / "README.md").is_file()


def run_card(folder: Path) -> str:
    """What the code on a release's model card prints, in a process of its own."""
    card = (folder / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_a_table_is_trained_and_released(clinics: Clinics) -> None:
    plan, model = clinics.train("hearts")
    assert float(plan["accuracy"]) > 0.6
    assert re.search("healthy|ill", run_card(model))


def test_parts_of_texts_are_trained_and_released(clinics: Clinics) -> None:
    plan, model = clinics.train("drugs")
    told = plan["evaluation"]["entities"]["everybody"]
    assert told["support"] > 0
    evaluated = json.loads((model / "evaluation.json").read_text("utf-8"))
    assert evaluated["entities"]["everybody"] == told


def test_language_is_trained_and_released(clinics: Clinics) -> None:
    plan, model = clinics.train("letters")
    assert plan["evaluation"]["everybody"]["perplexity"] > 1
    (model / DECODER).symlink_to(clinics.folder / DECODER)  # where the card looks for the base
    assert len(run_card(model)) > len("Please send me the")


def test_each_plan_cost_what_it_promised(clinics: Clinics) -> None:
    for site in SITES:
        spent = clinics.processes.json("client", "budget", "--dir", site)
        assert 8 < spent["epsilon_spent"] <= 30
