"""What happens to data subjects' requests: each step is one change with its log entries.

* `advance` asks the state machine (`compliance.rules.subject_requests`) and writes what it answers;
  nothing else changes a stage.
* The receipt code is made from the request's id under a secret of this service, so that a call that
  is repeated gets the same one; the database has its hash alone.
* What is kept of a mail address is encrypted under a key of its request, which is destroyed when
  the request has ended and the last message has left.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes
from audit.errors import NotFound
from audit.statement import SignedStatement, sign_statement
from compliance import rules
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book, due, may_skip_proof
from compliance.service.errors import Denied, enforce
from compliance.service.filing import (
    file_statement,
    load_rows,
    parse_envelope,
    site_row,
)
from compliance.service.registry import Registry, Transaction
from compliance.service.subject_settings import SubjectSettings
from compliance.service.subject_tables import (
    CaseMailRow,
    CasePartRow,
    CaseRow,
    SiteSealingKeyRow,
)
from compliance.statements import (
    AnswerOutcome,
    RequestDecision,
    SiteSealingKey,
    SubjectRight,
    format_time,
)
from compliance.subject_requests_views import FiledRequestBody, PublicRequestBody
from compliance.wire import SiteState

CODE_LIFE: Final = timedelta(hours=24)
CODE_TRIES: Final = 5
"""Wrong codes before a new one must be asked for: one in ten million would be right."""
MAX_CODES: Final = 3
"""Codes that are sent for one request, so that nobody's mailbox is filled."""

REPLAY_WINDOW: Final = timedelta(hours=1)
"""How long a call may be repeated for its answer. A receipt code is not told for ever."""

CODE_DIGITS: Final = 8
_RECEIPT_BYTES: Final = 20


@dataclass
class Case:
    """A request and its parts, as the database has them."""

    row: CaseRow
    parts: list[CasePartRow]

    @property
    def request(self) -> machine.SubjectRequest:
        """As the rules see it."""
        return machine.SubjectRequest(
            right=cast(SubjectRight, self.row.right),
            parts=tuple(
                machine.Part(
                    part.site,
                    cast(machine.PartState, part.state),
                    cast("AnswerOutcome | None", part.outcome),
                )
                for part in self.parts
            ),
            stage=cast(machine.RequestStage, self.row.stage),
        )

    @property
    def log_object(self) -> str:
        """How the log names it."""
        return object_name(self.row.request_id)

    @property
    def sites(self) -> frozenset[str]:
        """The sites that it concerns."""
        return frozenset(part.site for part in self.parts)

    def part(self, site: str) -> CasePartRow:
        """A site's part.

        Raises:
            NotFound: When the request does not concern the site: to it, there is no such request.
        """
        for part in self.parts:
            if part.site == site:
                return part
        raise no_case()


def object_name(request_id: str) -> str:
    """How the log names a request."""
    return f"subject-request:{request_id}"


def no_case() -> NotFound:
    """What is said of a request that does not exist, or not for the caller."""
    return NotFound("there is no such request", fix="list them: `compliance requests`")


def load_case(session: Session, request_id: str) -> Case:
    """A request.

    Raises:
        NotFound: When there is none of that id.
    """
    row = session.get(CaseRow, request_id)
    if row is None:
        raise no_case()
    return Case(row, parts_of(session, request_id))


def visible_case(session: Session, request_id: str, scope: rules.Scope) -> Case:
    """A request that concerns a site of somebody's.

    Raises:
        NotFound: When there is none of that id, or it concerns no site of theirs.
    """
    case = load_case(session, request_id)
    if not scope.meets(case.sites):
        raise no_case()
    return case


def parts_of(session: Session, request_id: str) -> list[CasePartRow]:
    """The parts of a request, by site."""
    query = select(CasePartRow).where(CasePartRow.request_id == request_id)
    return list(session.scalars(query.order_by(CasePartRow.site)))


# --- filing --------------------------------------------------------------------------------------


def file_case(
    transaction: Transaction,
    body: PublicRequestBody | FiledRequestBody,
    settings: SubjectSettings,
    received: datetime,
) -> tuple[Case, bool]:
    """Record a request; the same call again finds the first one.

    Returns:
        The request, and whether it is new.

    Raises:
        Denied: When a rule objects, or another request has its id.
        NotFound: When a site is none.
    """
    session = transaction.session
    # Under a secret: the address in it could be guessed from a plain hash.
    secret = transaction.registry.keyring.secret("subject-receipts")
    message = b"content\x00" + canonical_bytes(body.model_dump(mode="json"))
    content = hmac.new(secret, message, hashlib.sha256).hexdigest()
    known = session.get(CaseRow, body.request_id)
    if known is not None:
        _check_repeat(known, content, transaction)
        return load_case(session, body.request_id), False
    book = deadline_book()
    answer = book.find(body.jurisdiction, body.right, "answer")
    if answer is None:
        raise Denied(
            rules.Refused(
                "no-deadline",
                "no deadline is known for such a request in this jurisdiction",
                f"name one of: {', '.join(book.jurisdictions)}",
                "malformed",
            )
        )
    if body.identity == "not-required":
        skipped = may_skip_proof(book, body.jurisdiction, body.right)
        if isinstance(skipped, rules.Refused):
            raise Denied(skipped)
    confirm = book.find(body.jurisdiction, body.right, "confirm")
    opened = machine.open_request(body.right, tuple(body.sealed))
    if isinstance(opened, rules.Refused):
        raise Denied(opened)
    for site in body.sealed:
        enforce(rules.may_act_as_site(cast(SiteState, site_row(session, site).state)))
    for site, key in body.sealed_to.items():
        stated = session.get(SiteSealingKeyRow, site)
        if stated is not None:
            enforce(machine.may_be_sealed_to(site, key, present_key(session, stated)))
    working = settings.working
    position = transaction.record(
        "subject-request.filed",
        object_name(body.request_id),
        {
            "right": body.right,
            "jurisdiction": body.jurisdiction,
            "sites": sorted(body.sealed),
            "identity": body.identity,
            "rules": book.version,
            "received_at": format_time(received),
        },
    )
    row = CaseRow(
        request_id=body.request_id,
        right=body.right,
        jurisdiction=body.jurisdiction,
        stage=opened.stage,
        identity=body.identity,
        filed_by=transaction.actor,
        received_at=format_time(received),
        filed_at=transaction.time,
        position=position,
        rules_version=book.version,
        content_hmac=content,
        receipt_sha256=hash_receipt(receipt_code(transaction.registry, body.request_id)),
        confirm_by=None if confirm is None else format_time(due(confirm, received, working)),
        due_at=format_time(due(answer, received, working)),
        code_tries=0,
        codes_sent=0,
        ground="",
        notice="",
    )
    session.add(row)
    session.flush()
    parts = [
        CasePartRow(
            request_id=body.request_id,
            site=part.site,
            state=part.state,
            sealed=body.sealed[part.site],
            ground="",
            reminders=0,
        )
        for part in opened.parts
    ]
    session.add_all(parts)
    if body.email is not None:
        row.contact = body.email
    return Case(row, parts), True


def present_key(session: Session, row: SiteSealingKeyRow) -> SiteSealingKey:
    """What is stated of the key to which identifiers are sealed for a site."""
    filed = load_rows(session, [row.statement])[row.statement]
    return SiteSealingKey.from_body(parse_envelope(filed).body)


def _check_repeat(row: CaseRow, content: str, transaction: Transaction) -> None:
    filed_at = datetime.fromisoformat(row.filed_at)
    same = (row.content_hmac, row.filed_by) == (content, transaction.actor)
    if not same or transaction.now - filed_at > REPLAY_WINDOW:
        raise Denied(
            rules.Refused(
                "request-exists", "another request has this request_id", status="conflict"
            )
        )


# --- steps ---------------------------------------------------------------------------------------


def advance(
    transaction: Transaction,
    case: Case,
    event: machine.Event,
    action: str,
    payload: Mapping[str, Any] | None = None,
    *,
    signed: SignedStatement | None = None,
    site: str | None = None,
) -> None:
    """Take one step, with its entry.

    Args:
        transaction: The change that it belongs to.
        case: The request.
        event: What happened.
        action: What was done, `subject-request.…`.
        payload: Details, where nobody signed.
        signed: What somebody signed.
        site: The site that it is about.

    Raises:
        Denied: When it may not happen now.
    """
    after = machine.step(case.request, event)
    if isinstance(after, rules.Refused):
        raise Denied(after)
    if signed is None:
        transaction.record(action, case.log_object, payload or {}, site=site)
    else:
        file_statement(transaction, signed, action, site=site)
    case.row.stage = after.stage
    if after.ended:
        case.row.finished_at = transaction.time
        case.row.code_hash = None
    states = {part.site: part for part in after.parts}
    for row in case.parts:
        part = states[row.site]
        if row.state == part.state:
            continue
        row.state, row.outcome = part.state, part.outcome
        match part.state:
            case "sent":
                row.sent_at = transaction.time
            case "taken":
                row.taken_at = transaction.time
            case "answered":
                row.answered_at = transaction.time
                row.sealed = None  # what nobody need open again is not kept
            case "cancelled" | "waived":
                row.sealed = None


def decide(
    transaction: Transaction,
    case: Case,
    event: machine.Event | None,
    verdict: str,
    *,
    ground: str = "",
    source: str = "",
    reason: str = "",
    site: str | None = None,
    evidence: str | None = None,
) -> None:
    """An officer's step: a decision, signed by the service, and its entry. No event: no new stage.

    Raises:
        Denied: When it may not happen now.
    """
    decision = RequestDecision.from_body(
        {
            "request": case.row.request_id,
            "verdict": verdict,
            "ground": ground,
            "source": source,
            "decided_by": transaction.actor,
            "decided_at": transaction.time,
            "reason": reason,
            **(
                {"format": "fiduciary.request-decision/2", "site": site, "evidence": evidence}
                if site is not None
                else {}
            ),
        }
    )
    signed = sign_statement(decision.body(), transaction.registry.signer)
    action = f"subject-request.{verdict}"
    if event is None:
        file_statement(transaction, signed, action, site=site)
    else:
        advance(transaction, case, event, action, signed=signed, site=site)


def send_to_sites(transaction: Transaction, case: Case) -> None:
    """Let the sites fetch their parts: it is known now who asks."""
    case.row.verified_at = transaction.time
    payload = {"sites": [part.site for part in case.parts]}
    advance(transaction, case, machine.Sent(), "subject-request.sent", payload)


def close_if_all_is_done(transaction: Transaction, case: Case) -> None:
    """Complete a request that every site has answered and none refused."""
    if machine.closes_itself(case.request):
        outcomes = {part.site: part.outcome for part in case.parts}
        payload = {"outcomes": outcomes, "answers": [part.answer for part in case.parts]}
        advance(transaction, case, machine.Completed(), "subject-request.completed", payload)
        write_mail(transaction, case, "completed")


# --- codes ---------------------------------------------------------------------------------------


def receipt_code(registry: Registry, request_id: str) -> str:
    """The code that a subject is given: 160 bits under a secret of this service."""
    secret = registry.keyring.secret("subject-receipts")
    mac = hmac.new(secret, b"receipt\x00" + request_id.encode("ascii"), hashlib.sha256).digest()
    text = base64.b32encode(mac[:_RECEIPT_BYTES]).decode("ascii")
    return "-".join(text[start : start + 8] for start in range(0, len(text), 8))


def hash_receipt(code: str) -> str:
    """What the database has of a receipt code. Spaces, dashes and case do not matter."""
    plain = "".join(code.split()).replace("-", "").upper()
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def find_case(session: Session, code: str) -> Case | None:
    """The request of a receipt code. Asks the database as often for a wrong code as for a right."""
    digest = hash_receipt(code)
    row = session.scalar(select(CaseRow).where(CaseRow.receipt_sha256 == digest))
    parts = parts_of(session, "" if row is None else row.request_id)
    return None if row is None else Case(row, parts)


def ask_identity(transaction: Transaction, case: Case) -> None:
    """Ask who it is: send a code, or wait for a site's operator; or nobody, where the law says so.

    Raises:
        Denied: When that was done too often.
    """
    row = case.row
    if row.identity == "not-required":
        rule = deadline_book().needs_no_proof(row.jurisdiction, case.request.right)
        payload = {"method": row.identity, "source": "" if rule is None else rule.source}
        proven = machine.IdentityProven()
        advance(transaction, case, proven, "subject-request.verified", payload)
        send_to_sites(transaction, case)
        return
    if row.identity == "email-challenge":
        if row.codes_sent >= MAX_CODES:
            raise Denied(
                rules.Refused(
                    "codes-used-up",
                    "no further code is sent for this request",
                    "file a new request",
                    "conflict",
                )
            )
        code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
        row.code_hash = _hash_code(transaction.registry, row.request_id, code)
        row.code_expires_at = format_time(transaction.now + CODE_LIFE)
        row.code_tries = 0
        row.codes_sent += 1
        write_mail(transaction, case, "code", code=code)
    asked = {"identity": row.identity, "codes_sent": row.codes_sent}
    event = machine.IdentityAsked()
    advance(transaction, case, event, "subject-request.identity-asked", asked)


def try_code(transaction: Transaction, case: Case, code: str) -> bool:
    """Try a mailed code; a wrong try is counted, and recorded."""
    row = case.row
    expected = row.code_hash
    given = _hash_code(transaction.registry, row.request_id, "".join(code.split()))
    alive = (
        expected is not None
        and row.code_tries < CODE_TRIES
        and row.code_expires_at is not None
        and transaction.now < datetime.fromisoformat(row.code_expires_at)
    )
    if alive and hmac.compare_digest(expected or "", given):
        row.code_hash = None
        proven, payload = machine.IdentityProven(), {"method": "email-challenge"}
        advance(transaction, case, proven, "subject-request.verified", payload)
        return True
    row.code_tries += 1
    transaction.record(
        "subject-request.code-refused", case.log_object, {"tries": row.code_tries, "alive": alive}
    )
    return False


def _hash_code(registry: Registry, request_id: str, code: str) -> str:
    """Under a secret: eight digits would be found from a plain hash at once."""
    secret = registry.keyring.secret("subject-codes")
    message = request_id.encode("ascii") + b"\x00" + code.encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


# --- mail ----------------------------------------------------------------------------------------


def write_mail(transaction: Transaction, case: Case, purpose: str, *, code: str = "") -> None:
    """Leave a message for the subject, where there is an address; it is sent after the change."""
    if case.row.contact is None:
        return
    session = transaction.session
    session.flush()  # changes come one after another, so that nobody else takes the number
    last = session.scalar(select(func.max(CaseMailRow.id))) or 0
    session.add(
        CaseMailRow(
            id=last + 1,
            request_id=case.row.request_id,
            purpose=purpose,
            written_at=transaction.time,
            sealed=code or purpose,
        )
    )
