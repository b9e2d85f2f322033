"""Calls about aliases of releases; `ComplianceClient.aliases` makes them."""

from __future__ import annotations

from compliance.alias_views import AliasBody, AliasView, RollbackBody
from compliance.session import ComplianceSession, make_body, path_segment


class AliasCalls:
    """Names such as `production` that are moved from release to release."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    def list(self) -> tuple[AliasView, ...]:
        """Every alias, by name; a consumer sees those of releases that were granted to it."""
        return self._session.fetch_list("/v1/aliases", "aliases", AliasView)

    def set(self, alias: str, release_id: str, *, reason: str = "") -> AliasView:
        """Let an alias name a release (officer, not its submitter or approver)."""
        body = make_body(AliasBody, release_id=release_id, reason=reason)
        return self._session.send("PUT", f"/v1/aliases/{path_segment(alias)}", body, AliasView)

    def roll_back(self, alias: str, *, leaving: str, reason: str = "") -> AliasView:
        """Let an alias name the release that it named before (officer).

        Args:
            alias: The alias.
            leaving: The release that it names now; a repeat does not go back twice.
            reason: Why.
        """
        body = make_body(RollbackBody, leaving=leaving, reason=reason)
        path = f"/v1/aliases/{path_segment(alias)}/rollback"
        return self._session.send("POST", path, body, AliasView)
