"""A site's metrics, JSON lines and watched status, from `client start` as an operator runs it."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest
from prometheus_client.samples import Sample

from client import network, status
from client.site import Site
from client.status import BudgetReader, read_status
from client.stopping import StopSignal
from client.watch_screen import one_line, screen
from tests.audit.test_watching import on_a_terminal
from tests.client.site.test_cli import Run, run
from tests.client.site.world import World
from tests.scraping import assert_nothing_personal, free_port, scrape, value

__all__ = ["run"]


def test_metrics_and_events_of_a_round_and_a_refusal(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    samples: list[Sample] = []
    looks: list[dict[str, Any]] = []

    def look_then_press() -> None:
        samples.extend(scrape(port))
        looks.append(read_status(world.site))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(network, "fleet_connector", lambda _site: world.fleet.connect)
    world.train(0)
    world.evaluate(0)
    world.train(0, plan_id=f"sha256:{'0' * 64}", state=world.state)
    world.fleet.tasks.append(look_then_press)
    done = run(
        *("start", "--dir", world.site.paths.root),
        *("--metrics-port", port, "--log-format", "json"),
    )
    assert done.code == 130

    assert_nothing_personal(samples)
    assert value(samples, "fiduciary_connected") == 1
    assert value(samples, "fiduciary_tasks_total", activity="train", outcome="done") == 1
    assert value(samples, "fiduciary_tasks_total", activity="evaluate", outcome="done") == 1
    assert value(samples, "fiduciary_tasks_total", activity="train", outcome="refused") == 1
    assert value(samples, "fiduciary_refusals_total", code="plan-unknown") == 1
    spent = value(samples, "fiduciary_budget_epsilon_spent")
    reserved = value(samples, "fiduciary_budget_epsilon_reserved")
    limit = value(samples, "fiduciary_budget_epsilon_limit")
    assert spent is not None
    assert reserved is not None
    assert limit is not None
    assert 0 < spent < spent + reserved <= limit
    (look,) = looks
    assert spent == look["budget"]["epsilon_spent"]
    assert value(samples, "fiduciary_log_entries") == look["journal_entries"]
    assert (value(samples, "fiduciary_log_append_seconds_count") or 0) > 3
    assert value(samples, "fiduciary_log_alarms") == 0

    events = [json.loads(line) for line in done.err.splitlines()]
    assert {(event["process"], event["site"]) for event in events} == {("client", "north")}
    names = [event["event"] for event in events]
    for name in ("metrics-served", "worker-started", "connected", "round-trained"):
        assert name in names
    assert names[-1] == "worker-ended"
    (refused,) = [event for event in events if event["event"] == "task-refused"]
    assert (refused["code"], refused["level"]) == ("plan-unknown", "warning")
    (trained,) = [event for event in events if event["event"] == "round-trained"]
    assert (trained["plan"], trained["round"]) == (world.plan_id, 0)


def test_no_port_is_opened_unless_asked_for(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.metrics.serving_metrics", None)  # calling it would fail
    monkeypatch.setattr(network, "fleet_connector", lambda _site: world.fleet.connect)
    world.fleet.tasks.append(lambda: signal.raise_signal(signal.SIGTERM))
    assert run("start", "--dir", world.site.paths.root).code == 0


def test_the_watched_status_tells_round_steps_epsilon_and_problems(world: World) -> None:
    found = read_status(world.site)
    assert one_line(found).startswith("not running; budget: epsilon 0 spent, 0 reserved")
    found["worker"] |= {
        "running": True,
        "doing": "training",
        "plan_id": world.plan_id,
        "round": 2,
        "rounds": 9,
        "phase": "adapter",
        "step": 3,
        "steps": 8,
        "records_per_second": 125.0,
        "step_seconds_left": 16.0,
        "epsilon_spent": "1.5",
        "epsilon_promised": "8",
        "last_problem": "the line\nwas cut",
        "pace": {"seconds_left": None, "phase_seconds_left": 90.0, "seconds_a_round": 30.0},
    }
    line = one_line(found)
    for said in (
        "training round 3 of 9 (adapter)",
        "step 3 of 8, 125 records/s, round done in about 16 s",
        "plan done in: not known yet (this phase: about 90 s), 30.0 s a round",
        "last problem: the line was cut",
    ):
        assert said in line
    assert screen(found) is not None


def test_the_status_is_watched_on_a_terminal(world: World) -> None:
    program = (sys.executable, "-c", "from client.cli import main; main()")
    folder = str(world.site.paths.root)
    with on_a_terminal(*program, "status", "--watch", "--dir", folder) as terminal:
        terminal.read_until(b"q ends this")
        terminal.press(b"q")
        assert terminal.process.wait(60) == 0
    for said in (b"worker: not running", b"budget: epsilon 0 spent"):
        assert said in terminal.shown


def test_the_budget_is_composed_again_only_when_it_may_have_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: list[str] = []
    real = status.read_budget

    def counted(site: Site) -> dict[str, Any]:
        composed.append(site.name)
        return real(site)

    monkeypatch.setattr(status, "read_budget", counted)
    monkeypatch.setattr("client.worker.TEND_SECONDS", 0.0)
    reader = BudgetReader()
    assert reader(world.site)["epsilon_spent"] == 0
    for _ in range(5):
        reader(world.site)
    seen = len(composed)
    assert seen <= 2  # opening the ledger may touch its files once
    world.train(0)
    world.fleet.tasks.append(lambda: signal.raise_signal(signal.SIGTERM))
    with StopSignal() as stop:
        world.run(stop=stop)
    assert reader(world.site)["epsilon_spent"] > 0
    assert len(composed) == seen + 1
