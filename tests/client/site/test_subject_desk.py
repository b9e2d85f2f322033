"""Data subjects' requests at the site: acted on, proven, answered once, and nobody named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.canonical import digest
from audit.errors import FiduciaryError, NotFound, Refused, Unreachable, VerificationFailed
from audit.statement import verify_statement
from client import export, timers, worker
from client.lessons import Lessons
from client.outbox import Outbox
from client.progress import ActivityFile
from client.review import Review
from client.sealing_keys import (
    DESTROYED,
    ROTATED,
    open_sealed,
    read_keys,
    rotate_key,
    sealing_statement,
)
from client.site import Site
from client.stopping import StopSignal
from client.subject_desk import SubjectDesk
from client.subject_exclusions import EXCLUDED, journal_exclusions, lift_exclusions
from client.subject_trail import Use
from client.vault.excluding import exclude
from client.vault.store import Vault
from compliance.statements import (
    ErasureReceipt,
    SiteSealingKey,
    SubjectAnswer,
    SubjectIdentity,
    SubjectRight,
)
from compliance.subject_requests_views import Recipient, TrainedRelease
from compliance.subject_sealing import Identifiers, open_package, seal_identifiers
from tests.client.site.counterparts import FakeCompliance
from tests.client.site.documents import ZERO_DIGEST, add_dataset
from tests.client.site.test_erasure import everything_written
from tests.client.site.world import Notes, World

SUBJECT, OTHER, STRANGER = "P-003", "P-004", "P-999"


@pytest.fixture
def vault(joined: Site) -> Iterator[Vault]:
    add_dataset(joined, "notes")
    with Vault.open(joined.paths, joined.keyring) as opened:
        yield opened


@pytest.fixture
def desk(joined: Site, vault: Vault, compliance: FakeCompliance) -> Iterator[SubjectDesk]:
    with joined.ledger() as ledger:
        made = SubjectDesk(joined, vault, ledger, compliance)
        made.publish_key()
        yield made


class Told:
    """What the operator was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, message: str, is_problem: bool) -> None:
        self.lines.append(message)


def serve(desk: SubjectDesk, site: Site, compliance: FakeCompliance) -> list[str]:
    """One turn of the worker; what waits for the operator, and whatever was said."""
    told = Told()
    waiting = desk.serve(desk.parts(), told)
    Outbox(site).send(compliance)
    return [part.request_id for part in waiting] + told.lines


def answer_of(compliance: FakeCompliance, site: Site, request_id: str) -> SubjectAnswer:
    """The answer that the service took, verified."""
    signed = compliance.answered[request_id]
    return SubjectAnswer.from_body(verify_statement(signed, site.identity.public))


def asks(compliance: FakeCompliance, right: SubjectRight, subject: str) -> Callable[[], None]:
    """In the middle of a run, a subject asks."""

    def ask() -> None:
        compliance.ask_site(right, subject)

    return ask


def trained(vault: Vault, world: World) -> set[str]:
    lessons = Lessons(vault, world.site.paths.models)
    names = tuple(dataset.name for dataset in vault.datasets())
    lessons.prepare(world.plan_id, world.plan, names, world.state)
    return {*lessons.trained_subjects, *lessons.held_out_subjects}


def stated_key(site: Site) -> SiteSealingKey:
    """What the site states of its present key."""
    return SiteSealingKey.from_body(verify_statement(sealing_statement(site), site.identity.public))


def test_the_key_is_the_sites_own_and_stays_the_same(joined: Site) -> None:
    first = sealing_statement(joined)
    assert sealing_statement(joined) == first
    stated = stated_key(joined)
    assert stated.format == "fiduciary.site-sealing-key/1"
    who = Identifiers(subject_ids=(SUBJECT,))
    sealed = seal_identifiers(who, stated.key, request_id="0" * 32, site=joined.name)
    assert open_sealed(joined, sealed, "0" * 32) == who


def test_a_replaced_key_opens_what_was_sealed_to_it_until_all_of_it_is_answered(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    old = compliance.ask_site("access", SUBJECT)
    first = stated_key(joined)
    second = desk.rotate_key()
    assert (second.generation, second.format) == (1, "fiduciary.site-sealing-key/2")
    assert second.key != first.key
    new = compliance.ask_site("access", OTHER)
    for request, subject in ((old, SUBJECT), (new, OTHER)):
        assert desk.identify(desk.part(request)).subject_ids == (subject,)

    desk.fetch()  # the service says that an earlier key is in use
    assert read_keys(joined.paths.sealing_keys).earlier == (0,)
    state = compliance.key_state
    assert state is not None
    compliance.key_state = state.model_copy(
        update={"earlier_in_use": False, "statement": ZERO_DIGEST}
    )
    desk.fetch()  # that is about another key
    assert read_keys(joined.paths.sealing_keys).earlier == (0,)
    compliance.key_state = state.model_copy(update={"earlier_in_use": False})
    desk.fetch()
    assert read_keys(joined.paths.sealing_keys).earlier == ()
    with pytest.raises(VerificationFailed, match="does not open"):
        desk.identify(desk.part(old))
    assert desk.identify(desk.part(new)).subject_ids == (OTHER,)
    actions = [leaf.action for leaf in joined.journal.leaves()]
    assert [action for action in actions if action.startswith("sealing-key-")] == [
        ROTATED,
        DESTROYED,
    ]


def test_a_site_behind_its_own_backup_makes_a_key_above_what_the_service_knows(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    assert compliance.key_state is not None
    compliance.key_state = compliance.key_state.model_copy(update={"generation": 7})
    assert desk.rotate_key().generation == 8
    assert read_keys(joined.paths.sealing_keys).earlier == (0,)
    # A key that the service was not told of is replaced all the same, and told of later.
    compliance.fail["publish_key"] = Unreachable("away")
    with pytest.raises(Unreachable):
        desk.rotate_key()
    assert stated_key(joined).generation == 9
    assert rotate_key(joined).generation == 10


def test_an_erasure_is_done_proven_and_answered(
    joined: Site, vault: Vault, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    request = compliance.ask_site("erasure", STRANGER, SUBJECT)
    assert serve(desk, joined, compliance) == [f"request {request[:8]} (erasure): done"]
    assert vault.is_erased(SUBJECT)
    [receipt] = compliance.erasures
    answer = answer_of(compliance, joined, request)
    assert answer.erasures == (receipt.digest,)
    assert (answer.records, answer.datasets) == (2, 1)
    assert answer.answered_by == "policy"
    assert ErasureReceipt.from_body(receipt.body).subject == vault.pseudonym(SUBJECT)
    assert serve(desk, joined, compliance) == []
    assert list(joined.paths.requests.glob("*.json")) == []


def test_who_is_not_known_is_not_found(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    asked = [compliance.ask_site(right, STRANGER) for right in ("erasure", "restriction")]
    serve(desk, joined, compliance)
    assert {answer_of(compliance, joined, one).outcome for one in asked} == {"not-found"}
    assert compliance.erasures == []


def test_who_objects_is_in_no_later_round_and_the_journal_says_so(
    world: World, compliance: FakeCompliance
) -> None:
    site = world.site
    with Vault.open(site.paths, site.keyring) as vault, site.ledger() as ledger:
        desk = SubjectDesk(site, vault, ledger, compliance)
        desk.publish_key()
        lessons = Lessons(vault, site.paths.models)
        names = tuple(dataset.name for dataset in vault.datasets())
        lessons.prepare(world.plan_id, world.plan, names, world.state)
        pseudonym = vault.pseudonym(SUBJECT)
        assert pseudonym in {*lessons.trained_subjects, *lessons.held_out_subjects}
        everybody = Review(site, vault, ledger, compliance)._count_subjects(world.plan, names)

        request = compliance.ask_site("objection", SUBJECT)
        serve(desk, site, compliance)
        answer = answer_of(compliance, site, request)
        assert (answer.outcome, answer.excluded, answer.records) == ("done", True, 2)
        lessons.forget_changed()
        assert not lessons.trained_subjects, "examples were kept in memory"
        assert pseudonym not in trained(vault, world)
        assert (
            Review(site, vault, ledger, compliance)._count_subjects(world.plan, names)
            == everybody - 1
        )
        assert vault.about(SUBJECT).datasets, "the records are kept"
    with Vault.open(site.paths, site.keyring) as vault:  # another process, another version
        vault.remove("notes")
        add_dataset(site)
        assert pseudonym not in trained(vault, world)
        entries = [leaf for leaf in site.journal.leaves() if leaf.action == EXCLUDED]
        assert [leaf.subject for leaf in entries] == [pseudonym]
        assert site.journal.read(entries[0].position)[1]["request"] == request
        assert lift_exclusions(site, vault, request[:6], "withdrawn") == 1
        assert pseudonym in trained(vault, world)
        with pytest.raises(NotFound):
            lift_exclusions(site, vault, request, "again")


def test_an_objection_of_somebody_not_known_yet_is_kept_for_later(
    joined: Site, compliance: FakeCompliance
) -> None:
    with Vault.open(joined.paths, joined.keyring) as vault, joined.ledger() as ledger:
        desk = SubjectDesk(joined, vault, ledger, compliance)
        desk.publish_key()
        request = compliance.ask_site("objection", SUBJECT, " ")
        serve(desk, joined, compliance)
        answer = answer_of(compliance, joined, request)
        assert (answer.outcome, answer.excluded, answer.records) == ("done", True, 0)
        pseudonym = vault.pseudonym(SUBJECT)
        assert [one.subject for one in vault.exclusions()] == [pseudonym]
        assert SUBJECT.encode() not in everything_written(joined)
        add_dataset(joined, "notes")
        lines = export._lines(vault, vault.dataset("notes"))
        usable = {json.loads(line)["subject"] for line in lines}
        assert pseudonym not in usable
        assert vault.pseudonym(OTHER) in usable
        assert vault.about(SUBJECT).datasets, "the records are kept"


def test_the_trail_of_who_objected_ends_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal says: trained, then excluded, and never again trained."""
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)
    monkeypatch.setattr(timers, "REQUEST_SECONDS", 0.0)
    site, compliance = world.site, world.compliance
    compliance.sealing_keys["north"] = stated_key(site).key
    with Vault.open(site.paths, site.keyring) as vault:
        pseudonym = vault.pseudonym(SUBJECT)
    world.train(0)
    world.evaluate(0)
    world.fleet.tasks.append(asks(compliance, "objection", SUBJECT))
    world.fleet.tasks.append(lambda: None)
    world.train(1)
    again = world.approve(name="another")
    world.train(0, plan_id=again)
    world.fleet.tasks.append(lambda: compliance.end(world.plan_id))
    world.run(once=True)
    about = [leaf.action for leaf in site.journal.leaves() if leaf.subject == pseudonym]
    assert about.index(EXCLUDED) == len(about) - 1
    assert any(action.startswith("subject.") for action in about)
    with_plans = [leaf for leaf in site.journal.leaves() if leaf.action in tuple(Use)]
    after = [leaf for leaf in with_plans if leaf.position > _position(site, EXCLUDED)]
    assert after, "the second plan trained on somebody"
    assert pseudonym not in {leaf.subject for leaf in after}


def _position(site: Site, action: str) -> int:
    return next(leaf.position for leaf in site.journal.leaves() if leaf.action == action)


def test_the_worker_publishes_the_key_and_tells_what_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)
    monkeypatch.setattr(timers, "REQUEST_SECONDS", 0.0)
    compliance = world.compliance
    compliance.fail["publish_key"] = Unreachable("away")
    world.fleet.tasks += [
        lambda: None,
        lambda: None,
        asks(compliance, "access", SUBJECT),
        asks(compliance, "erasure", OTHER),
        lambda: None,
        lambda: compliance.end(world.plan_id),
    ]
    world.train(0)
    world.run(once=True)
    assert set(compliance.sealing_keys) == {"north"}
    assert [SubjectAnswer.from_body(one.body).right for one in compliance.answered.values()] == [
        "erasure"
    ]
    events = [name for name, _ in world.notes.events]
    assert events.count("request-answered") == 1
    assert events.count("request-waits") == 1
    assert SUBJECT not in str(world.notes.lines) + str(world.notes.events)


def test_access_waits_for_the_operator_and_is_sealed_to_the_subject(
    joined: Site, vault: Vault, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    key = X25519PrivateKey.generate()
    request = compliance.ask_site(
        "access", SUBJECT, package_key=key.public_key().public_bytes_raw()
    )
    assert serve(desk, joined, compliance) == [request]
    assert compliance.answered == {}
    desk.act(desk.part(request[:6]), "operator")
    Outbox(joined).send(compliance)
    answer = answer_of(compliance, joined, request)
    assert (answer.delivery, answer.answered_by) == ("sealed", "operator")
    sealed = compliance.packages[request]
    assert digest(sealed) == answer.package
    package = json.loads(open_package(sealed, key, request_id=request, site="north"))
    [subject] = package["subjects"]
    assert [held["dataset"] for held in subject["held"]] == ["notes"]
    assert subject["held"][0]["purposes"]
    mine = [r.text for r in vault.examples("notes") if r.subject == vault.pseudonym(SUBJECT)]
    assert [record["content"] for record in subject["records"]] == mine
    assert vault.pseudonym(SUBJECT) not in json.dumps(package)
    assert not joined.paths.packages.exists()


def test_a_copy_names_the_models_their_recipients_and_how_long(
    world: World, compliance: FakeCompliance
) -> None:
    site = world.site
    compliance.trained_releases = [
        TrainedRelease(
            release_id="sha256:" + digit * 64,
            plan_id=plan_id,
            name=name,
            state="approved",
            recipients=(
                Recipient(
                    principal="triage-desk",
                    purpose="triage",
                    granted_at="2026-11-02T09:00:00.000Z",
                    expires_at="2026-12-02T09:00:00.000Z",
                    revoked_at=None,
                    downloads=1,
                ),
            ),
        )
        for digit, name, plan_id in (
            ("1", "ours", world.plan_id),
            ("2", "without-the-subject", world.approve(name="another")),
        )
    ]
    world.train(0)
    world.evaluate(0)  # the site's key decides at random who is held out for it
    world.fleet.tasks.append(lambda: compliance.end(world.plan_id))
    world.run(once=True)
    with Vault.open(site.paths, site.keyring) as vault, site.ledger() as ledger:
        desk = SubjectDesk(site, vault, ledger, compliance)
        desk.publish_key()
        request = compliance.ask_site("portability", SUBJECT)
        desk.act(desk.part(request), "operator")
    path = site.paths.packages / f"{request}.json"
    assert path.stat().st_mode & 0o077 == 0
    package = json.loads(path.read_text())
    assert [release["name"] for release in package["releases"]] == ["ours"]
    assert package["releases"][0]["recipients"][0]["principal"] == "triage-desk"
    assert package["releases"][0]["retention_days"] == world.plan.retention_days
    use = package["subjects"][0]["trained"] + package["subjects"][0]["evaluated"]
    assert {one["plan"] for one in use} == {world.plan_id}
    Outbox(site).send(compliance)
    answer = answer_of(compliance, site, request)
    assert (answer.delivery, answer.package) == ("by-operator", digest(path.read_bytes()))


def test_the_operator_may_let_access_go_out_by_itself(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    joined.paths.request_settings.write_text('automatic = ["access"]\n')
    first = compliance.ask_site("access", SUBJECT)
    second = compliance.ask_site("erasure", OTHER)
    assert serve(desk, joined, compliance)[:1] == [second]
    assert answer_of(compliance, joined, first).answered_by == "policy"
    joined.paths.request_settings.write_text('automatic = ["everything"]\n')
    with pytest.raises(FiduciaryError, match=r"malformed requests\.toml"):
        serve(desk, joined, compliance)


def test_a_rectification_is_the_operators(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    request = compliance.ask_site("rectification", SUBJECT, details="born 1971, not 1917")
    assert serve(desk, joined, compliance) == [request]
    assert desk.identify(desk.part(request)).details == "born 1971, not 1917"
    with pytest.raises(Refused, match="only you can correct"):
        desk.act(desk.part(request), "operator")
    desk.act(desk.part(request), "operator", corrected=True)
    Outbox(joined).send(compliance)
    assert answer_of(compliance, joined, request).corrected


def test_the_operator_says_no_on_a_ground(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    request = compliance.ask_site("access", SUBJECT)
    desk.decline(desk.part(request), ground="rights-of-others")
    Outbox(joined).send(compliance)
    answer = answer_of(compliance, joined, request)
    assert (answer.outcome, answer.ground) == ("refused", "rights-of-others")


def test_a_ground_that_the_law_does_not_have_is_neither_signed_nor_sent(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    request = compliance.ask_site("access", SUBJECT)
    with pytest.raises(Refused, match="no such ground") as refused:
        desk.decline(desk.part(request), ground="too-busy")
    assert "rights-of-others" in refused.value.fix
    Outbox(joined).send(compliance)
    assert request not in compliance.answered


def test_nobody_is_opened_before_it_is_known_who_asks(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk, vault: Vault
) -> None:
    request = compliance.ask_site("erasure", SUBJECT, proven=False)
    assert serve(desk, joined, compliance) == [request]
    with pytest.raises(Refused, match="before it is known who asks"):
        desk.act(desk.part(request), "operator")
    desk.confirm(desk.part(request), "identity-card")
    [signed] = compliance.identities
    stated = SubjectIdentity.from_body(verify_statement(signed, joined.identity.public))
    assert (stated.request, stated.method) == (request, "identity-card")
    serve(desk, joined, compliance)
    assert vault.is_erased(SUBJECT)


# --- crashes and lies ----------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["take", "report_erasure", "answer"])
@pytest.mark.parametrize("after", [False, True])
def test_a_service_that_goes_away_in_between_gets_one_answer_in_the_end(
    joined: Site,
    vault: Vault,
    compliance: FakeCompliance,
    desk: SubjectDesk,
    lost: str,
    after: bool,
) -> None:
    request = compliance.ask_site("erasure", SUBJECT)
    (compliance.fail_after if after else compliance.fail)[lost] = Unreachable("away")
    try:
        serve(desk, joined, compliance)
    except Unreachable:
        assert lost == "take"
    for _ in range(2):
        serve(desk, joined, compliance)
    assert answer_of(compliance, joined, request).outcome == "done"
    assert Outbox(joined).files() == []
    answered = [leaf for leaf in joined.journal.leaves() if leaf.action.endswith("answered")]
    assert len(answered) == 1


@pytest.mark.parametrize("step", ["vault", "journal", "answer"])
def test_an_objection_that_a_crash_interrupted_is_finished(
    joined: Site,
    vault: Vault,
    compliance: FakeCompliance,
    desk: SubjectDesk,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    request = compliance.ask_site("objection", SUBJECT)
    names = {
        "vault": "subject_exclusions.exclude",
        "journal": "subject_exclusions.journal_exclusions",
        "answer": "subject_desk.sign_statement",
    }

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"client.{names[step]}", crash)
        with pytest.raises(KeyboardInterrupt):
            serve(desk, joined, compliance)
    assert len(vault.exclusions()) == (0 if step == "vault" else 1)
    serve(desk, joined, compliance)
    assert answer_of(compliance, joined, request).excluded
    entries = [leaf for leaf in joined.journal.leaves() if leaf.action == EXCLUDED]
    assert len(entries) == 1


def test_an_exclusion_without_its_entry_gets_one_at_the_next_start(
    joined: Site, vault: Vault
) -> None:
    with vault.transaction() as connection:
        exclude(connection, vault.pseudonym(SUBJECT), "a" * 32, "2026-11-02T09:00:00.000Z")
    for _ in range(2):
        journal_exclusions(joined, vault)
    assert [leaf.action for leaf in joined.journal.leaves()].count(EXCLUDED) == 1


def test_one_bad_request_does_not_hold_the_others_up(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk, vault: Vault
) -> None:
    bad = compliance.ask_site("erasure", SUBJECT, request_id="0" * 32)
    foreign = seal_identifiers(
        Identifiers(subject_ids=(SUBJECT,)),
        compliance.sealing_keys["north"],
        request_id="f" * 32,  # sealed for another request
        site="north",
    )
    part = compliance.asked[bad]
    compliance.asked[bad] = part.model_copy(update={"sealed": foreign})
    good = compliance.ask_site("erasure", OTHER)
    waiting = serve(desk, joined, compliance)
    assert waiting[0] == bad
    assert good in compliance.answered
    assert not vault.is_erased(SUBJECT)
    with pytest.raises(VerificationFailed):
        desk.identify(desk.part(bad))
    desk.decline(desk.part(bad), ground="not-identifiable")
    Outbox(joined).send(compliance)
    assert bad in compliance.answered


def test_an_answer_that_the_service_refuses_is_shown_and_not_sent_for_ever(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk
) -> None:
    request = compliance.ask_site("objection", SUBJECT)
    compliance.fail["answer"] = Refused("not like this")
    serve(desk, joined, compliance)
    for _ in range(3):
        waiting = serve(desk, joined, compliance)
        assert waiting[0] == request
        assert "did not take this site's answer" in waiting[1]
    rejected = [leaf for leaf in joined.journal.leaves() if leaf.action == "statement-rejected"]
    assert len(rejected) == 1


def test_why_a_request_waits_is_said_once(
    joined: Site,
    compliance: FakeCompliance,
    desk: SubjectDesk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timers, "REQUEST_SECONDS", 0.0)
    compliance.ask_site("objection", SUBJECT)
    compliance.fail["answer"] = Refused("not like this")
    notes = Notes()
    activity = ActivityFile(tmp_path / "worker.json")
    timer = timers.RequestTimer(joined, desk, StopSignal(), notes, activity)
    for _ in range(4):
        timer.tend()
        Outbox(joined).send(compliance)
    assert sum("did not take this site's answer" in line for line in notes.lines) == 1


@pytest.mark.parametrize("right", ["erasure", "objection", "access", "rectification"])
def test_no_identifier_is_written_anywhere(
    joined: Site, compliance: FakeCompliance, desk: SubjectDesk, right: Any
) -> None:
    secret = "P-003"
    before = everything_written(joined).count(secret.encode())
    request = compliance.ask_site(right, secret, details="jane-doe-of-the-third-floor")
    serve(desk, joined, compliance)
    if right in ("access", "rectification"):
        desk.act(desk.part(request), "operator", corrected=True)
    written = everything_written(joined)
    assert written.count(secret.encode()) == before
    assert b"jane-doe" not in written
    assert not any("jane" in os.fspath(path) for path in joined.paths.root.rglob("*"))
