"""The site against the real compliance service over TLS: what the fake promises, kept."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from audit.errors import Conflict, ExitCode, Unreachable, VerificationFailed
from audit.receipt import Receipt, verify_receipt
from audit.statement import SignedStatement, sign_statement
from client import worker
from client.cli import app
from client.enrolment import Waiting, join
from client.erasure import erase_subject
from client.guard import Allowed, Refused
from client.learning.base_model import base_model_digest
from client.learning.tasks.text_classification import TextClassifier
from client.learning.travelling import Activity, chosen, names_in_task
from client.network import NetworkProbe, connect_service, open_service
from client.outbox import Outbox
from client.review import Review
from client.site import Site
from client.stopping import StopSignal
from client.subject_desk import SubjectDesk
from client.vault import Vault
from client.worker import Ending, Worker
from compliance.cli import app as officers_app
from compliance.resources import SiteView
from compliance.statements import RunOutcome, SiteAdmission, utc_now
from compliance.subject_requests_api import seal_to_sites, sealing_key
from compliance.subject_requests_views import FiledRequest
from compliance.subject_sealing import Identifiers, seal_package
from tests.client.site.counterparts import FEDERATION, SITE, TOKEN, Coordinator, make_kit, write_kit
from tests.client.site.documents import add_dataset, make_plan, make_policy, policy_toml
from tests.client.site.fleet import FakeFleet, make_task
from tests.client.site.world import Notes, report_of
from tests.compliance.running import Clock, RunningService, running
from tests.compliance.subjects import configure
from tests.following import first_missing, run_command, steps_of

ACTIVITIES: tuple[Activity, ...] = ("train", "evaluate")


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
            make_task(kind, plan_id, 0, chosen(state, names_in_task(plan, kind, 0, state)))
            for kind in ACTIVITIES
        ]
        fleet.tasks += [
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


def test_a_subject_asks_the_real_service_and_the_site_answers(
    service: RunningService, member: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(service)
    subject = service.client().subject_requests
    folder = ["--dir", str(member.paths.root)]
    with (
        open_service(member) as own,
        Vault.open(member.paths, member.keyring) as vault,
        member.ledger() as ledger,
    ):
        desk = SubjectDesk(member, vault, ledger, own)
        desk.publish_key()
        desk.publish_key()
        asked = {}
        for right, subject_id in (("erasure", "P-003"), ("access", "P-004")):
            request_id = secrets.token_hex(16)
            [view] = subject.offer().sites
            keys = {view.site: sealing_key(view, member.identity.public)}
            sealed = seal_to_sites(Identifiers(subject_ids=(subject_id,)), keys, request_id)
            asked[right] = subject.ask(right, "gdpr", sealed, request_id=request_id)  # type: ignore[arg-type]
    member.close()

    erasure, access = asked["erasure"], asked["access"]

    def run(*arguments: str) -> str:
        app(["requests", *arguments, *folder], standalone_mode=False)
        return capsys.readouterr().out

    listed = json.loads(run("list", "--json"))
    assert {part["waits_for"] for part in listed} == {"you: confirm who asks"}
    for filed in asked.values():
        run("confirm", filed.request_id, "--method", "identity-card")
    assert "P-004" in run("show", access.request_id[:8])
    shown = run("list")
    assert "client start" in shown
    assert "you: answer" in shown
    done = json.loads(run("answer", access.request_id, "--yes", "--json"))
    assert (done["sent"], done["rejected"]) == (1, [])
    package = json.loads(Path(done["package"]).read_text())
    assert package["subjects"][0]["records"]
    with (
        open_service(member) as own,
        Vault.open(member.paths, member.keyring) as vault,
        member.ledger() as ledger,
    ):
        desk = SubjectDesk(member, vault, ledger, own)
        assert desk.serve(desk.parts(), lambda *_: None) == []
        delivery = Outbox(member).send(own)
        assert (delivery.sent, delivery.rejected) == (2, [])
        assert vault.is_erased("P-003")
        assert list(desk.parts()) == []
    for filed, outcome in ((erasure, "done"), (access, "done")):
        status = subject.status(filed.receipt_code)
        assert (status.stage, status.parts[0].outcome) == ("completed", outcome)
    assert "P-003" not in str(service.tables()) + str(service.entries())
    assert "no requests wait" in run("list")


IDS = ("3fa2c1", "9c04de", "71b2aa")
"""What the guide's requests are called."""

OPENED_TO_ALL = "https://requests.hospitals.example"
"""Where the guides say that the public page is."""


def test_the_officers_guide_to_requests_runs(
    service: RunningService,
    member: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    configure(service)
    service.trust.save(tmp_path / "trust.json")
    (tmp_path / "ids.txt").write_text("P-003\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIDUCIARY_TRUST", str(tmp_path / "trust.json"))
    monkeypatch.setenv("FIDUCIARY_TOKEN_FILE", str(service.folder.token("officer")))
    monkeypatch.setenv("FIDUCIARY_SITE", str(member.paths.root))
    numbers = iter(IDS)
    monkeypatch.setattr(
        "compliance.commands.subject_filing.secrets.token_hex",
        lambda _: next(numbers).ljust(32, "0"),
    )
    with (
        open_service(member) as own,
        Vault.open(member.paths, member.keyring) as vault,
        member.ledger() as ledger,
    ):
        SubjectDesk(member, vault, ledger, own).publish_key()
    member.close()
    guide = (Path(__file__).parents[3] / "docs/subject-requests.md").read_text("utf-8")
    commands = [line[2:] for line in guide.splitlines() if line.startswith("$ ")]
    assert len(commands) > 15
    apps = {"client": app, "compliance": officers_app}
    printed = {}
    for command in commands:
        name, *arguments = shlex.split(command)
        apps[name](arguments, standalone_mode=False)
        printed[command] = capsys.readouterr().out
    assert "P-003" in printed["client requests show 3fa2c1"]
    assert [command for command, out in printed.items() if "P-003" in out] == [
        "client requests show 3fa2c1"
    ]
    late = json.loads(printed["compliance requests --overdue --json"])
    assert (late["requests"], late["overdue"]) == ([], 0)
    officer = service.as_("officer").subject_requests
    stages = {digits: officer.show(digits.ljust(32, "0")).stage for digits in IDS}
    assert stages == {"3fa2c1": "completed", "9c04de": "refused", "71b2aa": "completed"}
    service.clock.advance(days=40)
    number = "e" * 32
    [view] = officer.sealing_keys()
    sealed = seal_to_sites(
        Identifiers(subject_ids=("P-004",)), {view.site: sealing_key(view)}, number
    )
    officer.file("erasure", "gdpr", sealed, request_id=number)
    service.clock.advance(days=40)
    with pytest.raises(SystemExit) as ended:
        officers_app(["requests", "--overdue"])
    assert ended.value.code == ExitCode.REFUSED
    assert "overdue" in capsys.readouterr().out


def test_a_copy_of_ones_data_is_opened_without_any_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, request = tmp_path / "my.key", "a" * 32
    officers_app(["requests", "make-key", str(key)], standalone_mode=False)
    public = base64.b64decode(capsys.readouterr().out.strip())
    assert key.stat().st_mode & 0o077 == 0
    sealed = tmp_path / "north.sealed"
    sealed.write_bytes(seal_package(b"{}", public, request_id=request, site="north"))
    common = ["requests", "open-package", str(sealed), "--key", str(key), "--site", "north"]
    output = tmp_path / "package.json"
    officers_app([*common, "--request", request, "--output", str(output)], standalone_mode=False)
    assert output.read_bytes() == b"{}"
    with pytest.raises(VerificationFailed):
        officers_app([*common, "--request", "b" * 32], standalone_mode=False)


def test_a_subject_follows_their_guide_on_a_computer_of_their_own(
    service: RunningService,
    member: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The site acts and hands a receipt over; the subject has what the guide names, no more."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    configure(service)
    page = Path(__file__).parents[3] / "docs" / "subject-guide.md"
    make_key, fetch, open_copy, check = steps_of(page)
    laptop = tmp_path / "laptop"
    laptop.mkdir()
    monkeypatch.chdir(laptop)
    for name in ("TRUST", "TOKEN_FILE", "COMPLIANCE", "SITE", "LOG_KEY"):
        monkeypatch.delenv(f"FIDUCIARY_{name}", raising=False)
    public = base64.b64decode(run_command(make_key.command, capsys).output)

    with (
        open_service(member) as own,
        Vault.open(member.paths, member.keyring) as vault,
        member.ledger() as ledger,
    ):
        SubjectDesk(member, vault, ledger, own).publish_key()
    receipts, site_key = member.paths.receipts, member.identity.public.encoded()
    member.close()
    subject, officer = service.client().subject_requests, service.as_("officer").subject_requests
    [view] = subject.offer().sites

    def seal(number: str, subject_id: str, key: bytes | None = None) -> dict[str, bytes]:
        who = Identifiers(subject_ids=(subject_id,), package_key=key)
        return seal_to_sites(who, {view.site: sealing_key(view)}, number)

    first, second = secrets.token_hex(16), secrets.token_hex(16)
    erasure = subject.ask("erasure", "gdpr", seal(first, "P-003"), request_id=first)
    letter = seal(second, "P-004", public)  # a key comes in writing
    access = officer.file("access", "gdpr", letter, request_id=second)

    def status(filed: FiledRequest) -> str:
        form = {"receipt_code": filed.receipt_code}
        return service.http().post("/requests/status", data=form).text

    assert "<h2>We do not know yet who asks</h2>" in status(erasure)
    officer.verify(access.request_id, method="letter")
    for line in (
        f"confirm {erasure.request_id} --method identity-card",
        f"answer {erasure.request_id} --yes",
        f"answer {access.request_id} --yes",
    ):
        done = run_command(f"client requests {line} --dir {tmp_path / 'site'}", capsys)
        assert done.code == 0, done.output
    assert "Did what you asked for." in status(erasure)
    assert "A copy of your data is there, sealed to your key" in status(access)

    ask = re.search(r"^```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert ask is not None
    Path("ask.json").write_text(ask[1].replace("RECEIPT_CODE", access.receipt_code))
    (tmp_path / "ca.pem").write_text(service.trust.certificate)
    subprocess.run(
        shlex.split(fetch.command.replace(OPENED_TO_ALL, service.trust.url)),
        check=True,
        env={"PATH": os.environ["PATH"], "CURL_CA_BUNDLE": str(tmp_path / "ca.pem")},
    )
    [receipt] = (path for path in receipts.iterdir() if not path.name.endswith(".site.json"))
    shutil.copy(receipt, "receipt.json")
    Path("log.vkey").write_text(service.trust.log_key.encoded())
    Path("north.vkey").write_text(site_key)

    def refuse(*_: object) -> None:
        raise OSError("the network is off")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    opened = run_command(open_copy.command.replace("REQUEST", access.request_id), capsys)
    checked = run_command(check.command, capsys)
    for step, answer in ((open_copy, opened), (check, checked)):
        assert answer.code == 0, answer.output
        assert first_missing(step.shown, answer.output) is None, answer.output
    copy = json.loads(Path("package.json").read_text("utf-8"))
    assert copy["subjects"][0]["records"]
    assert "P-003" not in checked.output + Path("receipt.json").read_text("ascii")
    assert re.search(r"records_removed\s+[1-9]", checked.output)
    Path("north.vkey").write_text(service.trust.log_key.encoded())  # not who signed it
    assert run_command(check.command, capsys).code == ExitCode.VERIFICATION_FAILED
