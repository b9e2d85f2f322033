"""What the worker shows, and the status file that it keeps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from client.progress import ActivityFile, TerminalReporter, pace, read_activity


def test_plain_lines_where_nobody_watches() -> None:
    shown = io.StringIO()
    reporter = TerminalReporter(Console(file=shown, force_terminal=False, width=200))
    reporter.say("round [1] of 4")
    with reporter.steps("round 1", 2) as done:
        done(1, 2, 100)
    assert shown.getvalue().endswith(" round [1] of 4\n")
    assert shown.getvalue().startswith("20")


def test_a_bar_on_a_terminal() -> None:
    shown = io.StringIO()
    reporter = TerminalReporter(Console(file=shown, force_terminal=True, width=100))
    reporter.say("hello", problem=True)
    with reporter.steps("round 1 of 4 [x], epsilon 0.5 of 8", 2) as done:
        done(1, 2, 0)
        done(2, 2, 0)
    assert "round 1 of 4 [x], epsilon 0.5 of 8" in shown.getvalue()


class _Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_tells_throughput_and_time_left() -> None:
    shown, clock = io.StringIO(), _Clock()
    reporter = TerminalReporter(Console(file=shown, force_terminal=True, width=120), clock)
    with reporter.steps("round 1 of 4", 4) as done:
        clock.now += 2
        done(1, 4, 500)
    assert "1/4" in shown.getvalue()
    assert "250 records/s, 6 s left" in shown.getvalue()


def test_a_long_round_says_how_far_it_is_where_nobody_watches() -> None:
    shown, clock = io.StringIO(), _Clock()
    reporter = TerminalReporter(Console(file=shown, force_terminal=False, width=200), clock)
    with reporter.steps("round 1 of 4, epsilon 0.5 of 8", 10) as done:
        for step in range(1, 11):
            clock.now += 12
            done(step, 10, 120 * step)
    lines = shown.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "round 1 of 4, epsilon 0.5 of 8: step 3 of 10, 10 records/s, 84 s left",
        "round 1 of 4, epsilon 0.5 of 8: step 6 of 10, 10 records/s, 48 s left",
        "round 1 of 4, epsilon 0.5 of 8: step 9 of 10, 10 records/s, 12 s left",
    ]


@pytest.mark.parametrize(
    ("done", "total", "records", "seconds", "shown"),
    [
        (0, 4, 0, 1.0, ""),
        (1, 4, 10, 0.0, ""),
        (1, 4, 0, 60.0, "3 min left"),
        (4, 4, 40, 4.0, "10 records/s, 0 s left"),
    ],
)
def test_pace(done: int, total: int, records: int, seconds: float, shown: str) -> None:
    assert pace(done, total, records, seconds) == shown


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
