"""What happens to data subjects' requests: each step is one change with its log entries.

* `advance` asks the state machine (`compliance.rules.subject_requests`) and writes what it answers;
  nothing else changes a stage.
* What is kept of a mail address is encrypted under a key of its request, which is destroyed when
  the request has ended and the last message has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from audit.statement import SignedStatement, sign_statement
from compliance import rules
from compliance.rules import subject_requests as machine
from compliance.service.errors import Denied
from compliance.service.filing import (
    file_statement,
    load_rows,
    parse_envelope,
)
from compliance.service.registry import Transaction
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
)


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


def present_key(session: Session, row: SiteSealingKeyRow) -> SiteSealingKey:
    """What is stated of the key to which identifiers are sealed for a site."""
    filed = load_rows(session, [row.statement])[row.statement]
    return SiteSealingKey.from_body(parse_envelope(filed).body)


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
