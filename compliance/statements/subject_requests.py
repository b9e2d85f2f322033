"""What is stated about data subjects' requests. None of it holds an identifier.

* `SiteSealingKey`: the key to which identifiers are sealed for a site, by the site's identity key.
* `SubjectIdentity`: a site's operator says that whoever asks is who they say they are.
* `RequestDecision`: what an officer decided about a request, signed by the service.
* `SubjectAnswer`: what a site did about a request.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from audit.hpke import PUBLIC_KEY_BYTES
from compliance.statements.documents import Count, Digest, Name, Statement, Time

SubjectRight = Literal[
    "access", "erasure", "rectification", "restriction", "objection", "portability"
]
"""What a data subject may ask for (GDPR Art. 15 to 21; CCPA 1798.105 to 1798.121)."""

RequestKey = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits that name a subject request."""

SealingSuite = Literal["DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM"]


def _x25519(value: str) -> str:
    try:
        if len(base64.b64decode(value, validate=True)) != PUBLIC_KEY_BYTES:
            raise ValueError(f"expected an X25519 public key of {PUBLIC_KEY_BYTES} bytes")
    except binascii.Error as error:
        raise ValueError("not base64") from error
    return value


class SiteSealingKey(Statement):
    """The public key (RFC 9180) to which identifiers are sealed for one site.

    Signed by the site's identity key, which the coordinator admitted: whoever knows that key can
    tell that no other key was put in between.
    """

    kind: ClassVar[str] = "site-sealing-key"
    later: ClassVar[Mapping[str, int]] = {"generation": 2}

    format: Literal["fiduciary.site-sealing-key/1", "fiduciary.site-sealing-key/2"] = (
        "fiduciary.site-sealing-key/2"
    )
    federation: Name
    site: Name
    suite: SealingSuite = "DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM"
    public_key: Annotated[str, Field(max_length=44), AfterValidator(_x25519)]
    """Base64 of the raw X25519 key."""
    generation: Count = 0
    """Counts a site's keys: one of a lower generation, or of the same, does not replace another."""

    @property
    def key(self) -> bytes:
        """The raw key."""
        return base64.b64decode(self.public_key)


class SubjectIdentity(Statement):
    """A site's operator has checked who asks (GDPR Art. 12(6), 11 CCR 7060)."""

    kind: ClassVar[str] = "subject-identity"

    format: Literal["fiduciary.subject-identity/1"] = "fiduciary.subject-identity/1"
    request: RequestKey
    site: Name
    method: Name
    """How it was checked, such as `identity-card`. Never what was shown."""
    checked_at: Time


class RequestDecision(Statement):
    """An officer's decision about a request."""

    kind: ClassVar[str] = "request-decision"
    later: ClassVar[Mapping[str, int]] = {"site": 2, "evidence": 2}

    format: Literal["fiduciary.request-decision/1", "fiduciary.request-decision/2"] = (
        "fiduciary.request-decision/1"
    )
    request: RequestKey
    verdict: Literal["verified", "extended", "refused", "completed", "waived"]
    ground: Annotated[str, Field(max_length=64)] = ""
    """Of a refusal: the ground's name in deadlines.toml. Of a verification: how it was checked."""
    source: Annotated[str, Field(max_length=200)] = ""
    """The article."""
    decided_by: Annotated[str, Field(max_length=70)]
    decided_at: Time
    reason: Annotated[str, Field(max_length=2000)] = ""
    site: Name | None = None
    """Of a waiver: the revoked site that is no longer waited for."""
    evidence: Digest | None = None
    """Of a waiver: of a document that the officer keeps."""

    @model_validator(mode="after")
    def _a_waiver_names_a_site(self) -> RequestDecision:
        if (self.verdict == "waived") != (self.site is not None):
            raise ValueError("site: a waiver names one, and nothing else does")
        return self


AnswerOutcome = Literal["done", "not-found", "refused"]


class SubjectAnswer(Statement):
    """What a site did about a subject's request.

    It counts, and names nobody: pseudonyms are in the erasure receipts that `erasures` names, one
    for each id by which the site knew the subject.
    """

    kind: ClassVar[str] = "subject-answer"

    format: Literal["fiduciary.subject-answer/1"] = "fiduciary.subject-answer/1"
    request: RequestKey
    site: Name
    right: SubjectRight
    outcome: AnswerOutcome
    ground: Annotated[str, Field(max_length=64)] = ""
    """Of a refusal: the ground's name in deadlines.toml."""
    datasets: Count = 0
    records: Count = 0
    erasures: Annotated[tuple[Digest, ...], Field(max_length=10)] = ()
    """The erasure receipts."""
    excluded: bool = False
    """The subject is in no later round."""
    corrected: bool = False
    """The operator corrected the records, or what is here is replaced by what is right."""
    package: Digest | None = None
    """Of the copy of the subject's data: the ciphertext's digest, else that of the file."""
    delivery: Literal["none", "sealed", "by-operator"] = "none"
    answered_by: Literal["policy", "operator"]
    answered_at: Time

    @model_validator(mode="after")
    def _consistent(self) -> SubjectAnswer:
        problem = _problem_of(self)
        if problem:
            raise ValueError(problem)
        return self


def _problem_of(answer: SubjectAnswer) -> str:
    """What contradicts itself: nothing is `done` that the answer has no evidence of."""
    shown = (answer.erasures, answer.excluded, answer.corrected, answer.package)
    if answer.outcome != "done":
        if any(shown):
            return f"outcome: {answer.outcome} and yet something was done"
        if (answer.outcome == "refused") != bool(answer.ground):
            return "ground: a refusal has one, and nothing else does"
        return ""
    if answer.ground:
        return "ground: only a refusal has one"
    expected: tuple[bool, bool, bool, bool]
    match answer.right:
        case "erasure":
            expected = (True, False, False, False)
        case "restriction" | "objection":
            expected = (False, True, False, False)
        case "rectification":
            expected = (False, False, True, False)
        case "access" | "portability":
            expected = (False, False, False, True)
    if tuple(bool(part) for part in shown) != expected:
        return f"outcome: {answer.right} is done by something else"
    if (answer.package is None) != (answer.delivery == "none"):
        return "delivery: how the package is handed over"
    return ""
