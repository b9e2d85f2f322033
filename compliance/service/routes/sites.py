"""Coordinator's key, invitations, enrolment, admission and revocation of sites."""

from __future__ import annotations

import base64
import hmac
from datetime import datetime
from typing import Final

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.keys import VerifyKey
from audit.statement import SignedStatement
from compliance import rules
from compliance.resources import (
    CoordinatorKeyBody,
    DecisionBody,
    Enrolled,
    EnrolmentBody,
    InvitationBody,
    Recorded,
    SiteView,
    StatementBody,
)
from compliance.service.access import ANY_ROLE, public, requires
from compliance.service.access_tables import SiteRenewalRow
from compliance.service.call import Caller, Office
from compliance.service.certificates import certifies, ends_at, node_key_of
from compliance.service.errors import Denied, enforce
from compliance.service.filing import (
    coordinator_key,
    file_statement,
    find_filed,
    read_statement,
    site_row,
)
from compliance.service.gate import GatedRoute
from compliance.service.identities import hash_token, parse_time
from compliance.service.registry import Registry, Transaction
from compliance.service.site_views import site_views, state_of_site
from compliance.service.tables import (
    CoordinatorRow,
    InvitationRow,
    PrincipalRow,
    SiteRow,
    StatementRow,
)
from compliance.statements import (
    CertificateRenewal,
    SiteAdmission,
    SiteEnrolment,
    certificate_digest,
    format_time,
)

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["sites"])


@router.post("/coordinator", status_code=201)
@requires("coordinator")
def register_coordinator(body: CoordinatorKeyBody, office: Office, caller: Caller) -> Recorded:
    """Record the coordinator's Ed25519 key, once."""
    key = VerifyKey.parse(body.key)
    with office.writing(caller) as transaction:
        row = transaction.session.get(CoordinatorRow, 1)
        if row is not None:
            if VerifyKey.parse(row.key) == key:
                return Recorded(position=row.position)
            raise Denied(
                rules.Refused(
                    "coordinator-registered",
                    "another coordinator key is registered already",
                    "use the federation folder that belongs to this service",
                    "conflict",
                )
            )
        position = transaction.record(
            "coordinator.registered", f"key:{key.key_id}", {"key": key.encoded()}
        )
        transaction.session.add(
            CoordinatorRow(
                id=1,
                key=key.encoded(),
                registered_by=caller.name,
                registered_at=transaction.time,
                position=position,
            )
        )
        return Recorded(position=position)


@router.post("/invitations", status_code=201)
@requires("coordinator")
def invite(body: InvitationBody, office: Office, caller: Caller) -> Recorded:
    """Announce a kit: the hash of its one-time token, its own hash, its site, its expiry."""
    expires_at = _moment(body.expires_at)
    with office.writing(caller) as transaction:
        row = transaction.session.get(InvitationRow, body.token_sha256)
        if row is not None:
            same = (row.site, row.kit_sha256, row.expires_at, row.invited_by) == (
                body.site,
                body.kit_sha256,
                format_time(expires_at),
                caller.name,
            )
            if same:
                return Recorded(position=row.position)
            raise Denied(
                rules.Refused(
                    "token-announced", "this token was announced already", status="conflict"
                )
            )
        enforce(rules.may_invite(expires_at, transaction.now))
        position = transaction.record(
            "site.invited",
            f"site:{body.site}",
            {"kit_sha256": body.kit_sha256, "expires_at": format_time(expires_at)},
        )
        transaction.session.add(
            InvitationRow(
                token_sha256=body.token_sha256,
                kit_sha256=body.kit_sha256,
                site=body.site,
                expires_at=format_time(expires_at),
                invited_by=caller.name,
                invited_at=transaction.time,
                position=position,
            )
        )
        return Recorded(position=position)


@router.post("/enrolments", status_code=201)
@public
def enrol(body: EnrolmentBody, office: Office) -> Enrolled:
    """Spend a kit's one-time token and make the site known, pending the coordinator's admission."""
    # Read before the signature is checked, only to learn which key must have made it.
    claimed = SiteEnrolment.from_body(body.statement.body)
    identity = VerifyKey.parse(claimed.identity_key)
    enrolment = read_statement(SiteEnrolment, body.statement, identity)
    node_key = node_key_of(enrolment.certificate_request)
    enrolment_id = body.statement.digest
    with office.writing(None) as transaction:
        session = transaction.session
        row = session.get(InvitationRow, hash_token(body.token))
        enforce(
            rules.may_enrol(
                None if row is None else _invitation(row),
                kit_sha256=body.kit_sha256,
                enrolment=enrolment,
                enrolment_id=enrolment_id,
                site_known=session.get(SiteRow, enrolment.site) is not None,
                now=transaction.now,
            )
        )
        principal = f"site:{enrolment.site}"
        transaction.actor = principal
        token = _site_token(office, enrolment_id)
        filed = find_filed(session, body.statement, principal)
        if filed is not None:
            position = filed.position
        else:
            _refuse_known_key(session, identity)
            position = _add_site(transaction, body.statement, enrolment, node_key, token)
        if row is not None and row.spent_at is None:
            row.spent_at = transaction.time
            row.enrolment = enrolment_id
        state = site_row(session, enrolment.site).state
    return Enrolled.model_validate(
        {"position": position, "principal": principal, "state": state, "site_token": token}
    )


@router.get("/sites")
@requires(*ANY_ROLE, by_site=True)
def list_sites(office: Office) -> dict[str, list[SiteView]]:
    """All sites, by name. Everybody may know who takes part, and by which key."""
    with office.reading() as session:
        rows = session.scalars(select(SiteRow).order_by(SiteRow.name)).all()
        return {"sites": site_views(session, rows)}


@router.get("/sites/{name}")
@requires(*ANY_ROLE, by_site=True, token_alone=True)
def show_site(name: str, office: Office) -> SiteView:
    """One site."""
    with office.reading() as session:
        return site_views(session, [site_row(session, name)])[0]


@router.post("/sites/{name}/approval")
@requires("coordinator")
def admit(name: str, body: StatementBody, office: Office, caller: Caller) -> SiteView:
    """Admit a site with the certificate that the coordinator issued."""
    with office.writing(caller) as transaction:
        session = transaction.session
        site = site_row(session, name)
        if find_filed(session, body.statement, caller.name) is None:
            admission = read_statement(SiteAdmission, body.statement, coordinator_key(session))
            enforce(
                rules.may_admit(
                    admission,
                    site=site.name,
                    federation=site.federation,
                    enrolment_id=site.enrolment,
                    state=state_of_site(site),
                    certificate_matches=certifies(admission.certificate, site.node_key),
                )
            )
            file_statement(transaction, body.statement, "site.admitted", site=site.name)
            site.state = "approved"
            site.certificate = admission.certificate
            site.admission = body.statement.digest
        view = site_views(session, [site])[0]
    _tell_admitted(office, view)
    return view


@router.post("/sites/{name}/renewal-request", status_code=201)
@requires("site")
def request_renewal(name: str, body: StatementBody, office: Office, caller: Caller) -> Recorded:
    """Ask for the next certificate; one request waits at a time."""
    enforce(rules.may_speak_for(caller, name))
    with office.writing(caller) as transaction:
        session = transaction.session
        row = session.get(SiteRenewalRow, name)
        if row is not None and row.answer is None:
            return Recorded(position=session.get_one(StatementRow, row.request).position)
        site = site_row(session, name)
        key = VerifyKey.parse(site.identity_key)
        request = read_statement(CertificateRenewal, body.statement, key)
        present = site.certificate
        enforce(
            rules.may_ask_renewal(
                request,
                site=name,
                federation=site.federation,
                state=state_of_site(site),
                present=None if present is None else certificate_digest(present),
                ends_at=None if present is None else ends_at(present),
                same_key=node_key_of(request.certificate_request) == site.node_key,
                now=transaction.now,
            )
        )
        position = file_statement(transaction, body.statement, "site.renewal-requested", site=name)
        if row is None:
            session.add(SiteRenewalRow(site=name, request=body.statement.digest))
        else:
            row.request, row.answer = body.statement.digest, None
        return Recorded(position=position)


@router.post("/sites/{name}/renewal")
@requires("coordinator")
def renew(name: str, body: StatementBody, office: Office, caller: Caller) -> SiteView:
    """Give a site its next certificate. The one before works on until the next renewal."""
    with office.writing(caller) as transaction:
        session = transaction.session
        site = site_row(session, name)
        if find_filed(session, body.statement, caller.name) is None:
            admission = read_statement(SiteAdmission, body.statement, coordinator_key(session))
            row = session.get(SiteRenewalRow, name)
            waiting = None if row is None or row.answer is not None else row.request
            present = site.certificate
            enforce(
                rules.may_renew(
                    admission,
                    site=name,
                    federation=site.federation,
                    enrolment_id=site.enrolment,
                    state=state_of_site(site),
                    waiting=waiting,
                    certificate_matches=certifies(admission.certificate, site.node_key),
                    lasts_longer=present is not None
                    and ends_at(admission.certificate) > ends_at(present),
                )
            )
            file_statement(transaction, body.statement, "site.renewed", site=name)
            if row is not None:
                row.answer, row.former_certificate = body.statement.digest, present
            site.certificate = admission.certificate
            site.admission = body.statement.digest
        session.flush()
        view = site_views(session, [site])[0]
    _tell_admitted(office, view)
    return view


@router.post("/sites/{name}/revocation")
@requires("coordinator", "officer", by_site=True)
def revoke(name: str, body: DecisionBody, office: Office, caller: Caller) -> SiteView:
    """Stop a site. Its token is dead when this is answered."""
    with office.writing(caller) as transaction:
        session = transaction.session
        site = site_row(session, name)
        enforce(rules.may_commit(caller.scope("coordinator", "officer"), {name}))
        if site.state != "revoked":
            transaction.record("site.revoked", f"site:{name}", {"reason": body.reason})
            site.state = "revoked"
            principal = session.get(PrincipalRow, f"site:{name}")
            if principal is not None:
                principal.revoked_at = transaction.time
        return site_views(session, [site])[0]


def _tell_admitted(office: Registry, view: SiteView) -> None:
    if view.certificate is not None:
        for told in office.on_admitted:
            told(view.certificate)


def _add_site(
    transaction: Transaction,
    statement: SignedStatement,
    enrolment: SiteEnrolment,
    node_key: str,
    token: str,
) -> int:
    position = file_statement(transaction, statement, "site.enrolled")
    transaction.session.add(
        SiteRow(
            name=enrolment.site,
            state="pending",
            federation=enrolment.federation,
            identity_key=enrolment.identity_key,
            node_key=node_key,
            certificate_request=enrolment.certificate_request,
            enrolment=statement.digest,
        )
    )
    transaction.session.add(
        PrincipalRow(
            name=transaction.actor,
            roles="site",
            token_sha256=hash_token(token),
            created_by=transaction.actor,
            created_at=transaction.time,
        )
    )
    return position


def _site_token(office: Registry, enrolment_id: str) -> str:
    """The site's bearer token, the same for the same enrolment, so that a lost answer is not final.

    Only who holds the keyring's secret can compute it; the database keeps its hash.
    """
    secret = office.keyring.secret("site-tokens")
    tag = hmac.digest(secret, enrolment_id.encode("ascii"), "sha256")
    return "fsite_" + base64.urlsafe_b64encode(tag).decode("ascii").rstrip("=")


def _refuse_known_key(session: Session, identity: VerifyKey) -> None:
    for known in session.scalars(select(SiteRow.identity_key)):
        if VerifyKey.parse(known).raw == identity.raw:
            raise Denied(
                rules.Refused(
                    "key-in-use",
                    "another site has this identity key",
                    "join from a fresh site folder, which makes its own keys",
                    "conflict",
                )
            )


def _invitation(row: InvitationRow) -> rules.Invitation:
    return rules.Invitation(
        site=row.site,
        kit_sha256=row.kit_sha256,
        expires_at=_moment(row.expires_at),
        spent_at=parse_time(row.spent_at),
        enrolment=row.enrolment,
    )


def _moment(text: str) -> datetime:
    """A time that the body's type has checked."""
    return datetime.fromisoformat(text)
