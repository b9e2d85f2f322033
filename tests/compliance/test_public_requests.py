"""What anybody may ask: codes tell nothing, floods are limited, and each write is whole."""

from __future__ import annotations

import secrets
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from sqlalchemy import event

from audit.errors import MalformedInput, Refused, Unreachable
from audit.verifier import verify_log
from compliance.rules.retention import ActionKey
from compliance.service.mailer import make_mailer
from compliance.service.retention import ServiceLog
from compliance.service.subject_chasing import chase
from compliance.service.subject_codes import hash_receipt
from compliance.service.subject_settings import MailSettings
from compliance.service.subject_tables import CaseRow
from compliance.service.throttle import MAX_FILINGS, MAX_LOOKUPS
from compliance.statements import SubjectRight
from tests.compliance.federation import Site
from tests.compliance.running import Clock, RunningService
from tests.compliance.subjects import (
    ADDRESS,
    SETTINGS,
    SUBJECT,
    Desk,
    ask,
    code_in,
    configure,
    filed_by_officer,
    mails,
    sealed_for,
)


@pytest.fixture
def desk(service: RunningService, north: Site) -> Desk:
    configure(service)
    return Desk(service, north)


def test_every_code_that_shows_nothing_is_answered_alike_after_the_same_work(
    service: RunningService, desk: Desk
) -> None:
    filed = ask(service, "north")
    http = service.http()
    before = service.tables()
    statements: list[str] = []
    event.listen(
        service.registry.database.engine,
        "before_cursor_execute",
        lambda _c, _k, statement, *_: statements.append(statement.partition(" WHERE")[0]),
    )

    def look(path: str, **body: str) -> tuple[int, str, list[str]]:
        statements.clear()
        answer = http.post(f"/v1/public/requests/{path}", json=body)
        return answer.status_code, answer.text, list(statements)

    almost = filed.receipt_code[:-1] + ("A" if filed.receipt_code[-1] != "A" else "B")
    codes = ["", "x", almost, "A" * 39, "0" * 80, "' OR 1=1 --", "\x00\U0001f600"]
    for path, extra in (
        ("status", {}),
        ("identity", {"code": "12345678"}),
        ("code", {}),
        ("package", {"site": "north"}),
    ):
        answers = [look(path, receipt_code=code, **extra) for code in codes]
        assert {answer[0] for answer in answers} == {404}
        assert len({answer[1] for answer in answers}) == 1
        assert len({tuple(answer[2]) for answer in answers}) == 1
    right = look("status", receipt_code=filed.receipt_code)
    assert right[0] == 200
    assert right[2] == look("status", receipt_code=almost)[2]
    assert service.tables() == before
    spoken = f" {filed.receipt_code.replace('-', ' ').lower()} "
    assert look("status", receipt_code=spoken)[0] == 200


def test_an_address_is_limited_whether_it_guesses_or_knows(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    filed = ask(service, "north")
    http = service.http()
    codes = [filed.receipt_code, "x"] * (MAX_LOOKUPS // 2)
    statuses = [
        http.post("/v1/public/requests/status", json={"receipt_code": code}).status_code
        for code in (*codes, *codes[:2])
    ]
    assert statuses == [200, 404] * (MAX_LOOKUPS // 2) + [429, 429]
    clock.advance(minutes=1)
    body = {"receipt_code": filed.receipt_code}
    assert http.post("/v1/public/requests/status", json=body).status_code == 200


def test_filing_is_limited_per_address(service: RunningService, desk: Desk, clock: Clock) -> None:
    http = service.http()
    body = {
        "right": "erasure", "jurisdiction": "gdpr", "identity": "site-verified",
        "sealed": {"north": "c2VhbGVk"},
    }  # fmt: skip
    statuses = [
        http.post(
            "/v1/public/requests", json={**body, "request_id": secrets.token_hex(16)}
        ).status_code
        for _ in range(MAX_FILINGS + 1)
    ]
    assert statuses == [201] * MAX_FILINGS + [429]
    clock.advance(hours=1)
    again = http.post("/v1/public/requests", json={**body, "request_id": "f" * 32})
    assert again.status_code == 201


NO_REQUESTS: tuple[dict[str, object], ...] = (
    {"sealed": {}},
    {"sealed": {"north": ""}},
    {"sealed": {"north": "A" * 20_000}},
    {"sealed": {"NORTH": "c2VhbGVk"}},
    {"right": "revenge"},
    {"request_id": "short"},
    {"email": "jane.doe@mail.example"},
    {"identity": "email-challenge"},
    {"identity": "email-challenge", "email": "a@b\r\nBcc: c@d"},
    {"identity": "officer"},
    {"subject_id": "P-00417-jane-doe"},
)


def test_what_is_no_request_is_told_without_being_repeated(
    service: RunningService, desk: Desk
) -> None:
    http = service.http()
    for changes in NO_REQUESTS:
        body = {
            "request_id": "a" * 32, "right": "erasure", "jurisdiction": "gdpr",
            "identity": "site-verified", "sealed": {"north": "c2VhbGVk"}, **changes,
        }  # fmt: skip
        answer = http.post("/v1/public/requests", json=body)
        assert answer.status_code == 422, changes
        assert "doe" not in answer.text
        assert "doe" not in str(service.last_entry())
    assert service.tables()["subject_cases"] == []


# --- faults --------------------------------------------------------------------------------------

Step = tuple[str, Callable[[], object], int]


def every_write(service: RunningService, desk: Desk) -> Iterator[Step]:
    """Each write once, with the entries that it makes."""
    subject, officer = service.client().subject_requests, service.as_("officer").subject_requests
    another = desk.key_statement(public_key="A" * 42 + "E=", generation=1)
    yield "publish a key", lambda: desk.calls.publish_key("north", another), 1
    mailed, checked, by_letter, unfounded = ("1" * 32, "2" * 32, "3" * 32, "4" * 32)
    sealed = {
        one: sealed_for(service, "north", request_id=one)
        for one in (mailed, checked, by_letter, unfounded)
    }
    yield (
        "file with an address",
        lambda: subject.ask("erasure", "gdpr", sealed[mailed], request_id=mailed, email=ADDRESS),
        2,
    )
    yield (
        "file for a site to check",
        lambda: subject.ask("access", "gdpr", sealed[checked], request_id=checked),
        2,
    )
    code = subject.ask("access", "gdpr", sealed[checked], request_id=checked).receipt_code
    identity = desk.identity(checked)
    yield "identity, by the site", lambda: desk.calls.state_identity(checked, identity), 2
    yield "take", lambda: desk.calls.take(checked), 1
    answer = desk.statement(checked, "access")
    yield "answer", lambda: desk.calls.answer(checked, answer), 2
    for one in (by_letter, unfounded):
        yield (
            "file a letter",
            lambda one=one: officer.file("erasure", "ccpa", sealed[one], request_id=one),  # type: ignore[misc]
            1,
        )
    yield "confirm", lambda: officer.confirm(by_letter), 1
    yield "extend", lambda: officer.extend(by_letter, reason="many"), 1
    yield "verify", lambda: officer.verify(by_letter, method="letter"), 2
    refusal = desk.statement(by_letter, outcome="refused", ground="needed")
    yield "refuse a part", lambda: desk.calls.answer(by_letter, refusal), 1
    yield "close", lambda: officer.close(by_letter, reason="told"), 1
    yield "refuse", lambda: officer.refuse(unfounded, ground="unfounded"), 1
    assert subject.status(code).stage == "completed"


def test_every_write_is_all_or_nothing(service: RunningService, desk: Desk) -> None:
    for name, write, entries in every_write(service, desk):
        before = service.tables()
        for fault in ("append", "commit"):
            setattr(service.faults, fault, True)
            with pytest.raises(Unreachable, match="audit entry"):
                write()
            setattr(service.faults, fault, False)
            assert service.tables() == before, f"{name}: {fault} failed and left a trace"
        service.faults.after_commit = True
        with pytest.raises(Unreachable):
            write()
        service.faults.after_commit = False
        after = service.tables()
        added = len(after["log_entries"]) - len(before["log_entries"])
        assert added == entries, f"{name}: {added} entries"
        write()
        assert service.tables() == after, f"{name}: the repeat changed something"
    report = verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key)
    assert report.ok, report


def test_a_wrong_code_is_counted_with_and_without_an_idempotency_key(
    service: RunningService, desk: Desk
) -> None:
    filed = ask(service, "north", email=ADDRESS)
    subject = service.client().subject_requests
    chase(service.registry)
    code = code_in(mails(service.folder.path)[0][2])
    body = {"receipt_code": filed.receipt_code, "code": "x"}
    for number in range(5):
        key = {"idempotency-key": f'"a-key-of-this-test-{number}"'} if number % 2 else {}
        answer = service.http().post("/v1/public/requests/identity", json=body, headers=key)
        assert answer.status_code == 403
    with pytest.raises(Refused, match="not right"):
        subject.prove(filed.receipt_code, code)
    assert desk.parts() == {}


def test_a_wrong_code_is_counted_even_when_its_answer_is_lost(
    service: RunningService, desk: Desk
) -> None:
    filed = ask(service, "north", email=ADDRESS)
    subject = service.client().subject_requests
    chase(service.registry)
    code = code_in(mails(service.folder.path)[0][2])
    for _ in range(5):
        service.faults.after_commit = True
        with pytest.raises(Unreachable):
            subject.prove(filed.receipt_code, "x")
        service.faults.after_commit = False
    with pytest.raises(Exception, match="not right"):
        subject.prove(filed.receipt_code, code)


def test_a_run_of_the_timer_that_fails_is_done_by_the_next(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north")
    officer.verify(filed.request_id, method="letter")
    ask(service, "north", email=ADDRESS)
    clock.advance(days=28)
    before = service.tables()
    for fault in ("append", "commit"):
        setattr(service.faults, fault, True)
        with pytest.raises(Exception, match="audit entry"):
            chase(service.registry)
        setattr(service.faults, fault, False)
        assert service.tables() == before
    done = chase(service.registry)
    assert (done.reminded, done.expired, done.forgotten) == (1, 1, 1)
    assert chase(service.registry).reminded == 0


# --- how long the log keeps it -------------------------------------------------------------------


def test_records_of_a_request_last_from_when_it_ended(
    service: RunningService, desk: Desk, clock: Clock
) -> None:
    officer = service.as_("officer").subject_requests
    filed = filed_by_officer(service, "north")
    officer.verify(filed.request_id, method="letter")
    log = ServiceLog(service.registry, None)
    keys = [
        ActionKey.parse(f"action:subject-request.{action}:2026-11")
        for action in ("filed", "verified", "answered")
    ]
    clock.advance(days=40)
    assert [log.last_in_effect(key) for key in keys[:2] if key] == [None, None]
    desk.not_found(filed.request_id)
    assert [str(log.last_in_effect(key)) for key in keys[:2] if key] == ["2026-12", "2026-12"]


# --- many ----------------------------------------------------------------------------------------


def test_lists_of_many_requests_use_the_indexes(service: RunningService, desk: Desk) -> None:
    asked: list[str] = []
    engine = service.registry.database.engine
    event.listen(engine, "before_cursor_execute", lambda _c, _k, text, *_: asked.append(str(text)))
    service.as_("officer").subject_requests.page(open_only=True, limit=100)
    service.as_("officer").subject_requests.page(stage="at-sites", overdue=True)
    desk.calls.parts()
    listing = [text for text in asked if "subject_case" in text]
    assert listing
    with engine.connect() as connection:
        for text in listing:
            parameters = tuple("x" for _ in range(text.count("?")))
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters).all()
            told = " ".join(str(row[3]) for row in plan)
            assert "SCAN subject_case" not in told.replace("USING COVERING INDEX", ""), (
                f"{text}: {told}"
            )


# --- mail ----------------------------------------------------------------------------------------


class _Server(socketserver.StreamRequestHandler):
    """An SMTP server that takes everything, over TLS."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Listener)
        self._say("220 ready")
        while line := self.rfile.readline().decode().strip():
            verb = line.partition(" ")[0].upper()
            match verb:
                case "EHLO":
                    self._say("250-here\r\n250 AUTH PLAIN")
                case "AUTH":
                    server.logins.append(line)
                    self._say("235 welcome")
                case "DATA":
                    self._say("354 go on")
                    server.messages.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                    self._say("250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    context: ssl.SSLContext

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Server)
        self.messages: list[bytes] = []
        self.logins: list[str] = []

    def get_request(self) -> tuple[ssl.SSLSocket, object]:
        raw, address = self.socket.accept()
        return self.context.wrap_socket(raw, server_side=True), address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust the certificate leaves."""


@contextmanager
def mail_server(folder: Path) -> Iterator[_Listener]:
    key = generate_private_key(SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )
    (folder / "mail.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "mail.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    listener = _Listener()
    listener.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.context.load_cert_chain(folder / "mail.pem", folder / "mail.key")
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join(10)


def test_mail_goes_to_a_real_server_over_tls_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    with mail_server(tmp_path) as server:
        settings = MailSettings(
            kind="smtp",
            sender="requests@hospitals.example",
            host="localhost",
            port=server.server_address[1],
            user="requests",
            password_file="password",
            certificate_authority="mail.pem",
        )
        make_mailer(settings, tmp_path).send(ADDRESS, "Your code", "It is 12345678.")
        untrusted = settings.model_copy(update={"certificate_authority": ""})
        with pytest.raises(Unreachable, match="SSLCertVerificationError") as refused:
            make_mailer(untrusted, tmp_path).send(ADDRESS, "Your code", "It is 12345678.")
    assert ADDRESS not in str(refused.value)
    [message] = server.messages
    assert b"It is 12345678." in message
    assert len(server.logins) == 1
    with pytest.raises(Unreachable):
        make_mailer(settings, tmp_path).send(ADDRESS, "Your code", "The server is gone.")


def test_a_receipt_code_is_found_by_its_hash_alone(service: RunningService, desk: Desk) -> None:
    filed = ask(service, "north")
    with service.registry.reading() as session:
        row = session.get_one(CaseRow, filed.request_id)
        assert row.receipt_sha256 == hash_receipt(filed.receipt_code)
    assert len(filed.receipt_code.replace("-", "")) * 5 == 160


def test_an_opt_out_under_californian_law_needs_no_proof(
    service: RunningService, desk: Desk
) -> None:
    subject = service.client().subject_requests
    offer = subject.offer()
    assert offer.without_proof == {"ccpa": ("objection", "restriction")}
    sealed = sealed_for(service, "north", request_id="a" * 32)
    for law, right in (("gdpr", "objection"), ("ccpa", "erasure"), ("ccpa", "access")):
        with pytest.raises(MalformedInput, match="asks for proof"):
            subject.ask(
                cast("SubjectRight", right), law, sealed, request_id="a" * 32, without_proof=True
            )
    assert desk.parts() == {}
    filed = subject.ask("objection", "ccpa", sealed, request_id="a" * 32, without_proof=True)
    assert filed.stage == "at-sites"
    assert desk.open(filed.request_id).subject_ids == (SUBJECT,)
    verified = next(
        payload
        for _, action, _, payload in service.entries()
        if action == "subject-request.verified"
    )
    assert verified["method"] == "not-required"
    assert "7060(b)" in verified["source"]
    by_letter = filed_by_officer(
        service, "north", right="restriction", jurisdiction="ccpa", identity="not-required"
    )
    assert by_letter.stage == "at-sites"
    configure(service, SETTINGS.replace('"gdpr", "ccpa"', '"gdpr"'))
    assert subject.offer().without_proof == {}
    with pytest.raises(MalformedInput, match="not offered"):
        subject.ask("objection", "ccpa", sealed, request_id="b" * 32, without_proof=True)
    page = service.http().get("/requests").text
    assert 'data-without-proof=""' in page
