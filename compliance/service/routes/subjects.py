"""Data subjects' requests, and the receipts of their erasure.

* The service never learns who a subject is: identifiers are sealed to the site that must act, and
  receipts name the site's own pseudonym.
* An erasure, the end of the request that it answers, and the cases of the releases that the subject
  took part in (`service.erasure_cases`) are one change.
* The receipt that a site gets verifies offline, with the log's key alone. So do the follow-ups that
  say what was found and decided of releases; repeating the call gives those that came since.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.canonical import digest
from audit.errors import NotFound
from compliance import rules
from compliance.resources import (
    ErasureBody,
    ErasureRecorded,
    RequestKind,
    RequestState,
    SiteState,
    SubjectRequestBody,
    SubjectRequestView,
)
from compliance.service.erasure_cases import reach_releases, receipt_of
from compliance.service.errors import Denied, enforce
from compliance.service.filing import file_statement, find_filed, read_statement, site_row
from compliance.service.gate import Caller, GatedRoute, Office, requires
from compliance.service.routes.plans import site_key
from compliance.service.tables import SubjectRequestRow
from compliance.statements import ErasureReceipt

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["subjects"])


@router.post("/requests", status_code=201, deprecated=True)
@requires("site", "officer", by_site=True)
def file_request(body: SubjectRequestBody, office: Office, caller: Caller) -> SubjectRequestView:
    """File a note of a request at one site. Superseded by `/v1/subject-requests`."""
    request_id = body.request_id or secrets.token_hex(16)
    with office.writing(caller) as transaction:
        session = transaction.session
        row = session.get(SubjectRequestRow, request_id)
        if row is not None:
            if _is_same_request(row, body, caller):
                return _view(row)
            raise Denied(
                rules.Refused(
                    "request-exists", "another request has this request_id", status="conflict"
                )
            )
        if caller.holds("officer"):
            enforce(rules.may_commit(caller.scope("officer"), {body.site}))
        else:
            enforce(rules.may_speak_for(caller, body.site))
        enforce(rules.may_act_as_site(cast(SiteState, site_row(session, body.site).state)))
        position = transaction.record(
            "request.filed",
            f"request:{request_id}",
            {
                "kind": body.kind,
                "site": body.site,
                "sealed_digest": None if body.sealed is None else digest(body.sealed),
            },
            subject=body.subject,
            site=body.site,
        )
        row = SubjectRequestRow(
            request_id=request_id,
            kind=body.kind,
            site=body.site,
            state="open",
            sealed=body.sealed,
            subject=body.subject,
            filed_by=caller.name,
            filed_at=transaction.time,
            position=position,
        )
        session.add(row)
        return _view(row)


@router.get("/requests", deprecated=True)
@requires("site", "officer", "auditor", by_site=True)
def list_requests(
    office: Office, caller: Caller, state: RequestState | None = None
) -> dict[str, list[SubjectRequestView]]:
    """Such notes, oldest first. A site, and a role that is limited to sites, sees their own."""
    with office.reading() as session:
        query = select(SubjectRequestRow).order_by(SubjectRequestRow.position)
        if state is not None:
            query = query.where(SubjectRequestRow.state == state)
        sites = caller.scope("site", "officer", "auditor").sites
        if sites is not None:
            query = query.where(SubjectRequestRow.site.in_(sorted(sites)))
        return {"requests": [_view(row) for row in session.scalars(query)]}


@router.post("/erasures", status_code=201)
@requires("site")
def report_erasure(body: ErasureBody, office: Office, caller: Caller) -> ErasureRecorded:
    """Record a site's erasure receipt, answer the request it belongs to, and prove it."""
    with office.writing(caller) as transaction:
        session = transaction.session
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            position = filed.position
        else:
            erasure = read_statement(ErasureReceipt, body.statement, site_key(session, caller))
            enforce(rules.may_speak_for(caller, erasure.site))
            requests = _answered_requests(session, body.request_id, erasure)
            position = file_statement(
                transaction, body.statement, "subject.erased", subject=erasure.subject
            )
            for row in requests:
                row.state = "done"
                row.done_at = transaction.time
                row.erasure = body.statement.digest
            reach_releases(transaction, body.statement.digest, erasure)
        whole = receipt_of(office, session, body.statement.digest)
    return ErasureRecorded(
        position=position,
        receipt=replace(whole, follow_ups=()).to_json(),
        follow_ups=tuple(one.to_json() for one in whole.follow_ups),
    )


def _answered_requests(
    session: Session, request_id: str | None, erasure: ErasureReceipt
) -> Sequence[SubjectRequestRow]:
    """The named request, if any, and every open one that this site filed about the subject."""
    named = None
    if request_id is not None:
        named = session.get(SubjectRequestRow, request_id)
        if named is None:
            raise NotFound("there is no such request", fix="list them: `compliance requests`")
    enforce(
        rules.may_record_erasure(
            erasure,
            request_site=None if named is None else named.site,
            request_state=None if named is None else cast(RequestState, named.state),
        )
    )
    own = session.scalars(
        select(SubjectRequestRow).where(
            SubjectRequestRow.site == erasure.site,
            SubjectRequestRow.subject == erasure.subject,
            SubjectRequestRow.state == "open",
        )
    ).all()
    return own if named is None or named in own else [named, *own]


def _is_same_request(
    row: SubjectRequestRow, body: SubjectRequestBody, caller: rules.Bearer
) -> bool:
    return (row.kind, row.site, row.sealed, row.subject, row.filed_by) == (
        body.kind,
        body.site,
        body.sealed,
        body.subject,
        caller.name,
    )


def _view(row: SubjectRequestRow) -> SubjectRequestView:
    return SubjectRequestView(
        request_id=row.request_id,
        kind=cast(RequestKind, row.kind),
        site=row.site,
        state=cast(RequestState, row.state),
        sealed=row.sealed,
        subject=row.subject,
        filed_by=row.filed_by,
        filed_at=row.filed_at,
        done_at=row.done_at,
        erasure=row.erasure,
    )
