"""Principals: who may call, by bearer token.

A token has 256 random bits and is shown once; the database keeps its SHA-256. A name is given once:
a revoked principal's name cannot come back as somebody else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fastapi import APIRouter
from sqlalchemy import select

from audit.errors import NotFound
from compliance import rules
from compliance.resources import NewPrincipal, PrincipalBody, PrincipalView
from compliance.service.errors import Denied, enforce
from compliance.service.gate import Caller, GatedRoute, Office, requires
from compliance.service.registry import hash_token, new_token, parse_roles
from compliance.service.tables import PrincipalRow
from compliance.statements import format_time

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/principals", tags=["principals"])


@router.get("")
@requires("officer", "auditor")
def list_principals(office: Office) -> dict[str, list[PrincipalView]]:
    """All principals, by name; never a token."""
    with office.reading() as session:
        rows = session.scalars(select(PrincipalRow).order_by(PrincipalRow.name))
        return {"principals": [_view(row) for row in rows]}


@router.post("", status_code=201)
@requires("officer")
def add_principal(body: PrincipalBody, office: Office, caller: Caller) -> NewPrincipal:
    """Make a principal. The answer holds its token, this once."""
    expires_at = None if body.expires_at is None else datetime.fromisoformat(body.expires_at)
    roles = tuple(sorted(set(body.roles)))
    token = new_token()
    with office.writing(caller) as transaction:
        session = transaction.session
        enforce(rules.may_add_principal(body.name, roles, expires_at, transaction.now))
        if session.get(PrincipalRow, body.name) is not None:
            raise Denied(
                rules.Refused(
                    "principal-exists",
                    "there is, or was, a principal of this name",
                    "choose another name: a name is given once",
                    "conflict",
                )
            )
        row = PrincipalRow(
            name=body.name,
            roles=",".join(roles),
            token_sha256=hash_token(token),
            created_by=caller.name,
            created_at=transaction.time,
            expires_at=None if expires_at is None else format_time(expires_at),
        )
        position = transaction.record(
            "principal.added",
            f"principal:{body.name}",
            {"roles": list(roles), "expires_at": row.expires_at},
        )
        session.add(row)
        view = _view(row)
    return NewPrincipal(**view.model_dump(), position=position, token=token)


@router.delete("/{name}")
@requires("officer")
def revoke_principal(name: str, office: Office, caller: Caller) -> PrincipalView:
    """End a principal. Its token is dead when this is answered."""
    with office.writing(caller) as transaction:
        row = transaction.session.get(PrincipalRow, name)
        if row is None:
            raise NotFound("there is no such principal", fix="see `compliance principals list`")
        enforce(rules.may_revoke_principal(caller, name))
        if row.revoked_at is None:
            transaction.record("principal.revoked", f"principal:{name}", {})
            row.revoked_at = transaction.time
        return _view(row)


def _view(row: PrincipalRow) -> PrincipalView:
    return PrincipalView(
        name=row.name,
        roles=parse_roles(row.roles),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
