"""Who is calling, and what principals may exist."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from compliance.resources import Role
from compliance.rules.ruling import ALLOWED, Refused, Ruling


@dataclass(frozen=True)
class Bearer:
    """A principal, as its token identifies it."""

    name: str
    roles: frozenset[Role]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def site(self) -> str | None:
        """The site that the principal is, if it is one."""
        return self.name.removeprefix("site:") if "site" in self.roles else None

    def holds(self, *roles: Role) -> bool:
        """Whether the principal holds any of the roles."""
        return not self.roles.isdisjoint(roles)


_TOKEN_REFUSED: Final = "the bearer token is not valid"  # noqa: S105  a message
_TOKEN_FIX: Final = "ask a compliance officer for a new token"  # noqa: S105


NO_TOKEN: Final = Refused(
    "token-missing",
    "this needs a bearer token",
    "pass --token-file, or set FIDUCIARY_TOKEN_FILE",
    "unauthorised",
)
UNKNOWN_TOKEN: Final = Refused("token-unknown", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")


def may_use_token(bearer: Bearer, now: datetime) -> Ruling:
    """Whether a principal's token still works.

    Unknown, expired and revoked tokens get the same sentence: the holder of a stolen token learns
    nothing. The code differs, for the log.
    """
    if bearer.revoked_at is not None:
        return Refused("token-revoked", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")
    if bearer.expires_at is not None and now >= bearer.expires_at:
        return Refused("token-expired", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")
    return ALLOWED


def may_call(bearer: Bearer, roles: Collection[Role]) -> Ruling:
    """Whether a principal's roles allow an operation at all."""
    if bearer.holds(*roles):
        return ALLOWED
    return Refused(
        "role-missing",
        f"this needs the role {' or '.join(sorted(roles))}",
        "use the token of a principal with that role",
        "forbidden",
    )


RESERVED_NAMES: Final = frozenset({"anonymous", "compliance"})
"""Names that the log and sealed keys use for nobody and for the service."""


def may_add_principal(
    name: str, roles: Collection[Role], expires_at: datetime | None, now: datetime
) -> Ruling:
    """Whether an officer may make this principal."""
    if name in RESERVED_NAMES:
        return Refused("name-reserved", f"the name {name} is reserved", "choose another name")
    if "site" in roles:
        return Refused(
            "role-not-assignable",
            "the role site comes from an enrolment alone",
            "invite the site: `server invite SITE`",
        )
    if expires_at is not None and expires_at <= now:
        return Refused("expiry-past", "expires_at lies in the past", status="malformed")
    return ALLOWED


def may_revoke_principal(actor: Bearer, name: str) -> Ruling:
    """Whether a principal may be ended by this officer."""
    if actor.name == name:
        return Refused(
            "own-principal",
            "nobody revokes themselves: the last officer would lock everyone out",
            "ask another officer",
        )
    return ALLOWED
