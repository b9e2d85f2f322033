"""The typed client of the compliance service.

* TLS trusts the one certificate of `trust.json`; proxies and the environment are ignored.
* Every failure is one of `audit.errors`, with the service's own reason; a token is never in it.
* Writes are idempotent at the service: the same statement is recorded once, and each call has an
  idempotency key, with which it is repeated here when the connection ends before its answer.
* What comes back is parsed, not believed: verify statements with the key you expect.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from audit.keys import VerifyKey
from audit.statement import SignedStatement
from compliance.access_api import AccessCalls
from compliance.alias_api import AliasCalls
from compliance.breach_api import BreachCalls
from compliance.erasure_api import ErasureCalls
from compliance.gate_views import GatesView
from compliance.log_access import Progress, VerifiedPage, fetch_page, fetch_pages, save_export
from compliance.log_views import LogEntryView, LogExport, LogQuery, Order
from compliance.recall_api import RecallCalls
from compliance.report_api import ReportCalls
from compliance.resources import (
    CoordinatorKeyBody,
    CosignatureBody,
    DecisionBody,
    Enrolled,
    EnrolmentBody,
    ErasureBody,
    ErasureRecorded,
    GrantBody,
    GrantView,
    InvitationBody,
    LogConsistency,
    LogHead,
    LogProof,
    NewPrincipal,
    PlanEvidence,
    PlanState,
    PlanView,
    PrincipalBody,
    PrincipalView,
    Recorded,
    ReleaseBody,
    ReleaseView,
    RequestKind,
    RequestState,
    Role,
    SealedKey,
    SiteView,
    StatementBody,
    SubjectRequestBody,
    SubjectRequestView,
    SubmittedPlan,
    SubmittedRelease,
    WitnessView,
)
from compliance.retention_api import RetentionCalls
from compliance.session import (
    PROBLEM_PREFIX,
    TIMEOUT_SECONDS,
    ComplianceSession,
    Model,
    make_body,
    parse_answer,
    path_segment,
)
from compliance.subject_requests_api import SubjectRequestCalls
from compliance.trust import Trust

__all__ = ["PROBLEM_PREFIX", "ComplianceClient"]

CHUNK_BYTES: Final = 1 << 20


class ComplianceClient:
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

    def stated_trust(self) -> Trust:
        """What the service says of itself, for comparison with the trust file that you hold."""
        return Trust.from_json(self._session.fetch_object("GET", "/v1/trust"))

    def register_coordinator(self, key: VerifyKey) -> Recorded:
        """Record the coordinator's key, once for the life of the service (coordinator)."""
        return self._session.send(
            "POST", "/v1/coordinator", CoordinatorKeyBody(key=key.encoded()), Recorded
        )

    # --- sites -----------------------------------------------------------------------------

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

    def site(self, name: str) -> SiteView:
        """One site."""
        return self._session.fetch(f"/v1/sites/{path_segment(name)}", SiteView)

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

    # --- plans -----------------------------------------------------------------------------

    def submit_plan(self, plan: SignedStatement) -> SubmittedPlan:
        """Submit a TrainingPlan (coordinator)."""
        return self._session.send("POST", "/v1/plans", StatementBody(statement=plan), SubmittedPlan)

    def plans(self, state: PlanState | None = None) -> tuple[PlanView, ...]:
        """All plans that the caller may see, oldest first; a site sees those that name it."""
        return self._session.fetch_list("/v1/plans", "plans", PlanView, state=state)

    def plan(self, plan_id: str) -> PlanView:
        """One plan."""
        return self._session.fetch(f"/v1/plans/{path_segment(plan_id)}", PlanView)

    def plan_evidence(self, plan_id: str) -> PlanEvidence:
        """Round reports and site reports of a plan (coordinator, officer, auditor)."""
        return self._session.fetch(f"/v1/plans/{path_segment(plan_id)}/reports", PlanEvidence)

    def approve_plan(self, plan_id: str, *, reason: str = "") -> PlanView:
        """Approve a plan that somebody else submitted (officer)."""
        return self._decide(f"/v1/plans/{path_segment(plan_id)}/approval", reason, PlanView)

    def reject_plan(self, plan_id: str, *, reason: str = "") -> PlanView:
        """Reject a plan (officer)."""
        return self._decide(f"/v1/plans/{path_segment(plan_id)}/rejection", reason, PlanView)

    def report_round(self, plan_id: str, report: SignedStatement) -> Recorded:
        """Record a RoundReport (coordinator)."""
        return self._state(f"/v1/plans/{path_segment(plan_id)}/rounds", report)

    def report_site(self, plan_id: str, report: SignedStatement) -> Recorded:
        """Record a SiteReport (the site itself)."""
        return self._state(f"/v1/plans/{path_segment(plan_id)}/reports", report)

    def report_outcome(self, plan_id: str, outcome: SignedStatement) -> Recorded:
        """Record a RunOutcome, once (coordinator)."""
        return self._state(f"/v1/plans/{path_segment(plan_id)}/outcome", outcome)

    def report_refusal(self, refusal: SignedStatement) -> Recorded:
        """Record that a site or the coordinator said no."""
        return self._state("/v1/refusals", refusal)

    # --- releases --------------------------------------------------------------------------

    def submit_release(self, manifest: SignedStatement, *, sealed_key: bytes) -> SubmittedRelease:
        """Announce a release (coordinator).

        Args:
            manifest: The signed ReleaseManifest; its digest is the release's id.
            sealed_key: The data key, by `compliance.sealing.seal_data_key` to
                `trust.release_key` with recipient `compliance.sealing.SERVICE`.
        """
        body = make_body(ReleaseBody, statement=manifest, sealed_key=sealed_key)
        return self._session.send("POST", "/v1/releases", body, SubmittedRelease)

    def upload_release(self, release_id: str, ciphertext: Path) -> ReleaseView:
        """Upload a release's ciphertext, streamed from disk (coordinator)."""
        size_bytes = ciphertext.stat().st_size
        response = self._session.request(
            "PUT",
            f"/v1/releases/{path_segment(release_id)}/content",
            content=_chunks(ciphertext),
            headers={
                "content-type": "application/octet-stream",
                "content-length": str(size_bytes),
            },
        )
        return parse_answer(ReleaseView, response)

    def releases(self) -> tuple[ReleaseView, ...]:
        """All releases that the caller may see; a consumer sees those granted to it."""
        return self._session.fetch_list("/v1/releases", "releases", ReleaseView)

    def release(self, release_id: str) -> ReleaseView:
        """One release."""
        return self._session.fetch(f"/v1/releases/{path_segment(release_id)}", ReleaseView)

    def gates(self, release_id: str) -> GatesView:
        """What a release must keep before it can be approved, as it is judged now."""
        return self._session.fetch(f"/v1/releases/{path_segment(release_id)}/gates", GatesView)

    def approve_release(self, release_id: str, *, reason: str = "") -> ReleaseView:
        """Approve a release that somebody else submitted (officer)."""
        return self._decide(
            f"/v1/releases/{path_segment(release_id)}/approval", reason, ReleaseView
        )

    def reject_release(self, release_id: str, *, reason: str = "") -> ReleaseView:
        """Reject a release (officer)."""
        return self._decide(
            f"/v1/releases/{path_segment(release_id)}/rejection", reason, ReleaseView
        )

    def grant(
        self,
        release_id: str,
        principal: str,
        *,
        public_key: bytes,
        purpose: str,
        expires_at: str,
        max_downloads: int | None = None,
    ) -> GrantView:
        """Let a principal download an approved release (officer, not for themselves).

        Args:
            release_id: The release.
            principal: Who may download.
            public_key: Their X25519 key, to which the data key is sealed.
            purpose: What for.
            expires_at: Until when.
            max_downloads: How often; without a limit when None.
        """
        body = make_body(
            GrantBody,
            principal=principal,
            public_key=public_key,
            purpose=purpose,
            expires_at=expires_at,
            max_downloads=max_downloads,
        )
        return self._session.send(
            "POST", f"/v1/releases/{path_segment(release_id)}/grants", body, GrantView
        )

    def revoke_grant(self, release_id: str, principal: str) -> GrantView:
        """Take a grant back (officer)."""
        path = f"/v1/releases/{path_segment(release_id)}/grants/{path_segment(principal)}"
        return parse_answer(GrantView, self._session.request("DELETE", path))

    def release_key(self, release_id: str) -> SealedKey:
        """The data key, sealed to the caller's public key (a live grant is needed)."""
        return self._session.fetch(f"/v1/releases/{path_segment(release_id)}/key", SealedKey)

    def download_release(self, release_id: str, destination: Path) -> str:
        """Download a release's ciphertext to a file (a live grant is needed).

        The file appears complete or not at all.

        Returns:
            Digest of what was written, for comparison with the manifest's `ciphertext_digest`.
        """
        handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        partial = Path(name)
        digest = hashlib.sha256()
        try:
            with (
                os.fdopen(handle, "wb") as file,
                self._session.stream(
                    f"/v1/releases/{path_segment(release_id)}/content"
                ) as response,
            ):
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(destination)
        except httpx.HTTPError as error:
            raise self._session.unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)
        return f"sha256:{digest.hexdigest()}"

    @property
    def aliases(self) -> AliasCalls:
        """Names such as `production`, and what they name."""
        return AliasCalls(self._session)

    @property
    def recalls(self) -> RecallCalls:
        """Recalls of releases, and notices to their holders."""
        return RecallCalls(self._session)

    # --- data subjects ---------------------------------------------------------------------

    def file_request(
        self,
        kind: RequestKind,
        site: str,
        *,
        sealed: bytes | None = None,
        subject: str | None = None,
        request_id: str | None = None,
    ) -> SubjectRequestView:
        """File a data subject's request for a site (officer, or the site itself).

        Args:
            kind: What the subject asks for.
            site: The site that must act.
            sealed: The subject's identifiers, encrypted to the site.
            subject: The site's pseudonym of the subject, when the site files it.
            request_id: 32 hexadecimal digits; made here unless given, so that repeats are safe.
        """
        body = make_body(
            SubjectRequestBody,
            request_id=request_id or secrets.token_hex(16),
            kind=kind,
            site=site,
            sealed=sealed,
            subject=subject,
        )
        return self._session.send("POST", "/v1/requests", body, SubjectRequestView)

    def requests(self, state: RequestState | None = None) -> tuple[SubjectRequestView, ...]:
        """Subject requests, oldest first; a site sees its own."""
        return self._session.fetch_list("/v1/requests", "requests", SubjectRequestView, state=state)

    def report_erasure(
        self, erasure: SignedStatement, *, request_id: str | None = None
    ) -> ErasureRecorded:
        """Record an ErasureReceipt (the site itself) and get the receipt that verifies offline."""
        body = make_body(ErasureBody, statement=erasure, request_id=request_id)
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

    # --- the log ---------------------------------------------------------------------------

    def checkpoint(self) -> str:
        """The newest signed checkpoint with its cosignatures, C2SP tlog-checkpoint text."""
        return self._session.fetch("/v1/log/checkpoint", LogHead).checkpoint

    def log_head(self, since: int) -> LogHead:
        """The newest signed checkpoint, and the proof that it extends the tree of size `since`."""
        return self._session.fetch("/v1/log/checkpoint", LogHead, since=since)

    def log_entries(
        self, *, order: Order = "newest", limit: int = 100, **filters: str | int | None
    ) -> tuple[LogEntryView, ...]:
        """Entries that meet all filters, decrypted and verified (officer, auditor).

        Args:
            order: Newest or oldest first.
            limit: At most so many.
            filters: Conditions by the names of `compliance.log_views.LogFilter`.
        """
        query = make_body(LogQuery, order=order, limit=limit, **filters)
        return fetch_page(self._session, self.trust, query).entries

    def log_pages(self, query: LogQuery) -> Iterator[VerifiedPage]:
        """Every page of an answer, each verified and of the same log (officer, auditor).

        Raises:
            VerificationFailed: When the service shows what the log does not hold.
        """
        return fetch_pages(self._session, self.trust, query)

    def export_log(
        self, wanted: LogExport, destination: Path, progress: Progress | None = None
    ) -> int:
        """Write all entries that meet the filters to a file, whole or not at all.

        A JSON Lines file is verified before it appears; a CSV file carries no proofs.

        Returns:
            The number of entries.

        Raises:
            VerificationFailed: When the service sends what the log does not hold.
        """
        return save_export(self._session, self.trust, wanted, destination, progress)

    def log_proof(self, position: int) -> LogProof:
        """A leaf with its inclusion proof and checkpoint."""
        return self._session.fetch(f"/v1/log/proofs/{position}", LogProof)

    def log_consistency(self, first: int, second: int) -> LogConsistency:
        """Proof that the tree of size `second` extends the tree of size `first`."""
        return self._session.fetch(
            "/v1/log/consistency", LogConsistency, first=first, second=second
        )

    def cosign(self, note: str) -> WitnessView:
        """Hand in a head of the log that this site cosigned (the site itself).

        Args:
            note: The checkpoint with the log's line and the site's (`audit.cosignature`).
        """
        body = make_body(CosignatureBody, note=note)
        return self._session.send(
            "POST", "/v1/log/cosignatures", body, WitnessView, names_itself=True
        )

    def witnesses(self) -> tuple[WitnessView, ...]:
        """Every site that ever cosigned, with its newest cosignature."""
        return self._session.fetch_list("/v1/log/witnesses", "witnesses", WitnessView)

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

    # --- how a call is made ----------------------------------------------------------------

    def _decide(self, path: str, reason: str, answer: type[Model]) -> Model:
        return self._session.send("POST", path, make_body(DecisionBody, reason=reason), answer)

    def _state(self, path: str, statement: SignedStatement) -> Recorded:
        body = StatementBody(statement=statement)
        return self._session.send("POST", path, body, Recorded, names_itself=True)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
