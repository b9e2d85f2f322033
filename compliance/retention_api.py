"""Calls about retention; `ComplianceClient.retention` makes them."""

from __future__ import annotations

from compliance.retention_views import (
    HoldBody,
    HoldReleaseBody,
    HoldView,
    RetentionRunBody,
    RetentionRunView,
    RetentionView,
)
from compliance.session import ComplianceSession, make_body, path_segment


class RetentionCalls:
    """Retention of the service's log."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    def show(self) -> RetentionView:
        """What may be shredded when (officer, auditor)."""
        return self._session.fetch("/v1/retention", RetentionView)

    def run(self, *, dry_run: bool = False) -> RetentionRunView:
        """Shred what is due (officer). It may be repeated: what was begun is finished."""
        body = RetentionRunBody(dry_run=dry_run)
        return self._session.send("POST", "/v1/retention/runs", body, RetentionRunView)

    def hold(
        self,
        name: str,
        *,
        reason: str,
        action: str | None = None,
        first: str | None = None,
        last: str | None = None,
    ) -> HoldView:
        """Forbid that something is shredded (officer).

        Args:
            name: Names the hold.
            reason: For the record.
            action: An action, or a prefix with a trailing `.`; all without it.
            first: The first month, `2026-01`; from the beginning without it.
            last: The last month; without end without it.
        """
        body = make_body(HoldBody, name=name, reason=reason, action=action, first=first, last=last)
        return self._session.send("POST", "/v1/retention/holds", body, HoldView)

    def release(self, name: str, *, reason: str) -> HoldView:
        """End a hold (officer)."""
        path = f"/v1/retention/holds/{path_segment(name)}/release"
        body = make_body(HoldReleaseBody, reason=reason)
        return self._session.send("POST", path, body, HoldView)
