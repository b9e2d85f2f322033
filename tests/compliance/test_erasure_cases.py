"""Erasures that reach models: cases, decisions, recalls, and what the subject gets to see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.errors import (
    Conflict,
    MalformedInput,
    NotFound,
    Refused,
    Unreachable,
    VerificationFailed,
)
from audit.receipt import Receipt
from audit.statement import verify_statement
from compliance.rules.unlearning import group_by_mechanism, stated
from compliance.statements import ErasureDecision, ErasureFollowUp, Evidence
from tests.compliance.erasing import ATTACK, FILES, MEASURED, Ground
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService

SUBJECTS = ("cd" * 32, "ef" * 32)


@pytest.fixture
def ground(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> Ground:
    return Ground(service, coordinator, north, tmp_path)


# --- what an erasure finds ------------------------------------------------------------------------


def test_an_erasure_opens_a_case_for_each_release_of_its_plans(ground: Ground) -> None:
    plan, other = ground.plan(), ground.plan()
    kept, candidate, untouched = ground.release(plan), ground.candidate(plan), ground.release(other)
    recorded = ground.erase(plan, first_rounds={plan: 1})
    cases = ground.officer.erasures.cases()
    assert [view.release_id for view in cases] == [kept.release_id, candidate.release_id]
    for view in cases:
        assert view.state == "open"
        assert view.plan_id == plan
        assert view.erasures == (Receipt.from_json(recorded.receipt).statement.digest,)
        assert (view.debt.subjects, view.debt.first_round) == (1, 1)
    assert ground.officer.erasures.cases("closed") == ()
    assert ground.officer.erasures.case(cases[0].case_id) == cases[0]
    assert untouched.release_id not in {view.release_id for view in cases}


def test_the_debt_counts_different_subjects_and_is_the_accountants(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    ground.erase(plan, subject=SUBJECTS[0])
    assert ground.case(release).debt.epsilon == "1.5", "the manifest's own figure for one subject"
    ground.erase(plan, subject=SUBJECTS[1])
    ground.erase(plan, subject=SUBJECTS[1])  # readmitted, and erased again
    debt = ground.case(release).debt
    assert debt.subjects == 2
    bound = group_by_mechanism(ground.officer.plan(plan).plan, 2)
    assert (debt.epsilon, debt.delta) == (stated(bound.epsilon), "0.00001")
    assert debt.epsilon_together == debt.epsilon
    assert debt.sites["north"].lemma_epsilon == "3"
    assert len(ground.officer.erasures.cases()) == 1, "they join the open case"


def test_a_release_that_comes_after_the_erasure_owes_too(ground: Ground) -> None:
    plan = ground.plan()
    recorded = ground.erase(plan)
    assert ground.officer.erasures.cases() == ()
    assert recorded.follow_ups == ()
    release = ground.candidate(plan)
    assert ground.case(release).state == "open"
    with pytest.raises(Conflict, match="nothing is decided"):
        ground.officer.approve_release(release.release_id)
    digest = Receipt.from_json(recorded.receipt).statement.digest
    receipt = ground.north.client(ground.service).erasures.receipt(digest)
    told = [ErasureFollowUp.from_body(one.body) for one in ground.verify(receipt).follow_ups]
    assert [one.releases[0].release_id for one in told] == [release.release_id]


def test_a_site_reaches_no_plan_that_it_has_no_part_in(
    ground: Ground, coordinator: Coordinator
) -> None:
    plan = ground.plan()
    ground.release(plan)
    south = coordinator.welcome("south")
    recorded = south.client(ground.service).report_erasure(
        south.erasure(plans=[plan, FILES["evaluation.json"]])
    )
    assert recorded.follow_ups == ()
    assert ground.officer.erasures.cases() == ()


def test_a_rejected_release_is_told_of_and_has_no_case(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.candidate(plan)
    ground.officer.reject_release(release.release_id)
    recorded = ground.erase(plan)
    assert ground.officer.erasures.cases() == ()
    body = Receipt.from_json(recorded.follow_ups[0]).statement.body
    assert (body["releases"][0]["state"], body["releases"][0]["case"]) == ("rejected", None)


def test_receipt_cases_and_follow_ups_are_one_change(ground: Ground) -> None:
    plan = ground.plan()
    ground.release(plan)
    before = ground.service.tables()
    erasure = ground.north.erasure(plans=[plan])
    north = ground.north.client(ground.service)
    for fault in ("append", "commit"):
        setattr(ground.service.faults, fault, True)
        with pytest.raises(Unreachable):
            north.report_erasure(erasure)
        setattr(ground.service.faults, fault, False)
        assert ground.service.tables() == before
    ground.service.faults.after_commit = True
    with pytest.raises(Unreachable):
        north.report_erasure(erasure)
    ground.service.faults.after_commit = False
    after = ground.service.tables()
    assert len(after["erasure_cases"]) == 1
    again = north.report_erasure(erasure)
    assert ground.service.tables() == after, "the repeat changed something"
    assert len(again.follow_ups) == 1
    new = [row[1:3] for row in ground.service.entries()[len(before["log_entries"]) :]]
    assert [action for action, _ in new] == ["subject.erased", "erasure.opened", "erasure.told"]


# --- what an open case stops ----------------------------------------------------------------------


def test_an_open_case_stops_new_grants_and_leaves_old_ones(ground: Ground, tmp_path: Path) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    desk = ground.grant(release)
    ground.erase(plan)
    with pytest.raises(Conflict, match="nothing is decided"):
        ground.grant(release, "second-desk")
    assert ground.service.last_entry()[3]["reason"] == "erasure-debt"
    assert desk.api.download_release(release.release_id, tmp_path / "old")


# --- withdraw -------------------------------------------------------------------------------------


def test_withdrawing_recalls_and_tells_everybody(ground: Ground, tmp_path: Path) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    desk = ground.grant(release)
    digest = Receipt.from_json(ground.erase(plan).receipt).statement.digest
    case = ground.case(release)
    view = ground.officer.erasures.decide(case.case_id, "withdraw", reason="a patient left")
    assert (view.state, view.choice, view.release_state) == ("closed", "withdraw", "recalled")
    assert view.decision is not None
    verify_statement(view.decision, ground.service.trust.log_key)
    decided = ErasureDecision.from_body(view.decision.body)
    assert (decided.subjects, decided.epsilon, decided.decided_by) == (1, "1.5", "officer")
    for attempt in (
        lambda: desk.api.release_key(release.release_id),
        lambda: desk.api.download_release(release.release_id, tmp_path / "new"),
    ):
        with pytest.raises(Conflict, match=r"recalled on .*: a patient left"):
            attempt()
    notices = desk.api.recalls.notices()
    assert [(notice.kind, notice.reason) for notice in notices] == [
        ("release-recalled", "a patient left")
    ]
    receipt = ground.officer.erasures.receipt(digest)
    told = [ErasureFollowUp.from_body(one.body) for one in ground.verify(receipt).follow_ups]
    assert [one.stage for one in told] == ["found", "closed"]
    assert told[-1].releases[0].choice == "withdraw"
    assert told[-1].releases[0].state == "recalled"
    assert told[-1].releases[0].decision == view.decision.digest


def test_withdrawing_what_nobody_has_rejects_it(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.candidate(plan)
    ground.erase(plan)
    view = ground.officer.erasures.decide(
        ground.case(release).case_id, "withdraw", reason="a patient left"
    )
    assert (view.state, view.release_state) == ("closed", "rejected")
    with pytest.raises(Conflict, match="rejected already"):
        ground.officer.approve_release(release.release_id)


def test_a_release_that_was_recalled_meanwhile_is_withdrawn_all_the_same(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    ground.erase(plan)
    ground.officer.recalls.recall(release.release_id, reason="a leak")
    view = ground.officer.erasures.decide(
        ground.case(release).case_id, "withdraw", reason="a patient left"
    )
    assert (view.state, view.release_state) == ("closed", "recalled")


def test_decision_recall_notices_and_follow_ups_are_one_change(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    desk = ground.grant(release)
    ground.erase(plan)
    case = ground.case(release)
    before = ground.service.tables()

    def decide() -> object:
        return ground.officer.erasures.decide(case.case_id, "withdraw", reason="left")

    for fault in ("append", "commit"):
        setattr(ground.service.faults, fault, True)
        with pytest.raises(Unreachable):
            decide()
        setattr(ground.service.faults, fault, False)
        assert ground.service.tables() == before
    ground.service.faults.after_commit = True
    with pytest.raises(Unreachable):
        decide()
    ground.service.faults.after_commit = False
    after = ground.service.tables()
    decide()
    assert ground.service.tables() == after, "the repeat changed something"
    assert len(desk.api.recalls.notices()) == 1
    new = [entry[1] for entry in ground.service.entries()[len(before["log_entries"]) :]]
    assert new == ["erasure.decided", "release.recalled", "notice.issued", "erasure.told"]


# --- rely -----------------------------------------------------------------------------------------


def test_relying_on_the_bound_needs_evidence(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    desk = ground.grant(release)
    ground.erase(plan)
    case = ground.case(release).case_id
    decide = ground.officer.erasures.decide
    for evidence in ((), (ATTACK,), (MEASURED,)):
        with pytest.raises(Refused, match="measured evidence"):
            decide(case, "rely", reason="bounded", evidence=evidence)
    wrong = Evidence(name="evaluation.json", digest=ATTACK.digest)
    with pytest.raises(MalformedInput, match="not the release's own"):
        decide(case, "rely", reason="bounded", evidence=(wrong, ATTACK))
    with pytest.raises(MalformedInput, match="same name"):
        decide(case, "rely", reason="bounded", evidence=(MEASURED, MEASURED))
    view = decide(case, "rely", reason="bounded", evidence=(MEASURED, ATTACK))
    assert (view.state, view.release_state) == ("closed", "approved")
    assert view.decided is not None
    assert view.decided.evidence == (MEASURED, ATTACK)
    assert [notice.kind for notice in desk.api.recalls.notices()] == ["subject-erased"]
    ground.grant(release, "second-desk")


def test_an_audit_at_every_site_concerned_is_an_attack_that_was_measured(ground: Ground) -> None:
    plan = ground.coordinator.approved_plan(
        name="audited", format="fiduciary.plan/2", privacy_audit=True
    )
    north = ground.north.client(ground.service)
    north.report_site(plan, ground.north.report(plan, audited_epsilon="0.4"))
    ground.coordinator.run(plan, ground.north)
    release = ground.release(plan)
    ground.erase(plan)
    view = ground.officer.erasures.decide(
        ground.case(release).case_id, "rely", reason="bounded", evidence=(MEASURED,)
    )
    assert view.state == "closed"


def test_what_was_relied_on_does_not_hold_for_the_next_erasure(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    ground.erase(plan, subject=SUBJECTS[0])
    ground.officer.erasures.decide(
        ground.case(release).case_id, "rely", reason="bounded", evidence=(MEASURED, ATTACK)
    )
    ground.erase(plan, subject=SUBJECTS[1])
    first, second = ground.officer.erasures.cases()
    assert (first.state, second.state) == ("closed", "open")
    assert second.debt.subjects == 2, "the first subject is still owed"
    assert set(first.erasures) < set(second.erasures), "and is told what is decided now"
    with pytest.raises(Conflict, match="nothing is decided"):
        ground.grant(release)


# --- retrain --------------------------------------------------------------------------------------


def test_a_retrained_release_takes_the_place_of_the_other(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    desk = ground.grant(release)
    early = ground.plan()
    ground.erase(plan)
    case = ground.case(release).case_id
    erasures = ground.officer.erasures
    with pytest.raises(Conflict, match="before the last erasure"):
        erasures.decide(case, "retrain", reason="anew", retraining_plan=early)
    other = ground.coordinator.approved_plan(name="else", purpose="research")
    with pytest.raises(MalformedInput, match="purpose differ"):
        erasures.decide(case, "retrain", reason="anew", retraining_plan=other)
    waiting = ground.coordinator.api.submit_plan(ground.coordinator.plan(name="waiting")).plan_id
    with pytest.raises(Conflict, match="the plan is submitted"):
        erasures.decide(case, "retrain", reason="anew", retraining_plan=waiting)
    with pytest.raises(MalformedInput, match="goes with retrain"):
        erasures.decide(case, "retrain", reason="anew")
    with pytest.raises(NotFound):
        erasures.decide(case, "retrain", reason="anew", retraining_plan=FILES["evaluation.json"])

    ground.officer.approve_plan(waiting)
    view = erasures.decide(case, "retrain", reason="anew", retraining_plan=waiting)
    assert (view.state, view.release_state) == ("retraining", "approved")
    assert [notice.kind for notice in desk.api.recalls.notices()] == ["subject-erased"]
    with pytest.raises(Conflict, match="nothing is decided"):
        ground.grant(release, "second-desk")
    with pytest.raises(MalformedInput, match="another plan"):
        erasures.conclude(case, ground.release(early).release_id)

    ground.coordinator.run(waiting, ground.north)
    retrained = ground.candidate(waiting)
    with pytest.raises(Conflict, match="its release candidate"):
        erasures.conclude(case, retrained.release_id)
    ground.officer.approve_release(retrained.release_id)
    done = erasures.conclude(case, retrained.release_id)
    assert (done.state, done.release_state) == ("closed", "recalled")
    assert done.replaced_by == retrained.release_id
    assert erasures.conclude(case, retrained.release_id) == done
    with pytest.raises(Conflict, match="a retrained model takes the place"):
        desk.api.release_key(release.release_id)
    digest = view.erasures[0]
    told = [
        ErasureFollowUp.from_body(one.body)
        for one in ground.verify(erasures.receipt(digest)).follow_ups
    ]
    assert [one.stage for one in told] == ["found", "decided", "closed"]
    assert told[-1].releases[0].retraining_plan == waiting


def test_another_erasure_voids_a_retraining_that_may_have_sampled_them(ground: Ground) -> None:
    plan = ground.plan()
    release = ground.release(plan)
    ground.erase(plan, subject=SUBJECTS[0])
    case = ground.case(release).case_id
    again = ground.plan()
    ground.officer.erasures.decide(case, "retrain", reason="anew", retraining_plan=again)
    retrained = ground.release(again)
    ground.erase(plan, again, subject=SUBJECTS[1])
    view = ground.officer.erasures.case(case)
    assert (view.state, view.choice, view.decision) == ("open", None, None)
    assert view.debt.subjects == 2
    payload = next(entry[3] for entry in ground.service.entries() if entry[1] == "erasure.joined")
    assert payload["voided"] is not None
    with pytest.raises(Conflict, match="no retraining is under way"):
        ground.officer.erasures.conclude(case, retrained.release_id)
    with pytest.raises(Conflict, match="before the last erasure"):
        ground.officer.erasures.decide(case, "retrain", reason="anew", retraining_plan=again)


# --- who may --------------------------------------------------------------------------------------


def test_nobody_decides_about_their_own_release_or_a_closed_case(ground: Ground) -> None:
    officer = ground.officer
    both = ground.service.client(officer.add_principal("ada", ["coordinator", "officer"]).token)
    plan = ground.plan()
    release = ground.coordinator.release(plan, files=FILES)
    both.submit_release(release.manifest, sealed_key=release.sealed_key)
    ground.erase(plan)
    case = ground.case(release).case_id
    with pytest.raises(Refused, match="submitted themselves"):
        both.erasures.decide(case, "withdraw", reason="mine")
    assert ground.service.last_entry()[3]["reason"] == "own-work"
    officer.erasures.decide(case, "withdraw", reason="a patient left")
    with pytest.raises(Conflict, match="closed already"):
        officer.erasures.decide(case, "rely", reason="no", evidence=(MEASURED, ATTACK))
    with pytest.raises(Conflict, match="closed already"):
        officer.erasures.conclude(case, release.release_id)
    with pytest.raises(NotFound):
        officer.erasures.decide("0" * 32, "withdraw", reason="none")


def test_a_site_gets_its_own_receipts_only(ground: Ground, coordinator: Coordinator) -> None:
    plan = ground.plan()
    ground.release(plan)
    digest = Receipt.from_json(ground.erase(plan).receipt).statement.digest
    assert len(ground.north.client(ground.service).erasures.receipt(digest).follow_ups) == 1
    south = coordinator.welcome("south")
    with pytest.raises(NotFound):
        south.client(ground.service).erasures.receipt(digest)
    with pytest.raises(NotFound):
        ground.officer.erasures.receipt(plan)


def test_a_receipt_tells_of_no_other_subject_and_is_of_one_piece(ground: Ground) -> None:
    plan = ground.plan()
    ground.release(plan)
    one, other = (ground.erase(plan, subject=subject) for subject in SUBJECTS)
    digest = Receipt.from_json(one.receipt).statement.digest
    receipt = ground.officer.erasures.receipt(digest)
    assert SUBJECTS[1] not in json.dumps([told.body for told in ground.verify(receipt).follow_ups])
    foreign = Receipt.from_json({
        **receipt.to_json(), "follow_ups": list(other.follow_ups)
    })  # fmt: skip
    with pytest.raises(VerificationFailed, match="another statement"):
        ground.verify(foreign)
    ground.officer.erasures.decide(
        ground.officer.erasures.cases()[0].case_id, "withdraw", reason="left"
    )
    whole = ground.officer.erasures.receipt(digest)
    assert len(whole.follow_ups) == 2
    turned = Receipt.from_json({
        **whole.to_json(), "follow_ups": whole.to_json()["follow_ups"][::-1]
    })  # fmt: skip
    with pytest.raises(VerificationFailed, match="order of the log"):
        ground.verify(turned)
