"""Rounds over Flower's Grid, on a clock that has the seconds of a federation."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.app.error import Error

from client.arrays import pack_arrays
from client.deflated import deflate
from client.fleet_tasks import refusal_content
from server.rounds import Exchange, Stopped, Task, exchange
from server.simulation.wire import UNAVAILABLE, Conditions, SimulatedWire
from server.superlink import Answer
from tests.server.simulation.grids import RUN_ID, FakeGrid, scripted, site_of

SITES = ("sim-001", "sim-002", "sim-003")
ARRAYS = {"w": np.ones(1000, dtype=np.float32)}
PACKED = pack_arrays(ARRAYS)


def _ask(
    wire: SimulatedWire, *, deadline: float = 60, kind: Any = "train", arrays: bytes = PACKED
) -> Exchange[Answer]:
    task = Task(
        run_id=RUN_ID,
        kind=kind,
        plan_id="sha256:" + "0" * 64,
        round=0,
        arrays=arrays,
        sites=SITES,
        quorum=1,
        deadline_seconds=deadline,
    )
    return exchange(
        wire,
        task,
        lambda _site, answer: answer,
        clock=wire.clock,
        stop=threading.Event(),
        watch=lambda *_: None,
    )


def _wire(grid: FakeGrid, conditions: Conditions | None = None) -> SimulatedWire:
    return SimulatedWire(grid, SITES, conditions or Conditions(), sleep=lambda _: None)


def test_every_site_is_asked_once_and_answers_for_itself() -> None:
    grid = FakeGrid(3, scripted(lambda _: 1.0, ARRAYS), appearing=True)
    told = _ask(_wire(grid))
    assert set(told.accepted) == set(SITES)
    assert {site: answer.report["site"] for site, answer in told.accepted.items()} == {
        site: site for site in SITES
    }
    assert sorted(map(site_of, grid.pushed)) == list(SITES)
    assert len({message.metadata.dst_node_id for message in grid.pushed}) == 3


def test_a_round_takes_as_long_as_its_slowest_site_computes_and_sends() -> None:
    slowest = {"sim-001": 1.0, "sim-002": 20.0, "sim-003": 3.0}
    wire = _wire(FakeGrid(3, scripted(slowest.__getitem__, ARRAYS)), Conditions(bandwidth_mbit=1))
    told = _ask(wire)
    sent = 8 * len(PACKED) / 1e6  # a megabit a second
    received = 8 * (wire.traffic.from_sites / 3) / 1e6
    assert told.seconds == pytest.approx(20 + sent + received)
    assert wire.traffic.to_sites == 3 * len(PACKED)
    assert wire.traffic.from_sites > 3 * len(PACKED)
    assert sorted(wire.traffic.seconds) == [1, 3, 20]


def test_who_misses_the_deadline_by_the_simulated_clock_is_absent() -> None:
    seconds = {"sim-001": 1.0, "sim-002": 61.0, "sim-003": 3.0}
    wire = _wire(FakeGrid(3, scripted(seconds.__getitem__, ARRAYS)))
    told = _ask(wire, deadline=60)
    assert set(told.accepted) == {"sim-001", "sim-003"}
    assert told.absent == {"sim-002": "no answer within the deadline of 60 seconds"}
    assert told.seconds == pytest.approx(60)


def test_smaller_numbers_take_less_of_the_link() -> None:
    small_arrays = {name: array.astype(np.int8) for name, array in ARRAYS.items()}
    full, small = (
        _wire(FakeGrid(3, scripted(lambda _: 0.0, arrays))) for arrays in (ARRAYS, small_arrays)
    )
    _ask(full)
    _ask(small)
    saved = 3 * sum(array.nbytes for array in small_arrays.values()) * 3
    assert full.traffic.from_sites - small.traffic.from_sites == saved
    assert small.traffic.to_sites == full.traffic.to_sites == 3 * len(PACKED)


def test_an_answer_to_a_compressed_task_is_compressed_and_counted_so() -> None:
    wire = _wire(FakeGrid(3, scripted(lambda _: 0.0, ARRAYS)))
    packed = deflate(PACKED)
    _ask(wire, kind="evaluate", arrays=packed)
    assert wire.traffic.to_sites == 3 * len(packed)
    assert {answer.deflated for answer in wire.counts.values()} == {packed}
    assert set(wire.counts) == set(SITES)
    said = sum(
        len(str(value)) for answer in wire.counts.values() for value in answer.report.values()
    )
    assert wire.traffic.from_sites == 3 * len(packed) + said


def test_dropout_is_a_share_and_is_the_same_again() -> None:
    conditions = Conditions(dropout=0.25, seed=5)
    drawn = [
        conditions.is_available(f"sim-{site:03}", number)
        for site in range(100)
        for number in range(20)
    ]
    assert 0.7 < sum(drawn) / len(drawn) < 0.8
    assert Conditions(dropout=0.25, seed=5).is_available("sim-001", 3) == drawn[23]
    assert all(Conditions().is_available(site, 0) for site in SITES)


def test_an_unavailable_site_is_told_absent_and_not_asked() -> None:
    conditions = next(
        found
        for seed in range(100)
        if [(found := Conditions(dropout=0.5, seed=seed)).is_available(site, 0) for site in SITES]
        == [True, False, True]
    )
    grid = FakeGrid(3, scripted(lambda _: 1.0, ARRAYS))
    told = _ask(_wire(grid, conditions))
    assert told.absent == {"sim-002": UNAVAILABLE}
    assert sorted(map(site_of, grid.pushed)) == ["sim-001", "sim-003"]


def test_refusals_and_failures_are_told_with_their_reason() -> None:
    honest = scripted(lambda _: 1.0, ARRAYS)

    def answer(message: Message, remembered: RecordDict) -> RecordDict | Error:
        match site_of(message):
            case "sim-001":
                return refusal_content("purpose", "not ours", "{}")
            case "sim-002":
                return Error(code=0, reason="out of memory")
            case _:
                return honest(message, remembered)

    told = _ask(_wire(FakeGrid(3, answer)))
    assert set(told.accepted) == {"sim-003"}
    assert told.absent == {
        "sim-001": "refused: purpose: not ours",
        "sim-002": "it failed: out of memory",
    }


def test_a_message_that_flower_does_not_take_leaves_its_site_unasked() -> None:
    grid = FakeGrid(3, scripted(lambda _: 1.0, ARRAYS), losing=frozenset({102}))
    told = _ask(_wire(grid), deadline=2)
    assert told.absent == {"sim-002": "offline"}


def test_a_stop_ends_an_exchange_while_sites_compute() -> None:
    stop = threading.Event()

    class Computing(FakeGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            stop.set()
            return []

    wire = _wire(Computing(3, scripted(lambda _: 1.0, ARRAYS)))
    task = Task(RUN_ID, "train", "sha256:" + "0" * 64, 0, PACKED, SITES, 1, 60)
    with pytest.raises(Stopped):
        exchange(
            wire,
            task,
            lambda _site, answer: answer,
            clock=wire.clock,
            stop=stop,
            watch=lambda *_: None,
        )
    assert wire.clock() == 0
