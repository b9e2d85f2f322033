"""JSON lines hold what the catalogue names, and nothing else."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from audit.process_events import MAX_TEXT_CHARACTERS, EventKind, JsonLines

CATALOGUE = {"thing-done": EventKind("warning", ("plan", "count", "seconds"), "a thing")}
NOW = datetime(2026, 11, 2, 9, 0, 0, 5_000, tzinfo=UTC)


def written(*events: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    stream = io.StringIO()
    lines = JsonLines("server", CATALOGUE, stream, {"federation": "demo"}, clock=lambda: NOW)
    for name, fields in events:
        lines(name, fields)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_process_event_and_its_fields() -> None:
    (line,) = written(("thing-done", {"plan": "sha256:1", "count": 3, "seconds": 0.5}))
    assert line == {
        "time": "2026-11-02T09:00:00.005Z",
        "level": "warning",
        "process": "server",
        "event": "thing-done",
        "federation": "demo",
        "plan": "sha256:1",
        "count": 3,
        "seconds": 0.5,
    }


def test_what_the_catalogue_does_not_name_is_not_written() -> None:
    (line,) = written(("thing-done", {"plan": "a", "reason": "Jane Doe said no"}))
    assert "reason" not in line
    with pytest.raises(KeyError):
        written(("thing-invented", {}))


def test_a_hostile_id_stays_one_bounded_line() -> None:
    (line,) = written(("thing-done", {"plan": '\n{"event": "x"}\x1b[2J' * 100}))
    assert line["event"] == "thing-done"
    assert len(line["plan"]) == MAX_TEXT_CHARACTERS


def test_a_number_that_json_cannot_hold_is_null() -> None:
    (line,) = written(("thing-done", {"seconds": float("inf")}))
    assert line["seconds"] is None


def test_a_reader_that_went_away_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    JsonLines("server", CATALOGUE, Gone())("thing-done", {"count": 1})
