"""Who may join, be admitted, and speak for a site."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from compliance.rules.access import Bearer
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import CertificateRenewal, SiteAdmission, SiteEnrolment
from compliance.wire import SiteState

REPLAY_WINDOW: Final = timedelta(minutes=10)
"""How long a site may repeat its own enrolment whose answer it did not get."""

MAX_INVITATION: Final = timedelta(days=30)
"""A kit that lies about longer than this is a liability."""


@dataclass(frozen=True)
class Invitation:
    """What the service knows of a kit."""

    site: str
    kit_sha256: str
    expires_at: datetime
    spent_at: datetime | None = None
    enrolment: str | None = None
    """Digest of the enrolment statement that spent it."""


def may_invite(expires_at: datetime, now: datetime) -> Ruling:
    """Whether an invitation's life is sensible."""
    if expires_at <= now:
        return Refused("expiry-past", "expires_at lies in the past", status="malformed")
    if expires_at - now > MAX_INVITATION:
        return Refused(
            "expiry-too-late",
            f"an invitation lives at most {MAX_INVITATION.days} days",
            "choose an earlier expiry",
            "malformed",
        )
    return ALLOWED


_NEW_KIT: Final = "ask the coordinator for a new kit: `server invite SITE`"


def may_enrol(
    invitation: Invitation | None,
    *,
    kit_sha256: str,
    enrolment: SiteEnrolment,
    enrolment_id: str,
    site_known: bool,
    now: datetime,
) -> Ruling:
    """Whether a one-time token enrols this site.

    A spent token is accepted again only with the very statement that spent it, within
    `REPLAY_WINDOW`: whoever holds that statement's signature is the site whose answer was lost.
    """
    if invitation is None:
        return Refused(
            "kit-unknown", "the kit's one-time token is not valid", _NEW_KIT, "unauthorised"
        )
    if invitation.kit_sha256 != kit_sha256:
        return Refused(
            "kit-altered",
            "the kit is not the one that the coordinator issued: its digest differs",
            "get the kit again by another way and compare its fingerprint by telephone",
        )
    if invitation.spent_at is not None:
        if invitation.enrolment == enrolment_id and now - invitation.spent_at <= REPLAY_WINDOW:
            return ALLOWED
        return Refused("kit-spent", "the kit was used already", _NEW_KIT, "conflict")
    if now >= invitation.expires_at:
        return Refused("kit-expired", "the kit has expired", _NEW_KIT)
    if enrolment.site != invitation.site:
        return Refused(
            "kit-for-another-site", "the kit was issued for another site's name", _NEW_KIT
        )
    if site_known:
        return Refused(
            "site-exists",
            "a site of this name is enrolled already",
            "invite it under a new name: a name stands for one identity key for ever",
            "conflict",
        )
    return ALLOWED


def may_admit(
    admission: SiteAdmission,
    *,
    site: str,
    federation: str,
    enrolment_id: str,
    state: SiteState,
    certificate_matches: bool,
) -> Ruling:
    """Whether the coordinator's admission fits the enrolment that it answers."""
    if state != "pending":
        return Refused("site-not-pending", f"the site is {state}, not pending", status="conflict")
    if (admission.site, admission.federation) != (site, federation):
        return contradiction("admission-mismatch", "the admission names another site")
    if admission.enrolment != enrolment_id:
        return contradiction("admission-mismatch", "the admission names another enrolment")
    if not certificate_matches:
        return contradiction(
            "certificate-mismatch", "the certificate is not for the site's node key"
        )
    return ALLOWED


def may_act_as_site(state: SiteState) -> Ruling:
    """Whether a site takes part: enrolled, admitted, not revoked."""
    if state == "approved":
        return ALLOWED
    return Refused(
        "site-not-approved",
        f"the site is {state}",
        "wait until the coordinator has run `server admit SITE`",
        "forbidden",
    )


RENEWABLE_DAYS: Final = 120
"""So long before its end a certificate may be renewed: a site that asks daily gets one a year."""


def may_ask_renewal(
    request: CertificateRenewal,
    *,
    site: str,
    federation: str,
    state: SiteState,
    present: str | None,
    ends_at: datetime | None,
    same_key: bool,
    now: datetime,
) -> Ruling:
    """Whether a site's request for its next certificate fits the present one.

    Both the service and the coordinator judge it, each by what it knows itself.

    Args:
        request: The request, whose signature was verified.
        site: Who sent it.
        federation: Its federation.
        state: Where the site stands.
        present: Digest of its present certificate.
        ends_at: When that ends.
        same_key: Whether its signing request is for the node key of its enrolment.
        now: The present time.
    """
    acting = may_act_as_site(state)
    if acting != ALLOWED:
        return acting
    if (request.site, request.federation) != (site, federation):
        return contradiction("renewal-mismatch", "the request names another site or federation")
    if not same_key:
        return contradiction("renewal-mismatch", "the request is not for the site's node key")
    if present is None or ends_at is None or request.certificate != present:
        return Refused(
            "renewal-outdated",
            "the request does not follow the site's present certificate",
            "`client start` fetches the present one and asks again when it is time",
            "conflict",
        )
    if ends_at - now > timedelta(days=RENEWABLE_DAYS):
        return Refused(
            "renewal-early",
            f"a certificate is renewed in its last {RENEWABLE_DAYS} days",
            "wait until then",
            "conflict",
        )
    return ALLOWED


def may_renew(
    admission: SiteAdmission,
    *,
    site: str,
    federation: str,
    enrolment_id: str,
    state: SiteState,
    waiting: str | None,
    certificate_matches: bool,
    lasts_longer: bool,
) -> Ruling:
    """Whether a certificate of the coordinator answers the request that waits.

    Args:
        admission: What the coordinator states.
        site: The site.
        federation: Its federation.
        enrolment_id: Digest of its enrolment.
        state: Where it stands.
        waiting: Digest of its request that waits, if one does.
        certificate_matches: Whether the certificate is for its node key.
        lasts_longer: Whether the certificate ends after the present one.
    """
    acting = may_act_as_site(state)
    if acting != ALLOWED:
        return acting
    named = (admission.site, admission.federation, admission.enrolment)
    if named != (site, federation, enrolment_id):
        return contradiction("admission-mismatch", "it names another site or enrolment")
    if waiting is None or admission.renewal != waiting:
        return Refused("renewal-not-asked", "it answers no request that waits", status="conflict")
    if not certificate_matches or not lasts_longer:
        return contradiction(
            "certificate-mismatch",
            "the certificate is for another key, or ends no later than the present one",
        )
    return ALLOWED


_BY_CERTIFICATE: Final = "a site's token works together with its certificate alone"
_CERTIFICATE_FIX: Final = "use the site's own folder, keys and certificate: `client check`"


def may_come_by(admitted: Collection[bytes], shown: bytes | None, *, required: bool) -> Ruling:
    """Whether a site's token counts on the connection that it came by.

    Args:
        admitted: The certificates that the site was admitted with; none before that.
        shown: The one whose key the other end of the connection holds, if it showed any.
        required: Whether the token alone is not enough.
    """
    if not admitted or shown in admitted:
        return ALLOWED
    if shown is not None:
        return Refused("certificate-foreign", _BY_CERTIFICATE, _CERTIFICATE_FIX, "unauthorised")
    if required:
        return Refused("certificate-missing", _BY_CERTIFICATE, _CERTIFICATE_FIX, "unauthorised")
    return ALLOWED


def may_speak_for(bearer: Bearer, site: str) -> Ruling:
    """Whether a statement about a site comes from that site."""
    if bearer.site == site:
        return ALLOWED
    return Refused("not-this-site", "a site speaks for itself only", status="forbidden")
