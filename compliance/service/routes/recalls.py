"""Recalls of releases, and the notices to those who hold them."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from sqlalchemy import or_, select

from audit.errors import NotFound
from compliance.recall_views import NoticeView, RecallBody
from compliance.release_views import ReleaseView
from compliance.service.access import ANY_ROLE, requires
from compliance.service.call import Caller, Office
from compliance.service.gate import GatedRoute
from compliance.service.recalls import notice_view, recall_release
from compliance.service.release_tables import NoticeRow
from compliance.service.release_views import release_row, release_views
from compliance.service.routes.releases import releases_concerning

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["recalls"])


@router.post("/releases/{release_id}/recall")
@requires("officer")
def recall(release_id: str, body: RecallBody, office: Office, caller: Caller) -> ReleaseView:
    """End every grant of a release, for good, and tell everybody who holds or held one."""
    with office.writing(caller) as transaction:
        row = release_row(transaction.session, release_id)
        recall_release(transaction, row, body.reason)
        return release_views(transaction.session, [row], caller)[0]


@router.get("/notices")
@requires(*ANY_ROLE, by_site=True)
def list_notices(office: Office, caller: Caller) -> dict[str, list[NoticeView]]:
    """The caller's notices, oldest first. Officers and auditors see everybody's.

    A limited role sees, besides its own, those about releases that concern its sites.
    """
    query = select(NoticeRow).order_by(NoticeRow.position)
    scope = caller.scope("officer", "auditor")
    if scope.sites is not None:
        query = query.where(
            or_(
                NoticeRow.recipient == caller.name,
                NoticeRow.release_id.in_(releases_concerning(scope.sites)),
            )
        )
    with office.reading() as session:
        return {"notices": [notice_view(row) for row in session.scalars(query)]}


@router.post("/notices/{notice_id}/acknowledgement")
@requires(*ANY_ROLE, by_site=True)
def acknowledge(notice_id: str, office: Office, caller: Caller) -> NoticeView:
    """Record that the recipient knows. To anybody else the notice does not exist."""
    with office.writing(caller) as transaction:
        row = transaction.session.get(NoticeRow, notice_id)
        if row is None or row.recipient != caller.name:
            raise NotFound(
                "there is no such notice to you", fix="list yours: `compliance notices list`"
            )
        if row.acknowledged_at is None:
            transaction.record(
                "notice.acknowledged", f"release:{row.release_id}", {"notice_id": notice_id}
            )
            row.acknowledged_at = transaction.time
        return notice_view(row)
