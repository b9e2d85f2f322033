"""kill -9 before every single statement of ledger and journal: what must hold afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_killed_at_any_write_the_budget_is_never_understated(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.site.killed_ledger", str(tmp_path), "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert runs[-1]["told"] == "RSSX", "the last run comes to its end"
    assert len(runs) > 30, "the scenario has many statements to die at"
    for run in runs:
        told = run["told"]
        # What the process was told it might do is spent, and nothing more than one step ahead.
        assert run["reserved"] >= told.count("R"), run
        assert told.count("S") <= run["started"] <= told.count("S") + 1, run
        assert run["settled"] >= told.count("X"), run
        # Every change is journalled after the restart, in order, none missing.
        assert sorted(set(run["sequences"])) == list(range(1, run["last_sequence"] + 1)), run
        assert run["sequences"] == sorted(run["sequences"]), run
        assert len(run["sequences"]) <= run["last_sequence"] + 1, run
        # A round that may have trained is never started again; one that was not, may be.
        for round_index, outcome in enumerate(run["restarted"]):
            if run["settled"]:
                assert outcome == "NoReservation", run
            elif round_index < run["started"]:
                assert outcome == "RoundAlreadyStarted", run
            else:
                assert outcome == round_index, run
    # The kills cover every state, so that the assertions above were really put to the test.
    assert {run["started"] for run in runs} == {0, 1, 2}
    assert {run["reserved"] for run in runs} == {0, 1}
    assert {run["settled"] for run in runs} == {False, True}
    assert any(run["started"] > run["told"].count("S") for run in runs)
