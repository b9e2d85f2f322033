"""Rounds without a quorum: what may be reported of them, and that an officer sees them."""

from __future__ import annotations

from typing import Any

import pytest

from audit.errors import MalformedInput
from compliance.presentation import print_plan, print_plans
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService

MISSED: dict[str, Any] = {
    "participants": [],
    "absent": {"north": "offline"},
    "update_norm": "0",
    "metrics": None,
}
BEARS_ONE: dict[str, Any] = {"format": "fiduciary.plan/3", "missed_rounds": 1}


def test_the_last_report_of_a_round_says_whether_it_was_missed(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan(**BEARS_ONE)
    told: list[tuple[dict[str, Any], int]] = [
        (MISSED, 1),
        (MISSED, 1),
        ({}, 0),
        ({}, 0),
        (MISSED, 1),
    ]
    for minute, (changes, missed) in enumerate(told):
        changed = {**changes, "finished_at": f"2026-11-02T10:0{minute}:00Z"}
        coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 0, **changed))
        assert coordinator.api.plan(plan_id).rounds_missed == missed


def test_an_officer_sees_missed_rounds(
    service: RunningService,
    coordinator: Coordinator,
    north: Site,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan_id = coordinator.approved_plan(**BEARS_ONE)
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 0))
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 1, **MISSED))
    coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id))
    view = service.as_("officer").plan(plan_id)
    assert (view.state, view.rounds_reported, view.rounds_missed) == ("completed", 2, 1)
    print_plan(view)
    assert "2 of 2 reported, 1 without a quorum of 1 at most" in capsys.readouterr().out
    print_plans([view])
    assert "2/2 (1 missed)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("plan", "round_report", "reason"),
    [
        ({}, MISSED, "bears no round without a quorum"),
        (BEARS_ONE, {**MISSED, "update_norm": "0.1"}, "there is no update"),
        (
            {**BEARS_ONE, "quorum": 2},
            {"participants": ["north"], "absent": {"south": "offline"}},
            "1 participant: no quorum of 2",
        ),
    ],
)
def test_a_round_has_a_quorum_or_is_missed_openly(
    service: RunningService,
    coordinator: Coordinator,
    north: Site,
    plan: dict[str, Any],
    round_report: dict[str, Any],
    reason: str,
) -> None:
    sites: tuple[str, ...] = ("north",)
    if "south" in str(round_report):
        coordinator.welcome("south")
        sites = ("north", "south")
    plan_id = coordinator.approved_plan(sites, **plan)
    with pytest.raises(MalformedInput, match=reason):
        coordinator.api.report_round(
            plan_id, coordinator.round_report(plan_id, 0, sites, **round_report)
        )


def test_a_run_with_too_many_missed_rounds_is_not_completed(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan(**BEARS_ONE)
    for number in range(2):
        statement = coordinator.round_report(plan_id, number, **MISSED)
        coordinator.api.report_round(plan_id, statement)
    with pytest.raises(MalformedInput, match="2 rounds had no quorum, the plan bears 1"):
        coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id))
    failed = coordinator.outcome(plan_id, verdict="failed", reason="no quorum", metrics=None)
    coordinator.api.report_outcome(plan_id, failed)
    assert coordinator.api.plan(plan_id).state == "failed"


@pytest.mark.parametrize("changes", [{"rounds_missed": 2}, {"metrics": None}])
def test_a_run_that_trained_or_measured_nothing_is_not_completed(
    service: RunningService, coordinator: Coordinator, north: Site, changes: dict[str, Any]
) -> None:
    plan_id = coordinator.approved_plan(**{**BEARS_ONE, "missed_rounds": 2})
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 0, **MISSED))
    later = MISSED if "rounds_missed" in changes else {}
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 1, **later))
    outcome = {} if later else changes
    with pytest.raises(MalformedInput, match="trained or measured nothing"):
        coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id, **outcome))
