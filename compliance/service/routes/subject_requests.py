"""Data subjects' requests, for officers and for the sites that must act.

* The service knows neither who a subject is nor can it find out: identifiers are sealed to sites.
* A site gets its part when identity is proven, and not one octet before.
* Every step is an entry; where an officer or a site speaks, it is a signed statement.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from audit.canonical import digest
from audit.errors import NotFound
from compliance import rules
from compliance.resources import Recorded, StatementBody
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book, due, may_extend, may_refuse_on
from compliance.service.errors import Denied, enforce
from compliance.service.filing import (
    file_statement,
    find_filed,
    read_statement,
    site_row,
)
from compliance.service.gate import Caller, GatedRoute, Office, requires
from compliance.service.routes.plans import site_key
from compliance.service.subject_cases import (
    Case,
    advance,
    ask_identity,
    close_if_all_is_done,
    decide,
    file_case,
    load_case,
    present_key,
    receipt_code,
    send_to_sites,
    visible_case,
    write_mail,
)
from compliance.service.subject_settings import subject_settings
from compliance.service.subject_tables import SiteSealingKeyRow
from compliance.service.subject_views import (
    case_view,
    key_state,
    page_of_cases,
    parts_for_site,
    releases_of_site,
    site_keys,
)
from compliance.service.tables import StatementRow
from compliance.statements import (
    ErasureReceipt,
    Name,
    SiteSealingKey,
    SubjectAnswer,
    SubjectIdentity,
    SubjectRight,
    format_time,
)
from compliance.subject_requests_views import (
    MAX_PACKAGE_BYTES,
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
    SiteWork,
    SubjectAnswerBody,
    TrainedRelease,
    VerificationBody,
    WaiverBody,
)

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["subject requests"])

_MAX_ANSWER_BYTES: Final = MAX_PACKAGE_BYTES * 4 // 3 + 64 * 1024
"""A package in base64, and its statement."""

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


# --- officers ------------------------------------------------------------------------------------


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
        return FiledRequest.model_validate(filed(case, receipt_code(office, body.request_id)))


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


# --- sites ---------------------------------------------------------------------------------------


@router.post("/sites/{name}/sealing-key", status_code=201)
@requires("site")
def publish_key(name: str, body: StatementBody, office: Office, caller: Caller) -> Recorded:
    """Tell to which key identifiers are sealed for this site."""
    enforce(rules.may_speak_for(caller, name))
    with office.writing(caller) as transaction:
        session = transaction.session
        row = session.get(SiteSealingKeyRow, name)
        if row is not None and row.statement == body.statement.digest:
            return Recorded(position=session.get_one(StatementRow, row.statement).position)
        stated = read_statement(SiteSealingKey, body.statement, site_key(session, caller))
        enforce(rules.may_speak_for(caller, stated.site))
        site = site_row(session, name)
        if stated.federation != site.federation:
            raise Denied(
                rules.Refused(
                    "other-federation", "the key is for another federation", status="malformed"
                )
            )
        if row is not None:
            enforce(machine.may_replace_key(stated, present_key(session, row)))
        position = file_statement(transaction, body.statement, "site.key-published", site=name)
        if row is None:
            session.add(SiteSealingKeyRow(site=name, statement=body.statement.digest))
        else:
            row.statement = body.statement.digest
        return Recorded(position=position)


@router.get("/subject-parts")
@requires("site")
def list_parts(office: Office, caller: Caller) -> SiteWork:
    """What this site must do, and whom it is asked to check; the most urgent first."""
    site = caller.site or ""
    with office.reading() as session:
        return SiteWork(
            parts=tuple(parts_for_site(session, site)),
            sealing_key=key_state(session, site, office.clock()),
        )


@router.post("/subject-requests/{request_id}/taken")
@requires("site")
def take(request_id: str, office: Office, caller: Caller) -> Recorded:
    """State that the site has its part."""
    site = caller.site or ""
    with office.writing(caller) as transaction:
        case = _case_of(transaction.session, request_id, site)
        part = case.part(site)
        if part.taken_at is None:
            advance(
                transaction,
                case,
                machine.Taken(site),
                "subject-request.taken",
                {"site": site},
                site=site,
            )
        return Recorded(position=case.row.position)


@router.post("/subject-requests/{request_id}/identity")
@requires("site")
def state_identity(
    request_id: str, body: StatementBody, office: Office, caller: Caller
) -> Recorded:
    """A site's operator states that it is known who asks."""
    site = caller.site or ""
    with office.writing(caller) as transaction:
        session = transaction.session
        filed_before = find_filed(session, body.statement, caller.name)
        if filed_before is not None:
            return Recorded(position=filed_before.position)
        stated = read_statement(SubjectIdentity, body.statement, site_key(session, caller))
        enforce(rules.may_speak_for(caller, stated.site))
        case = _case_of(session, request_id, site)
        if stated.request != request_id:
            raise Denied(_other_request())
        if case.row.identity != "site-verified":
            raise Denied(
                rules.Refused(
                    "other-identity",
                    f"identity is shown by {case.row.identity} for this request",
                    status="conflict",
                )
            )
        advance(
            transaction,
            case,
            machine.IdentityProven(),
            "subject-request.verified",
            signed=body.statement,
            site=site,
        )
        send_to_sites(transaction, case)
        return Recorded(position=case.row.position)


@router.post("/subject-requests/{request_id}/answer")
@requires("site", max_body_bytes=_MAX_ANSWER_BYTES)
def answer(request_id: str, body: SubjectAnswerBody, office: Office, caller: Caller) -> Recorded:
    """Record what a site did. When it was the last one and none refused, the request closes."""
    site = caller.site or ""
    with office.writing(caller) as transaction:
        session = transaction.session
        filed_before = find_filed(session, body.statement, caller.name)
        if filed_before is not None:
            return Recorded(position=filed_before.position)
        stated = read_statement(SubjectAnswer, body.statement, site_key(session, caller))
        case = _case_of(session, request_id, site)
        if stated.request != request_id:
            raise Denied(_other_request())
        enforce(machine.may_answer(stated, case.request, site) or rules.ALLOWED)
        _check_evidence(session, stated, body.package, case)
        part = case.part(site)
        event = machine.Answered(site, stated.outcome)
        advance(
            transaction, case, event, "subject-request.answered", signed=body.statement, site=site
        )
        part.answer, part.ground = body.statement.digest, stated.ground
        part.package = body.package
        close_if_all_is_done(transaction, case)
        row = session.get_one(StatementRow, body.statement.digest)
        return Recorded(position=row.position)


@router.get("/subject-requests/{request_id}/releases")
@requires("site")
def show_releases(
    request_id: str, office: Office, caller: Caller
) -> dict[str, list[TrainedRelease]]:
    """Releases of plans that name this site, with recipients: a part of the copy for a subject."""
    with office.reading() as session:
        _case_of(session, request_id, caller.site or "")
        return {"releases": releases_of_site(session, caller.site or "")}


# --- what several have in common -----------------------------------------------------------------


def filed(case: Case, code: str) -> dict[str, object]:
    """What whoever files a request is told."""
    return {
        "request_id": case.row.request_id,
        "receipt_code": code,
        "stage": case.row.stage,
        "due_at": case.row.due_at,
    }


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


def _case_of(session: Session, request_id: str, site: str) -> Case:
    """A request that concerns a site; to any other site there is none."""
    case = load_case(session, request_id)
    case.part(site)
    return case


def _check_evidence(
    session: Session, stated: SubjectAnswer, package: bytes | None, case: Case
) -> None:
    """Whether what an answer refers to is there, and says so.

    Raises:
        Denied: When it is not.
    """
    if stated.ground:
        view = case.row
        ground = may_refuse_on(
            deadline_book(), view.jurisdiction, case.request.right, stated.ground
        )
        if isinstance(ground, rules.Refused):
            raise Denied(ground)
    for receipt in stated.erasures:
        row = session.get(StatementRow, receipt)
        if row is None or row.kind != ErasureReceipt.kind or row.filed_by != f"site:{stated.site}":
            raise Denied(
                rules.Refused(
                    "erasure-unknown",
                    "the site has filed no such erasure receipt",
                    "send the receipt first",
                    "malformed",
                )
            )
    if (package is not None) != (stated.delivery == "sealed"):
        raise Denied(
            rules.Refused(
                "package-missing", "a sealed package comes with its answer", status="malformed"
            )
        )
    if package is not None and (
        len(package) > MAX_PACKAGE_BYTES or digest(package) != stated.package
    ):
        raise Denied(
            rules.Refused(
                "package-differs",
                f"the package is larger than {MAX_PACKAGE_BYTES} bytes, or not the one that the"
                " answer names",
                status="malformed",
            )
        )


def _ended(case: Case) -> rules.Ruling:
    if case.row.finished_at is None:
        return rules.ALLOWED
    return rules.Refused(
        "request-state", f"the request is {case.row.stage}: it has ended", status="conflict"
    )


def _other_request() -> rules.Refused:
    return rules.Refused(
        "other-request", "the statement is about another request", status="malformed"
    )


def _no_mail() -> rules.Refused:
    return rules.Refused(
        "no-mail",
        "a code cannot be sent: there is no address, or no [mail] in requests.toml",
        "give an address, or choose another way to show who asks",
        "malformed",
    )
