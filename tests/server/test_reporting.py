"""What is shown and recorded: the live table, plain lines, the event log."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from rich.console import Console

from server import events
from server.events import EventLog
from server.progress import LineReporter, LiveReporter, RunView, table_of

VIEW = RunView(
    plan_id="sha256:1",
    name="message-routing",
    round=1,
    rounds=4,
    phase="adapter",
    activity="training",
    sites=("st-elm", "lakeside", "merchant", "late"),
    answered=("st-elm",),
    waiting=("lakeside",),
    absent={"merchant": "refused: purpose: [bold]no[/]"},
    epsilon_by_site={"st-elm": "1.25"},
    epsilon_promised="8",
    accuracy="0.912000",
    macro_f1="0.870000",
)


def test_the_table_tells_round_sites_accuracy_and_epsilon() -> None:
    stream = io.StringIO()
    Console(file=stream, width=160).print(table_of(VIEW))
    text = stream.getvalue()
    for said in ("round 2 of 4 (adapter)", "accuracy 0.912000", "of 8", "1.25"):
        assert said in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "answered" in lines["st-elm"]
    assert "working" in lines["lakeside"]
    assert "refused: purpose: [bold]no[/]" in lines["merchant"]
    assert "offline" in lines["late"]


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_the_table_s_round_and_figures_are_in_one_piece(columns: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=columns).print(table_of(VIEW))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert "message-routing  round 2 of 4 (adapter)" in lines
    assert "accuracy 0.912000  macro F1 0.870000" in lines
    assert max(map(len, lines)) <= columns


def test_the_live_reporter_keeps_lines_and_clears_its_table() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with LiveReporter(console) as reporter:
        reporter.show(VIEW)
        reporter.note("a round [with brackets] ended")
        reporter.show(None)
    assert "a round [with brackets] ended" in stream.getvalue()


def test_plain_lines_hold_no_markup_and_one_line_each() -> None:
    stream = io.StringIO()
    reporter = LineReporter(Console(file=stream, width=40, soft_wrap=True))
    reporter.show(VIEW)
    reporter.note("x" * 200 + " [red]not red[/]")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("[red]not red[/]")


def test_the_event_log_is_private_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_LOG_BYTES", 2_000)
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(100):
        log.record(port="partner", actor="st-elm", path=f"/{number}", status=404, reason="no")
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["events.1.jsonl", "events.jsonl"]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size < 2_200
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert (last["path"], last["status"], last["actor"]) == ("/99", 404, "st-elm")


def test_a_hostile_path_stays_one_bounded_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.record(port="partner", actor="unknown", path="/\n{}\x00" * 500, status=404)
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(line) < 2_500
    assert json.loads(line)["path"].startswith("/\n{}")
