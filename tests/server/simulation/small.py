"""A small simulation of a table that trains in a moment."""

from __future__ import annotations

import json
import random
from pathlib import Path

from client.learning.data import StoredRecord
from client.simulation.bundle import Bundle
from client.simulation.partition import Dealt, deal_evenly, site_names
from compliance.statements import TrainingPlan
from server.plan_file import PlanFile, read_plan_file
from server.simulation.variants import Variant, plan_of

SEED = 11

PLAN = """
[plan]
name = "risk"
task = "tabular-classification"
labels = ["low", "high"]
sites = ["st-elm", "lakeside"]
purpose = "risk-research"
legal_basis = "consent"
retention_days = 30
minimum_subjects = 20
rounds = 4

[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 40

[[features]]
name = "age"
kind = "number"
low = 0
high = 100

[[features]]
name = "ward"
kind = "category"
values = ["a", "b"]
"""


def plan_file(folder: Path, text: str = PLAN) -> tuple[PlanFile, Path]:
    """The plan file, read, and where it lies."""
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return read_plan_file(path), path


def small_plan(folder: Path, sites: int = 3, quorum: int | None = None) -> TrainingPlan:
    """The plan over simulated sites."""
    file, path = plan_file(folder)
    return plan_of(file, path, site_names(sites), Variant(), quorum)


def records(subjects: int = 120) -> list[StoredRecord]:
    """Old people are at risk, mostly; some have two records."""
    source = random.Random(1)
    made = []
    for number in range(subjects):
        for _ in range(1 + number % 2):
            age = source.randrange(100)
            is_high = age + source.gauss(0, 8) > 50
            cells = {"age": str(age), "ward": source.choice("ab")}
            label = "high" if is_high else "low"
            made.append(StoredRecord(f"s{number}", json.dumps(cells), label))
    return made


def dealt(sites: int = 3, subjects: int = 120) -> Dealt:
    """The records at sites."""
    return deal_evenly(records(subjects), site_names(sites), SEED)


def bundle_of(folder: Path, sites: Dealt, policy: str = "") -> Bundle:
    """What simulated sites read."""
    folder.mkdir()
    return Bundle.write(folder, sites, seed=SEED, secret=bytes(32), policy=policy)
