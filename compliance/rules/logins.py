"""Who a login provider's word makes somebody here, and when its word counts.

* What an ID token says is believed when it was made by the expected provider, for this service, for
  this login, and now (OpenID Connect Core 1.0 section 3.1.3.7). Signatures are checked elsewhere.
* Every refusal of a token says the same sentence; the code differs, for the log.
* A login never makes somebody an officer by itself where an officer could confirm it: whoever runs
  the provider would be an officer otherwise.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from compliance.rules.access import Bearer
from compliance.rules.principals import RESERVED_NAMES
from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.wire import Role

LEEWAY: Final = timedelta(seconds=60)
"""How far the provider's clock may be from ours."""

MAX_AGE: Final = timedelta(minutes=10)
"""How old an ID token may be: it was asked for within a login, which takes minutes."""

MAX_LOGIN: Final = timedelta(minutes=10)
"""How long a person may take to log in at the provider."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?", re.ASCII)


def login_refused(code: str) -> Refused:
    """The one answer to every login that cannot be verified."""
    return Refused(
        code, "the login is not valid", "log in again: `compliance login`", "unauthorised"
    )


@dataclass(frozen=True)
class Expected:
    """What an ID token must say.

    Attributes:
        issuer: The provider.
        client_id: This service's name at the provider.
        audience: Whom the token must be for.
        nonce: What binds the token to one login.
    """

    issuer: str
    client_id: str
    audience: str
    nonce: str


@dataclass(frozen=True)
class GroupRole:
    """What membership in one of the provider's groups gives.

    Attributes:
        group: The group.
        role: The role.
        sites: The role holds for these alone; everywhere without any.
    """

    group: str
    role: Role
    sites: tuple[str, ...] = ()


def may_trust_claims(claims: Mapping[str, Any], expected: Expected, now: datetime) -> Ruling:
    """Whether a signed ID token is about this login, by this provider, for this service, now.

    | claim                      | refused as                |
    |----------------------------|---------------------------|
    | another `iss`              | `login-issuer`            |
    | `aud` without this service | `login-audience`          |
    | `azp` another client       | `login-audience`          |
    | several `aud`, no `azp`    | `login-audience`          |
    | `exp` past, or missing     | `login-expired`           |
    | `nbf`, `iat` in the future | `login-not-yet-valid`     |
    | `iat` old, or missing      | `login-expired`           |
    | another `nonce`, or none   | `login-replayed`          |
    | no `sub`                   | `login-malformed`         |
    """
    if claims.get("iss") != expected.issuer:
        return login_refused("login-issuer")
    audiences = claims.get("aud")
    listed = [audiences] if isinstance(audiences, str) else audiences
    if not isinstance(listed, list) or expected.audience not in listed:
        return login_refused("login-audience")
    party = claims.get("azp", None if len(listed) > 1 else expected.client_id)
    if party != expected.client_id:
        return login_refused("login-audience")
    expires, issued = _moment(claims.get("exp")), _moment(claims.get("iat"))
    if expires is None or issued is None:
        return login_refused("login-expired")
    present = now.timestamp()
    leeway = LEEWAY.total_seconds()
    begins = _moment(claims.get("nbf", issued))
    if begins is None or max(begins, issued) > present + leeway:
        return login_refused("login-not-yet-valid")
    if present >= expires + leeway or present > issued + MAX_AGE.total_seconds():
        return login_refused("login-expired")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(
        nonce.encode("utf-8", "surrogatepass"), expected.nonce.encode("ascii")
    ):
        return login_refused("login-replayed")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        return login_refused("login-malformed")
    return ALLOWED


def person_name(claims: Mapping[str, Any], name_claim: str) -> str | None:
    """The principal's name that a person's claims give, or None.

    An address of e-mail counts only when the provider has verified it.

    >>> person_name({"preferred_username": "Dr.Lead"}, "preferred_username")
    'dr.lead'
    >>> person_name({"email": "a@b.example", "email_verified": False}, "email") is None
    True
    """
    if name_claim == "email" and claims.get("email_verified") is not True:
        return None
    name = claims.get(name_claim)
    if not isinstance(name, str) or not name.isascii():
        return None
    name = name.lower()
    return name if _NAME.fullmatch(name) and name not in RESERVED_NAMES else None


def person_by_groups(
    name: str, claims: Mapping[str, Any], groups_claim: str, given: Sequence[GroupRole]
) -> Bearer:
    """The principal that a person's groups make: the union of what each group gives."""
    claimed = claims.get(groups_claim, [])
    groups = {claimed} if isinstance(claimed, str) else set()
    if isinstance(claimed, list):
        groups = {group for group in claimed if isinstance(group, str)}
    held = [entry for entry in given if entry.group in groups]
    everywhere = {entry.role for entry in held if not entry.sites}
    limits = frozenset(
        (entry.role, site) for entry in held if entry.role not in everywhere for site in entry.sites
    )
    return Bearer(name, frozenset(entry.role for entry in held), limits=limits)


def may_log_in(person: Bearer, *, known: Bearer | None, same_person: bool) -> Ruling:
    """Whether somebody whom the provider vouches for may call here.

    Args:
        person: Who they are, by their claims.
        known: The principal of that name, if there is one.
        same_person: Whether that principal is the very person, by the provider's own identifier.
    """
    if known is not None and not same_person:
        return Refused(
            "login-name-taken",
            "another principal has this name already",
            "an officer can tell whose it is: a name is given once, and never to somebody else",
        )
    if known is not None and known.revoked_at is not None:
        return Refused("principal-ended", "the principal was revoked", "ask a compliance officer")
    if not person.roles:
        return Refused(
            "login-without-role",
            "no group of the provider gives this person a role",
            "ask whoever keeps the groups at the provider, or the [oidc] section here",
            "forbidden",
        )
    return ALLOWED


def widens(before: Bearer | None, after: Bearer) -> bool:
    """Whether a login would make somebody an officer who was none, or for more sites."""
    had = Bearer(after.name, frozenset()) if before is None else before
    return not had.scope("officer").contains(after.scope("officer"))


def _moment(value: object) -> float | None:
    """A NumericDate (RFC 7519 section 2), or None when it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e12 else None
