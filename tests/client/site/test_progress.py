"""What the worker shows, and the status file that it keeps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from client.progress import ActivityFile, TerminalReporter, read_activity


def test_plain_lines_where_nobody_watches() -> None:
    shown = io.StringIO()
    reporter = TerminalReporter(Console(file=shown, force_terminal=False, width=200))
    reporter.say("round [1] of 4")
    with reporter.steps("round 1", 2) as done:
        done(1, 2)
    assert shown.getvalue().endswith(" round [1] of 4\n")
    assert shown.getvalue().startswith("20")


def test_a_bar_on_a_terminal() -> None:
    shown = io.StringIO()
    reporter = TerminalReporter(Console(file=shown, force_terminal=True, width=100))
    reporter.say("hello", problem=True)
    with reporter.steps("round 1 of 4", 2) as done:
        done(1, 2)
        done(2, 2)
    assert "round 1 of 4" in shown.getvalue()


def test_the_status_file_is_whole_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    assert read_activity(path) is None
    file = ActivityFile(path, clock=lambda: "2026-11-02T09:00:00Z")
    file.update(doing="training", plan_id="sha256:aa", round=1, rounds=4)
    read = read_activity(path)
    assert read == file.activity
    assert json.loads(path.read_text())["since"] == "2026-11-02T09:00:00Z"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"surprise": 1}'])
def test_a_damaged_status_file_is_no_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "worker.json").write_text(content)
    assert read_activity(tmp_path / "worker.json") is None
