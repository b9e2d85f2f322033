"""Sites: how they join, what they report, and how they refuse."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from audit.canonical import digest
from audit.errors import MalformedInput
from compliance.statements.deidentification import DeidentificationFigures
from compliance.statements.documents import (
    Count,
    Digest,
    Fraction,
    Name,
    Statement,
    Text,
    Time,
)


class SiteEnrolment(Statement):
    """A site's own keys, signed with its identity key. The private halves never leave the site."""

    kind: ClassVar[str] = "enrolment"

    format: Literal["fiduciary.enrolment/1"] = "fiduciary.enrolment/1"
    federation: Name
    site: Name
    identity_key: Annotated[str, Field(max_length=200)]
    """Ed25519 verifier key in C2SP signed-note form."""
    certificate_request: Annotated[str, Field(max_length=10_000)]
    """PEM certificate signing request (PKCS #10) of the P-384 node key: proof of possession."""
    requested_at: Time


class CertificateRenewal(Statement):
    """A site asks for a certificate that follows its present one, for the same node key."""

    kind: ClassVar[str] = "certificate-renewal"

    format: Literal["fiduciary.certificate-renewal/1"] = "fiduciary.certificate-renewal/1"
    federation: Name
    site: Name
    certificate: Digest
    """Of the present certificate (`certificate_digest`): an old request renews nothing twice."""
    certificate_request: Annotated[str, Field(max_length=10_000)]
    """PEM certificate signing request (PKCS #10) of the P-384 node key: proof of possession."""
    requested_at: Time


def certificate_digest(certificate: str) -> str:
    """Digest of a certificate's DER form; of a PEM text it does not matter how it is broken.

    Raises:
        MalformedInput: When it is no PEM certificate.
    """
    try:
        return digest(ssl.PEM_cert_to_DER_cert(certificate.strip()))
    except ValueError as error:
        raise MalformedInput("malformed certificate: not PEM") from error


class SiteAdmission(Statement):
    """The coordinator's approval of a site, with the certificate that it issued."""

    kind: ClassVar[str] = "admission"
    later: ClassVar[Mapping[str, int]] = {"renewal": 2}

    format: Literal["fiduciary.admission/1", "fiduciary.admission/2"] = "fiduciary.admission/1"
    federation: Name
    site: Name
    enrolment: Digest
    certificate: Annotated[str, Field(max_length=10_000)]
    admitted_at: Time
    renewal: Digest | None = None
    """The request that it answers; None for the first admission."""


class SiteReport(Statement):
    """What a site did in one round. Holds no count of people and no text."""

    kind: ClassVar[str] = "site-report"

    later: ClassVar[Mapping[str, int]] = {"audited_epsilon": 2, "deidentification": 3}

    format: Literal[
        "fiduciary.site-report/1", "fiduciary.site-report/2", "fiduciary.site-report/3"
    ] = "fiduciary.site-report/3"
    plan_id: Digest
    site: Name
    round: Count
    activity: Literal["train", "evaluate"]
    steps: Count
    epsilon_spent: Fraction
    """ε of this plan's rounds started so far at this site, at the plan's δ."""
    update_digest: Digest
    """Digest of the arrays that the site returned."""
    dataset_digest: Digest
    base_model_digest: Digest
    deidentification_digest: Digest
    software: Annotated[str, Field(max_length=200)]
    reported_at: Time
    audited_epsilon: Fraction | None = None
    """Lower bound on the plan's ε that this site's own canaries found, where the plan asks."""
    deidentification: Annotated[tuple[DeidentificationFigures, ...], Field(max_length=2)] = ()
    """By method, what was measured of the pipeline that made the records; of several the worst."""


class Refusal(Statement):
    """A site or the coordinator says no to a plan, a message or a request, and why."""

    kind: ClassVar[str] = "refusal"

    format: Literal["fiduciary.refusal/1"] = "fiduciary.refusal/1"
    refused_by: Annotated[str, Field(min_length=1, max_length=200)]
    object: Annotated[str, Field(min_length=1, max_length=200)]
    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]
    reason: Text
    refused_at: Time
