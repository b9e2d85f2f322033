"""When an exchange ends and who counts, on a simulated wire with a simulated clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import MalformedReply
from server.rounds import (
    ARRIVAL_WAIT_SECONDS,
    ASK_AGAIN_SECONDS,
    MAX_ASKED,
    MAX_REASON_CHARACTERS,
    OFFLINE_GRACE_SECONDS,
    Exchange,
    Stopped,
    Task,
    exchange,
    plain,
)
from server.superlink import Answer, Lost, TaskKind

NEVER = 1e9


@dataclass
class Behaviour:
    """A simulated site.

    Attributes:
        online_from: Seconds at which it comes online.
        online_until: Seconds at which it goes offline.
        answers_after: Seconds it takes.
        answer: What it answers.
    """

    online_from: float = 0.0
    online_until: float = NEVER
    answers_after: float = 0.5
    answer: Answer | Lost = field(default_factory=lambda: Answer({"x": np.ones(1)}, {}, False))


class SimulatedWire:
    """Implements `server.rounds.Wire` on a clock that only `wait_for_arrival` moves."""

    def __init__(self, sites: dict[str, Behaviour]) -> None:
        self.sites = sites
        self.now = 0.0
        self.sent: dict[str, float] = {}
        self.times_sent: dict[str, int] = {}
        self.discarded: list[str] = []

    def online(self) -> set[str]:
        return {
            name
            for name, site in self.sites.items()
            if site.online_from <= self.now < site.online_until
        }

    def send(
        self,
        run_id: int,
        kind: TaskKind,
        tasks: Mapping[str, dict[str, str | int]],
        arrays: bytes,
        *,
        reply_bytes: int,
    ) -> dict[str, str]:
        for site in tasks:
            assert site in self.online()
            self.sent[site] = self.now
            self.times_sent[site] = self.times_sent.get(site, 0) + 1
        return {site: f"message-{site}" for site in tasks}

    def collect(self, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
        arrived: dict[str, Answer | Lost] = {}
        for site in waiting:
            behaviour = self.sites[site]
            if self.now >= self.sent[site] + behaviour.answers_after:
                arrived[site] = behaviour.answer
            elif self.now >= behaviour.online_until:
                arrived[site] = Lost("it lost its connection")
        return arrived

    def discard(self, message_ids: Collection[str]) -> None:
        self.discarded.extend(message_ids)

    def wait_for_arrival(self, seconds: float) -> None:
        assert 0 < seconds <= ARRIVAL_WAIT_SECONDS
        self.now += seconds


def run(
    sites: dict[str, Behaviour],
    *,
    quorum: int,
    deadline: float = 60.0,
    judge: Callable[[str, Answer], Any] = lambda site, answer: answer.arrays,
    returning: frozenset[str] = frozenset(),
    stop: threading.Event | None = None,
    wire: SimulatedWire | None = None,
) -> tuple[Exchange[Any], SimulatedWire]:
    wire = wire or SimulatedWire(sites)
    task = Task(
        run_id=1,
        kind="train",
        plan_id="plan",
        round=0,
        arrays=b"",
        sites=tuple(sites),
        quorum=quorum,
        deadline_seconds=deadline,
        returning=returning,
    )
    told = exchange(
        wire,
        task,
        judge,
        clock=lambda: wire.now,
        stop=stop or threading.Event(),
        watch=lambda accepted, absent, waiting: None,
    )
    return told, wire


def test_everybody_answers() -> None:
    told, wire = run({"a": Behaviour(), "b": Behaviour(answers_after=2)}, quorum=1)
    assert set(told.accepted) == {"a", "b"}  # a quorum alone does not cut off those who work
    assert told.absent == {}
    assert told.seconds == pytest.approx(2, abs=ARRIVAL_WAIT_SECONDS)
    assert wire.discarded == []


def test_a_silent_site_is_absent_at_the_deadline() -> None:
    told, wire = run({"a": Behaviour(), "b": Behaviour(answers_after=NEVER)}, quorum=1, deadline=20)
    assert set(told.accepted) == {"a"}
    assert told.absent == {"b": "no answer within the deadline of 20 seconds"}
    assert told.seconds == pytest.approx(20, abs=ARRIVAL_WAIT_SECONDS)
    assert wire.discarded == ["message-b"]


def test_an_answer_after_the_deadline_is_not_counted() -> None:
    told, wire = run({"a": Behaviour(answers_after=21)}, quorum=1, deadline=20)
    assert told.accepted == {}
    assert wire.discarded == ["message-a"]


def test_an_offline_site_is_not_waited_for_once_there_is_a_quorum() -> None:
    told, _ = run({"a": Behaviour(), "b": Behaviour(online_from=NEVER)}, quorum=1)
    assert told.absent == {"b": "offline"}
    assert told.seconds < OFFLINE_GRACE_SECONDS


def test_a_site_of_the_last_round_gets_a_moment_to_come_back() -> None:
    sites = {"a": Behaviour(), "b": Behaviour(online_from=2.0)}
    told, _ = run(sites, quorum=1, returning=frozenset({"a", "b"}))
    assert set(told.accepted) == {"a", "b"}
    told, _ = run(
        {"a": Behaviour(), "b": Behaviour(online_from=NEVER)}, quorum=1, returning=frozenset({"b"})
    )
    assert told.absent == {"b": "offline"}
    assert told.seconds == pytest.approx(OFFLINE_GRACE_SECONDS, abs=ARRIVAL_WAIT_SECONDS)


def test_without_a_quorum_an_offline_site_is_waited_for_until_the_deadline() -> None:
    told, _ = run({"a": Behaviour(), "b": Behaviour(online_from=15.0)}, quorum=2, deadline=20)
    assert set(told.accepted) == {"a", "b"}
    told, _ = run({"a": Behaviour(), "b": Behaviour(online_from=NEVER)}, quorum=2, deadline=20)
    assert set(told.accepted) == {"a"}
    assert told.absent == {"b": "offline"}
    assert told.seconds == pytest.approx(20, abs=ARRIVAL_WAIT_SECONDS)


def test_a_quorum_that_became_impossible_ends_the_exchange() -> None:
    refusal = Answer({}, {"code": "purpose", "reason": "not ours"}, refused=True)
    sites = {"a": Behaviour(answer=refusal), "b": Behaviour(answers_after=50)}
    told, wire = run(sites, quorum=2)
    assert told.absent == {
        "a": "refused: purpose: not ours",
        "b": "not waited for: a quorum had become impossible",
    }
    assert told.seconds < 2
    assert wire.discarded == ["message-b"]


def test_a_lost_site_is_not_asked_twice() -> None:
    """It may have spent its budget: the same round must not reach it again."""
    sites = {"a": Behaviour(), "b": Behaviour(online_until=1.0, answers_after=NEVER)}
    told, wire = run(sites, quorum=1)
    assert told.absent == {"b": "it lost its connection"}
    assert wire.times_sent == {"a": 1, "b": 1}


def test_a_malformed_answer_is_absent_with_the_reason_and_the_round_goes_on() -> None:
    def judge(site: str, answer: Answer) -> Any:
        if site == "b":
            raise MalformedReply("it holds\x1b[31m NaN")
        return answer

    told, _ = run({"a": Behaviour(), "b": Behaviour()}, quorum=1, judge=judge)
    assert set(told.accepted) == {"a"}
    assert told.absent == {"b": "answer not accepted: it holds [31m NaN"}


def test_a_stop_ends_the_wait_at_once() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        run({"a": Behaviour(answers_after=NEVER)}, quorum=1, stop=stop)


def test_a_stop_in_the_middle_gives_up_what_was_asked() -> None:
    stop = threading.Event()
    wire = SimulatedWire({"a": Behaviour(), "b": Behaviour(answers_after=NEVER)})
    with pytest.raises(Stopped):
        run(wire.sites, quorum=2, judge=lambda *_: stop.set(), stop=stop, wire=wire)
    assert wire.discarded == ["message-b"]


def test_nobody_is_asked_at_the_deadline() -> None:
    told, wire = run({"a": Behaviour(online_from=20)}, quorum=1, deadline=20)
    assert (told.absent, wire.sent) == ({"a": "offline"}, {})


times = st.one_of(st.just(NEVER), st.floats(0, 40))
behaviours = st.builds(
    Behaviour,
    online_from=times,
    online_until=times,
    answers_after=times,
    answer=st.sampled_from(
        [
            Answer({"x": np.ones(1)}, {}, refused=False),
            Answer({}, {"code": "no", "reason": "no"}, refused=True),
            Lost("it reported an error"),
        ]
    ),
)


@given(st.lists(behaviours, min_size=1, max_size=5), st.integers(1, 5), st.sampled_from([5, 30]))
def test_every_site_is_settled_once_within_the_deadline(
    behaviours: list[Behaviour], quorum: int, deadline: int
) -> None:
    sites = {f"site-{number}": behaviour for number, behaviour in enumerate(behaviours)}
    told, wire = run(sites, quorum=min(quorum, len(sites)), deadline=deadline)
    assert set(told.accepted) | set(told.absent) == set(sites)
    assert not set(told.accepted) & set(told.absent)
    assert all(told.absent.values())
    assert told.seconds <= deadline + ARRIVAL_WAIT_SECONDS
    assert all(count == 1 for count in wire.times_sent.values())
    for site in told.accepted:
        assert wire.sent[site] + sites[site].answers_after <= wire.now


@given(st.text())
def test_somebody_elses_words_become_one_bounded_line(text: str) -> None:
    line = plain(text)
    assert 0 < len(line) <= MAX_REASON_CHARACTERS
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)


# --- asked again ----------------------------------------------------------------------------------


@dataclass
class Restarting(Behaviour):
    """A site that loses its process `deaths` times, each time it is asked, and then answers."""

    deaths: int = 1
    died: Answer | Lost = field(default_factory=lambda: Lost("it was restarted", again=True))


class RestartingWire(SimulatedWire):
    def collect(self, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
        arrived = super().collect(run_id, waiting)
        for name in arrived:
            site = self.sites[name]
            if isinstance(site, Restarting) and self.times_sent[name] <= site.deaths:
                arrived[name] = site.died
        return arrived


def run_restarting(sites: dict[str, Behaviour], quorum: int) -> tuple[Exchange[Any], SimulatedWire]:
    wire = RestartingWire(sites)
    task = Task(
        run_id=1, kind="train", plan_id="plan", round=0, arrays=b"", sites=tuple(sites),
        quorum=quorum, deadline_seconds=60.0,
    )  # fmt: skip
    told = exchange(
        wire,
        task,
        lambda site, answer: answer.arrays,
        clock=lambda: wire.now,
        stop=threading.Event(),
        watch=lambda accepted, absent, waiting: None,
    )
    return told, wire


def test_a_site_that_was_restarted_is_asked_again_and_its_answer_counts_once() -> None:
    told, wire = run_restarting({"a": Behaviour(), "b": Restarting(deaths=2)}, quorum=1)
    assert set(told.accepted) == {"a", "b"}
    assert wire.times_sent == {"a": 1, "b": 3}


def test_a_site_that_dies_of_each_task_is_not_fed_for_ever() -> None:
    sites = {"a": Behaviour(), "b": Restarting(deaths=10**6, answers_after=0.0)}
    told, wire = run_restarting(sites, quorum=2)
    assert told.absent == {"b": "it was restarted"}
    assert wire.times_sent["b"] == MAX_ASKED


def test_a_site_without_the_compliance_service_is_asked_again_later() -> None:
    away = Answer({}, {"code": "compliance-unreachable", "reason": "away"}, refused=True)
    told, _ = run_restarting(
        {"a": Behaviour(), "b": Restarting(deaths=3, died=away, answers_after=0.0)}, quorum=1
    )
    assert set(told.accepted) == {"a", "b"}
    assert told.seconds >= 3 * ASK_AGAIN_SECONDS


def test_a_restarted_site_that_stays_away_is_absent_with_the_reason() -> None:
    gone = Restarting(deaths=1, online_until=1.0, answers_after=NEVER)
    wire_sites: dict[str, Behaviour] = {"a": Behaviour(), "b": gone}
    told, _ = run_restarting(wire_sites, quorum=1)
    assert set(told.accepted) == {"a"}
    assert told.absent == {"b": "it was restarted"}
