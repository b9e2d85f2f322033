"""Codes of data subjects' requests: the receipt's, and those that show who asks.

* The receipt code is made from the request's id under a secret of this service, so that a call that
  is repeated gets the same one; the database has its hash alone.
* A mailed code is kept as a keyed hash, lives a day, and bears a few wrong tries.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from compliance import rules
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book
from compliance.service.errors import Denied
from compliance.service.registry import Registry, Transaction
from compliance.service.subject_cases import (
    Case,
    advance,
    parts_of,
    send_to_sites,
    write_mail,
)
from compliance.service.subject_tables import CaseRow
from compliance.statements import format_time

CODE_LIFE: Final = timedelta(hours=24)
CODE_TRIES: Final = 5
"""Wrong codes before a new one must be asked for: one in ten million would be right."""
MAX_CODES: Final = 3
"""Codes that are sent for one request, so that nobody's mailbox is filled."""

CODE_DIGITS: Final = 8
_RECEIPT_BYTES: Final = 20


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
