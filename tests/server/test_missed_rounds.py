"""Rounds without a quorum, and sites that are late or away, over real TLS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from client.arrays import Arrays
from server.attendance import Attendance
from server.errors import QuorumNotReached
from server.rounds import Stopped
from tests.server.conftest import Service, until
from tests.server.ground import Ground, ground
from tests.server.scripted import Script
from tests.server.test_training import outcome_of, rounds_of, run, simple_phase


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("recovery")) as made:
        yield made


def spoiling(when: Callable[[int], bool]) -> Script:
    """Sends what is no number in some of the rounds it is asked to train, counted from 0."""
    asked: list[int] = []

    def update(state: Arrays) -> Arrays:
        asked.append(len(asked))
        value = np.nan if when(asked[-1]) else 0.125
        return {name: np.full_like(array, value) for name, array in state.items()}

    # After the other site, which would not be waited for once a quorum is impossible.
    return Script(update=update, delay_seconds=0.5)


# --- missed rounds --------------------------------------------------------------------------------


def test_a_missed_round_is_recorded_and_the_run_goes_on(field: Ground) -> None:
    plan_id, plan = field.approved(name="misses-one", missed_rounds=1)
    spoilt = spoiling(lambda number: number == 1)
    with field.site("st-elm", plan), field.site("lakeside", plan, spoilt):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done, state.rounds_missed) == ("completed", 3, 1)
    first, missed, last = rounds_of(field, plan_id)
    assert missed.participants == ()
    assert missed.update_norm == 0
    assert missed.metrics is None
    assert missed.state_digest == first.state_digest, "the model is what it was"
    assert "not finite" in missed.absent["lakeside"]
    assert missed.absent["st-elm"] == "it answered, but too few others did"
    assert missed.epsilon_by_site["st-elm"] == Decimal("0.2"), "it trained: it is spent"
    assert last.participants == ("lakeside", "st-elm")
    model = field.folder(plan_id).model(state)
    assert model is not None
    np.testing.assert_allclose(model.current["head.bias"], 2 * 0.125)
    view = field.compliance.plan(plan_id)
    assert (view.rounds_reported, view.rounds_missed) == (3, 1)
    assert any("round 2 of 3 (probe), missed, 0 of 2 sites" in line for line in field.notes.lines)


def test_one_missed_round_too_many_fails_the_run(field: Ground) -> None:
    plan_id, plan = field.approved(name="misses-two", missed_rounds=1)
    spoilt = spoiling(lambda number: number >= 1)
    with field.site("st-elm", plan), field.site("lakeside", plan, spoilt):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done, state.rounds_missed) == ("failed", 2, 1)
    outcome = outcome_of(field, plan_id)
    assert outcome.verdict == "failed"
    assert "round 3 had 1 of the 2 sites that it needs (the plan bears 1" in outcome.reason


def test_a_run_that_missed_every_round_is_no_success(field: Ground) -> None:
    plan_id, plan = field.approved(name="misses-all", missed_rounds=3)
    spoilt = spoiling(lambda number: True)
    with field.site("st-elm", plan), field.site("lakeside", plan, spoilt):
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done) == ("failed", 3)
    assert "nothing was trained" in state.reason
    assert outcome_of(field, plan_id).verdict == "failed"


def test_a_missed_last_round_leaves_what_was_measured(field: Ground) -> None:
    plan_id, plan = field.approved(name="misses-last", missed_rounds=1)
    spoilt = spoiling(lambda number: number == 2)
    with field.site("st-elm", plan), field.site("lakeside", plan, spoilt):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    assert state.evaluation is not None
    outcome = outcome_of(field, plan_id)
    assert outcome.metrics == rounds_of(field, plan_id)[1].metrics


def test_a_model_that_nobody_measured_before_is_measured_in_a_missed_last_round(
    field: Ground,
) -> None:
    plan_id, plan = field.approved(name="measured-late", missed_rounds=1)
    spoilt = spoiling(lambda number: number == 2)
    spoilt.refuse, spoilt.refused_kinds = "evaluation-not-shared", ("evaluate",)
    told: list[int] = []

    def only_the_last(labels: int) -> Any:
        told.append(labels)
        # Two rounds of counts that no examples could give, then true ones.
        return {"confusion": np.zeros(1)} if len(told) < 3 else Script().counts(labels)

    elm = Script(counts=only_the_last)
    with field.site("st-elm", plan, elm), field.site("lakeside", plan, spoilt):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    reports = rounds_of(field, plan_id)
    assert [report.metrics is None for report in reports] == [True, True, False]
    assert reports[2].participants == ()


def test_a_round_waits_for_a_quorum_to_come_online(field: Ground) -> None:
    """A site that leaves between two rounds costs no round, whatever the deadline is."""
    plan_id, plan = field.approved(name="waits", deadline_seconds=10, phases=(simple_phase(2),))
    result: list[Any] = []
    work = threading.Thread(target=lambda: result.append(run(field, field.training(plan_id, plan))))
    gone = threading.Event()

    def once_the_other_left(labels: int) -> Any:
        """The first round ends with this answer, so nobody is asked again before."""
        assert gone.wait(plan.deadline_seconds)
        return Script().counts(labels)

    with field.site("st-elm", plan, Script(counts=once_the_other_left)) as elm:
        with field.site("lakeside", plan) as lakeside:
            work.start()
            until(lambda: len(lakeside.taken) >= 2, "its counts were taken")
        gone.set()
        until(lambda: field.notes.views[-1].activity.startswith("waiting for sites"), "waiting")
        time.sleep(plan.deadline_seconds + 1)
        assert not result
        assert ("train", 1) not in elm.seen
        with field.site("lakeside", plan):
            work.join(60)
    assert result[0].stage == "completed"
    assert [report.participants for report in rounds_of(field, plan_id)] == [
        ("lakeside", "st-elm")
    ] * 2


def test_sites_that_are_not_admitted_any_more_are_not_waited_for_without_end() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    gone = Attendance(("a", "b"), 2, 5, lambda: {"a"}, lambda s: s == "a", clock, threading.Event())
    with pytest.raises(QuorumNotReached, match=r"1 of the 2 sites .* admitted: a"):
        gone.await_quorum(0, watch=lambda _count: None, tell=lambda _missing: None)
    stop = threading.Event()
    stop.set()
    waiting = Attendance(("a", "b"), 2, 5, lambda: {"a"}, lambda s: True, clock, stop)
    with pytest.raises(Stopped):
        waiting.await_quorum(0, watch=lambda _count: None, tell=lambda _missing: None)


# --- sites that are late --------------------------------------------------------------------------


def test_a_slow_site_is_skipped_and_welcome_in_the_next_round(field: Ground) -> None:
    plan_id, plan = field.approved(
        name="slow", quorum=1, deadline_seconds=5, phases=(simple_phase(2),)
    )
    first = threading.Event()

    def slow(state: Arrays) -> Arrays:
        if not first.is_set():
            first.set()
            time.sleep(6)
        return {name: np.full_like(array, 0.125) for name, array in state.items()}

    with (
        field.site("st-elm", plan),
        field.site("lakeside", plan, Script(update=slow)) as lakeside,
    ):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "completed"
    skipped, welcome = rounds_of(field, plan_id)
    assert skipped.absent == {"lakeside": "no answer within the deadline of 5 seconds"}
    assert welcome.participants == ("lakeside", "st-elm")
    assert lakeside.taken[0] is False, "it came too late, and counts nowhere"


def test_a_site_that_was_away_for_the_first_rounds_catches_up(field: Ground) -> None:
    plan_id, plan = field.approved(name="joins-late", quorum=1, deadline_seconds=5)
    late = field.site("lakeside", plan)
    joined: list[bool] = []

    def join_in_the_second_round(state: Arrays) -> Arrays:
        if len(joined) == 1:
            late.__enter__()
            until(lambda: "lakeside" in field.link.online(), "lakeside online")
        joined.append(True)
        return {name: np.full_like(array, 0.125) for name, array in state.items()}

    try:
        with field.site("st-elm", plan, Script(update=join_in_the_second_round)):
            state = run(field, field.training(plan_id, plan))
    finally:
        late.__exit__()
    assert state.stage == "completed"
    before, *after = rounds_of(field, plan_id)
    assert before.absent == {"lakeside": "offline"}
    assert {report.participants for report in after} == {("lakeside", "st-elm")}


def test_a_site_whose_process_ended_while_it_trained_is_asked_again(field: Ground) -> None:
    """The second process has the first one's kept answer; the round loses nobody."""
    plan_id, plan = field.approved(name="process-ended", phases=(simple_phase(1),))
    died = threading.Event()
    result: list[Any] = []
    work = threading.Thread(target=lambda: result.append(run(field, field.training(plan_id, plan))))
    with field.site("st-elm", plan):
        # Takes the task and is gone, without goodbye, as after kill -9.
        first = field.sites["lakeside"].connect()
        first.__enter__()
        work.start()
        until(lambda: first.poll(0.1) is not None, "the task")
        died.set()
        first._stop.set()
        with field.site("lakeside", plan) as second:
            work.join(60)
    first._node = None
    first.close()
    assert result[0].stage == "completed"
    (report,) = rounds_of(field, plan_id)
    assert report.participants == ("lakeside", "st-elm")
    assert [kind for kind, _ in second.seen] == ["train", "evaluate"]
