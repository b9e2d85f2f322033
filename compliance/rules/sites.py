"""Who may join, be admitted, and speak for a site."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from compliance.resources import SiteState
from compliance.rules.access import Bearer
from compliance.rules.ruling import ALLOWED, Refused, Ruling, contradiction
from compliance.statements import SiteAdmission, SiteEnrolment

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


_BY_CERTIFICATE: Final = "a site's token works together with its certificate alone"
_CERTIFICATE_FIX: Final = "use the site's own folder, keys and certificate: `client check`"


def may_come_by(admitted: bytes | None, shown: bytes | None, *, required: bool) -> Ruling:
    """Whether a site's token counts on the connection that it came by.

    Args:
        admitted: The certificate that the site was admitted with; None before that.
        shown: The one whose key the other end of the connection holds, if it showed any.
        required: Whether the token alone is not enough.
    """
    if admitted is None or shown == admitted:
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
