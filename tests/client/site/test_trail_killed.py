"""kill -9 before every statement while a trail is written: each subject has its entry, once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.client.site.killed_trail import SUBJECTS

ROOT = Path(__file__).parents[3]


def test_killed_at_any_write_every_subject_has_one_entry(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.site.killed_trail", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    for run in runs:
        assert (run["subjects"], run["most"]) == (SUBJECTS, 1), run
    assert runs[-1]["ended"]
    assert runs[-1]["written"] == SUBJECTS
    # Pages of three: the kills fall before, between and after all of them.
    assert {run["written"] for run in runs} == {0, 3, 6, 7}
