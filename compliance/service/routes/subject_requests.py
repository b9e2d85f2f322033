"""Data subjects' requests, for officers. What sites do of them: `routes.subject_parts`.

* The service knows neither who a subject is nor can it find out: identifiers are sealed to sites.
* Every step is an entry; where an officer speaks, it is a signed statement.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from audit.errors import NotFound
from compliance import rules
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book, due, may_extend, may_refuse_on
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.errors import Denied, enforce
from compliance.service.filing import (
    site_row,
)
from compliance.service.gate import GatedRoute
from compliance.service.subject_cases import (
    Case,
    decide,
    send_to_sites,
    visible_case,
    write_mail,
)
from compliance.service.subject_codes import ask_identity, receipt_code
from compliance.service.subject_filing import file_case
from compliance.service.subject_settings import subject_settings
from compliance.service.subject_views import (
    case_view,
    filed_view,
    page_of_cases,
    site_keys,
)
from compliance.statements import (
    Name,
    SubjectRight,
    format_time,
)
from compliance.subject_requests_views import (
    MAX_PAGE,
    PLACE,
    CasePage,
    CaseView,
    CompletionBody,
    FiledRequest,
    FiledRequestBody,
    NoticeBody,
    RefusalBody,
    SiteKeyView,
    VerificationBody,
    WaiverBody,
)

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["subject requests"])

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


@router.post("/subject-requests", status_code=201)
@requires("officer", by_site=True)
def file_request(body: FiledRequestBody, office: Office, caller: Caller) -> FiledRequest:
    """File a request that came on another way. The clock runs from when it came."""
    settings = subject_settings(office.folder)
    with office.writing(caller) as transaction:
        enforce(rules.may_commit(caller.scope("officer"), body.sealed.keys()))
        received = transaction.now
        if body.received_at is not None:
            received = datetime.fromisoformat(body.received_at)
            if received > transaction.now:
                raise Denied(
                    rules.Refused("received-later", "received_at lies ahead", status="malformed")
                )
        if body.identity == "email-challenge" and (body.email is None or settings.mail is None):
            raise Denied(_no_mail())
        case, is_new = file_case(transaction, body, settings, received)
        if is_new:
            write_mail(transaction, case, "received")
            if body.identity != "officer":
                ask_identity(transaction, case)
        return filed_view(case, receipt_code(office, body.request_id))


@router.get("/subject-requests")
@requires("officer", "auditor", by_site=True)
def list_requests(
    office: Office,
    caller: Caller,
    stage: machine.RequestStage | None = None,
    right: SubjectRight | None = None,
    site: Name | None = None,
    overdue: bool = False,
    open: bool = False,  # noqa: A002  the query's word
    after: Annotated[str | None, Query(pattern=PLACE)] = None,
    limit: Limit = 100,
) -> CasePage:
    """Requests by deadline, and how many are open, due soon and overdue in all."""
    with office.reading() as session:
        return page_of_cases(
            session,
            office.clock(),
            scope=_reading(caller),
            stage=stage,
            right=right,
            site=site,
            overdue=overdue,
            open_only=open,
            after=after,
            limit=limit,
        )


@router.get("/sealing-keys")
@requires("officer", "auditor", by_site=True)
def list_keys(office: Office, caller: Caller) -> dict[str, list[SiteKeyView]]:
    """To which keys identifiers are sealed, each signed by its site."""
    scope = _reading(caller)
    with office.reading() as session:
        return {"keys": [key for key in site_keys(session) if scope.includes(key.site)]}


@router.get("/subject-requests/{request_id}")
@requires("officer", "auditor", by_site=True)
def show_request(request_id: str, office: Office, caller: Caller) -> CaseView:
    """One request; of its parts those of the caller's sites."""
    scope = _reading(caller)
    with office.reading() as session:
        case = visible_case(session, request_id, scope)
        return case_view(case, office.clock(), scope)


@router.post("/subject-requests/{request_id}/verification")
@requires("officer", by_site=True)
def verify(request_id: str, body: VerificationBody, office: Office, caller: Caller) -> CaseView:
    """State that it is known who asks, and let the sites have their parts."""
    with office.writing(caller) as transaction:
        case = _case_to_decide(transaction.session, request_id, caller)
        if case.row.verified_at is None:
            decide(transaction, case, machine.IdentityProven(), "verified", ground=body.method)
            send_to_sites(transaction, case)
        elif case.row.finished_at is not None:
            enforce(_ended(case))
        return case_view(case, transaction.now)


@router.post("/subject-requests/{request_id}/confirmation")
@requires("officer", by_site=True)
def confirm(request_id: str, office: Office, caller: Caller) -> CaseView:
    """State that the subject was told that the request came."""
    with office.writing(caller) as transaction:
        case = _case_to_decide(transaction.session, request_id, caller)
        if case.row.confirmed_at is None:
            transaction.record("subject-request.confirmed", case.log_object, {})
            case.row.confirmed_at = transaction.time
        return case_view(case, transaction.now)


@router.post("/subject-requests/{request_id}/extension")
@requires("officer", by_site=True)
def extend(request_id: str, body: NoticeBody, office: Office, caller: Caller) -> CaseView:
    """Take the longer period, with a notice to the subject."""
    settings = subject_settings(office.folder)
    with office.writing(caller) as transaction:
        case = _case_to_decide(transaction.session, request_id, caller)
        row = case.row
        if row.extended_at is not None and row.notice == body.reason:
            return case_view(case, transaction.now)
        enforce(_ended(case))
        view = case_view(case, transaction.now)
        deadline = deadline_book().find(view.jurisdiction, view.right, "answer")
        if deadline is None:
            raise NotFound("the deadline of this request is not known any more")
        enforce(
            may_extend(
                deadline,
                due_at=datetime.fromisoformat(row.due_at),
                extended=row.extended_at is not None,
                reason=body.reason,
                now=transaction.now,
            )
        )
        received = datetime.fromisoformat(row.received_at)
        row.due_at = format_time(due(deadline, received, settings.working, extended=True))
        row.extended_at, row.notice = transaction.time, body.reason
        source = deadline.source
        decide(transaction, case, None, "extended", source=source, reason=body.reason)
        write_mail(transaction, case, "extended")
        return case_view(case, transaction.now)


@router.post("/subject-requests/{request_id}/refusal")
@requires("officer", by_site=True)
def refuse(request_id: str, body: RefusalBody, office: Office, caller: Caller) -> CaseView:
    """Refuse a request on a ground that the law has for it."""
    with office.writing(caller) as transaction:
        case = _case_to_decide(transaction.session, request_id, caller)
        view = case_view(case, transaction.now)
        if (view.stage, view.ground, view.notice) == ("refused", body.ground, body.reason):
            return view
        ground = may_refuse_on(deadline_book(), view.jurisdiction, view.right, body.ground)
        if isinstance(ground, rules.Refused):
            raise Denied(ground)
        decide(
            transaction,
            case,
            machine.RefusedByOfficer(),
            "refused",
            ground=ground.id,
            source=ground.source,
            reason=body.reason,
        )
        case.row.ground, case.row.notice = ground.id, body.reason
        write_mail(transaction, case, "refused")
        return case_view(case, transaction.now)


@router.post("/subject-requests/{request_id}/parts/{site}/waiver")
@requires("officer", by_site=True)
def waive(request_id: str, site: str, body: WaiverBody, office: Office, caller: Caller) -> CaseView:
    """No longer wait for a site that was revoked and can answer nothing."""
    with office.writing(caller) as transaction:
        case = _case_to_decide(transaction.session, request_id, caller)
        if case.part(site).state != "waived":
            revoked = site_row(transaction.session, site).state == "revoked"
            decide(
                transaction,
                case,
                machine.Waived(site, revoked),
                "waived",
                reason=body.reason,
                site=site,
                evidence=body.evidence,
            )
        return case_view(case, transaction.now)


@router.post("/subject-requests/{request_id}/completion")
@requires("officer", by_site=True)
def complete(request_id: str, body: CompletionBody, office: Office, caller: Caller) -> CaseView:
    """Close a request that every site has answered, also where one refused."""
    with office.writing(caller) as transaction:
        case = _case_to_decide(transaction.session, request_id, caller)
        if case.row.stage != "completed":
            decide(transaction, case, machine.Completed(), "completed", reason=body.reason)
            case.row.notice = body.reason
            write_mail(transaction, case, "completed")
        return case_view(case, transaction.now)


def _reading(caller: rules.Bearer) -> rules.Scope:
    return caller.scope("officer", "auditor")


def _case_to_decide(session: Session, request_id: str, caller: rules.Bearer) -> Case:
    """A request that an officer may decide about: one whose every site is theirs.

    Raises:
        NotFound: When it concerns no site of theirs: to them, there is no such request.
        Denied: When it concerns another site, too.
    """
    scope = caller.scope("officer")
    case = visible_case(session, request_id, scope)
    enforce(rules.may_commit(scope, case.sites))
    return case


def _ended(case: Case) -> rules.Ruling:
    if case.row.finished_at is None:
        return rules.ALLOWED
    return rules.Refused(
        "request-state", f"the request is {case.row.stage}: it has ended", status="conflict"
    )


def _no_mail() -> rules.Refused:
    return rules.Refused(
        "no-mail",
        "a code cannot be sent: there is no address, or no [mail] in requests.toml",
        "give an address, or choose another way to show who asks",
        "malformed",
    )
