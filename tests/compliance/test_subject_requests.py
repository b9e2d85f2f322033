"""Requests of data subjects through the real service: nothing leaks, nothing is forgotten."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from typer.testing import CliRunner

from audit.canonical import digest
from audit.errors import Conflict, MalformedInput, NotFound, Refused, Unauthorised, Unreachable
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement, verify_statement
from compliance.cli import app
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.subject_chasing import chase, chase_timer
from compliance.statements import RequestDecision, format_time
from compliance.subject_requests_api import sealing_key
from compliance.subject_sealing import open_package, seal_package
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import Clock, RunningService, wait_for
from tests.compliance.subjects import (
    ADDRESS,
    SETTINGS,
    SUBJECT,
    Desk,
    actions,
    ask,
    code_in,
    configure,
    filed_by_officer,
    mails,
)


@pytest.fixture
def desk(service: RunningService, north: Site) -> Desk:
    """A site whose key is known, at a service that takes requests."""
    configure(service)
    return Desk(service, north)


@pytest.fixture
def south(service: RunningService, coordinator: Coordinator, desk: Desk) -> Desk:
    return Desk(service, coordinator.welcome("south"))


# --- the whole way -------------------------------------------------------------------------------


def test_a_site_checks_who_asks_and_then_gets_and_answers_its_part(
    service: RunningService, desk: Desk
) -> None:
    filed = ask(service, "north")
    subject = service.client().subject_requests
    assert filed.stage == "identity-pending"
    assert desk.parts()[filed.request_id].sealed is None, "sent before identity was proven"
    with pytest.raises(Conflict, match="part is held"):
        desk.not_found(filed.request_id)

    desk.prove(filed.request_id)
    assert desk.open(filed.request_id).subject_ids == (SUBJECT,)
    desk.calls.take(filed.request_id)
    assert subject.status(filed.receipt_code).parts[0].state == "taken"
    answer = desk.erase(filed.request_id)

    status = subject.status(filed.receipt_code)
    assert (status.stage, status.parts[0].outcome) == ("completed", "done")
    assert desk.parts() == {}
    view = service.as_("officer").subject_requests.show(filed.request_id)
    assert view.parts[0].answer == answer.digest
    assert view.urgency == "ended"
    assert actions(service) == [
        "filed", "identity-asked", "verified", "sent", "taken", "answered", "completed",
    ]  # fmt: skip
    with pytest.raises(Conflict, match="ended"):
        desk.calls.answer(filed.request_id, desk.statement(filed.request_id, records=1))


def test_nothing_that_is_kept_says_who_it_is(service: RunningService, desk: Desk) -> None:
    filed = ask(service, "north", email=ADDRESS)
    chase(service.registry)
    [(_, _, text)] = mails(service.folder.path)
    service.client().subject_requests.prove(filed.receipt_code, code_in(text))
    kept = str(service.tables()).encode() + str(service.entries()).encode()
    kept += (service.folder.path / "compliance.sqlite").read_bytes()
    kept += (service.folder.path / "compliance.sqlite-wal").read_bytes()
    for secret in (SUBJECT, ADDRESS, code_in(text), filed.receipt_code):
        assert secret.encode() not in kept
        assert secret.replace("-", "").encode() not in kept


def test_one_site_is_offline_and_neither_forgotten_nor_waited_for_by_the_other(
    service: RunningService, desk: Desk, south: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north", "south")
    officer.verify(filed.request_id, method="identity-card")
    desk.erase(filed.request_id)
    for expected in (0, 1, 1, 2):
        chase(service.registry)
        parts = {part.site: part for part in officer.show(filed.request_id).parts}
        assert parts["south"].reminders == expected
        assert (parts["north"].reminders, parts["north"].state) == (0, "answered")
        clock.advance(days=3 if expected != 1 or parts["south"].reminders == 2 else 1.5)
    assert officer.show(filed.request_id).stage == "at-sites"
    with pytest.raises(Conflict, match="not every site"):
        officer.close(filed.request_id)
    assert service.client().subject_requests.status(filed.receipt_code).stage == "at-sites"

    assert south.parts()[filed.request_id].reminders == 2  # it comes back
    south.not_found(filed.request_id)
    assert officer.show(filed.request_id).stage == "completed"
    chase(service.registry)
    assert actions(service).count("reminded") == 2


def test_what_fell_due_while_nothing_served_is_done_at_once(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north")
    officer.verify(filed.request_id, method="letter")
    clock.advance(days=3)
    with chase_timer(service.registry, seconds=3600):
        wait_for(lambda: officer.show(filed.request_id).parts[0].reminders == 1)


def test_a_mailed_code_proves_who_asks(service: RunningService, desk: Desk, clock: Clock) -> None:
    filed = ask(service, "north", email=ADDRESS)
    subject = service.client().subject_requests
    assert desk.parts() == {}  # the site is not even asked to check
    assert chase(service.registry).sent == 1
    assert chase(service.registry).sent == 0
    [(recipient, _, text)] = mails(service.folder.path)
    assert recipient == ADDRESS
    with pytest.raises(Refused, match="not right"):
        subject.prove(filed.receipt_code, "00000000" if code_in(text) != "00000000" else "1" * 8)
    assert desk.parts() == {}
    assert subject.prove(filed.receipt_code, code_in(text)).stage == "at-sites"
    assert subject.prove(filed.receipt_code, code_in(text)).stage == "at-sites"
    assert desk.open(filed.request_id).subject_ids == (SUBJECT,)


def test_a_code_ends_after_a_day_or_a_few_tries_and_is_not_sent_for_ever(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    filed = ask(service, "north", email=ADDRESS)
    subject = service.client().subject_requests
    folder = service.folder.path
    for number in range(3):
        if number:
            subject.send_code(filed.receipt_code)
        chase(service.registry)
        code = code_in(mails(folder)[-1][2])
        if number == 0:
            clock.advance(hours=24)
        elif number == 1:
            for _ in range(5):
                with pytest.raises(Refused):
                    subject.prove(filed.receipt_code, "not-it")
        if number < 2:
            with pytest.raises(Refused, match="not right, was used, or is too old"):
                subject.prove(filed.receipt_code, code)
    with pytest.raises(Conflict, match="no further code"):
        subject.send_code(filed.receipt_code)
    assert subject.prove(filed.receipt_code, code).stage == "at-sites"


def test_an_address_is_forgotten_with_its_key_when_all_is_over(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    filed = ask(service, "north", email=ADDRESS)
    chase(service.registry)
    key = f"subject-request:{filed.request_id}"
    assert key in service.registry.keyring.names()
    clock.advance(days=28)
    done = chase(service.registry)
    assert (done.expired, done.sent, done.forgotten) == (1, 1, 1)
    assert mails(service.folder.path)[-1][1].endswith("it has expired")
    assert key not in service.registry.keyring.names()
    assert service.client().subject_requests.status(filed.receipt_code).stage == "expired"
    assert actions(service)[-3:] == ["expired", "notified", "contact-forgotten"]
    assert desk.parts() == {}


def test_mail_that_cannot_be_sent_waits_and_is_not_lost(
    service: RunningService, desk: Desk
) -> None:
    class Broken:
        def send(self, recipient: str, subject: str, text: str) -> None:
            raise Unreachable("down")

    ask(service, "north", email=ADDRESS)
    assert chase(service.registry, Broken()).waiting == 1
    assert chase(service.registry).sent == 1
    assert len(mails(service.folder.path)) == 1


def test_a_copy_of_the_data_is_for_its_subject_alone(service: RunningService, desk: Desk) -> None:
    filed = ask(service, "north", right="access")
    subject = service.client().subject_requests
    with pytest.raises(NotFound):
        subject.package(filed.receipt_code, "north")
    desk.prove(filed.request_id)
    key = X25519PrivateKey.generate()
    data = json.dumps({"rows": ["de-identified text"]}).encode()
    public = key.public_key().public_bytes_raw()
    sealed = seal_package(data, public, request_id=filed.request_id, site="north")
    desk.hand_over(filed.request_id, sealed)
    assert subject.status(filed.receipt_code).parts[0].package
    fetched = subject.package(filed.receipt_code, "north")
    opened = open_package(fetched.sealed, key, request_id=filed.request_id, site="north")
    assert opened == data
    assert actions(service)[-1] == "package-fetched"
    with pytest.raises(NotFound):
        subject.package(filed.receipt_code, "south")


# --- officers ------------------------------------------------------------------------------------


def test_an_officers_decisions_are_signed_and_keep_the_law(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north", email=ADDRESS)
    view = officer.extend(filed.request_id, reason="many requests came at once")
    assert (filed.due_at[:10], view.due_at[:10]) == ("2026-12-02", "2027-02-02")
    assert officer.extend(filed.request_id, reason="many requests came at once") == view
    with pytest.raises(Conflict, match="extended already"):
        officer.extend(filed.request_id, reason="again")
    with pytest.raises(MalformedInput, match="no such ground"):
        officer.refuse(filed.request_id, ground="no-time")
    refused = officer.refuse(filed.request_id, ground="legal-claims", reason="a case is pending")
    assert (refused.stage, refused.parts[0].state) == ("refused", "cancelled")
    with pytest.raises(Conflict, match="ended"):
        officer.verify(filed.request_id, method="identity-card")
    status = service.client().subject_requests.status(filed.receipt_code)
    assert "Art. 17(3)(e)" in status.ground
    assert status.notice == "a case is pending"
    decisions = []
    for _, _, name, payload in service.entries():
        if name.startswith("request-decision:"):
            with service.registry.reading() as session:
                (row,) = load_rows(session, [name.partition(":")[2]]).values()
                signed = parse_envelope(row)
            body = verify_statement(signed, service.registry.log.key)
            assert payload["statement"] == signed.to_json()
            decisions.append(RequestDecision.from_body(body))
    assert [(one.verdict, one.decided_by) for one in decisions] == [
        ("extended", "officer"),
        ("refused", "officer"),
    ]
    assert "12(3)" in decisions[0].source
    chase(service.registry)
    titles = [title.partition(": ")[2] for _, title, _ in mails(service.folder.path)]
    assert titles == ["it has come", "it takes longer", "it was refused"]


def test_an_extension_that_comes_too_late_is_none(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north")
    clock.advance(days=31)
    with pytest.raises(Refused, match="that is over"):
        officer.extend(filed.request_id, reason="forgot")


def test_a_letter_counts_from_the_day_it_came(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    came = format_time(clock() - timedelta(days=10))
    filed = filed_by_officer(service, "north", received_at=came)
    assert filed.due_at[:10] == "2026-11-23"  # the 22nd is a Sunday
    with pytest.raises(MalformedInput, match="lies ahead"):
        filed_by_officer(service, "north", received_at=format_time(clock() + timedelta(minutes=1)))


def test_what_a_site_refused_an_officer_looks_at(service: RunningService, desk: Desk) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north")
    officer.verify(filed.request_id, method="identity-card")
    with pytest.raises(MalformedInput, match="no such ground"):
        desk.calls.answer(
            filed.request_id, desk.statement(filed.request_id, outcome="refused", ground="no-time")
        )
    desk.calls.answer(
        filed.request_id, desk.statement(filed.request_id, outcome="refused", ground="research")
    )
    assert officer.show(filed.request_id).stage == "answered"
    closed = officer.close(filed.request_id, reason="north keeps what research needs")
    assert closed.stage == "completed"
    part = service.client().subject_requests.status(filed.receipt_code).parts[0]
    assert "Art. 17(3)(d)" in part.ground


def test_the_list_is_paged_filtered_and_clocked(
    service: RunningService, desk: Desk, south: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    first = filed_by_officer(service, "north", request_id="1" * 32)
    clock.advance(days=20)
    second = filed_by_officer(service, "north", "south", right="access", request_id="2" * 32)
    third = filed_by_officer(
        service, "south", jurisdiction="ccpa", right="erasure", request_id="3" * 32
    )
    ids = [first.request_id, second.request_id, third.request_id]

    def shown(**filters: object) -> list[str]:
        return [view.request_id for view in officer.page(**filters).requests]  # type: ignore[arg-type]

    assert shown() == ids
    assert shown(site="south") == ids[1:]
    assert shown(right="access") == [ids[1]]
    assert shown(stage="at-sites") == []
    page = officer.page(limit=2)
    assert [view.request_id for view in page.requests] == ids[:2]
    assert shown(limit=2, after=page.next) == ids[2:]
    assert officer.page(limit=3).next is None
    with pytest.raises(MalformedInput, match=r"query\.after"):
        officer.page(after="nonsense")

    clock.advance(days=6)  # seven days before the first is due
    assert [view.urgency for view in officer.page().requests] == ["due-soon", "in-time", "due-soon"]
    clock.advance(days=12)  # the third's confirmation is late, too
    page = officer.page(overdue=True)
    assert [view.request_id for view in page.requests] == [ids[0], ids[2]]
    assert (page.open, page.due_soon, page.overdue) == (3, 0, 2)
    officer.confirm(third.request_id)
    assert shown(overdue=True) == [ids[0]]
    officer.refuse(first.request_id, ground="excessive")
    assert shown(overdue=True) == []
    assert shown(open_only=True) == ids[1:]


# --- who may -------------------------------------------------------------------------------------


def test_a_site_speaks_for_itself_and_about_its_own_parts(
    service: RunningService, desk: Desk, south: Desk
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north")
    officer.verify(filed.request_id, method="identity-card")
    assert south.parts() == {}
    for attempt in (
        lambda: south.calls.take(filed.request_id),
        lambda: south.not_found(filed.request_id),
        lambda: south.prove(filed.request_id),
        lambda: south.calls.releases(filed.request_id),
    ):
        with pytest.raises(NotFound, match="no such request"):
            attempt()
    with pytest.raises(Unauthorised, match="speaks for itself"):
        south.calls.publish_key("north", south.key_statement())
    forged = sign_statement(
        desk.statement(filed.request_id).body, SigningKey.generate("hospitals/site/north")
    )
    with pytest.raises(Exception, match="signed"):
        desk.calls.answer(filed.request_id, forged)
    other = filed_by_officer(service, "north")
    with pytest.raises(MalformedInput, match="another request"):
        desk.calls.answer(filed.request_id, desk.statement(other.request_id))
    with pytest.raises(MalformedInput, match="no such erasure receipt"):
        desk.calls.answer(
            filed.request_id,
            desk.statement(filed.request_id, outcome="done", erasures=["sha256:" + "0" * 64]),
        )
    with pytest.raises(Conflict, match="by officer"):
        desk.prove(filed.request_id)
    assert officer.show(filed.request_id).parts[0].state == "sent"


def test_a_revoked_sites_part_is_waived_with_reason_and_evidence(
    service: RunningService, desk: Desk, south: Desk, tmp_path: Path
) -> None:
    letter, trust = tmp_path / "letter.pdf", tmp_path / "trust.json"
    letter.write_bytes(b"the hospital closed")
    service.trust.save(trust)
    officer = service.as_("officer").subject_requests
    both = filed_by_officer(service, "north", "south").request_id
    waive = partial(officer.waive, both, "south", reason="closed", evidence=digest(b"a letter"))
    command = ["requests", "waive", both, "--site", "south", "--reason", "closed"]
    command += ["--evidence", str(letter), "--trust", str(trust), "--json"]
    command += ["--token-file", str(service.folder.token("officer"))]
    service.as_("officer").revoke_site("south")
    with pytest.raises(Conflict, match="part is held"):
        waive()
    officer.verify(both, method="identity-card")
    with pytest.raises(Conflict, match="takes part and can answer"):
        officer.waive(both, "north", reason="slow")
    with pytest.raises(NotFound):
        officer.waive(both, "west", reason="unknown")
    desk.not_found(both)
    assert officer.show(both).stage == "at-sites"
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    view = officer.show(both)
    assert json.loads(shown.stdout)["stage"] == view.stage
    entries = len(service.entries())
    assert waive() == view  # the same again
    assert len(service.entries()) == entries
    assert view.stage == "answered"  # it does not close by itself
    assert [part.state for part in view.parts] == ["answered", "waived"]
    _, action, _, payload = service.last_entry()
    assert action == "subject-request.waived"
    signed = SignedStatement.from_json(payload["statement"])
    decision = RequestDecision.from_body(verify_statement(signed, service.registry.log.key))
    assert (decision.site, decision.reason) == ("south", "closed")
    assert decision.evidence == digest(b"the hospital closed")
    assert officer.close(both, reason="south no longer exists").stage == "completed"


def test_a_replaced_key_is_not_brought_back_and_is_needed_until_all_is_answered(
    service: RunningService, desk: Desk
) -> None:
    first = desk.key_statement()
    before = desk.calls.work().sealing_key
    assert before is not None
    assert (before.statement, before.generation) == (first.digest, 0)
    old_key = desk.key.public_key().public_bytes_raw()
    waiting = filed_by_officer(service, "north")
    desk.key = X25519PrivateKey.generate()
    with pytest.raises(Conflict, match="generation 0 has replaced this one, of generation 0"):
        desk.calls.publish_key("north", desk.key_statement())
    second = desk.key_statement(generation=1)
    desk.calls.publish_key("north", second)
    position = desk.calls.publish_key("north", second).position  # the same again
    assert service.last_entry()[1] == "site.key-published"
    with pytest.raises(Conflict, match="generation 1 has replaced this one, of generation 0"):
        desk.calls.publish_key("north", first)
    assert service.last_entry()[3]["reason"] == "key-replaced"
    assert position < len(service.entries()) - 1

    # A page that was open meanwhile is told so, and nobody files what cannot be opened.
    with pytest.raises(Conflict, match="site north has replaced the key"):
        service.as_("officer").subject_requests.file(
            "access", "gdpr", {"north": b"sealed"}, sealed_to={"north": old_key}
        )
    service.as_("officer").subject_requests.file(
        "access",
        "gdpr",
        {"north": b"sealed"},
        sealed_to={"north": desk.key.public_key().public_bytes_raw()},
    )

    def in_use() -> bool:
        state = desk.calls.work().sealing_key
        assert state is not None
        assert state.statement == second.digest
        return state.earlier_in_use

    assert in_use()
    service.clock.advance(days=2)
    assert in_use()  # two requests of before wait still, one of them for proof
    officer = service.as_("officer").subject_requests
    for view in officer.page().requests:
        if view.request_id == waiting.request_id:
            officer.verify(view.request_id, method="identity-card")
            desk.not_found(view.request_id)
        else:
            officer.refuse(view.request_id, ground="excessive")
    assert not in_use()


def test_a_key_that_the_site_did_not_sign_is_none(service: RunningService, desk: Desk) -> None:
    [view] = service.client().subject_requests.offer().sites
    assert sealing_key(view) == desk.key.public_key().public_bytes_raw()
    stranger = SigningKey.generate("hospitals/site/north")
    with pytest.raises(Exception, match="signed"):
        sealing_key(view, stranger.public)
    with pytest.raises(MalformedInput, match="another site's"):
        sealing_key(view.model_copy(update={"site": "south"}))


def test_nothing_is_offered_to_the_public_unless_the_operator_says_so(
    service: RunningService, north: Site
) -> None:
    subject = service.client().subject_requests
    for settings in (None, SETTINGS.replace("public = true", "public = false")):
        if settings is not None:
            configure(service, settings)
        with pytest.raises(NotFound, match="no requests from the public"):
            subject.offer()
        with pytest.raises(NotFound, match="no requests from the public"):
            subject.ask("erasure", "gdpr", {"north": b"x"}, request_id="a" * 32)
    configure(service, SETTINGS.replace('["gdpr", "ccpa"]', '["gdpr"]'))
    with pytest.raises(MalformedInput, match="not offered"):
        subject.ask("erasure", "ccpa", {"north": b"x"}, request_id="a" * 32)
    configure(service, SETTINGS.replace('"ccpa"', '"mars"'))
    with pytest.raises(Unreachable, match=r"requests\.toml"):
        subject.offer()


def test_a_call_that_is_repeated_gets_the_same_code_for_an_hour(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    subject = service.client().subject_requests
    asked: Any = {"request_id": "a" * 32, "email": ADDRESS}
    sealed = {"north": b"the very same octets"}
    first = subject.ask("erasure", "gdpr", sealed, **asked)
    before = service.tables()
    assert subject.ask("erasure", "gdpr", sealed, **asked) == first
    assert service.tables() == before
    for changed in ({"north": b"others"}, sealed):
        if changed is sealed:
            clock.advance(hours=1, seconds=1)
        with pytest.raises(Conflict, match="another request"):
            subject.ask("erasure", "gdpr", changed, **asked)
