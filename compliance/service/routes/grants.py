"""Grants of releases and what they open: the data key and the ciphertext.

A download is recorded before its first octet is sent, and counted, whether it ends or not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session

from audit.errors import NotFound
from compliance import rules
from compliance.release_views import GrantBody, GrantView, SealedKey
from compliance.rules.erasure_cases import may_be_given
from compliance.sealing import SERVICE, open_data_key, seal_data_key
from compliance.service.access import ANY_ROLE, requires
from compliance.service.call import Caller, Office
from compliance.service.erasure_cases import owes
from compliance.service.errors import enforce
from compliance.service.gate import GatedRoute
from compliance.service.identities import find_bearer, parse_time
from compliance.service.plans import read_plan, sites_of_plan
from compliance.service.recalls import recall_of
from compliance.service.registry import Transaction
from compliance.service.release_tables import GrantLimitRow
from compliance.service.release_views import (
    downloads_left,
    grant_view,
    no_release,
    state_of,
)
from compliance.service.retention import evidence_ended
from compliance.service.routes.releases import OCTETS, visible_release
from compliance.service.tables import GrantRow, ReleaseRow
from compliance.statements import format_time
from compliance.wire import ReleaseState

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/releases", tags=["releases"])


@router.post("/{release_id}/grants", status_code=201)
@requires("officer", by_site=True)
def grant(release_id: str, body: GrantBody, office: Office, caller: Caller) -> GrantView:
    """Seal the release's data key to a principal and let it download, until the grant ends.

    The purpose is the one that the release's plan was approved for, and no other.
    """
    expires_at = datetime.fromisoformat(body.expires_at)
    with office.writing(caller) as transaction:
        session = transaction.session
        scope = caller.scope("officer")
        release = visible_release(session, release_id, scope)
        existing = session.get(GrantRow, (release_id, body.principal))
        limit = session.get(GrantLimitRow, (release_id, body.principal))
        if existing is not None and _is_same_grant(existing, limit, body, caller):
            return grant_view(existing, limit)
        enforce(
            rules.may_grant(
                caller,
                grantee=find_bearer(session, body.principal),
                purpose=body.purpose,
                purpose_of_plan=read_plan(session, release.plan_id).purpose,
                release=state_of(release),
                evidence_ended=evidence_ended(session, release),
                expires_at=expires_at,
                now=transaction.now,
                recall=recall_of(session, release_id),
            )
        )
        enforce(rules.may_commit(scope, sites_of_plan(session, release.plan_id)))
        enforce(may_be_given(owes=owes(session, release_id)))
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
                "max_downloads": body.max_downloads,
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
        return grant_view(row, _set_limit(session, row, limit, body.max_downloads))


@router.delete("/{release_id}/grants/{principal}")
@requires("officer", by_site=True)
def revoke_grant(release_id: str, principal: str, office: Office, caller: Caller) -> GrantView:
    """Take a grant back. The next download is refused."""
    with office.writing(caller) as transaction:
        visible_release(transaction.session, release_id, caller.scope("officer"))
        row = transaction.session.get(GrantRow, (release_id, principal))
        if row is None:
            raise NotFound("there is no such grant", fix="see `compliance releases ID`")
        if row.revoked_at is None:
            transaction.record("grant.revoked", f"release:{release_id}", {"principal": principal})
            row.revoked_at = transaction.time
        limit = transaction.session.get(GrantLimitRow, (release_id, principal))
        return grant_view(row, limit)


@router.get("/{release_id}/key")
@requires(*ANY_ROLE, by_site=True)
def release_key(release_id: str, office: Office, caller: Caller) -> SealedKey:
    """The data key, sealed to the caller's public key. A live grant is needed; it is recorded.

    It is of use with the ciphertext alone, so it is not counted as a download.
    """
    with office.writing(caller) as transaction:
        row = _live_grant(transaction, release_id, caller, counted=False)
        transaction.record("key.fetched", f"release:{release_id}", {"purpose": row.purpose})
        return SealedKey(release_id=release_id, principal=caller.name, sealed_key=row.sealed_key)


@router.get(
    "/{release_id}/content",
    response_class=FileResponse,
    responses={200: {"description": "The ciphertext", "content": OCTETS}},
)
@requires(*ANY_ROLE, by_site=True)
def download(release_id: str, office: Office, caller: Caller) -> FileResponse:
    """The ciphertext. A live grant is needed; the download is recorded before it begins."""
    with office.writing(caller) as transaction:
        row = _live_grant(transaction, release_id, caller, counted=True)
        transaction.record("release.downloaded", f"release:{release_id}", {"purpose": row.purpose})
        row.downloads += 1
    return FileResponse(office.content.path_of(release_id), media_type="application/octet-stream")


def _live_grant(
    transaction: Transaction, release_id: str, caller: rules.Bearer, *, counted: bool
) -> GrantRow:
    session = transaction.session
    row = session.get(GrantRow, (release_id, caller.name))
    limit = session.get(GrantLimitRow, (release_id, caller.name))
    release = session.get(ReleaseRow, release_id)
    grant_facts = None
    if row is not None:
        grant_facts = rules.Grant(
            expires_at=datetime.fromisoformat(row.expires_at),
            revoked_at=parse_time(row.revoked_at),
            downloads_left=downloads_left(row, limit) if counted else None,
        )
    state: ReleaseState = "announced" if release is None else state_of(release)
    recall = recall_of(session, release_id)
    enforce(rules.may_download(grant_facts, state, transaction.now, recall))
    if row is None:
        raise no_release()
    return row


def _set_limit(
    session: Session, row: GrantRow, limit: GrantLimitRow | None, max_downloads: int | None
) -> GrantLimitRow | None:
    """A grant that is made again counts its downloads anew."""
    if max_downloads is None:
        if limit is not None:
            session.delete(limit)
        return None
    limit = limit or GrantLimitRow(release_id=row.release_id, principal=row.principal)
    limit.max_downloads, limit.counted_from = max_downloads, row.downloads
    session.flush()  # the grant is there before what limits it
    session.add(limit)
    return limit


def _is_same_grant(
    row: GrantRow, limit: GrantLimitRow | None, body: GrantBody, caller: rules.Bearer
) -> bool:
    return row.revoked_at is None and (
        None if limit is None else limit.max_downloads,
        row.public_key,
        row.purpose,
        row.granted_by,
        row.expires_at,
    ) == (
        body.max_downloads,
        body.public_key,
        body.purpose,
        caller.name,
        format_time(datetime.fromisoformat(body.expires_at)),
    )
