"""Grants of releases and what they open: the data key and the ciphertext.

A download is recorded before its first octet is sent, and counted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse

from audit.errors import NotFound
from compliance import rules
from compliance.resources import GrantBody, GrantView, ReleaseState, SealedKey
from compliance.sealing import SERVICE, open_data_key, seal_data_key
from compliance.service.errors import enforce
from compliance.service.gate import ANY_ROLE, Caller, GatedRoute, Office, requires
from compliance.service.registry import Transaction, find_bearer, parse_time
from compliance.service.release_views import grant_view, no_release, release_row, state_of
from compliance.service.retention import evidence_ended
from compliance.service.routes.releases import OCTETS
from compliance.service.tables import GrantRow, ReleaseRow
from compliance.statements import format_time

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/releases", tags=["releases"])


@router.post("/{release_id}/grants", status_code=201)
@requires("officer")
def grant(release_id: str, body: GrantBody, office: Office, caller: Caller) -> GrantView:
    """Seal the release's data key to a principal and let it download, until the grant ends."""
    expires_at = datetime.fromisoformat(body.expires_at)
    with office.writing(caller) as transaction:
        session = transaction.session
        release = release_row(session, release_id)
        existing = session.get(GrantRow, (release_id, body.principal))
        if existing is not None and _is_same_grant(existing, body, caller):
            return grant_view(existing)
        enforce(
            rules.may_grant(
                caller,
                grantee=find_bearer(session, body.principal),
                release=state_of(release),
                evidence_ended=evidence_ended(session, release),
                expires_at=expires_at,
                now=transaction.now,
            )
        )
        data_key = open_data_key(
            release.sealed_key, office.release_key, release_id=release_id, recipient=SERVICE
        )
        sealed_key = seal_data_key(
            data_key, body.public_key, release_id=release_id, recipient=body.principal
        )
        transaction.record(
            "release.granted",
            f"release:{release_id}",
            {
                "principal": body.principal,
                "public_key": body.public_key.hex(),
                "purpose": body.purpose,
                "expires_at": format_time(expires_at),
            },
        )
        row = existing or GrantRow(release_id=release_id, principal=body.principal, downloads=0)
        row.public_key = body.public_key
        row.sealed_key = sealed_key
        row.purpose = body.purpose
        row.granted_by = caller.name
        row.granted_at = transaction.time
        row.expires_at = format_time(expires_at)
        row.revoked_at = None
        session.add(row)
        return grant_view(row)


@router.delete("/{release_id}/grants/{principal}")
@requires("officer")
def revoke_grant(release_id: str, principal: str, office: Office, caller: Caller) -> GrantView:
    """Take a grant back. The next download is refused."""
    with office.writing(caller) as transaction:
        row = transaction.session.get(GrantRow, (release_id, principal))
        if row is None:
            raise NotFound("there is no such grant", fix="see `compliance releases ID`")
        if row.revoked_at is None:
            transaction.record("grant.revoked", f"release:{release_id}", {"principal": principal})
            row.revoked_at = transaction.time
        return grant_view(row)


@router.get("/{release_id}/key")
@requires(*ANY_ROLE)
def release_key(release_id: str, office: Office, caller: Caller) -> SealedKey:
    """The data key, sealed to the caller's public key. A live grant is needed; it is recorded."""
    with office.writing(caller) as transaction:
        row = _live_grant(transaction, release_id, caller)
        transaction.record("key.fetched", f"release:{release_id}", {"purpose": row.purpose})
        return SealedKey(release_id=release_id, principal=caller.name, sealed_key=row.sealed_key)


@router.get(
    "/{release_id}/content",
    response_class=FileResponse,
    responses={200: {"description": "The ciphertext", "content": OCTETS}},
)
@requires(*ANY_ROLE)
def download(release_id: str, office: Office, caller: Caller) -> FileResponse:
    """The ciphertext. A live grant is needed; the download is recorded before it begins."""
    with office.writing(caller) as transaction:
        row = _live_grant(transaction, release_id, caller)
        transaction.record("release.downloaded", f"release:{release_id}", {"purpose": row.purpose})
        row.downloads += 1
    return FileResponse(office.content.path_of(release_id), media_type="application/octet-stream")


def _live_grant(transaction: Transaction, release_id: str, caller: rules.Bearer) -> GrantRow:
    session = transaction.session
    row = session.get(GrantRow, (release_id, caller.name))
    release = session.get(ReleaseRow, release_id)
    grant_facts = None
    if row is not None:
        grant_facts = rules.Grant(
            expires_at=datetime.fromisoformat(row.expires_at),
            revoked_at=parse_time(row.revoked_at),
        )
    state: ReleaseState = "announced" if release is None else state_of(release)
    enforce(rules.may_download(grant_facts, state, transaction.now))
    if row is None:
        raise no_release()
    return row


def _is_same_grant(row: GrantRow, body: GrantBody, caller: rules.Bearer) -> bool:
    return row.revoked_at is None and (
        row.public_key,
        row.purpose,
        row.granted_by,
        row.expires_at,
    ) == (
        body.public_key,
        body.purpose,
        caller.name,
        format_time(datetime.fromisoformat(body.expires_at)),
    )
