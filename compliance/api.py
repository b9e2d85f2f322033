"""The typed client of the compliance service.

* TLS trusts the one certificate of `trust.json`; proxies and the environment are ignored.
* Every failure is one of `audit.errors`, with the service's own reason; a token is never in it.
* Writes are idempotent at the service: the same statement is recorded once, and each call has an
  idempotency key, with which it is repeated here when the connection ends before its answer.
* What comes back is parsed, not believed: verify statements with the key you expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from audit.keys import VerifyKey
from audit.statement import SignedStatement
from compliance.access_api import AccessCalls
from compliance.access_views import NewPrincipal, PrincipalBody, PrincipalView
from compliance.alias_api import AliasCalls
from compliance.breach_api import BreachCalls
from compliance.erasure_api import ErasureCalls
from compliance.erasure_views import ErasureBody, ErasureRecorded
from compliance.log_api import LogCalls
from compliance.plan_api import PlanCalls
from compliance.recall_api import RecallCalls
from compliance.release_api import ReleaseCalls
from compliance.report_api import ReportCalls
from compliance.resources import CoordinatorKeyBody, Recorded
from compliance.retention_api import RetentionCalls
from compliance.session import (
    TIMEOUT_SECONDS,
    ComplianceSession,
    make_body,
    parse_answer,
    path_segment,
)
from compliance.site_api import SiteCalls
from compliance.subject_requests_api import SubjectRequestCalls
from compliance.trust import Trust
from compliance.wire import Role


class ComplianceClient(SiteCalls, PlanCalls, ReleaseCalls, LogCalls):
    """One principal's conversation with one compliance service.

    Args:
        trust: Whom to talk to, and by which certificate to know it.
        token: Bearer token, or None for what needs none (trust, enrolment).
        timeout_seconds: Limit on each network operation.
        transport: Replaces the network, for tests.
        certificate: PEM files of a site's certificate and its key; an admitted site shows them.
    """

    def __init__(
        self,
        trust: Trust,
        token: str | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.trust = trust
        self._session = ComplianceSession(trust, token, timeout_seconds, transport, certificate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()

    # --- the service itself ----------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """`{"status": "ok", …}` when the service can serve.

        Raises:
            Unreachable: When it cannot be reached.
        """
        return self._session.fetch_object("GET", "/health")

    def register_coordinator(self, key: VerifyKey) -> Recorded:
        """Record the coordinator's key, once for the life of the service (coordinator)."""
        return self._session.send(
            "POST", "/v1/coordinator", CoordinatorKeyBody(key=key.encoded()), Recorded
        )

    # --- data subjects ---------------------------------------------------------------------

    def report_erasure(self, erasure: SignedStatement) -> ErasureRecorded:
        """Record an ErasureReceipt (the site itself) and get the receipt that verifies offline."""
        body = make_body(ErasureBody, statement=erasure)
        return self._session.send("POST", "/v1/erasures", body, ErasureRecorded)

    @property
    def erasures(self) -> ErasureCalls:
        """What becomes of releases that erased subjects took part in."""
        return ErasureCalls(self._session)

    # --- principals ------------------------------------------------------------------------

    def principals(self) -> tuple[PrincipalView, ...]:
        """All principals (officer, auditor)."""
        return self._session.fetch_list("/v1/principals", "principals", PrincipalView)

    def add_principal(
        self,
        name: str,
        roles: Sequence[Role],
        *,
        sites: Sequence[str] = (),
        expires_at: str | None = None,
    ) -> NewPrincipal:
        """Make a principal; the answer holds its token, this once (officer).

        Args:
            name: Its name.
            roles: What it may do.
            sites: The roles hold for these alone; without any, everywhere.
            expires_at: When it ends by itself.
        """
        body = make_body(
            PrincipalBody,
            name=name,
            roles=tuple(roles),
            sites=tuple(sites),
            expires_at=expires_at,
        )
        return self._session.send("POST", "/v1/principals", body, NewPrincipal)

    def revoke_principal(self, name: str) -> PrincipalView:
        """End a principal; its token is dead at once (officer, not themselves)."""
        return parse_answer(
            PrincipalView, self._session.request("DELETE", f"/v1/principals/{path_segment(name)}")
        )

    @property
    def access(self) -> AccessCalls:
        """Who calls, and with which keys."""
        return AccessCalls(self._session)

    # --- the other topics -----------------------------------------------------------------

    @property
    def aliases(self) -> AliasCalls:
        """Names such as `production`, and what they name."""
        return AliasCalls(self._session)

    @property
    def recalls(self) -> RecallCalls:
        """Recalls of releases, and notices to their holders."""
        return RecallCalls(self._session)

    @property
    def retention(self) -> RetentionCalls:
        """Retention of the log, and legal holds."""
        return RetentionCalls(self._session)

    @property
    def breaches(self) -> BreachCalls:
        """The register of personal data breaches."""
        return BreachCalls(self._session)

    @property
    def subject_requests(self) -> SubjectRequestCalls:
        """Requests of data subjects, and their clocks."""
        return SubjectRequestCalls(self._session)

    @property
    def reports(self) -> ReportCalls:
        """Reports for a regulator."""
        return ReportCalls(self._session, self.trust)
