"""What is shown of releases and grants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from compliance import rules
from compliance.recall_views import RecallView
from compliance.release_views import GrantView, ReleaseView
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.release_tables import GrantLimitRow, RecallRow
from compliance.service.tables import GrantRow, ReleaseRow, StatementRow
from compliance.wire import ReleaseState

FORGOTTEN: Final = "(forgotten)"
"""What is shown of a reason whose key was destroyed."""


def release_row(session: Session, release_id: str) -> ReleaseRow:
    """A release.

    Raises:
        NotFound: When there is none of that id.
    """
    row = session.get(ReleaseRow, release_id)
    if row is None:
        raise no_release()
    return row


def no_release() -> NotFound:
    """What is said of a release that does not exist, or not for the caller."""
    return NotFound("there is no such release", fix="list the releases: `compliance releases`")


def state_of(row: ReleaseRow) -> ReleaseState:
    """Where a release stands."""
    return cast(ReleaseState, row.state)


def downloads_left(row: GrantRow, limit: GrantLimitRow | None) -> int | None:
    """How often a grant's holder may still download; None without a limit."""
    if limit is None:
        return None
    return max(0, limit.max_downloads - (row.downloads - limit.counted_from))


def grant_view(row: GrantRow, limit: GrantLimitRow | None) -> GrantView:
    """What is shown of a grant."""
    return GrantView(
        release_id=row.release_id,
        principal=row.principal,
        public_key=row.public_key,
        purpose=row.purpose,
        granted_by=row.granted_by,
        granted_at=row.granted_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        downloads=row.downloads,
        max_downloads=None if limit is None else limit.max_downloads,
        downloads_left=downloads_left(row, limit),
    )


def recall_view(row: RecallRow) -> RecallView:
    """What is shown of a recall."""
    return RecallView(
        reason=row.reason or FORGOTTEN,
        recalled_by=row.recalled_by,
        recalled_at=row.recalled_at,
        position=row.position,
    )


def release_views(
    session: Session, releases: Sequence[ReleaseRow], caller: rules.Bearer
) -> list[ReleaseView]:
    """What a caller sees of releases; of their grants, only officers and auditors see others'."""
    rows = load_rows(
        session, [digest for row in releases for digest in (row.release_id, row.decision)]
    )
    query = select(GrantRow).order_by(GrantRow.granted_at, GrantRow.principal)
    if not caller.holds("officer", "auditor"):
        query = query.where(GrantRow.principal == caller.name)
    grants: dict[str, list[GrantView]] = defaultdict(list)
    limits = {
        (limit.release_id, limit.principal): limit
        for limit in session.scalars(select(GrantLimitRow))
    }
    for grant_row in session.scalars(query):
        limit = limits.get((grant_row.release_id, grant_row.principal))
        grants[grant_row.release_id].append(grant_view(grant_row, limit))
    recalls = {
        row.release_id: session.get(RecallRow, row.release_id)
        for row in releases
        if row.state == "recalled"
    }
    return [
        _view(row, rows, grants[row.release_id], recalls.get(row.release_id)) for row in releases
    ]


def _view(
    release: ReleaseRow,
    rows: dict[str, StatementRow],
    grants: Sequence[GrantView],
    recall: RecallRow | None,
) -> ReleaseView:
    decision = None if release.decision is None else rows[release.decision]
    signed = None if decision is None else parse_envelope(decision)
    rejected = release.state == "rejected"
    filed = rows[release.release_id]
    return ReleaseView(
        release_id=release.release_id,
        state=state_of(release),
        statement=parse_envelope(filed),
        plan_id=release.plan_id,
        submitted_by=filed.filed_by,
        submitted_at=filed.filed_at,
        submitted_position=release.position,
        approval=None if rejected else signed,
        rejection=signed if rejected else None,
        approved_position=None if rejected or decision is None else decision.position,
        grants=tuple(grants),
        recall=None if recall is None else recall_view(recall),
    )
