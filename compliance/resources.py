"""What the compliance service sends and receives, for both ends of the wire: sites and plans.

What all bodies and answers have in common is here, too. Each other topic has its `*_views` module.

* Requests refuse unknown fields, so a typing mistake is never silently ignored.
* Answers may gain fields in a later version; readers ignore what they do not know.
* A signed statement travels as its DSSE envelope and arrives as `audit.statement.SignedStatement`.
* Times are RFC 3339 in UTC, identifiers of statements are digests, octets are base64.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from compliance.statements import Decision, Digest, Name, Named, RunOutcome, Time, TrainingPlan
from compliance.wire import Envelope, PlanState, Reason, SiteState, TokenHash

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


class RequestBody(Named):
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
