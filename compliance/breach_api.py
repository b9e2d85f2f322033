"""Calls about breaches; `ComplianceClient.breaches` makes them."""

from __future__ import annotations

from typing import Any

from compliance.breach_views import (
    BreachBody,
    BreachUpdateBody,
    BreachView,
    ClosureBody,
    NotificationBody,
)
from compliance.rules.breaches import BreachRecipient, BreachState
from compliance.session import ComplianceSession, make_body, path_segment


class BreachCalls:
    """The register of personal data breaches."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    def add(self, name: str, *, aware_at: str, facts: str, **stated: Any) -> BreachView:
        """Record a breach (officer).

        Args:
            name: Names it.
            aware_at: When it became known, RFC 3339.
            facts: What happened.
            stated: What else is known, by the names of `BreachBody`.
        """
        body = make_body(BreachBody, name=name, aware_at=aware_at, facts=facts, **stated)
        return self._session.send("POST", "/v1/breaches", body, BreachView)

    def update(self, name: str, **stated: Any) -> BreachView:
        """State something anew, by the names of `BreachUpdateBody` (officer)."""
        body = make_body(BreachUpdateBody, **stated)
        return self._session.send("POST", f"{_path(name)}/updates", body, BreachView)

    def notify(
        self,
        name: str,
        to: BreachRecipient,
        *,
        at: str,
        reasons_for_delay: str = "",
        reference: str = "",
    ) -> BreachView:
        """Record who was told of a breach, and when (officer). Nobody is told by this call."""
        body = make_body(
            NotificationBody,
            to=to,
            at=at,
            reasons_for_delay=reasons_for_delay,
            reference=reference,
        )
        return self._session.send("POST", f"{_path(name)}/notifications", body, BreachView)

    def close(self, name: str, *, reason: str = "") -> BreachView:
        """Close a breach (officer)."""
        body = make_body(ClosureBody, reason=reason)
        return self._session.send("POST", f"{_path(name)}/closure", body, BreachView)

    def list(self, state: BreachState | None = None) -> tuple[BreachView, ...]:
        """Breaches, oldest first (officer, auditor)."""
        return self._session.fetch_list("/v1/breaches", "breaches", BreachView, state=state)

    def show(self, name: str) -> BreachView:
        """One breach (officer, auditor)."""
        return self._session.fetch(_path(name), BreachView)


def _path(name: str) -> str:
    return f"/v1/breaches/{path_segment(name)}"
