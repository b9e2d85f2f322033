"""Plans: what is accepted, what is refused and recorded, what happens when it is said again."""

from __future__ import annotations

import re
from typing import Any

import pytest

from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.keys import SigningKey
from audit.statement import sign_statement
from compliance.rules.plans import is_same_proposal
from compliance.statements import TrainingPlan
from tests.compliance.federation import DIGEST, Coordinator, Site, plan_body
from tests.compliance.running import RunningService

MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"shell": "rm -rf /"}, "?: unknown field"),
    ({"labels": []}, "labels: "),
    ({"privacy": {"epsilon": "0", "delta": "0.1", "nominal_subjects": 9}}, "privacy.epsilon"),
    ({"privacy": {"epsilon": "-1", "delta": "0.1", "nominal_subjects": 9}}, "privacy.epsilon"),
    ({"quorum": 3}, "quorum: 3 is more than the 1 site"),
    ({"format": "fiduciary.plan/9"}, "format: "),
    ({"created_at": "yesterday"}, "created_at: expected RFC 3339"),
    ({"sites": ["south"]}, "not an approved site: south"),
]


def test_a_malformed_plan_is_refused_recorded_and_not_kept(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    for changes, reason in MALFORMED:
        with pytest.raises(MalformedInput, match=re.escape(reason)):
            coordinator.api.submit_plan(coordinator.sign({**plan_body(), **changes}))
        actor, action, name, payload = service.last_entry()
        assert (actor, action) == ("coordinator", "request.refused")
        assert name == "operation:POST /v1/plans"
        assert reason in payload["detail"]
        assert coordinator.api.plans() == ()


def test_a_plan_of_another_kind_or_signer_is_refused(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    with pytest.raises(MalformedInput, match="malformed plan"):
        coordinator.api.submit_plan(coordinator.round_report(DIGEST, 0))
    forged = sign_statement(plan_body(), SigningKey.generate("forger"))
    with pytest.raises(VerificationFailed):
        coordinator.api.submit_plan(forged)
    assert service.last_entry()[3]["reason"] == "verification-failed"


def test_the_very_same_plan_again_is_the_same_plan(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan = coordinator.plan()
    first = coordinator.api.submit_plan(plan)
    tables = service.tables()
    assert coordinator.api.submit_plan(plan) == first
    assert service.tables() == tables
    second = service.client(service.as_("officer").add_principal("other", ["coordinator"]).token)
    with pytest.raises(Conflict, match="another principal"):
        second.submit_plan(plan)


def test_a_name_belongs_to_one_plan_until_it_is_rejected(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    officer = service.as_("officer")
    later: dict[str, Any] = {"created_at": "2026-11-02T09:00:01Z"}
    first = coordinator.api.submit_plan(coordinator.plan()).plan_id
    tables = service.tables()
    for plan in (coordinator.plan(**later), coordinator.plan(retention_days=30)):
        with pytest.raises(Conflict, match=f"another plan has the name triage: {first}, submitted"):
            coordinator.api.submit_plan(plan)
    assert service.tables()["plans"] == tables["plans"]
    coordinator.api.submit_plan(coordinator.plan(name="triage-2"))
    officer.reject_plan(first)
    second = coordinator.api.submit_plan(coordinator.plan(**later)).plan_id
    officer.approve_plan(second)
    with pytest.raises(Conflict, match=f"{second}, approved"):
        coordinator.api.submit_plan(coordinator.plan(retention_days=30))


def test_a_proposal_is_the_same_whenever_it_was_made() -> None:
    plan = TrainingPlan.from_body(plan_body())
    again = TrainingPlan.from_body(
        plan_body(created_at="2027-01-01T00:00:00Z", format="fiduciary.plan/4")
    )
    assert is_same_proposal(plan, again)
    for changes in ({"purpose": "research"}, {"sites": ["south"]}, {"deadline_seconds": 601}):
        assert not is_same_proposal(plan, TrainingPlan.from_body(plan_body(**changes)))


def test_a_decision_is_made_once(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    officer = service.as_("officer")
    plan_id = coordinator.api.submit_plan(coordinator.plan()).plan_id
    approved = officer.approve_plan(plan_id, reason="DPIA 12")
    tables = service.tables()
    assert officer.approve_plan(plan_id) == approved
    assert service.tables() == tables
    with pytest.raises(Conflict, match="approved already"):
        officer.reject_plan(plan_id)
    second = service.client(officer.add_principal("second", ["officer"]).token)
    with pytest.raises(Conflict, match="approved already"):
        second.approve_plan(plan_id)


def test_a_rejected_plan_shows_no_approval_and_takes_no_report(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.api.submit_plan(coordinator.plan()).plan_id
    view = service.as_("officer").reject_plan(plan_id, reason="too much")
    assert view.state == "rejected"
    assert view.approval is None
    assert view.approved_position is None
    decision = view.decision
    assert decision is not None
    assert (decision.verdict, decision.reason) == ("rejected", "too much")
    with pytest.raises(Conflict, match="rejected, not approved"):
        north.client(service).report_site(plan_id, north.report(plan_id))


def test_reports_belong_to_their_plan(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    waiting = coordinator.api.submit_plan(coordinator.plan(name="waiting")).plan_id
    plan_id = coordinator.approved_plan()
    site = north.client(service)
    cases: list[tuple[type[FiduciaryError], str, Any]] = [
        (
            Conflict,
            "submitted, not approved",
            lambda: site.report_site(waiting, north.report(waiting)),
        ),
        (
            MalformedInput,
            "about another plan",
            lambda: site.report_site(plan_id, north.report(waiting)),
        ),
        (
            MalformedInput,
            "only 2 rounds",
            lambda: site.report_site(plan_id, north.report(plan_id, 2)),
        ),
        (
            MalformedInput,
            "another base model",
            lambda: site.report_site(
                plan_id, north.report(plan_id, base_model_digest="sha256:" + "1" * 64)
            ),
        ),
        (
            MalformedInput,
            "either present or absent",
            lambda: coordinator.api.report_round(
                plan_id, coordinator.round_report(plan_id, 0, participants=[])
            ),
        ),
        (
            MalformedInput,
            "another phase",
            lambda: coordinator.api.report_round(
                plan_id, coordinator.round_report(plan_id, 0, phase="adapter")
            ),
        ),
        (
            MalformedInput,
            "rounds missing",
            lambda: coordinator.api.report_outcome(
                plan_id, coordinator.outcome(plan_id, rounds_done=1)
            ),
        ),
        (
            MalformedInput,
            "only 2 rounds",
            lambda: coordinator.api.report_outcome(
                plan_id, coordinator.outcome(plan_id, rounds_done=3)
            ),
        ),
        (NotFound, "no such plan", lambda: site.report_site(DIGEST, north.report(DIGEST))),
    ]
    for kind, reason, attempt in cases:
        with pytest.raises(kind, match=reason):
            attempt()
        assert service.last_entry()[1] == "request.refused"


def test_a_round_that_was_run_again_is_recorded_again(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    site = north.client(service)
    first = site.report_site(plan_id, north.report(plan_id, 0, epsilon="1"))
    again = site.report_site(plan_id, north.report(plan_id, 0, epsilon="2"))
    assert again.position > first.position
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 1))
    coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 0))
    view = coordinator.api.plan(plan_id)
    assert view.rounds_reported == 2


def test_reports_in_one_call_are_recorded_all_or_none(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    site = north.client(service)
    first, second, beyond = (north.report(plan_id, number) for number in range(3))
    before = service.tables()["statements"]
    with pytest.raises(MalformedInput, match="only 2 rounds"):
        site.report_site(plan_id, first, beyond)
    assert service.tables()["statements"] == before
    filed = site.report_site(plan_id, first, second)
    assert [leaf[1] for leaf in service.entries()[-2:]] == ["site.reported"] * 2
    tables = service.tables()
    assert site.report_site(plan_id, first, second) == filed
    assert site.report_site(plan_id, second).position == filed.position + 1
    assert service.tables() == tables


def test_a_failed_run_ends_the_plan(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    outcome = coordinator.outcome(
        plan_id, verdict="failed", rounds_done=0, reason="no quorum", metrics=None
    )
    coordinator.api.report_outcome(plan_id, outcome)
    view = coordinator.api.plan(plan_id)
    assert view.state == "failed"
    assert view.run_outcome is not None
    assert view.run_outcome.reason == "no quorum"
    with pytest.raises(Conflict, match="failed, not approved"):
        coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id))
    assert [p.plan_id for p in coordinator.api.plans("failed")] == [plan_id]
    assert coordinator.api.plans("approved") == ()


def test_a_sites_late_report_is_evidence_all_the_same(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    coordinator.api.report_outcome(plan_id, coordinator.outcome(plan_id))
    north.client(service).report_site(plan_id, north.report(plan_id, 1))
    with pytest.raises(Conflict, match="completed, not approved"):
        coordinator.api.report_round(plan_id, coordinator.round_report(plan_id, 1))


def test_a_refusal_names_who_refused(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    north.client(service).report_refusal(north.refusal())
    assert service.last_entry()[:2] == ("site:north", "refusal.reported")
    with pytest.raises(FiduciaryError, match="speaks for itself"):
        north.client(service).report_refusal(north.refusal(refused_by="site:south"))
