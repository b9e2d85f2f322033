"""Recalling a release, and telling those who hold it (GDPR Art. 19).

* One transaction: the state, the end of every grant, the recall's log entry, and one notice with an
  entry of its own for everybody who holds or ever held a grant. A notice cannot be forgotten, and
  none is issued twice.
* `recall_release` is for every reason to recall: an officer's own, or the decision to withdraw what
  a data subject's erasure reached.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from compliance import rules
from compliance.recall_views import NoticeKind, NoticeView
from compliance.service.errors import enforce
from compliance.service.registry import Transaction
from compliance.service.release_tables import NoticeRow, RecallRow
from compliance.service.release_views import FORGOTTEN, state_of
from compliance.service.tables import GrantRow, ReleaseRow


def recall_release(transaction: Transaction, release: ReleaseRow, reason: str) -> RecallRow:
    """Recall a release, or find that it was recalled before.

    Args:
        transaction: The change that it belongs to.
        release: An approved release.
        reason: Why; everybody who asks for the release is told. Never a person's data.

    Raises:
        Denied: When nobody could have got the release.
    """
    session = transaction.session
    recalled = session.get(RecallRow, release.release_id)
    if recalled is not None:
        return recalled
    enforce(rules.may_recall(state_of(release)))
    position = transaction.record(
        "release.recalled", f"release:{release.release_id}", {"reason": reason}
    )
    release.state = "recalled"
    recalled = RecallRow(
        release_id=release.release_id,
        reason=reason,
        recalled_by=transaction.actor,
        recalled_at=transaction.time,
        position=position,
    )
    session.add(recalled)
    notify_grantees(transaction, release.release_id, "release-recalled", reason)
    for grant in _grants_of(session, release.release_id):
        if grant.revoked_at is None:
            grant.revoked_at = transaction.time
    return recalled


def notify_grantees(
    transaction: Transaction, release_id: str, kind: NoticeKind, reason: str
) -> list[NoticeRow]:
    """Issue a notice to everybody who holds or held a grant of a release.

    Args:
        transaction: The change that they are told of.
        release_id: The release.
        kind: What happened.
        reason: Why, for the recipients. Never a person's data.
    """
    notices = [
        _issue(transaction, release_id, grant.principal, kind, reason)
        for grant in _grants_of(transaction.session, release_id)
    ]
    transaction.session.add_all(notices)
    return notices


def recall_of(session: Session, release_id: str) -> rules.Recall | None:
    """What the rules need of a recall; None where the release was not recalled."""
    row = session.get(RecallRow, release_id)
    if row is None:
        return None
    return rules.Recall(datetime.fromisoformat(row.recalled_at), row.reason or FORGOTTEN)


def notice_view(row: NoticeRow) -> NoticeView:
    """What is shown of a notice."""
    return NoticeView(
        notice_id=row.notice_id,
        release_id=row.release_id,
        recipient=row.recipient,
        kind=cast(NoticeKind, row.kind),
        reason=row.reason or FORGOTTEN,
        issued_at=row.issued_at,
        position=row.position,
        acknowledged_at=row.acknowledged_at,
    )


def _grants_of(session: Session, release_id: str) -> list[GrantRow]:
    query = select(GrantRow).where(GrantRow.release_id == release_id).order_by(GrantRow.principal)
    return list(session.scalars(query))


def _issue(
    transaction: Transaction, release_id: str, recipient: str, kind: NoticeKind, reason: str
) -> NoticeRow:
    notice_id = secrets.token_hex(16)
    position = transaction.record(
        "notice.issued",
        f"release:{release_id}",
        {"notice_id": notice_id, "recipient": recipient, "kind": kind, "reason": reason},
    )
    return NoticeRow(
        notice_id=notice_id,
        release_id=release_id,
        recipient=recipient,
        kind=kind,
        reason=reason,
        issued_at=transaction.time,
        position=position,
    )
