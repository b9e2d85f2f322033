"""Calls about data subjects' requests; `ComplianceClient.subject_requests` makes them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from audit.errors import MalformedInput
from audit.keys import VerifyKey
from audit.statement import SignedStatement, verify_statement
from compliance.resources import Recorded, StatementBody
from compliance.rules.subject_requests import RequestStage
from compliance.session import ComplianceSession, make_body, parse_answer, path_segment
from compliance.statements import SiteSealingKey, SubjectRight
from compliance.subject_requests_views import (
    CasePage,
    CaseView,
    CodeBody,
    CompletionBody,
    FiledRequest,
    FiledRequestBody,
    IdentityMethod,
    NoticeBody,
    PackageBody,
    PublicOffer,
    PublicRequestBody,
    PublicStatus,
    ReceiptBody,
    RefusalBody,
    SealedPackage,
    SiteKeyView,
    SitePart,
    SiteWork,
    SubjectAnswerBody,
    TrainedRelease,
    VerificationBody,
    WaiverBody,
)
from compliance.subject_sealing import Identifiers, seal_identifiers


class SubjectRequestCalls:
    """Requests of data subjects."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    # --- officers --------------------------------------------------------------------------

    def file(
        self,
        right: SubjectRight,
        jurisdiction: str,
        sealed: Mapping[str, bytes],
        *,
        identity: IdentityMethod = "officer",
        email: str | None = None,
        received_at: str | None = None,
        request_id: str | None = None,
        sealed_to: Mapping[str, bytes] | None = None,
    ) -> FiledRequest:
        """File a request that came on another way (officer).

        Args:
            right: What the subject asks for.
            jurisdiction: Under which law.
            sealed: For each site, who it is, sealed to it for this `request_id`.
            identity: How it is shown who asks.
            email: Where notices and a code are sent.
            received_at: When it came, if earlier.
            request_id: 32 hexadecimal digits: what `sealed` was sealed for.
            sealed_to: By which key of each site.
        """
        body = make_body(
            FiledRequestBody,
            request_id=request_id or secrets.token_hex(16),
            right=right,
            jurisdiction=jurisdiction,
            sealed=dict(sealed),
            sealed_to=dict(sealed_to or {}),
            identity=identity,
            email=email,
            received_at=received_at,
        )
        return self._session.send("POST", "/v1/subject-requests", body, FiledRequest)

    def page(
        self,
        *,
        stage: RequestStage | None = None,
        right: SubjectRight | None = None,
        site: str | None = None,
        overdue: bool = False,
        open_only: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> CasePage:
        """Requests by deadline, with all filters met (officer, auditor)."""
        return self._session.fetch(
            "/v1/subject-requests",
            CasePage,
            stage=stage,
            right=right,
            site=site,
            overdue="true" if overdue else None,
            open="true" if open_only else None,
            after=after,
            limit=limit,
        )

    def sealing_keys(self) -> tuple[SiteKeyView, ...]:
        """To which keys identifiers are sealed (officer, auditor); see `sealing_key`."""
        return self._session.fetch_list("/v1/sealing-keys", "keys", SiteKeyView)

    def show(self, request_id: str) -> CaseView:
        """One request (officer, auditor)."""
        return self._session.fetch(_path(request_id), CaseView)

    def verify(self, request_id: str, *, method: str) -> CaseView:
        """State that it is known who asks; the sites get their parts (officer)."""
        body = make_body(VerificationBody, method=method)
        return self._session.send("POST", _path(request_id, "verification"), body, CaseView)

    def confirm(self, request_id: str) -> CaseView:
        """State that the subject was told that the request came (officer)."""
        path = _path(request_id, "confirmation")
        return parse_answer(CaseView, self._session.request("POST", path))

    def extend(self, request_id: str, *, reason: str) -> CaseView:
        """Take the longer period; the reason is told to the subject (officer)."""
        body = make_body(NoticeBody, reason=reason)
        return self._session.send("POST", _path(request_id, "extension"), body, CaseView)

    def refuse(self, request_id: str, *, ground: str, reason: str = "") -> CaseView:
        """Refuse a request on a ground of the law (officer)."""
        body = make_body(RefusalBody, ground=ground, reason=reason)
        return self._session.send("POST", _path(request_id, "refusal"), body, CaseView)

    def waive(
        self, request_id: str, site: str, *, reason: str, evidence: str | None = None
    ) -> CaseView:
        """No longer wait for a revoked site; `evidence` is a document's digest (officer)."""
        body = make_body(WaiverBody, reason=reason, evidence=evidence)
        path = _path(request_id, f"parts/{path_segment(site)}/waiver")
        return self._session.send("POST", path, body, CaseView)

    def close(self, request_id: str, *, reason: str = "") -> CaseView:
        """Close a request that every site has answered (officer)."""
        body = make_body(CompletionBody, reason=reason)
        return self._session.send("POST", _path(request_id, "completion"), body, CaseView)

    # --- sites -----------------------------------------------------------------------------

    def publish_key(self, site: str, statement: SignedStatement) -> Recorded:
        """Tell to which key identifiers are sealed for this site (the site itself)."""
        path = f"/v1/sites/{path_segment(site)}/sealing-key"
        return self._session.send("POST", path, StatementBody(statement=statement), Recorded)

    def parts(self) -> tuple[SitePart, ...]:
        """What this site must do (the site itself)."""
        return self._session.fetch_list("/v1/subject-parts", "parts", SitePart)

    def work(self) -> SiteWork:
        """What this site must do, and what is known of its key (the site itself)."""
        return self._session.fetch("/v1/subject-parts", SiteWork)

    def take(self, request_id: str) -> Recorded:
        """State that this site has its part (the site itself)."""
        return parse_answer(Recorded, self._session.request("POST", _path(request_id, "taken")))

    def state_identity(self, request_id: str, identity: SignedStatement) -> Recorded:
        """State with a SubjectIdentity that it is known who asks (the site itself)."""
        body = StatementBody(statement=identity)
        return self._session.send("POST", _path(request_id, "identity"), body, Recorded)

    def answer(
        self, request_id: str, answer: SignedStatement, *, package: bytes | None = None
    ) -> Recorded:
        """Give a SubjectAnswer, with the copy that is sealed to the subject (the site itself)."""
        body = make_body(SubjectAnswerBody, statement=answer, package=package)
        return self._session.send("POST", _path(request_id, "answer"), body, Recorded)

    def releases(self, request_id: str) -> tuple[TrainedRelease, ...]:
        """Releases of plans that name this site, and their recipients (the site itself)."""
        path = _path(request_id, "releases")
        return self._session.fetch_list(path, "releases", TrainedRelease)

    # --- anybody ---------------------------------------------------------------------------

    def offer(self) -> PublicOffer:
        """What the public may ask for, and to which keys identifiers are sealed."""
        return self._session.fetch("/v1/public/offer", PublicOffer)

    def ask(
        self,
        right: SubjectRight,
        jurisdiction: str,
        sealed: Mapping[str, bytes],
        *,
        request_id: str,
        email: str | None = None,
        sealed_to: Mapping[str, bytes] | None = None,
        without_proof: bool = False,
    ) -> FiledRequest:
        """File one's own request. To an address, a code is mailed; else a site checks who asks.

        `without_proof`: the law lets nobody ask, as the offer says.
        """
        identity = "site-verified" if email is None else "email-challenge"
        body = make_body(
            PublicRequestBody,
            request_id=request_id,
            right=right,
            jurisdiction=jurisdiction,
            sealed=dict(sealed),
            sealed_to=dict(sealed_to or {}),
            identity="not-required" if without_proof else identity,
            email=email,
        )
        return self._session.send("POST", "/v1/public/requests", body, FiledRequest)

    def status(self, receipt_code: str) -> PublicStatus:
        """Where one's own request stands."""
        return self._look("status", make_body(ReceiptBody, receipt_code=receipt_code))

    def prove(self, receipt_code: str, code: str) -> PublicStatus:
        """Show with the mailed code who asks."""
        return self._look("identity", make_body(CodeBody, receipt_code=receipt_code, code=code))

    def send_code(self, receipt_code: str) -> PublicStatus:
        """Have a new code mailed."""
        return self._look("code", make_body(ReceiptBody, receipt_code=receipt_code))

    def package(self, receipt_code: str, site: str) -> SealedPackage:
        """A site's copy of one's data, sealed to the key that one chose."""
        body = make_body(PackageBody, receipt_code=receipt_code, site=site)
        return self._session.send("POST", "/v1/public/requests/package", body, SealedPackage)

    def _look(self, what: str, body: ReceiptBody | CodeBody) -> PublicStatus:
        return self._session.send("POST", f"/v1/public/requests/{what}", body, PublicStatus)


def sealing_key(view: SiteKeyView, identity: VerifyKey | None = None) -> bytes:
    """The key of a site, verified.

    Args:
        view: As the service showed it.
        identity: The site's identity key as it is known otherwise; by default the one that the
            service names, which trusts the service not to name another.

    Raises:
        VerificationFailed: When the identity key did not sign it.
        MalformedInput: When it is no sealing key, or another site's.
    """
    key = identity or VerifyKey.parse(view.identity_key)
    stated = SiteSealingKey.from_body(verify_statement(view.statement, key))
    if stated.site != view.site:
        raise MalformedInput("the sealing key is another site's")
    return stated.key


def seal_to_sites(
    identifiers: Identifiers, keys: Mapping[str, bytes], request_id: str
) -> dict[str, bytes]:
    """Who it is, sealed to each site."""
    return {
        site: seal_identifiers(identifiers, key, request_id=request_id, site=site)
        for site, key in keys.items()
    }


def _path(request_id: str, what: str = "") -> str:
    path = f"/v1/subject-requests/{path_segment(request_id)}"
    return f"{path}/{what}" if what else path
