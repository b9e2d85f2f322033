"""Data subjects' requests as callers see them, for both ends of the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from compliance.resources import Answer, RequestBody
from compliance.rules.deadlines import Urgency
from compliance.rules.subject_requests import PartState, RequestStage
from compliance.statements import AnswerOutcome, Digest, Name, SubjectRight, Time
from compliance.wire import (
    BASE64,
    MAX_SEALED_BYTES,
    Envelope,
    Octets,
    PrincipalName,
    PublicKey,
    Reason,
    RequestId,
)

MAX_SITES = 100
MAX_PACKAGE_BYTES = 4 * 1024 * 1024
"""A subject's rows and their story; a larger copy is handed over by the operator."""

MAX_PAGE = 1000

PLACE = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z,[0-9a-f]{32}$"
"""A place in the list: deadline and request."""

IdentityMethod = Literal["site-verified", "email-challenge", "officer", "not-required"]
"""Who says that somebody is who they say: a site's operator, the owner of a mailbox, an officer; or
nobody, where the law lets nobody ask (`deadlines.toml`)."""


def _not_too_long(value: bytes) -> bytes:
    if not value or len(value) > MAX_SEALED_BYTES:
        raise ValueError(f"expected 1 to {MAX_SEALED_BYTES} bytes")
    return value


SealedIdentifiers = Annotated[
    Octets,
    AfterValidator(_not_too_long),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": BASE64,
            "minLength": 4,
            "maxLength": MAX_SEALED_BYTES // 3 * 4,
        }
    ),
]

SealedTo = Annotated[dict[Name, PublicKey], Field(max_length=MAX_SITES)]
"""To which key identifiers were sealed for each site: one that was replaced meanwhile is refused,
rather than found out by the site. Callers of before do not say."""

_BLANK = "\x00-\x20\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff"
"""White space, controls and what is as wide as nothing. Dialects differ in what `\\s` is."""

Email = Annotated[
    str,
    StringConstraints(pattern=rf"^[^@{_BLANK}<>,;:\"()\[\]\\]{{1,64}}@[A-Za-z0-9.-]{{1,190}}$"),
]
"""Where a code and notices are sent. Kept encrypted, and forgotten when the request has ended."""

ReceiptCode = Annotated[str, Field(max_length=80)]
"""What the subject was given: 160 random bits. Its form is not checked: all wrong are alike."""


class PublicRequestBody(RequestBody):
    """A request by a subject, from anywhere.

    `sealed` holds, for each site that must act, who the subject is, encrypted to that site
    (`compliance.subject_sealing`).
    """

    request_id: RequestId
    right: SubjectRight
    jurisdiction: Name
    sealed: Annotated[dict[Name, SealedIdentifiers], Field(min_length=1, max_length=MAX_SITES)]
    sealed_to: SealedTo = Field(default_factory=dict)
    identity: Literal["site-verified", "email-challenge", "not-required"]
    email: Email | None = None


class FiledRequestBody(RequestBody):
    """A request that came to an officer on another way. `received_at`: when it came, if earlier."""

    request_id: RequestId
    right: SubjectRight
    jurisdiction: Name
    sealed: Annotated[dict[Name, SealedIdentifiers], Field(min_length=1, max_length=MAX_SITES)]
    sealed_to: SealedTo = Field(default_factory=dict)
    identity: IdentityMethod = "officer"
    email: Email | None = None
    received_at: Time | None = None


class VerificationBody(RequestBody):
    """How an officer knows who asks, such as `identity-card`; never what was shown."""

    method: Name


class NoticeBody(RequestBody):
    """What the subject is told. Never put identifiers in it."""

    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class RefusalBody(RequestBody):
    """On which ground of the law, and in other words."""

    ground: Name
    reason: Reason = ""


class WaiverBody(RequestBody):
    """Why a revoked site is no longer waited for, and what shows it.

    `evidence` is the digest of a document that the officer keeps, such as a letter of the site.
    """

    reason: Annotated[str, Field(min_length=1, max_length=2000)]
    evidence: Digest | None = None


class CompletionBody(RequestBody):
    """What the subject is told besides what the sites answered."""

    reason: Reason = ""


class SubjectAnswerBody(RequestBody):
    """A site's signed answer, and the copy of the data where that is sealed to the subject."""

    statement: Envelope
    package: Octets | None = None


class ReceiptBody(RequestBody):
    """Which request; the code is what its subject was given."""

    receipt_code: ReceiptCode


class CodeBody(RequestBody):
    """The code that was sent by mail."""

    receipt_code: ReceiptCode
    code: Annotated[str, Field(max_length=20)]


class PackageBody(RequestBody):
    """Which site's copy of the data."""

    receipt_code: ReceiptCode
    site: Name


# --- answers -------------------------------------------------------------------------------------


class PartView(Answer):
    """One site's part of a request.

    `reminders` counts how often the site was reminded, `answer` names its signed answer.
    """

    site: Name
    state: PartState
    outcome: AnswerOutcome | None
    ground: str
    sent_at: Time | None
    taken_at: Time | None
    answered_at: Time | None
    reminders: int
    reminded_at: Time | None
    answer: Digest | None


class CaseView(Answer):
    """One data subject's request. Who it is, only the sites can tell."""

    request_id: RequestId
    right: SubjectRight
    jurisdiction: Name
    stage: RequestStage
    identity: IdentityMethod
    filed_by: PrincipalName
    received_at: Time
    confirm_by: Time | None
    confirmed_at: Time | None
    verified_at: Time | None
    due_at: Time
    extended_at: Time | None
    finished_at: Time | None
    urgency: Urgency
    ground: str
    notice: str
    rules_version: str
    position: int
    parts: tuple[PartView, ...]


class CasePage(Answer):
    """Some requests, the most urgent first; how many are open, due soon and overdue in all.

    `next` asks for the next page, where there is one.
    """

    requests: tuple[CaseView, ...]
    open: int
    due_soon: int
    overdue: int
    next: str | None


class SitePart(Answer):
    """A request's part as its site gets it. `sealed` is there once identity is proven."""

    request_id: RequestId
    right: SubjectRight
    jurisdiction: Name
    stage: RequestStage
    state: PartState
    identity: IdentityMethod
    received_at: Time
    due_at: Time
    reminders: int
    sealed: Octets | None


class SealingKeyState(Answer):
    """What the service knows of the key to which identifiers are sealed for a site.

    Attributes:
        statement: The statement of the present key.
        generation: Its generation.
        earlier_in_use: Whether something that is not answered may be sealed to an earlier key.
    """

    statement: Digest
    generation: int
    earlier_in_use: bool


class SiteWork(Answer):
    """What a site must do. `sealing_key` is None where the site has told none yet."""

    parts: tuple[SitePart, ...]
    sealing_key: SealingKeyState | None = None


class Recipient(Answer):
    """Who may, or could, use a release (GDPR Art. 15(1)(c))."""

    principal: PrincipalName
    purpose: Name
    granted_at: Time
    expires_at: Time
    revoked_at: Time | None
    downloads: int


class TrainedRelease(Answer):
    """A release of a plan that names the site, and its recipients."""

    release_id: Digest
    plan_id: Digest
    name: Name
    state: str
    recipients: tuple[Recipient, ...]


class SiteKeyView(Answer):
    """To which key identifiers are sealed for a site, and which identity signed that."""

    site: Name
    identity_key: str
    statement: Envelope


class PublicOffer(Answer):
    """What a subject may ask for here, and of whom.

    `without_proof` says for which requests nobody need show who they are: identity is
    `not-required` for these.
    """

    jurisdictions: tuple[Name, ...]
    identity: tuple[IdentityMethod, ...]
    sites: tuple[SiteKeyView, ...]
    without_proof: dict[Name, tuple[SubjectRight, ...]] = Field(default_factory=dict)


class FiledRequest(Answer):
    """A request was filed. The code shows where it stands; it is told this once."""

    request_id: RequestId
    receipt_code: ReceiptCode
    stage: RequestStage
    due_at: Time


class PublicPart(Answer):
    """What a site did, as the subject is told."""

    site: Name
    state: PartState
    outcome: AnswerOutcome | None
    ground: str
    package: bool


class PublicStatus(Answer):
    """Where a request stands, as the subject is told."""

    request_id: RequestId
    right: SubjectRight
    jurisdiction: Name
    stage: RequestStage
    identity: IdentityMethod
    received_at: Time
    due_at: Time
    extended: bool
    finished_at: Time | None
    ground: str
    notice: str
    parts: tuple[PublicPart, ...]


class SealedPackage(Answer):
    """A copy of the subject's data, sealed to the key that the subject chose."""

    request_id: RequestId
    site: Name
    sealed: Octets
