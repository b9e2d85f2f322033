"""Ctrl-C and SIGTERM, at any point: at once, cleanly, and with the ledger right."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from audit.errors import Unreachable
from client import stopping
from client.learning.private_sgd import RoundResult, SiteTrainer
from client.ledger import Ledger
from client.progress import read_activity
from client.stopping import Stopped, StopSignal
from client.worker import Ending
from tests.client.site.world import World

FOREVER = 3600.0


def press(number: signal.Signals = signal.SIGINT) -> None:
    signal.raise_signal(number)


def press_and_hang(*_: Any, **__: Any) -> Any:
    """What was going on when the signal came, and would have gone on for an hour."""
    press()
    time.sleep(FOREVER)


def serve(world: World) -> Ending:
    """Run until the signal; hanging for an hour would fail the test by its timeout."""
    with StopSignal() as stop:
        return world.run(stop=stop)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_training(
    world: World, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def train(self: SiteTrainer, *_: Any) -> RoundResult:
        press(number)
        time.sleep(FOREVER)
        raise AssertionError("it was not interrupted")

    monkeypatch.setattr(SiteTrainer, "train_round", train)
    world.train(0)
    world.train(1)
    with StopSignal() as stop:
        assert world.run(stop=stop) is Ending.STOPPED
        assert stop.received == number
    assert world.codes() == ["site-stopped"]
    assert world.started() == 1
    activity = read_activity(world.site.paths.worker_state)
    assert activity is not None
    assert activity.doing == "stopped"


def test_a_signal_between_two_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SiteTrainer._step

    def step(self: SiteTrainer, *arguments: Any) -> None:
        honest(self, *arguments)
        press()

    monkeypatch.setattr(SiteTrainer, "_step", step)
    world.train(0)
    assert serve(world) is Ending.STOPPED
    assert world.codes() == ["site-stopped"]
    assert world.started() == 1


@pytest.mark.parametrize("owner", ["poll", "evidence", "model"])
def test_a_signal_while_something_else_is_slow(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    if owner == "poll":
        world.fleet.tasks.append(press_and_hang)
    elif owner == "evidence":
        monkeypatch.setattr(world.compliance, "log_proof", press_and_hang)
        world.train(0)
    else:
        monkeypatch.setattr("client.lessons.build_model", press_and_hang)
        world.train(0)
    assert serve(world) is Ending.STOPPED
    assert world.started() == 0


def test_a_signal_while_the_ledger_writes_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is finished, then nothing is trained: the round is spent, as it must be."""
    honest = Ledger.start_round

    def start(self: Ledger, *arguments: Any) -> None:
        press()
        honest(self, *arguments)

    trained: list[int] = []
    monkeypatch.setattr(Ledger, "start_round", start)
    monkeypatch.setattr(SiteTrainer, "train_round", lambda *_: trained.append(1))
    world.train(0)
    assert serve(world) is Ending.STOPPED
    assert trained == []
    assert world.started() == 1
    assert world.codes() == ["site-stopped"]


def test_a_signal_while_it_waits_to_dial_again(world: World) -> None:
    world.fleet.refuse_connections = [Unreachable("no route")] * 3
    original = world.fleet.connect

    def connect(on_malformed: Callable[[str, str], None]) -> Any:
        if len(world.fleet.refuse_connections) == 1:
            press()
        return original(on_malformed)

    world.fleet.connect = connect  # type: ignore[method-assign]
    assert serve(world) is Ending.STOPPED
    assert world.fleet.connections == 0


def test_statements_wait_when_the_worker_is_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SiteTrainer, "train_round", press_and_hang)
    world.train(0)
    serve(world)
    assert world.compliance.refusals == []
    world.fleet.tasks.append(lambda: None)
    world.run()
    assert len(world.compliance.refusals) == 1


def test_a_farewell_that_hangs_is_cut_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(SiteTrainer, "train_round", press_and_hang)
    monkeypatch.setattr(world.fleet, "reply_refusal", lambda *_: time.sleep(FOREVER))
    world.train(0)
    assert serve(world) is Ending.STOPPED


def test_a_second_signal_ends_even_what_must_not_be_interrupted() -> None:
    with StopSignal() as stop:
        press()
        assert stop.requested
        with pytest.raises(Stopped):
            press()


def test_outside_the_block_the_signals_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignal() as stop:
        press()
        with pytest.raises(Stopped), stop.interruptible():
            raise AssertionError("it must not begin")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
