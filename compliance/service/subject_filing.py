"""Filing a data subject's request: once, under the deadlines of its jurisdiction."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, select

from audit.canonical import canonical_bytes
from compliance import rules
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book, due, may_skip_proof
from compliance.service.driver import Fixed
from compliance.service.errors import Denied, enforce
from compliance.service.filing import site_standing
from compliance.service.registry import Transaction
from compliance.service.subject_cases import Case, load_case, object_name, present_key
from compliance.service.subject_codes import hash_receipt, receipt_code
from compliance.service.subject_settings import SubjectSettings
from compliance.service.subject_tables import CasePartRow, CaseRow, SiteSealingKeyRow
from compliance.service.tables import Base
from compliance.statements import format_time
from compliance.subject_requests_views import FiledRequestBody, PublicRequestBody

_CASES: Final = Base.metadata.tables[CaseRow.__tablename__].c
_KNOWN: Final = Fixed(select(_CASES.request_id).where(_CASES.request_id == bindparam("request_id")))

REPLAY_WINDOW: Final = timedelta(hours=1)
"""How long a call may be repeated for its answer. A receipt code is not told for ever."""


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
    if _KNOWN.run(session, {"request_id": body.request_id}).fetchone() is not None:
        _check_repeat(session.get_one(CaseRow, body.request_id), content, transaction)
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
        enforce(rules.may_act_as_site(site_standing(session, site)[0]))
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
        contact=body.email,  # where there is none, a row that says so need not be asked
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
    return Case(row, parts), True


def _check_repeat(row: CaseRow, content: str, transaction: Transaction) -> None:
    filed_at = datetime.fromisoformat(row.filed_at)
    same = (row.content_hmac, row.filed_by) == (content, transaction.actor)
    if not same or transaction.now - filed_at > REPLAY_WINDOW:
        raise Denied(
            rules.Refused(
                "request-exists", "another request has this request_id", status="conflict"
            )
        )
