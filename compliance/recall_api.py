"""Calls about recalls and notices; `ComplianceClient.recalls` makes them."""

from __future__ import annotations

from compliance.recall_views import NoticeView, RecallBody
from compliance.release_views import ReleaseView
from compliance.session import ComplianceSession, make_body, parse_answer, path_segment


class RecallCalls:
    """Recalls of releases, and the notices that tell their holders."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    def recall(self, release_id: str, *, reason: str) -> ReleaseView:
        """Recall an approved release (officer). It is never undone.

        Args:
            release_id: The release.
            reason: Why; every holder is told. Never a person's data.
        """
        path = f"/v1/releases/{path_segment(release_id)}/recall"
        return self._session.send("POST", path, make_body(RecallBody, reason=reason), ReleaseView)

    def notices(self) -> tuple[NoticeView, ...]:
        """The caller's notices, oldest first; officers and auditors see everybody's."""
        return self._session.fetch_list("/v1/notices", "notices", NoticeView)

    def acknowledge(self, notice_id: str) -> NoticeView:
        """Say that a notice was read and acted on (its recipient)."""
        path = f"/v1/notices/{path_segment(notice_id)}/acknowledgement"
        return parse_answer(NoticeView, self._session.request("POST", path))
