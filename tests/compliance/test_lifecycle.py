"""From a kit to a model that its consumer can open."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.errors import Refused
from audit.proof import Proof, verify_proof
from audit.statement import verify_statement
from audit.verifier import verify_log
from compliance.sealing import open_data_key
from compliance.statements import Decision, format_time
from tests.compliance.federation import Consumer, Coordinator, Site
from tests.compliance.running import RunningService


def test_a_release_reaches_its_consumer_and_nobody_else(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    officer = service.as_("officer")
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    release = coordinator.release(plan_id)
    release_id = coordinator.api.submit_release(
        release.manifest, sealed_key=release.sealed_key
    ).release_id
    assert release_id == release.release_id
    assert officer.release(release_id).state == "announced"
    uploaded = coordinator.api.upload_release(release_id, release.file(tmp_path))
    assert uploaded.state == "candidate"
    assert officer.approve_release(release_id, reason="gates passed").state == "approved"

    desk, stranger = Consumer(service), Consumer(service, "stranger")
    assert desk.api.releases() == ()
    grant = officer.grant(
        release_id,
        desk.name,
        public_key=desk.public_key,
        purpose="triage",
        expires_at=format_time(service.clock() + timedelta(days=30)),
    )
    assert grant.granted_by == "officer"
    assert [view.release_id for view in desk.api.releases()] == [release_id]

    fetched = tmp_path / "fetched"
    digest = desk.api.download_release(release_id, fetched)
    assert digest == desk.api.release(release_id).manifest.ciphertext_digest
    sealed = desk.api.release_key(release_id)
    data_key = open_data_key(
        sealed.sealed_key, desk.key, release_id=release_id, recipient=desk.name
    )
    content = fetched.read_bytes()
    opened = AESGCM(data_key).decrypt(content[:12], content[12:], plan_id.encode())
    assert opened == release.plaintext
    assert [view.downloads for view in officer.release(release_id).grants] == [1]

    with pytest.raises(Refused, match="no grant"):
        stranger.api.download_release(release_id, tmp_path / "stolen")
    assert not (tmp_path / "stolen").exists()
    assert list(tmp_path.glob(".stolen*")) == []

    report = verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key)
    assert report.ok, report
    assert report.entries == len(service.entries())


def test_plan_and_approval_are_provable_offline(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    site = north.client(service)
    view = site.plan(plan_id)
    assert view.state == "approved"
    assert view.approval is not None
    assert view.approved_position is not None
    decision = Decision.from_body(verify_statement(view.approval, service.trust.log_key))
    assert (decision.object, decision.verdict, decision.decided_by) == (
        f"plan:{plan_id}",
        "approved",
        "officer",
    )
    for position, statement in (
        (view.submitted_position, view.statement),
        (view.approved_position, view.approval),
    ):
        proof = site.log_proof(position)
        verify_proof(Proof.parse(proof.proof), service.trust.log_key, leaf=proof.leaf)
        assert statement.log_object.encode() in proof.leaf


def test_every_step_is_an_entry_by_its_actor(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    plan_id = coordinator.approved_plan()
    coordinator.run(plan_id, north)
    steps = [(actor, action) for actor, action, _, _ in service.entries()]
    assert steps == [
        ("compliance", "service.created"),
        ("compliance", "principal.added"),
        ("compliance", "principal.added"),
        ("compliance", "principal.added"),
        ("coordinator", "coordinator.registered"),
        ("coordinator", "site.invited"),
        ("site:north", "site.enrolled"),
        ("coordinator", "site.admitted"),
        ("coordinator", "plan.submitted"),
        ("officer", "plan.approved"),
        ("site:north", "site.reported"),
        ("coordinator", "round.reported"),
        ("site:north", "site.reported"),
        ("coordinator", "round.reported"),
        ("coordinator", "run.ended"),
    ]
    evidence = service.as_("auditor").plan_evidence(plan_id)
    assert (len(evidence.rounds), len(evidence.reports)) == (2, 2)
    assert service.as_("auditor").plan(plan_id).state == "completed"
