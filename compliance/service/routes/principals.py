"""Principals: who may call, by bearer token, and for which sites.

* A token has 256 random bits and is shown once; the database keeps its SHA-256. A name is given
  once: a revoked principal's name cannot come back as somebody else.
* An officer whose role is limited to sites sees and governs those whose roles lie within them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from fastapi import APIRouter
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from compliance import rules
from compliance.access_views import (
    IdentityView,
    NewKey,
    NewPrincipal,
    PrincipalBody,
    PrincipalView,
    RotationBody,
)
from compliance.service.access import ANY_ROLE, requires
from compliance.service.access_tables import AppointmentRow, FormerTokenRow, RoleSiteRow
from compliance.service.call import Caller, Office
from compliance.service.errors import Denied, enforce
from compliance.service.gate import GatedRoute
from compliance.service.identities import find_bearer, find_bearers, hash_token
from compliance.service.registry import Transaction, new_token
from compliance.service.tables import PrincipalRow
from compliance.statements import format_time
from compliance.wire import Role

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["principals"])

READERS: Final[tuple[Role, ...]] = ("officer", "auditor")


@router.get("/principals")
@requires(*READERS, by_site=True)
def list_principals(office: Office, caller: Caller) -> dict[str, list[PrincipalView]]:
    """All principals, by name; never a token. To a limited role, those of its sites."""
    scope = caller.scope(*READERS)
    with office.reading() as session:
        used = office.last_uses.of(session)
        bearers = [
            bearer
            for bearer in find_bearers(session)
            if bearer.name == caller.name or scope.contains(bearer.scope(*bearer.roles))
        ]
        return {"principals": _views(session, bearers, used)}


@router.post("/principals", status_code=201)
@requires("officer", by_site=True)
def add_principal(body: PrincipalBody, office: Office, caller: Caller) -> NewPrincipal:
    """Make a principal. The answer holds its token, this once."""
    expires_at = None if body.expires_at is None else datetime.fromisoformat(body.expires_at)
    roles, sites = tuple(sorted(set(body.roles))), tuple(sorted(set(body.sites)))
    token = new_token()
    with office.writing(caller) as transaction:
        session = transaction.session
        enforce(
            rules.may_add_principal(caller, body.name, roles, sites, expires_at, transaction.now)
        )
        if session.get(PrincipalRow, body.name) is not None:
            raise Denied(
                rules.Refused(
                    "principal-exists",
                    "there is, or was, a principal of this name",
                    "choose another name: a name is given once",
                    "conflict",
                )
            )
        appointee = rules.Bearer(
            body.name,
            frozenset(roles),
            limits=frozenset((role, site) for role in roles for site in sites),
        )
        waits = rules.needs_confirmation(appointee, caller.name, present_officers(transaction))
        row = PrincipalRow(
            name=body.name,
            roles=",".join(roles),
            token_sha256=hash_token(token),
            created_by=caller.name,
            created_at=transaction.time,
            expires_at=None if expires_at is None else format_time(expires_at),
        )
        details: dict[str, object] = {"roles": list(roles), "expires_at": row.expires_at}
        if sites:
            details["sites"] = list(sites)
        if waits:
            details["confirmed"] = False
        position = transaction.record("principal.added", f"principal:{body.name}", details)
        session.add(row)
        session.flush()
        session.add_all(
            RoleSiteRow(principal=body.name, role=role, site=site)
            for role, site in sorted(appointee.limits)
        )
        if waits:
            appoint(transaction, body.name, caller.name)
        (view,) = _views(session, [_found(session, body.name)], {})
    return NewPrincipal(**view.model_dump(), position=position, token=token)


@router.post("/principals/{name}/confirmation")
@requires("officer", by_site=True)
def confirm_principal(name: str, office: Office, caller: Caller) -> PrincipalView:
    """Confirm an officer whom another officer appointed. Until then its token does nothing."""
    with office.writing(caller) as transaction:
        session = transaction.session
        appointee = _found(session, name)
        row = session.get(AppointmentRow, name)
        if row is None:
            raise NotFound(
                "no appointment of this principal waits", fix="see `compliance principals list`"
            )
        if row.confirmed_at is None or row.confirmed_by != caller.name:
            enforce(rules.may_confirm(caller, appointee, proposed_by=row.proposed_by))
        if row.confirmed_at is None:
            transaction.record("principal.confirmed", f"principal:{name}", {})
            row.confirmed_by = caller.name
            row.confirmed_at = transaction.time
            session.flush()
        (view,) = _views(session, [_found(session, name)], office.last_uses.of(session))
        return view


@router.post("/principals/{name}/rotation", status_code=201)
@requires(*ANY_ROLE, by_site=True)
def rotate_key(name: str, body: RotationBody, office: Office, caller: Caller) -> NewKey:
    """Replace a principal's key. The answer holds the new one, this once."""
    token = new_token()
    overlap = timedelta(hours=body.overlap_hours)
    with office.writing(caller) as transaction:
        session = transaction.session
        target = find_bearer(session, name)
        if target is None:
            if not caller.holds("officer"):
                raise Denied(rules.NOT_OWN_KEY)
            raise _no_principal()
        live = select(func.count()).select_from(FormerTokenRow)
        live = live.where(
            FormerTokenRow.principal == name, FormerTokenRow.works_until > transaction.time
        )
        enforce(
            rules.may_rotate(
                caller,
                target,
                overlap=overlap,
                former_tokens=session.scalar(live) or 0,
                now=transaction.now,
            )
        )
        row = session.get_one(PrincipalRow, name)
        until = format_time(transaction.now + overlap) if overlap else None
        position = transaction.record(
            "principal.rotated", f"principal:{name}", {"former_works_until": until}
        )
        if until is None:
            session.execute(delete(FormerTokenRow).where(FormerTokenRow.principal == name))
        else:
            session.add(
                FormerTokenRow(
                    token_sha256=row.token_sha256,
                    principal=name,
                    replaced_at=transaction.time,
                    works_until=until,
                )
            )
        row.token_sha256 = hash_token(token)
    return NewKey(name=name, token=token, former_works_until=until, position=position)


@router.delete("/principals/{name}")
@requires("officer", by_site=True)
def revoke_principal(name: str, office: Office, caller: Caller) -> PrincipalView:
    """End a principal. Its token is dead when this is answered."""
    with office.writing(caller) as transaction:
        session = transaction.session
        row = session.get(PrincipalRow, name)
        if row is None:
            raise _no_principal()
        enforce(rules.may_revoke_principal(caller, _found(session, name)))
        if row.revoked_at is None:
            transaction.record("principal.revoked", f"principal:{name}", {})
            row.revoked_at = transaction.time
            session.flush()
        (view,) = _views(session, [_found(session, name)], office.last_uses.of(session))
        return view


@router.get("/identity")
@requires(*ANY_ROLE, by_site=True)
def show_identity(caller: Caller) -> IdentityView:
    """Who the caller is, by the token that it shows."""
    return IdentityView(
        name=caller.name,
        roles=tuple(sorted(caller.roles)),
        sites=limits_by_role(caller),
        expires_at=None if caller.expires_at is None else format_time(caller.expires_at),
    )


def present_officers(transaction: Transaction) -> list[rules.Bearer]:
    """Every officer whose token works now."""
    return [
        bearer
        for bearer in find_bearers(transaction.session, PrincipalRow.roles.contains("officer"))
        if bearer.confirmed and rules.may_use_token(bearer, transaction.now) == rules.ALLOWED
    ]


def appoint(transaction: Transaction, name: str, proposed_by: str) -> None:
    """Let a principal wait for the confirmation of a second officer."""
    row = transaction.session.get(AppointmentRow, name) or AppointmentRow(principal=name)
    row.proposed_by, row.proposed_at = proposed_by, transaction.time
    row.confirmed_by = row.confirmed_at = None
    transaction.session.add(row)


def limits_by_role(bearer: rules.Bearer) -> dict[Role, tuple[str, ...]]:
    """By role, the sites to which it is limited."""
    found: dict[Role, tuple[str, ...]] = defaultdict(tuple)
    for role, site in sorted(bearer.limits):
        found[role] += (site,)
    return dict(found)


def _found(session: Session, name: str) -> rules.Bearer:
    bearer = find_bearer(session, name)
    if bearer is None:
        raise _no_principal()
    return bearer


def _no_principal() -> NotFound:
    return NotFound("there is no such principal", fix="see `compliance principals list`")


def _views(
    session: Session, bearers: Sequence[rules.Bearer], used: dict[str, str]
) -> list[PrincipalView]:
    names = [bearer.name for bearer in bearers]
    found = session.scalars(select(PrincipalRow).where(PrincipalRow.name.in_(names)))
    rows = {row.name: row for row in found}
    return [
        PrincipalView(
            name=bearer.name,
            roles=tuple(sorted(bearer.roles)),
            sites=limits_by_role(bearer),
            created_by=rows[bearer.name].created_by,
            created_at=rows[bearer.name].created_at,
            expires_at=rows[bearer.name].expires_at,
            revoked_at=rows[bearer.name].revoked_at,
            confirmed=bearer.confirmed,
            last_used_at=used.get(bearer.name),
        )
        for bearer in bearers
    ]
