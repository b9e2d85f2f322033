"""Who takes part: invitations, admissions and revocations.

* A kit is one file: addresses, what to trust, and a one-time token, signed by the coordinator. The
  compliance service learns only hashes of token and kit.
* An admission is for exactly one enrolment: the site's signed statement, the node key in its
  signing request, and the identity key that the service recorded must agree.
* A renewal is for the same keys: the site's request over the certificate that was given last.
* A revocation stops a site at once: its key is let out, its token at the service is dead.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cryptography import x509
from pydantic import Field, TypeAdapter, ValidationError

from audit.durable import write_durably
from audit.errors import Conflict, MalformedInput, NotFound, Refused, VerificationFailed
from audit.keys import VerifyKey
from audit.statement import SignedStatement, sign_statement, verify_statement
from client.kit import Kit, group_digits
from compliance.api import ComplianceClient
from compliance.resources import SiteView
from compliance.rules import Refused as RefusedByRule
from compliance.rules import may_ask_renewal
from compliance.statements import (
    CertificateRenewal,
    Digest,
    Document,
    Name,
    SiteAdmission,
    SiteEnrolment,
    Time,
    certificate_digest,
    first_problem,
    format_time,
    problem_reason,
)
from server import authority
from server.errors import MalformedFederation
from server.federation import Federation

DEFAULT_INVITATION_HOURS = 72
MAX_INVITATION_HOURS = 30 * 24


@dataclass(frozen=True)
class Invitation:
    """A kit that was written.

    Attributes:
        path: The kit; it holds a secret, so hand it over privately.
        fingerprint: Hexadecimal, to compare by telephone.
    """

    site: str
    path: Path
    fingerprint: str
    expires_at: str

    @property
    def spoken_fingerprint(self) -> str:
        """The fingerprint in groups of four."""
        return group_digits(self.fingerprint)


def invite(
    federation: Federation,
    compliance: ComplianceClient,
    site: str,
    *,
    path: Path,
    hours: int = DEFAULT_INVITATION_HOURS,
    now: datetime | None = None,
) -> Invitation:
    """Write a kit for a site and announce it to the compliance service.

    Raises:
        MalformedInput: When the name is none, or the hours are out of range.
        Conflict: When the site exists already, or the file does.
    """
    require_site_name(site)
    if not 1 <= hours <= MAX_INVITATION_HOURS:
        raise MalformedInput(
            f"an invitation lives 1 to {MAX_INVITATION_HOURS} hours, not {hours}",
            fix="choose another --hours",
        )
    if path.exists():
        raise Conflict(f"{path} exists already", fix="choose another file with -o")
    if is_enrolled(compliance, site):
        raise Conflict(
            f"site {site} is enrolled already",
            fix="see `server sites`; a site that was revoked comes back under a new name",
        )
    token = secrets.token_urlsafe(32)
    kit = Kit(
        federation=federation.settings.name,
        site=site,
        fleet_address=federation.fleet_address,
        ca_certificate=authority.certificate_pem(federation.authority).decode("ascii"),
        coordinator_key=federation.identity.public.encoded(),
        compliance=federation.trust.to_json(),
        token=token,
        expires_at=format_time((now or datetime.now(UTC)) + timedelta(hours=hours)),
    )
    statement = sign_statement(kit.body(), federation.identity)
    compliance.invite(
        site,
        token_sha256=hashlib.sha256(token.encode("utf-8")).hexdigest(),
        kit_sha256=statement.digest.removeprefix("sha256:"),
        expires_at=kit.expires_at,
    )
    text = json.dumps(statement.to_json(), indent=2, sort_keys=True) + "\n"
    write_durably(path.absolute(), text.encode("utf-8"), replace=False)
    return Invitation(site, path, federation.fingerprint, kit.expires_at)


def is_enrolled(compliance: ComplianceClient, site: str) -> bool:
    """Whether a site has joined, ever."""
    return any(known.name == site for known in compliance.sites())


class AdmissionRecord(Document):
    """`sites/SITE.json`: what this coordinator admitted, kept where nobody else can change it.

    The compliance service's register could be tampered with; a site's keys are taken from here.
    """

    later: ClassVar[Mapping[str, int]] = {"renewal": 2, "renewed_at": 2}

    format: Literal["fiduciary.admitted-site/1", "fiduciary.admitted-site/2"] = (
        "fiduciary.admitted-site/1"
    )
    site: Name
    identity_key: Annotated[str, Field(max_length=300)]
    enrolment: Digest
    certificate: Annotated[str, Field(max_length=10_000)]
    admitted_at: Time
    renewal: Digest | None = None
    """The request that the certificate answers, once it was renewed."""
    renewed_at: Time | None = None

    @property
    def identity(self) -> VerifyKey:
        """The key that signs the site's reports."""
        return VerifyKey.parse(self.identity_key)

    @property
    def node_key(self) -> str:
        """The node key that was certified, PEM."""
        certificate = x509.load_pem_x509_certificate(self.certificate.encode("ascii"))
        return authority.public_pem(certificate)


def admit(
    federation: Federation,
    compliance: ComplianceClient,
    site: str,
    *,
    now: datetime | None = None,
) -> SiteView:
    """Certify an enrolled site's node key and admit the site. Admitting it again changes nothing.

    Raises:
        NotFound: When no such site has enrolled.
        Refused: When it was revoked.
        MalformedInput: When its signing request is none, or names another site.
        VerificationFailed: When it did not prove that it holds its node key, or the service names
            other keys than those that were admitted.
    """
    now = now or datetime.now(UTC)
    try:
        view = compliance.site(require_site_name(site))
    except NotFound as error:
        raise NotFound(
            f"no site {site} has joined", fix="wait until its operator has run: client join KIT"
        ) from error
    if view.state == "revoked":
        raise Refused(
            f"site {site} was revoked", fix=f"invite it under a new name: server invite {site}-2"
        )
    record = admitted(federation, view)
    if record is not None and view.state == "approved":
        return view
    if record is None:
        record = _certify(federation, view, now)
        # Before the service hears of it: an admission without a record would not be believed.
        write_durably(
            federation.sites / f"{site}.json", record.model_dump_json(indent=2).encode("utf-8")
        )
    admission = SiteAdmission(
        federation=federation.settings.name,
        site=site,
        enrolment=record.enrolment,
        certificate=record.certificate,
        admitted_at=record.admitted_at,
    )
    return compliance.approve_site(site, sign_statement(admission.body(), federation.identity))


def renew(
    federation: Federation,
    compliance: ComplianceClient,
    view: SiteView,
    record: AdmissionRecord,
    now: datetime,
) -> AdmissionRecord:
    """Give a site the next certificate that it asks for. After a crash it gets the same again.

    Args:
        federation: The federation.
        compliance: Where the request came from and the certificate goes.
        view: The site, with its request.
        record: What was admitted: keys and certificate are believed from here alone.
        now: The present time.

    Raises:
        VerificationFailed: When the site did not sign the request.
        Refused: When it does not follow the certificate that was given last, or comes too early.
    """
    if view.renewal is None:
        raise NotFound(f"site {view.name} asks for no certificate")
    if record.renewal != view.renewal.digest:
        record = _next_certificate(federation, view.name, view.renewal, record, now)
        # As at the first admission: before the service hears of it.
        write_durably(
            federation.sites / f"{view.name}.json",
            record.model_dump_json(indent=2).encode("utf-8"),
        )
    admission = SiteAdmission(
        format="fiduciary.admission/2",
        federation=federation.settings.name,
        site=view.name,
        enrolment=record.enrolment,
        certificate=record.certificate,
        admitted_at=record.renewed_at or record.admitted_at,
        renewal=record.renewal,
    )
    compliance.renew_site(view.name, sign_statement(admission.body(), federation.identity))
    return record


def _next_certificate(
    federation: Federation,
    site: str,
    signed: SignedStatement,
    record: AdmissionRecord,
    now: datetime,
) -> AdmissionRecord:
    asked = CertificateRenewal.from_body(verify_statement(signed, record.identity))
    request = authority.read_request(asked.certificate_request, site)
    present = x509.load_pem_x509_certificate(record.certificate.encode("ascii"))
    ruling = may_ask_renewal(
        asked,
        site=site,
        federation=federation.settings.name,
        state="approved",
        present=certificate_digest(record.certificate),
        ends_at=present.not_valid_after_utc,
        same_key=authority.public_pem(request) == record.node_key,
        now=now,
    )
    if isinstance(ruling, RefusedByRule):
        raise Refused(ruling.reason, fix=ruling.fix)
    certificate = authority.certify_site(
        site, request, federation.authority, federation.authority_key, now
    )
    return record.model_copy(
        update={
            "format": "fiduciary.admitted-site/2",
            "certificate": authority.certificate_pem(certificate).decode("ascii"),
            "renewal": signed.digest,
            "renewed_at": format_time(now),
        }
    )


def admitted(federation: Federation, view: SiteView) -> AdmissionRecord | None:
    """What was admitted under a site's name, if anything.

    Raises:
        VerificationFailed: When the compliance service names another enrolment or identity key.
    """
    try:
        text = (federation.sites / f"{require_site_name(view.name)}.json").read_text("utf-8")
    except FileNotFoundError:
        return None
    try:
        record = AdmissionRecord.model_validate_json(text)
    except ValidationError as error:
        raise MalformedFederation(
            f"malformed sites/{view.name}.json: {first_problem(error)}",
            fix="restore it from a backup",
        ) from error
    if (record.enrolment, record.identity_key) != (view.enrolment, view.identity_key):
        raise VerificationFailed(
            f"the compliance service names other keys for site {view.name} than were admitted",
            fix="ask the officer who changed the register; verify its log with `audit verify`",
        )
    return record


def _certify(federation: Federation, view: SiteView, now: datetime) -> AdmissionRecord:
    if view.state == "approved":
        raise VerificationFailed(
            f"the compliance service calls site {view.name} approved, and this coordinator has not "
            "admitted it",
            fix="restore the folder `sites` from a backup, or revoke the site: server revoke SITE",
        )
    enrolment = _signed_enrolment(federation, view)
    request = authority.read_request(enrolment.certificate_request, view.name)
    if authority.public_pem(request).strip() != view.node_key.strip():
        raise VerificationFailed(
            f"the compliance service names another node key than the request of {view.name}",
            fix="ask the site to enrol again with a new kit: server invite SITE",
        )
    certificate = authority.certify_site(
        view.name, request, federation.authority, federation.authority_key, now
    )
    return AdmissionRecord(
        site=view.name,
        identity_key=enrolment.identity_key,
        enrolment=view.enrolment,
        certificate=authority.certificate_pem(certificate).decode("ascii"),
        admitted_at=format_time(now),
    )


def _signed_enrolment(federation: Federation, view: SiteView) -> SiteEnrolment:
    """The enrolment as the site signed it; the register's own columns are not believed.

    Raises:
        VerificationFailed: When it is not signed by the site, or the register says something else.
    """
    body = verify_statement(view.statement, VerifyKey.parse(view.identity_key))
    enrolment = SiteEnrolment.from_body(body)
    said = (
        view.statement.digest,
        enrolment.federation,
        enrolment.site,
        enrolment.identity_key,
        enrolment.certificate_request,
    )
    expected = (
        view.enrolment,
        federation.settings.name,
        view.name,
        view.identity_key,
        view.certificate_request,
    )
    if said != expected:
        raise VerificationFailed(
            f"the compliance service's record of site {view.name} is not what the site signed",
            fix="ask the site to enrol again with a new kit: server invite SITE",
        )
    return enrolment


def require_site_name(site: str) -> str:
    """The name, if it can be one.

    Raises:
        MalformedInput: Otherwise.
    """
    try:
        return TypeAdapter(Name).validate_python(site)
    except ValidationError as error:
        raise MalformedInput(
            f"malformed site name {site!r}: {problem_reason(error.errors()[0])}",
            fix="choose one such as st-elm",
        ) from error
