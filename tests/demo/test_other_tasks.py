"""A table, labelled parts of texts and language: one federation of real processes, a plan of each.

Two sites hold all three kinds of records; the base model of the language plan is a folder of the
sites' own. Releases are read by the code on their own model cards.
"""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.learning.base_model import base_model_digest
from demo.processes import Processes, free_ports

SITES = ("north", "south")
SUBJECTS = 80
RUN_SECONDS = 150
DECODER = "tiny-decoder"
OFFICER = ("--trust", "compliance/trust.json", "--token-file", "compliance/tokens/officer.token")

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


def write_decoder(folder: Path) -> None:
    """A Llama of two layers, with a tokenizer of bytes."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["thank you for the kind words"], vocab_size=280)
    trained.add_special_tokens(["<end>"])
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=trained._tokenizer, eos_token="<end>"
    )
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=48,
            eos_token_id=len(tokenizer) - 1,
            bos_token_id=len(tokenizer) - 1,
        )
        LlamaForCausalLM(config).save_pretrained(folder)


class Federation:
    """Services and sites, as the demo starts them, and how a plan is taken to its release."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes

    def start(self) -> None:
        run = self.processes.run
        ports = list(map(str, free_ports(3)))
        run("compliance", "init", "compliance", "--port", ports[0])
        self.processes.start("compliance", "compliance", "start", "compliance")
        self.until(
            lambda: self.processes.exit_code("compliance", "plans", *OFFICER) == 0, seconds=30
        )
        run(
            "server", "init", "federation", "--name", "clinics",
            "--compliance", "compliance/trust.json",
            "--token-file", "compliance/tokens/coordinator.token",
            "--fleet-port", ports[1], "--control-port", ports[2],
        )  # fmt: skip
        self.processes.start("server", "server", "start", "federation")
        write_decoder(self.folder / DECODER)
        digest = base_model_digest(self.folder / DECODER)
        for number, site in enumerate(SITES):
            self._join(site)
            self._allow(site, digest)
            write_records(self.folder / f"records-{site}", number)
        for name, columns in COLUMNS.items():
            for site in SITES:
                self.processes.start(
                    f"{name}-{site}", "client", "data", "add", f"records-{site}/{name}.csv",
                    "--dir", site, "--dataset", name, "--subject", "person", *columns,
                    "--purpose", name, "--legal-basis", "consent",
                )  # fmt: skip
            for site in SITES:
                code = self.processes.wait(f"{name}-{site}", 60)
                assert code == 0, self.processes.tail(f"{name}-{site}")
        for site in SITES:
            self.processes.start(site, "client", "start", "--dir", site)

    def _join(self, site: str) -> None:
        kit = f"{site}.kit"
        invited = self.processes.json("server", "invite", site, "--dir", "federation", "-o", kit)
        run = self.processes.run
        run(
            "client", "join", kit, "--dir", site, "--fingerprint", invited["fingerprint"],
            "--wait", "0",
        )  # fmt: skip
        run("server", "admit", site, "--dir", "federation")
        run("client", "join", kit, "--dir", site, "--wait", "30")

    def _allow(self, site: str, digest: str) -> None:
        policy = self.folder / site / "policy.toml"
        text = policy.read_text("utf-8")
        tasks = [task for task, _, _ in PLANS.values()]
        for key, value in {
            "purposes": json.dumps(list(PLANS)),
            "tasks": json.dumps(tasks),
            "base_models": json.dumps(["any-embedded", digest]),
            "max_epsilon_total": "30",
        }.items():
            text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
            assert count == 1
        policy.write_text(text, encoding="utf-8")
        models = self.folder / site / "models"
        models.mkdir(exist_ok=True)
        (models / DECODER).symlink_to(self.folder / DECODER)

    def train(self, name: str) -> dict[str, Any]:
        """Submit, approve and wait; returns the plan's status."""
        task, labels, more = PLANS[name]
        text = PLAN.format(name=name, task=task, labels=labels, more="{more}")
        head, sections = more.strip("\n").partition("[")[::2]
        text = text.replace("{more}", head) + (f"\n[{sections}" if sections else "")
        (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")
        plan_id = str(
            self.processes.json("server", "submit", f"{name}.toml", "--dir", "federation")[
                "plan_id"
            ]
        )
        self.processes.run("compliance", "approve", "plan", plan_id, *OFFICER)

        def ended() -> bool:
            return self.status(plan_id)["stage"] in ("completed", "failed")

        self.until(ended, RUN_SECONDS)
        self.until(lambda: self.status(plan_id)["release"] is not None, 30)
        return self.status(plan_id)

    def status(self, plan_id: str) -> dict[str, Any]:
        told = self.processes.json("server", "status", "--dir", "federation")
        found: dict[str, Any] = next(p for p in told["plans"] if p["plan_id"] == plan_id)
        assert found["stage"] != "failed", found["reason"] + self.processes.tail("north")
        return found

    def fetch(self, name: str, release_id: str) -> Path:
        """Approve, grant and fetch a release; returns its folder."""
        run, consumer = self.processes.run, f"consumer-{name}"
        run("compliance", "approve", "release", release_id, *OFFICER)
        added = self.processes.json(
            "compliance", "principals", "add", consumer, "--role", "consumer", *OFFICER
        )
        token = self.folder / f"{consumer}.token"
        token.touch(mode=0o600)
        token.write_text(added["token"], encoding="utf-8")
        key = self.processes.json("server", "release", "keygen", f"{consumer}.key")["public_key"]
        run(
            "compliance", "grant", release_id, "--to", consumer, "--public-key", key,
            "--purpose", name, "--days", "3", *OFFICER,
        )  # fmt: skip
        run(
            "server", "release", "fetch", release_id, "--out", f"model-{name}",
            "--trust", "compliance/trust.json", "--token-file", token.name,
            "--key", f"{consumer}.key", "--dir", "federation",
        )  # fmt: skip
        return self.folder / f"model-{name}"

    def until(self, ready: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            self.processes.check_alive()
            assert time.monotonic() < deadline, self.processes.tail("server")
            time.sleep(0.5)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("tasks")
    with Processes(folder) as processes:
        started = Federation(folder, processes)
        started.start()
        yield started


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


def test_a_table_is_trained_and_released(federation: Federation) -> None:
    plan = federation.train("hearts")
    assert float(plan["accuracy"]) > 0.6
    told = run_card(federation.fetch("hearts", plan["release"]["release_id"]))
    assert re.search("healthy|ill", told)


def test_parts_of_texts_are_trained_and_released(federation: Federation) -> None:
    plan = federation.train("drugs")
    assert plan["evaluation"]["entities"]["everybody"]["support"] > 0
    model = federation.fetch("drugs", plan["release"]["release_id"])
    evaluated = json.loads((model / "evaluation.json").read_text("utf-8"))
    told = plan["evaluation"]["entities"]["everybody"]
    assert evaluated["entities"]["everybody"] == told


def test_language_is_trained_and_released(federation: Federation) -> None:
    plan = federation.train("letters")
    assert plan["evaluation"]["everybody"]["perplexity"] > 1
    model = federation.fetch("letters", plan["release"]["release_id"])
    (model / DECODER).symlink_to(federation.folder / DECODER)  # where the card looks for the base
    assert len(run_card(model)) > len("Please send me the")


def test_each_plan_cost_what_it_promised(federation: Federation) -> None:
    for site in SITES:
        spent = federation.processes.json("client", "budget", "--dir", site)
        assert 8 < spent["epsilon_spent"] <= 24
