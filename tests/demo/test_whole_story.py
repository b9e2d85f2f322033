"""The demo, small: coordinator, compliance service and three sites as real processes over TLS.

They are forked from one that has everything imported (`tests.warm`); else it is `make demo`.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from demo import story
from demo.__main__ import main
from demo.results import REPORT_KEYS
from demo.story import SITES
from tests.warm import WarmProcesses

SUBJECTS = 120

MOST_SECONDS = 900
"""It takes one or two minutes; on a machine that does much else, several times that."""

pytestmark = pytest.mark.timeout(MOST_SECONDS + 60)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo")
    command = ["make demo", "--folder", str(folder), "--subjects", str(SUBJECTS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        patch.setattr(story, "Processes", WarmProcesses)
        assert main() == 0
    return folder, json.loads((folder / "report.json").read_text())


def test_report_holds_what_is_promised(told: tuple[Path, dict[str, Any]]) -> None:
    _, report = told
    assert set(REPORT_KEYS) <= set(report)
    for finding in (
        "log_verified",
        "tamper_detected",
        "erasure_receipt_verified",
        "release_loaded",
    ):
        assert report[finding] is True


def test_every_site_spent_its_budget_and_no_more(told: tuple[Path, dict[str, Any]]) -> None:
    _, report = told
    assert set(report["epsilon_by_site"]) == set(SITES)
    assert all(7.5 < spent <= 8 for spent in report["epsilon_by_site"].values())


def test_the_model_learnt_more_than_guessing(told: tuple[Path, dict[str, Any]]) -> None:
    _, report = told
    assert report["accuracy"] > 2 * report["majority_share"]
    assert report["macro_f1"] > 0.3
    low, high = report["accuracy_interval"]
    assert low < report["accuracy"] < high
    assert report["macro_roc_auc"] > 0.6
    assert 0 <= report["expected_calibration_error"] <= 1
    assert sum(row["support"] for row in report["labels"]) > 0


def test_hardly_any_planted_identifier_is_left(told: tuple[Path, dict[str, Any]]) -> None:
    _, report = told
    assert report["identifiers_planted"] > 10 * SUBJECTS
    assert report["identifiers_left"] <= 0.005 * report["identifiers_planted"]


def test_no_planted_name_lies_in_clear_on_any_disk(told: tuple[Path, dict[str, Any]]) -> None:
    """Grep every file that any process wrote, except the notes themselves and what names them."""
    folder, _ = told
    names = {
        item["value"]
        for site in SITES
        for items in json.loads((folder / f"notes/{site}/planted.json").read_text())[
            "subjects"
        ].values()
        for item in items
        if item["kind"] in ("name", "email", "phone", "record-number") and len(item["value"]) > 8
    }
    assert len(names) > SUBJECTS
    needles = [name.encode() for name in names]
    for path in folder.rglob("*"):
        if path.is_file() and "notes" not in path.relative_to(folder).parts:
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path


def test_nothing_in_the_log_is_readable_without_the_keyring(
    told: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = told
    connection = sqlite3.connect(f"file:{folder}/compliance/compliance.sqlite?mode=ro", uri=True)
    try:
        leaves = [row[0] for row in connection.execute("SELECT leaf FROM log_entries")]
    finally:
        connection.close()
    assert len(leaves) >= report["log_entries"]
    assert all(set(json.loads(leaf)) >= {"ciphertext", "nonce", "key"} for leaf in leaves)
    assert not any(b"payload" in leaf for leaf in leaves)


def test_every_process_ended_soon_after_ctrl_c(told: tuple[Path, dict[str, Any]]) -> None:
    folder, report = told
    assert set(report["stop_seconds"]) == {*SITES, "server", "compliance"}
    logs = {path.name: path.read_text() for path in (folder / "logs").glob("*.log")}
    assert not [name for name, text in logs.items() if "Traceback" in text]
