"""What the coordinator's counters make of events, and what its table of absences makes of words."""

from __future__ import annotations

import pytest

from audit.metrics_port import serving_metrics
from server.absences import MEANINGS, absence_code
from server.metrics import CoordinatorMetrics
from server.progress import CountedReporter
from tests.scraping import assert_nothing_personal, scrape, value
from tests.server.ground import Notes

STATE = {
    "sites": {"st-elm": True, "lakeside": False},
    "run": {"round": 3, "rounds": 10, "round_seconds": 12.5, "epsilon_promised": "8"},
    "compliance": "it does not answer",
}


def test_events_are_counted_and_passed_on() -> None:
    metrics, notes = CoordinatorMetrics(), Notes()
    reporter = CountedReporter(notes, metrics)
    reporter.event("run-started", plan="p", rounds=2, sites=2)
    reporter.event("round-missed", plan="p", round=0)
    reporter.event("round-failed", plan="p", round=1)
    for code in ("deadline", "deadline", "offline"):
        reporter.event(
            "site-absent", plan="p", round=1, activity="train", site="lakeside", code=code
        )
    reporter.event("epsilon-reported", plan="p", round=0, site="st-elm", epsilon=1.5)
    reporter.event("trouble", code="unreachable")
    reporter.note("a sentence")
    with serving_metrics(metrics.registry, 0) as port:
        samples = scrape(port)
    assert_nothing_personal(samples)
    assert value(samples, "fiduciary_rounds_total", outcome="missed") == 1
    assert value(samples, "fiduciary_rounds_total", outcome="failed") == 1
    late = {"activity": "train", "site": "lakeside", "outcome": "deadline"}
    assert value(samples, "fiduciary_answers_total", **late) == 2
    assert value(samples, "fiduciary_site_epsilon_spent", site="st-elm") == 1.5
    assert value(samples, "fiduciary_troubles_total", code="unreachable") == 1
    assert [name for name, _ in notes.events][:2] == ["run-started", "round-missed"]
    assert notes.lines == ["a sentence"]


def test_a_new_run_forgets_what_sites_spent_of_the_last_one() -> None:
    metrics = CoordinatorMetrics()
    metrics("epsilon-reported", {"site": "st-elm", "epsilon": 1.5})
    metrics("run-started", {"plan": "q"})
    assert metrics.epsilon == {}


def test_the_state_is_read_when_somebody_asks() -> None:
    metrics = CoordinatorMetrics()
    metrics.watch(lambda: STATE)
    with serving_metrics(metrics.registry, 0) as port:
        samples = scrape(port)
    assert value(samples, "fiduciary_site_online", site="st-elm") == 1
    assert value(samples, "fiduciary_site_online", site="lakeside") == 0
    assert value(samples, "fiduciary_run_round") == 3
    assert value(samples, "fiduciary_run_round_elapsed_seconds") == 12.5
    assert value(samples, "fiduciary_run_epsilon_promised") == 8
    assert value(samples, "fiduciary_compliance_reachable") == 0


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("offline", "offline"),
        ("no answer within the deadline of 30 seconds", "deadline"),
        ("not waited for: a quorum had become impossible", "not-needed"),
        ("refused: offline: jane-doe-1970", "refused"),
        ("answer not accepted: its report is for another plan", "not-accepted"),
        ("its reply was not sent completely", "lost"),
    ],
)
def test_words_of_others_become_a_code_of_the_list(reason: str, code: str) -> None:
    assert absence_code(reason) == code
    assert code in MEANINGS
