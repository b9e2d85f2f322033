"""What the compliance service sends and receives, in one place for both ends of the wire.

* Requests refuse unknown fields, so a typing mistake is never silently ignored.
* Answers may gain fields in a later version; readers ignore what they do not know.
* A signed statement travels as its DSSE envelope and arrives as `audit.statement.SignedStatement`.
* Times are RFC 3339 in UTC, identifiers of statements are digests, octets are base64.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from compliance.statements import (
    Decision,
    Digest,
    Name,
    ReleaseManifest,
    RunOutcome,
    Time,
    TrainingPlan,
)
from compliance.wire import (
    ASSIGNABLE_ROLES,
    Envelope,
    Octets,
    PlanState,
    PrincipalName,
    PublicKey,
    Reason,
    ReleaseState,
    RequestId,
    RequestKind,
    RequestState,
    Role,
    SiteState,
    TokenHash,
)

__all__ = [
    "ASSIGNABLE_ROLES",
    "CoordinatorKeyBody",
    "CosignatureBody",
    "DecisionBody",
    "Enrolled",
    "EnrolmentBody",
    "Envelope",
    "ErasureBody",
    "ErasureRecorded",
    "GrantBody",
    "GrantView",
    "InvitationBody",
    "LogConsistency",
    "LogProof",
    "NewPrincipal",
    "Octets",
    "PlanEvidence",
    "PlanState",
    "PlanView",
    "PrincipalBody",
    "PrincipalName",
    "PrincipalView",
    "Problem",
    "PublicKey",
    "Reason",
    "Recorded",
    "ReleaseBody",
    "ReleaseState",
    "ReleaseView",
    "RequestId",
    "RequestKind",
    "RequestState",
    "Role",
    "SealedKey",
    "SiteState",
    "SiteView",
    "StatementBody",
    "SubjectRequestBody",
    "SubjectRequestView",
    "SubmittedPlan",
    "SubmittedRelease",
    "TokenHash",
    "WitnessView",
]


# --- requests ------------------------------------------------------------------------------------


class RequestBody(BaseModel):
    """A closed request body."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CoordinatorKeyBody(RequestBody):
    """The coordinator's Ed25519 verifier key, recorded once."""

    key: Annotated[str, Field(min_length=1, max_length=200)]


class InvitationBody(RequestBody):
    """An invitation: the service learns hashes only, never the token or the kit."""

    site: Name
    token_sha256: TokenHash
    kit_sha256: TokenHash
    expires_at: Time


class EnrolmentBody(RequestBody):
    """A site joins with the one-time token of its kit."""

    token: Annotated[str, Field(min_length=16, max_length=200)]
    kit_sha256: TokenHash
    statement: Envelope


class StatementBody(RequestBody):
    """One signed statement."""

    statement: Envelope


class DecisionBody(RequestBody):
    """Why an officer decides, or somebody revokes."""

    reason: Reason = ""


class ReleaseBody(RequestBody):
    """A release and its data key, sealed to the service's release key."""

    statement: Envelope
    sealed_key: Octets


class GrantBody(RequestBody):
    """Who may download a release, for what, until when."""

    principal: PrincipalName
    public_key: PublicKey
    purpose: Name
    expires_at: Time


class SubjectRequestBody(RequestBody):
    """A data subject's request for one site.

    `sealed` holds the identifiers, encrypted to the site: the service can neither read nor check
    them. `subject` is the site's keyed pseudonym, when the site itself files the request.
    """

    request_id: RequestId | None = None
    kind: RequestKind
    site: Name
    sealed: Octets | None = None
    subject: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class ErasureBody(RequestBody):
    """A site's erasure receipt, and the request that it answers, if any."""

    statement: Envelope
    request_id: RequestId | None = None


class PrincipalBody(RequestBody):
    """A new principal."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?$")]
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(ASSIGNABLE_ROLES))]
    expires_at: Time | None = None


class CosignatureBody(RequestBody):
    """A head of the log with the site's cosignature: a C2SP tlog-checkpoint note."""

    note: Annotated[str, Field(max_length=16_384)]


# --- answers -------------------------------------------------------------------------------------


class Answer(BaseModel):
    """An answer of the service."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


class Problem(Answer):
    """Why a request failed (RFC 9457). `type` ends in the class of the error, `reason` is exact."""

    type: str
    title: str
    status: int
    detail: str
    reason: str | None = None
    fix: str | None = None


class Recorded(Answer):
    """The log position that proves what was just done."""

    position: int


class SubmittedPlan(Recorded):
    """A plan was recorded."""

    plan_id: Digest


class SubmittedRelease(Recorded):
    """A release was recorded."""

    release_id: Digest


class Enrolled(Recorded):
    """A site was enrolled; `site_token` is shown this once."""

    principal: str
    state: SiteState
    site_token: str


class SiteView(Answer):
    """One site, as the service knows it.

    `certificate_request` is the PKCS #10 request of the site's P-384 node key, `node_key` that key
    as PEM, `enrolment` the digest of the enrolment `statement` (an admission names it), which the
    site signed with its identity key.
    """

    name: Name
    state: SiteState
    identity_key: str
    node_key: str
    certificate_request: str
    certificate: str | None
    enrolment: Digest
    statement: Envelope
    enrolled_at: Time
    enrolled_position: int


class PlanView(Answer):
    """One plan and what became of it."""

    plan_id: Digest
    state: PlanState
    statement: Envelope
    submitted_by: str
    submitted_at: Time
    submitted_position: int
    approval: Envelope | None
    rejection: Envelope | None
    approved_position: int | None
    rounds_reported: int
    outcome: Envelope | None

    @property
    def plan(self) -> TrainingPlan:
        """The plan itself. Its signature is the caller's to verify."""
        return TrainingPlan.from_body(self.statement.body)

    @property
    def run_outcome(self) -> RunOutcome | None:
        """How the run ended, if it did."""
        return None if self.outcome is None else RunOutcome.from_body(self.outcome.body)

    @property
    def decision(self) -> Decision | None:
        """What the officer decided, if anything."""
        signed = self.approval or self.rejection
        return None if signed is None else Decision.from_body(signed.body)


class PlanEvidence(Answer):
    """What was reported of a plan's rounds, oldest first."""

    rounds: tuple[Envelope, ...]
    reports: tuple[Envelope, ...]


class GrantView(Answer):
    """One principal's permission to download one release."""

    release_id: Digest
    principal: str
    public_key: PublicKey
    purpose: Name
    granted_by: str
    granted_at: Time
    expires_at: Time
    revoked_at: Time | None
    downloads: int


class ReleaseView(Answer):
    """One release and what became of it. `grants` holds what the caller may know of them."""

    release_id: Digest
    state: ReleaseState
    statement: Envelope
    plan_id: Digest
    submitted_by: str
    submitted_at: Time
    submitted_position: int
    approval: Envelope | None
    rejection: Envelope | None
    approved_position: int | None
    grants: tuple[GrantView, ...]

    @property
    def manifest(self) -> ReleaseManifest:
        """The manifest itself. Its signature is the caller's to verify."""
        return ReleaseManifest.from_body(self.statement.body)


class SealedKey(Answer):
    """A release's data key, sealed to the grantee (`compliance.sealing.open_data_key`)."""

    release_id: Digest
    principal: str
    sealed_key: Octets


class SubjectRequestView(Answer):
    """One data subject's request."""

    request_id: RequestId
    kind: RequestKind
    site: Name
    state: RequestState
    sealed: Octets | None
    subject: str | None
    filed_by: str
    filed_at: Time
    done_at: Time | None
    erasure: Digest | None


class ErasureRecorded(Recorded):
    """An erasure was recorded. `receipt` is the file that `audit verify-receipt` checks offline."""

    receipt: dict[str, Any]


class PrincipalView(Answer):
    """One principal. Tokens are never shown again."""

    name: str
    roles: tuple[Role, ...]
    created_by: str
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class NewPrincipal(PrincipalView):
    """A principal that was just made; `token` is shown this once."""

    position: int
    token: str


class LogProof(Answer):
    """A leaf and its C2SP tlog-proof."""

    leaf: Octets
    proof: str


class WitnessView(Answer):
    """One witness of the log, and the newest head that it vouched for.

    Attributes:
        witness: Key name of the witness, `<federation>/site/<name>`.
        vkey: Its verifier key; compare it with the one that the site itself publishes.
        size: Entries of the newest head that it cosigned.
        cosigned_at: When it did so.
        note: That head, signed by the log and by the witness.
    """

    witness: str
    vkey: str
    size: int
    cosigned_at: Time
    note: str


class LogConsistency(Answer):
    """RFC 6962 consistency proof between two tree sizes."""

    first: int
    second: int
    hashes: tuple[Octets, ...]
