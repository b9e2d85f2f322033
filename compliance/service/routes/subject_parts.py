"""What the sites do of data subjects' requests: their keys, their parts, their answers.

* A site gets its part when identity is proven, and not one octet before.
* Every step is an entry; where a site speaks, it is a signed statement.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from sqlalchemy.orm import Session

from audit.canonical import digest
from compliance import rules
from compliance.resources import Recorded, StatementBody
from compliance.rules import subject_requests as machine
from compliance.rules.deadlines import deadline_book, may_refuse_on
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.errors import Denied, enforce
from compliance.service.filing import (
    file_statement,
    find_filed,
    read_statement,
    site_key,
    site_row,
)
from compliance.service.gate import GatedRoute
from compliance.service.subject_cases import (
    Case,
    advance,
    close_if_all_is_done,
    load_case,
    present_key,
    send_to_sites,
)
from compliance.service.subject_tables import SiteSealingKeyRow
from compliance.service.subject_views import (
    key_state,
    parts_for_site,
    releases_of_site,
)
from compliance.service.tables import StatementRow
from compliance.statements import (
    ErasureReceipt,
    SiteSealingKey,
    SubjectAnswer,
    SubjectIdentity,
)
from compliance.subject_requests_views import (
    MAX_PACKAGE_BYTES,
    SiteWork,
    SubjectAnswerBody,
    TrainedRelease,
)

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["subject requests"])

_MAX_ANSWER_BYTES: Final = MAX_PACKAGE_BYTES * 4 // 3 + 64 * 1024
"""A package in base64, and its statement."""


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


def _other_request() -> rules.Refused:
    return rules.Refused(
        "other-request", "the statement is about another request", status="malformed"
    )
