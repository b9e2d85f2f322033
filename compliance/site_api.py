"""Calls about sites, invitations and certificates; `ComplianceClient` makes them."""

from __future__ import annotations

from contextlib import closing

from audit.statement import SignedStatement
from compliance.resources import (
    DecisionBody,
    Enrolled,
    EnrolmentBody,
    InvitationBody,
    Recorded,
    SiteView,
    StatementBody,
)
from compliance.session import (
    SessionCalls,
    make_body,
    path_segment,
)


class SiteCalls(SessionCalls):
    """Sites: how they join, are admitted, renewed and stopped."""

    def invite(self, site: str, *, token_sha256: str, kit_sha256: str, expires_at: str) -> Recorded:
        """Announce a kit by the hashes of its one-time token and of itself (coordinator)."""
        body = make_body(
            InvitationBody,
            site=site,
            token_sha256=token_sha256,
            kit_sha256=kit_sha256,
            expires_at=expires_at,
        )
        return self._session.send("POST", "/v1/invitations", body, Recorded)

    def enrol(self, *, token: str, kit_sha256: str, statement: SignedStatement) -> Enrolled:
        """Spend a kit's one-time token. Needs no bearer token; gives the site its own.

        Repeating the very same call soon after gives the same answer, so that a lost answer does
        not lose the kit.
        """
        body = make_body(EnrolmentBody, token=token, kit_sha256=kit_sha256, statement=statement)
        return self._session.send("POST", "/v1/enrolments", body, Enrolled)

    def sites(self) -> tuple[SiteView, ...]:
        """All sites."""
        return self._session.fetch_list("/v1/sites", "sites", SiteView)

    def site(self, name: str, *, by_token_alone: bool = False) -> SiteView:
        """One site.

        Args:
            name: Which.
            by_token_alone: Show no certificate: the caller may have none that still works.
        """
        path = f"/v1/sites/{path_segment(name)}"
        if not by_token_alone:
            return self._session.fetch(path, SiteView)
        with closing(self._session.without_certificate()) as session:
            return session.fetch(path, SiteView)

    def approve_site(self, name: str, admission: SignedStatement) -> SiteView:
        """Admit a site with the certificate in its SiteAdmission (coordinator)."""
        path = f"/v1/sites/{path_segment(name)}/approval"
        return self._session.send("POST", path, StatementBody(statement=admission), SiteView)

    def request_renewal(self, name: str, request: SignedStatement) -> Recorded:
        """Ask with a CertificateRenewal for the next certificate (the site itself)."""
        path = f"/v1/sites/{path_segment(name)}/renewal-request"
        return self._session.send("POST", path, StatementBody(statement=request), Recorded)

    def renew_site(self, name: str, admission: SignedStatement) -> SiteView:
        """Give a site its next certificate, in a SiteAdmission (coordinator)."""
        path = f"/v1/sites/{path_segment(name)}/renewal"
        return self._session.send("POST", path, StatementBody(statement=admission), SiteView)

    def revoke_site(self, name: str, *, reason: str = "") -> SiteView:
        """Stop a site: its token is dead at once (coordinator, officer)."""
        path = f"/v1/sites/{path_segment(name)}/revocation"
        return self._session.send("POST", path, make_body(DecisionBody, reason=reason), SiteView)
