"""What the compliance service sends and receives, in one place for both ends of the wire.

* Requests refuse unknown fields, so a typing mistake is never silently ignored.
* Answers may gain fields in a later version; readers ignore what they do not know.
* A signed statement travels as its DSSE envelope and arrives as `audit.statement.SignedStatement`.
* Times are RFC 3339 in UTC, identifiers of statements are digests, octets are base64.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

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
    Role,
    SealedOctets,
    SiteState,
    TokenHash,
)

MAX_REPORTS_AT_ONCE: Final = 16
"""Reports of a site in one call."""

_NUMBERS: Final = frozenset({"bool", "int", "float"})

# --- requests ------------------------------------------------------------------------------------


def _whole(value: Any) -> Any:
    """`20.0` as `20`: to JSON Schema, which callers read, it is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _make_strict(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") in _NUMBERS and not schema.get("strict"):
            schema["strict"] = True
            if schema["type"] == "int":
                inner = dict(schema)
                schema.clear()
                schema |= core_schema.no_info_before_validator_function(_whole, inner)
        for part in schema.values():
            _make_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_strict(part)


class RequestBody(BaseModel):
    """A closed request body, in which a number or a truth value is one, and not a text like it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic's own schema, without its leniency for numbers and truth values."""
        schema = handler(source)
        _make_strict(schema)
        return schema


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


class ReportsBody(StatementBody):
    """A site's reports about one plan: all of them are recorded, or none.

    Attributes:
        statement: The first.
        more: Those that followed it, in order.
    """

    more: Annotated[tuple[Envelope, ...], Field(max_length=MAX_REPORTS_AT_ONCE - 1)] = ()


class DecisionBody(RequestBody):
    """Why an officer decides, or somebody revokes."""

    reason: Reason = ""


class ReleaseBody(RequestBody):
    """A release and its data key, sealed to the service's release key."""

    statement: Envelope
    sealed_key: SealedOctets


class GrantBody(RequestBody):
    """Who may download a release, for what, until when, and how often."""

    principal: PrincipalName
    public_key: PublicKey
    purpose: Name
    expires_at: Time
    max_downloads: Annotated[int, Field(ge=1, le=100_000)] | None = None


class ErasureBody(RequestBody):
    """A site's erasure receipt.

    `request_id` comes from sites of before, where `client erase` could name a request. It says
    nothing any more: requests are answered by `/v1/subject-requests/{request_id}/answer`.
    """

    statement: Envelope
    request_id: RequestId | None = None


class PrincipalBody(RequestBody):
    """A new principal. With `sites`, its roles hold for these alone."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?$")]
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(ASSIGNABLE_ROLES))]
    sites: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
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
    certificate_ends_at: Time | None = None
    """When the certificate ends, as it says itself."""
    renewal: Envelope | None = None
    """The site's request for the next certificate, while the coordinator has not answered it."""


class PlanView(Answer):
    """One plan and what became of it. `rounds_missed` of the reported rounds had no quorum."""

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
    rounds_missed: int = 0
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
    """One principal's permission to download one release.

    `downloads` counts every download that was begun under this grant or an earlier one;
    `downloads_left` is None where the grant does not limit them.
    """

    release_id: Digest
    principal: str
    public_key: PublicKey
    purpose: Name
    granted_by: str
    granted_at: Time
    expires_at: Time
    revoked_at: Time | None
    downloads: int
    max_downloads: int | None = None
    downloads_left: int | None = None


class RecallView(Answer):
    """That a release was recalled: nobody can have it any more. `position` is its log entry."""

    reason: str
    recalled_by: str
    recalled_at: Time
    position: int


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
    recall: RecallView | None = None

    @property
    def manifest(self) -> ReleaseManifest:
        """The manifest itself. Its signature is the caller's to verify."""
        return ReleaseManifest.from_body(self.statement.body)


class SealedKey(Answer):
    """A release's data key, sealed to the grantee (`compliance.sealing.open_data_key`)."""

    release_id: Digest
    principal: str
    sealed_key: Octets


class ErasureRecorded(Recorded):
    """An erasure was recorded. `receipt` is the file that `audit verify-receipt` checks offline.

    `follow_ups` are receipts, likewise, of what was found and decided of releases since.
    """

    receipt: dict[str, Any]
    follow_ups: tuple[dict[str, Any], ...] = ()


class PrincipalView(Answer):
    """One principal. Tokens are never shown again.

    Attributes:
        sites: By role, the sites to which it is limited; a role that is not in it is not limited.
        confirmed: False while an officer's appointment waits for a second officer.
        last_used_at: About when it called last.
    """

    name: str
    roles: tuple[Role, ...]
    sites: dict[Role, tuple[str, ...]] = {}
    created_by: str
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    confirmed: bool = True
    last_used_at: Time | None = None


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


class LogHead(Answer):
    """The newest head of the log.

    Attributes:
        checkpoint: C2SP tlog-checkpoint text, with the lines of the witnesses that cosigned it.
        growth: Proof that it extends the log of the size that was asked about; None where nothing
            was asked, or where the log does not have that many entries.
    """

    checkpoint: str
    growth: LogConsistency | None = None
