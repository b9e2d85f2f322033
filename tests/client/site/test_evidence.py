"""What proves a plan: every forgery that the guard must see through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from audit.errors import MalformedInput
from audit.keys import SigningKey
from audit.log import Entry
from audit.proof import Proof
from audit.statement import sign_statement
from client.evidence import LogEvidence, PlanEvidence, fetch_evidence
from client.guard import (
    Membership,
    check_evidence,
)
from compliance.log_views import LogConsistency
from tests.client.site.counterparts import (
    ORIGIN,
    Coordinator,
    FakeCompliance,
)
from tests.client.site.documents import failures, make_plan, submit

# --- evidence -------------------------------------------------------------------------------------


def test_an_approved_plan_is_proven(compliance: FakeCompliance, member: Membership) -> None:
    plan_id = submit(compliance)
    findings, proven = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, None)
    assert failures(findings) == []
    assert proven is not None
    assert proven.plan == make_plan()
    size = verify_checkpoint(proven.checkpoint, member.log_key, ORIGIN).size
    assert size == compliance.log.size()


Break = Callable[[PlanEvidence, FakeCompliance], PlanEvidence]


def _signed_by_another(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    return replace(
        evidence, plan=sign_statement(evidence.plan.body, SigningKey.generate("stranger"))
    )


def _no_decision(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    return replace(evidence, decision=None, decision_entry=None)


def _self_made_decision(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    assert evidence.decision is not None
    forged = sign_statement(evidence.decision.body, service.coordinator.identity)
    return replace(evidence, decision=forged)


def _decision_for_another_plan(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    other = submit(service, name="another-plan")
    return replace(evidence, decision=service.filed[other].decision)


def _plan_as_decision(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    return replace(evidence, decision=sign_statement(evidence.plan.body, service.log_key))


def _proof_of_another_entry(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    assert evidence.decision_entry is not None
    return replace(evidence, plan_entry=evidence.decision_entry)


def _leaf_of_another_entry(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    assert evidence.decision_entry is not None
    return replace(
        evidence, plan_entry=LogEvidence(evidence.decision_entry.leaf, evidence.plan_entry.proof)
    )


def _checkpoint_of_another_key(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    proof = Proof.parse(evidence.plan_entry.proof)
    head = verify_checkpoint(proof.checkpoint, service.log_key.public)
    forged = sign_checkpoint(head, SigningKey.generate(ORIGIN))
    return replace(
        evidence,
        plan_entry=LogEvidence(
            evidence.plan_entry.leaf, replace(proof, checkpoint=forged).encoded()
        ),
    )


def _checkpoint_of_another_log(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    proof = Proof.parse(evidence.plan_entry.proof)
    head = verify_checkpoint(proof.checkpoint, service.log_key.public)
    other = sign_checkpoint(Checkpoint("other/log", head.size, head.root), service.log_key)
    return replace(
        evidence,
        plan_entry=LogEvidence(
            evidence.plan_entry.leaf, replace(proof, checkpoint=other).encoded()
        ),
    )


def _no_log_entry(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    return replace(evidence, decision_entry=None)


def _proof_that_is_none(evidence: PlanEvidence, service: FakeCompliance) -> PlanEvidence:
    return replace(evidence, plan_entry=LogEvidence(b"{}", "not a proof"))


@pytest.mark.parametrize(
    ("rule", "break_it"),
    [
        ("plan-signed", _signed_by_another),
        ("plan-approved", _no_decision),
        ("plan-approved", _self_made_decision),
        ("plan-approved", _decision_for_another_plan),
        ("plan-approved", _plan_as_decision),
        ("plan-logged", _proof_of_another_entry),
        ("plan-logged", _leaf_of_another_entry),
        ("plan-logged", _checkpoint_of_another_key),
        ("plan-logged", _checkpoint_of_another_log),
        ("approval-logged", _no_log_entry),
        ("plan-logged", _proof_that_is_none),
    ],
)
def test_forged_evidence_is_refused(
    compliance: FakeCompliance, member: Membership, rule: str, break_it: Break
) -> None:
    plan_id = submit(compliance)
    evidence = break_it(fetch_evidence(compliance, plan_id, 0), compliance)
    asked = evidence.plan.digest if break_it is _signed_by_another else plan_id
    findings, proven = check_evidence(asked, evidence, member, None)
    assert rule in failures(findings)
    assert proven is None
    assert all(finding.fix for finding in findings if not finding.passed)


def test_another_plan_than_the_one_asked_for_is_refused(
    compliance: FakeCompliance, member: Membership
) -> None:
    asked, other = submit(compliance), submit(compliance, name="another-plan")
    findings, proven = check_evidence(asked, fetch_evidence(compliance, other, 0), member, None)
    assert failures(findings) == ["plan-signed"]
    assert proven is None


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("plan-addressed", {"federation": "banks"}),
        ("plan-addressed", {"sites": ["south", "west"]}),
    ],
)
def test_a_plan_for_others_is_refused(
    compliance: FakeCompliance, member: Membership, rule: str, changes: dict[str, Any]
) -> None:
    plan_id = submit(compliance, **changes)
    findings, _ = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, None)
    assert failures(findings) == [rule]


def test_a_signed_document_that_is_no_plan_is_refused(
    compliance: FakeCompliance, member: Membership
) -> None:
    body = {**make_plan().body(), "run": "import os"}
    plan_id = compliance.submit(sign_statement(body, compliance.coordinator.identity))
    compliance.decide(plan_id)
    findings, proven = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, None)
    assert failures(findings) == ["plan-signed"]
    assert "?: unknown field" in findings[-1].detail
    assert proven is None


def test_nobody_approves_their_own_plan(compliance: FakeCompliance, member: Membership) -> None:
    plan_id = submit(compliance, approve=False)
    compliance.decide(plan_id, decided_by="coordinator")
    findings, _ = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, None)
    assert failures(findings) == ["plan-approved"]
    assert "its own author" in findings[2].detail


def test_a_rejected_or_undecided_plan_is_refused(
    compliance: FakeCompliance, member: Membership
) -> None:
    undecided = submit(compliance, approve=False)
    rejected = submit(compliance, approve=False, name="another-plan")
    compliance.decide(rejected, "rejected")
    for plan_id in (undecided, rejected):
        evidence = fetch_evidence(compliance, plan_id, 0)
        findings, _ = check_evidence(plan_id, evidence, member, None)
        assert failures(findings) == ["plan-approved", "approval-logged"]
    # A rejection handed over as if it were an approval.
    filed = compliance.filed[rejected]
    filed.state = "approved"
    findings, _ = check_evidence(rejected, fetch_evidence(compliance, rejected, 0), member, None)
    assert failures(findings) == ["plan-approved"]
    assert "rejected the plan" in findings[2].detail


# --- one history ----------------------------------------------------------------------------------


def grow(compliance: FakeCompliance, entries: int) -> None:
    for number in range(entries):
        compliance.log.record(Entry("test", "noise", f"thing:{number}", None, {}))


def head_of(compliance: FakeCompliance) -> Checkpoint:
    return verify_checkpoint(compliance.log.checkpoint(), compliance.log_key.public, ORIGIN)


@pytest.mark.parametrize("later", [0, 1, 5])
def test_a_log_that_grew_is_accepted(
    compliance: FakeCompliance, member: Membership, later: int
) -> None:
    grow(compliance, 3)
    seen = head_of(compliance)
    plan_id = submit(compliance)
    grow(compliance, later)
    evidence = fetch_evidence(compliance, plan_id, seen.size)
    findings, proven = check_evidence(plan_id, evidence, member, seen)
    assert failures(findings) == []
    assert proven is not None


def test_a_log_that_grows_between_two_answers_is_accepted(
    compliance: FakeCompliance, member: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_id = submit(compliance)
    seen = head_of(compliance)
    answer = compliance.log_proof

    def growing(position: int) -> Any:
        grow(compliance, 2)
        return answer(position)

    monkeypatch.setattr(compliance, "log_proof", growing)
    evidence = fetch_evidence(compliance, plan_id, seen.size)
    assert len(evidence.growth) == 2
    findings, _ = check_evidence(plan_id, evidence, member, seen)
    assert failures(findings) == []


def test_a_log_that_shrank_is_refused(compliance: FakeCompliance, member: Membership) -> None:
    plan_id = submit(compliance)
    evidence = fetch_evidence(compliance, plan_id, 0)
    grow(compliance, 1)
    findings, proven = check_evidence(plan_id, evidence, member, head_of(compliance))
    assert failures(findings) == ["log-consistent"]
    assert "this site has seen 3" in findings[-1].detail
    assert proven is None


def test_a_log_with_another_past_is_refused(
    tmp_path: Path, coordinator: Coordinator, compliance: FakeCompliance, member: Membership
) -> None:
    """The operator rewrote the log: same key, other history."""
    other = FakeCompliance(tmp_path / "rewritten", coordinator)
    grow(other, 2)
    forged = sign_checkpoint(
        verify_checkpoint(other.log.checkpoint(), other.log_key.public, ORIGIN), compliance.log_key
    )
    other.log.close()
    seen = verify_checkpoint(forged, compliance.log_key.public, ORIGIN)
    grow(compliance, 1)
    plan_id = submit(compliance)
    evidence = fetch_evidence(compliance, plan_id, seen.size)
    findings, _ = check_evidence(plan_id, evidence, member, seen)
    assert failures(findings) == ["log-consistent"]
    # A fork of the very same size, for which no proof is needed, is a fork too.
    fork = Checkpoint(ORIGIN, compliance.log.size(), b"\x00" * 32)
    findings, _ = check_evidence(plan_id, fetch_evidence(compliance, plan_id, 0), member, fork)
    assert failures(findings) == ["log-consistent"]


def test_a_missing_proof_of_growth_is_refused(
    compliance: FakeCompliance, member: Membership
) -> None:
    grow(compliance, 3)
    seen = head_of(compliance)
    plan_id = submit(compliance)
    evidence = replace(fetch_evidence(compliance, plan_id, seen.size), growth=())
    findings, _ = check_evidence(plan_id, evidence, member, seen)
    assert failures(findings) == ["log-consistent"]


def test_a_proof_of_other_sizes_than_asked_for_is_malformed(compliance: FakeCompliance) -> None:
    grow(compliance, 3)
    seen = head_of(compliance)
    plan_id = submit(compliance)
    compliance.consistency = LogConsistency(first=0, second=1, hashes=())
    with pytest.raises(MalformedInput, match="not from 3 to"):
        fetch_evidence(compliance, plan_id, seen.size)
