"""The time that is left comes from measured rounds of the same phase, or is not told."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from client import pace
from client.pace import pace_of
from client.progress import ActivityFile, read_activity
from tests.client.site.documents import make_plan


def test_the_examples_in_its_words_hold() -> None:
    assert doctest.testmod(pace).failed == 0


def test_nothing_is_told_before_anything_is_measured() -> None:
    found = pace_of([3, 5], [], 0, 100.0)
    assert (found.seconds_a_round, found.rounds_an_hour) == (None, None)
    assert (found.phase_seconds_left, found.seconds_left) == (None, None)


def test_a_phase_to_come_that_was_never_measured_is_not_guessed() -> None:
    found = pace_of([3, 5], [(0, 10.0)], 1)
    assert found.phase_seconds_left == 20.0
    assert found.seconds_left is None


def test_only_rounds_of_a_phase_count_for_it() -> None:
    found = pace_of([2, 3], [(0, 100.0), (1, 100.0), (2, 1.0)], 3)
    assert (found.phase, found.seconds_a_round, found.seconds_left) == (1, 1.0, 2.0)


def test_the_present_round_counts_only_up_to_a_mean_round() -> None:
    measured = [(0, 10.0), (1, 10.0)]
    assert pace_of([4], measured, 2, 4.0).seconds_left == 16.0
    assert pace_of([4], measured, 2, 400.0).seconds_left == 10.0


def test_old_rounds_are_forgotten() -> None:
    slow = [(number, 100.0) for number in range(5)]
    fast = [(number, 1.0) for number in range(5, 15)]
    assert pace_of([20], slow + fast, 15).seconds_left == 5.0


def test_a_finished_run_has_nothing_left() -> None:
    assert pace_of([2], [(0, 1.0), (1, 1.0)], 2).seconds_left == 0.0


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def test_a_site_measures_from_one_beginning_to_the_next(tmp_path: Path, seconds: Seconds) -> None:
    path, plan = tmp_path / "worker.json", make_plan()
    total = sum(phase.rounds for phase in plan.phases)
    assert total >= 3
    file = ActivityFile(path, monotonic=seconds)
    for number in range(2):
        file.begin("training", "sha256:1", number, plan)
        file.begin("evaluating", "sha256:1", number, plan)
        seconds.now += 30.0
    file.begin("training", "sha256:1", 2, plan)
    read = read_activity(path)
    assert read is not None
    assert read.measured == ((0, 30.0), (1, 30.0))
    assert read.pace() == pace_of([phase.rounds for phase in plan.phases], read.measured, 2)
    file.begin("training", "sha256:2", 0, plan)
    assert file.activity.measured == ()


def test_rounds_that_went_by_without_the_site_are_not_measured(
    tmp_path: Path, seconds: Seconds
) -> None:
    file, plan = ActivityFile(tmp_path / "worker.json", monotonic=seconds), make_plan()
    file.begin("training", "sha256:1", 0, plan)
    seconds.now += 300.0
    file.begin("training", "sha256:1", 2, plan)
    assert file.activity.measured == ()


def test_steps_are_written_down_now_and_then_with_their_pace(
    tmp_path: Path, seconds: Seconds
) -> None:
    path, plan = tmp_path / "worker.json", make_plan()
    file = ActivityFile(path, monotonic=seconds)
    file.begin("training", "sha256:1", 0, plan)
    steps = []
    for step in range(1, 11):
        seconds.now += 0.5
        file.step(step, 10, 50 * step)
        steps.append(file.activity.step)
    assert steps == [1, 1, 3, 3, 5, 5, 7, 7, 9, 10]
    read = read_activity(path)
    assert read is not None
    assert (read.records_per_second, read.step_seconds_left) == (100.0, 0.0)
