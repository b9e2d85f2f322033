"""Releases: announcement, upload and decision.

* The content is ciphertext; the service never sees a model. It does hold the data key, sealed to
  its release key, so that a grant can be made while the coordinator is away.
* A state says what is on disk: a release is a `candidate` only once its content is complete,
  checked and synced under its final name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from decimal import Decimal
from typing import Final, Literal, cast

from fastapi import APIRouter, Request
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from audit.errors import MalformedInput, VerificationFailed
from compliance import rules
from compliance.gate_views import GatesView
from compliance.release_views import ReleaseBody, ReleaseView, SubmittedRelease
from compliance.resources import DecisionBody
from compliance.rules.erasure_cases import may_be_given
from compliance.sealing import SERVICE, open_data_key
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.content import Received
from compliance.service.erasure_cases import owes, reach_release
from compliance.service.errors import enforce
from compliance.service.filing import (
    coordinator_key,
    file_statement,
    find_filed,
    is_repeated,
    load_rows,
    parse_envelope,
    read_statement,
    sign_decision,
)
from compliance.service.gate import GatedRoute
from compliance.service.plans import filed_about, plan_row, plans_naming, read_plan, sites_of_plan
from compliance.service.registry import Registry
from compliance.service.release_gates import enforce_gates, gates_view
from compliance.service.release_views import no_release, release_row, release_views, state_of
from compliance.service.tables import GrantRow, ReleaseRow
from compliance.statements import ReleaseManifest, SiteReport
from compliance.wire import PlanState, Role

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/releases", tags=["releases"])

OCTETS: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
OCTETS_BODY: Final = {"required": True, "content": OCTETS}

READERS: Final[tuple[Role, ...]] = ("coordinator", "site", "officer", "auditor")


@router.post("", status_code=201)
@requires("coordinator")
def submit_release(body: ReleaseBody, office: Office, caller: Caller) -> SubmittedRelease:
    """Announce a release of a completed run."""
    release_id = body.statement.digest
    with office.writing(caller) as transaction:
        session = transaction.session
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            return SubmittedRelease(release_id=release_id, position=filed.position)
        manifest = read_statement(ReleaseManifest, body.statement, coordinator_key(session))
        plan = plan_row(session, manifest.plan_id)
        enforce(
            rules.may_release(
                manifest,
                read_plan(session, manifest.plan_id),
                cast(PlanState, plan.state),
                _reported_epsilon(session, manifest.plan_id),
            )
        )
        _check_sealed_key(office, body.sealed_key, release_id)
        position = file_statement(
            transaction, body.statement, "release.announced", plan_id=manifest.plan_id
        )
        row = ReleaseRow(
            release_id=release_id,
            plan_id=manifest.plan_id,
            state="announced",
            position=position,
            sealed_key=body.sealed_key,
        )
        session.add(row)
        reach_release(transaction, row)
        return SubmittedRelease(release_id=release_id, position=position)


@router.put("/{release_id}/content", openapi_extra={"requestBody": OCTETS_BODY})
@requires("coordinator", streams=True, max_body_bytes=rules.MAX_RELEASE_BYTES)
async def upload(release_id: str, request: Request, office: Office, caller: Caller) -> ReleaseView:
    """Take a release's ciphertext, piece by piece, to disk."""
    await run_in_threadpool(_check_upload, office, caller, release_id)
    received = await office.content.receive(request.stream())
    try:
        return await run_in_threadpool(_keep_content, office, caller, release_id, received)
    finally:
        office.content.discard(received)


@router.get("")
@requires(*READERS, "consumer", by_site=True)
def list_releases(office: Office, caller: Caller) -> dict[str, list[ReleaseView]]:
    """Releases, oldest first. A consumer sees those granted to it, a limited role its sites'."""
    with office.reading() as session:
        query = select(ReleaseRow).order_by(ReleaseRow.position)
        sites = reading_scope(caller).sites
        if sites is not None:
            granted = select(GrantRow.release_id).where(GrantRow.principal == caller.name)
            query = query.where(
                or_(ReleaseRow.release_id.in_(granted), ReleaseRow.plan_id.in_(plans_naming(sites)))
            )
        rows = session.scalars(query).all()
        return {"releases": release_views(session, rows, caller)}


@router.get("/{release_id}")
@requires(*READERS, "consumer", by_site=True)
def show_release(release_id: str, office: Office, caller: Caller) -> ReleaseView:
    """One release. To a consumer without a grant, and to others' sites, it does not exist."""
    with office.reading() as session:
        if session.get(GrantRow, (release_id, caller.name)) is None:
            row = visible_release(session, release_id, reading_scope(caller))
        else:
            row = release_row(session, release_id)
        return release_views(session, [row], caller)[0]


@router.get("/{release_id}/gates")
@requires(*READERS, by_site=True)
def show_gates(release_id: str, office: Office, caller: Caller) -> GatesView:
    """Every gate that a release must pass before it can be approved, as it is judged now."""
    with office.reading() as session:
        row = visible_release(session, release_id, reading_scope(caller))
        return gates_view(office, session, row)


@router.post("/{release_id}/approval")
@requires("officer", by_site=True)
def approve(release_id: str, body: DecisionBody, office: Office, caller: Caller) -> ReleaseView:
    """Approve a release that somebody else submitted. Refused while a gate fails."""
    return _decide(release_id, body.reason, office, caller, "approved")


@router.post("/{release_id}/rejection")
@requires("officer", by_site=True)
def reject(release_id: str, body: DecisionBody, office: Office, caller: Caller) -> ReleaseView:
    """Reject a release."""
    return _decide(release_id, body.reason, office, caller, "rejected")


def reading_scope(caller: rules.Bearer) -> rules.Scope:
    """The sites whose releases a caller sees. Every site sees all: it must know what it serves."""
    return rules.EVERYWHERE if caller.holds("site") else caller.scope(*READERS)


def visible_release(session: Session, release_id: str, scope: rules.Scope) -> ReleaseRow:
    """A release of a plan that concerns somebody.

    Raises:
        NotFound: When there is none of that id, or its plan names no site of theirs.
    """
    row = release_row(session, release_id)
    if not scope.meets(sites_of_plan(session, row.plan_id)):
        raise no_release()
    return row


def releases_concerning(sites: Collection[str]) -> Select[str]:
    """The ids of all releases whose plan names any of these sites, as a subquery."""
    return select(ReleaseRow.release_id).where(ReleaseRow.plan_id.in_(plans_naming(sites)))


def _check_upload(office: Registry, caller: rules.Bearer, release_id: str) -> None:
    """Refuse before a quarter of a gigabyte has come, where that is possible."""
    with office.reading() as session:
        row = release_row(session, release_id)
        if row.state != "announced":
            return  # a repeated upload is judged by its content
        filed = load_rows(session, [release_id])[release_id]
        enforce(rules.may_upload(state_of(row), submitted_by=filed.filed_by, uploader=caller))


def _keep_content(
    office: Registry, caller: rules.Bearer, release_id: str, received: Received
) -> ReleaseView:
    """Check what came and make it the release's content.

    The file has its final name before the state that promises it is committed. A crash between the
    two leaves a file that no state mentions, and the next upload replaces it.
    """
    with office.writing(caller) as transaction:
        session = transaction.session
        row = release_row(session, release_id)
        filed = load_rows(session, [release_id])[release_id]
        manifest = ReleaseManifest.from_body(parse_envelope(filed).body)
        enforce(
            rules.content_matches(
                size_bytes=received.size_bytes,
                digest=received.digest,
                expected_bytes=manifest.ciphertext_bytes,
                expected_digest=manifest.ciphertext_digest,
            )
        )
        if row.state == "announced" or filed.filed_by != caller.name:
            enforce(rules.may_upload(state_of(row), submitted_by=filed.filed_by, uploader=caller))
            office.content.keep(received, release_id)
            transaction.record(
                "release.uploaded",
                f"release:{release_id}",
                {"digest": received.digest, "size_bytes": received.size_bytes},
            )
            row.state = "candidate"
        return release_views(session, [row], caller)[0]


def _decide(
    release_id: str,
    reason: str,
    office: Registry,
    caller: rules.Bearer,
    verdict: Literal["approved", "rejected"],
) -> ReleaseView:
    with office.writing(caller) as transaction:
        session = transaction.session
        scope = caller.scope("officer")
        row = visible_release(session, release_id, scope)
        rows = load_rows(session, [release_id, row.decision])
        if row.state == verdict and is_repeated(rows, row.decision, caller, verdict):
            return release_views(session, [row], caller)[0]
        submitted_by = rows[release_id].filed_by
        if verdict == "approved":
            enforce(may_be_given(owes=owes(session, release_id)))
        enforce(
            rules.may_decide(
                caller,
                submitted_by=submitted_by,
                author=submitted_by,
                state=state_of(row),
                undecided="candidate",
            )
        )
        if verdict == "approved":
            enforce(rules.may_commit(scope, sites_of_plan(session, row.plan_id)))
            enforce_gates(office, session, row)
        signed, _ = sign_decision(
            transaction,
            f"release:{release_id}",
            verdict,
            reason,
            plan_id=row.plan_id,
            release_id=release_id,
        )
        row.state = verdict
        row.decision = signed.digest
        return release_views(session, [row], caller)[0]


def _reported_epsilon(session: Session, plan_id: str) -> dict[str, Decimal]:
    """The largest epsilon that each site reported for a plan."""
    largest: dict[str, Decimal] = defaultdict(Decimal)
    for statement in filed_about(session, plan_id, SiteReport.kind):
        report = SiteReport.from_body(statement.body)
        largest[report.site] = max(largest[report.site], report.epsilon_spent)
    return largest


def _check_sealed_key(office: Registry, sealed_key: bytes, release_id: str) -> None:
    """Find out now, not at the first grant, that the coordinator sealed the key wrongly."""
    try:
        open_data_key(sealed_key, office.release_key, release_id=release_id, recipient=SERVICE)
    except VerificationFailed as error:
        raise MalformedInput(
            "sealed_key does not open with the service's release key for this release",
            fix="seal it to release_key of the present trust.json, with the manifest's digest",
        ) from error
