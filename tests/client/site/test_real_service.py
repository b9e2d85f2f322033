"""The site against the real compliance service over TLS: what the fake promises, kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from audit.errors import Conflict, Unreachable
from audit.receipt import Receipt, verify_receipt
from audit.statement import SignedStatement, sign_statement
from client import worker
from client.enrolment import Waiting, join
from client.erasure import erase_subject
from client.guard import Allowed, Refused
from client.learning.base_model import base_model_digest
from client.learning.tasks.text_classification import TextClassifier
from client.network import NetworkProbe, connect_service, open_service
from client.outbox import Outbox
from client.review import Review
from client.site import Site
from client.stopping import StopSignal
from client.vault import Vault
from client.worker import Ending, Worker
from compliance.resources import SiteView
from compliance.statements import RunOutcome, SiteAdmission, utc_now
from tests.client.site.counterparts import FEDERATION, SITE, TOKEN, Coordinator, make_kit, write_kit
from tests.client.site.documents import add_dataset, make_plan, make_policy, policy_toml
from tests.client.site.fleet import FakeFleet, make_task
from tests.client.site.world import Notes, report_of
from tests.compliance.running import Clock, RunningService, running


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    with running(tmp_path / "service", Clock(datetime.now(UTC))) as started:
        yield started


@pytest.fixture
def invited(tmp_path: Path, service: RunningService, coordinator: Coordinator) -> Path:
    """A kit that the service knows."""
    api = service.as_("coordinator")
    api.register_coordinator(coordinator.identity.public)
    envelope = make_kit(coordinator, service.trust)
    api.invite(
        SITE,
        token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
        kit_sha256=SignedStatement.from_json(envelope).digest,
        expires_at=SignedStatement.from_json(envelope).body["expires_at"],
    )
    return write_kit(tmp_path / "real.kit", envelope)


def admit(service: RunningService, coordinator: Coordinator) -> SiteView:
    api = service.as_("coordinator")
    view = api.site(SITE)
    request = x509.load_pem_x509_csr(view.certificate_request.encode())
    admission = SiteAdmission(
        federation=FEDERATION,
        site=SITE,
        enrolment=view.enrolment,
        certificate=coordinator.certify(request.public_key(), SITE),
        admitted_at=utc_now(),
    )
    return api.approve_site(SITE, sign_statement(admission.body(), coordinator.identity))


@pytest.fixture
def member(
    tmp_path: Path,
    service: RunningService,
    coordinator: Coordinator,
    invited: Path,
    tiny_model: Path,
    at_once: Waiting,
) -> Iterator[Site]:
    """A site that has joined the real service and may train."""
    join(invited, tmp_path / "site", connect=connect_service, waiting=at_once)
    admit(service, coordinator)
    join(invited, tmp_path / "site", connect=connect_service, waiting=at_once)
    with Site.open(tmp_path / "site") as site:
        site.paths.models.mkdir()
        shutil.copytree(tiny_model, site.paths.models / "tiny")
        digest = base_model_digest(tiny_model)
        site.paths.policy.write_text(policy_toml(make_policy(base_models=[digest])))
        add_dataset(site)
        yield site


def test_joining_spends_the_kit_once(
    tmp_path: Path, service: RunningService, invited: Path, at_once: Waiting
) -> None:
    joined = join(invited, tmp_path / "a", connect=connect_service, waiting=at_once)
    assert joined.stage == "pending"
    with pytest.raises(Conflict):
        join(invited, tmp_path / "b", connect=connect_service, waiting=at_once)
    assert not (tmp_path / "b").exists()


def test_a_plan_from_submission_to_erasure(
    service: RunningService,
    coordinator: Coordinator,
    member: Site,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)
    model = {"name": "tiny", "digest": base_model_digest(tiny_model)}
    plan = make_plan(base_model=model, sites=[SITE], phase={"rounds": 1})
    api = service.as_("coordinator")
    plan_id = api.submit_plan(coordinator.sign_plan(plan)).plan_id

    with (
        open_service(member) as own,
        Vault.open(member.paths, member.keyring) as vault,
        member.ledger() as ledger,
    ):
        undecided = Review(member, vault, ledger, own).of(plan_id)
        assert isinstance(undecided, Refused)
        assert undecided.code == "plan-approved"
        service.as_("officer").approve_plan(plan_id)
        assert isinstance(Review(member, vault, ledger, own).of(plan_id), Allowed)

        fleet = FakeFleet()
        state = TextClassifier.build(plan, tiny_model).get_state()

        def end() -> None:
            outcome = RunOutcome(
                plan_id=plan_id, verdict="completed", rounds_done=1, finished_at=utc_now()
            )
            api.report_outcome(plan_id, sign_statement(outcome.body(), coordinator.identity))

        fleet.tasks = [
            make_task("train", plan_id, 0, state),
            make_task("evaluate", plan_id, 0, state),
            end,
        ]
        ending = Worker(
            member,
            connect=fleet.connect,
            service=own,
            stop=StopSignal(),
            reporter=Notes(),
            once=True,
        ).run()
        assert ending is Ending.COMPLETED
        assert [report_of(reply).activity for reply in fleet.replies] == ["train", "evaluate"]
        recorded = service.as_("officer").plan_evidence(plan_id).reports
        assert [item.digest for item in recorded] == [r.statement.digest for r in fleet.replies]

        erased = erase_subject(member, vault, ledger, "P-003")
        assert Outbox(member).send(own).sent == 1
        receipt = Receipt.parse(erased.receipt_file.read_bytes())
        verified = verify_receipt(receipt, service.trust.log_key, member.identity.public)
        assert verified.body["plans"] == [plan_id]


def test_the_probe_reads_the_clock_and_knows_strangers(
    service: RunningService, member: Site, coordinator: Coordinator
) -> None:
    probe = NetworkProbe(member)
    assert abs((probe.service_time() - datetime.now(UTC)).total_seconds()) < 60
    assert probe.site_view().state == "approved"
    with pytest.raises(Unreachable):
        probe.reach_coordinator()
