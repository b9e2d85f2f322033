"""Who is calling, in which roles, and for which sites.

* A role of a principal may be limited to sites; one that is not limited holds everywhere. The
  narrowest reading wins: who holds no fitting role has the scope `NOWHERE`.
* An operation is closed to a limited role unless it declares that it narrows its answer itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.wire import Role

LIMITABLE_ROLES: Final[frozenset[Role]] = frozenset({"officer", "auditor"})
"""Roles that can be held for some sites alone. The others mean nothing when they are cut: a
coordinator runs the whole federation, a consumer has grants, a site is one site."""


@dataclass(frozen=True)
class Scope:
    """The sites that somebody may see or decide about.

    Attributes:
        sites: Their names; None for all that there are and will be.

    >>> Scope(frozenset({"north"})).meets({"north", "south"})
    True
    >>> Scope(frozenset({"north"})).covers({"north", "south"})
    False
    """

    sites: frozenset[str] | None

    def includes(self, site: str) -> bool:
        """Whether one site is in it."""
        return self.sites is None or site in self.sites

    def meets(self, sites: Iterable[str]) -> bool:
        """Whether any of the sites is in it: enough to see, and to stop, what concerns them."""
        return self.sites is None or not self.sites.isdisjoint(sites)

    def covers(self, sites: Collection[str]) -> bool:
        """Whether all of the sites are in it: needed to commit them to anything."""
        return self.sites is None or (bool(sites) and self.sites.issuperset(sites))

    def contains(self, other: Scope) -> bool:
        """Whether nothing of another scope lies outside of this one."""
        if self.sites is None:
            return True
        return other.sites is not None and self.sites >= other.sites


EVERYWHERE: Final = Scope(None)
NOWHERE: Final = Scope(frozenset())


@dataclass(frozen=True)
class Bearer:
    """A principal, as its token identifies it.

    Attributes:
        name: Its name in the log.
        roles: What it may do.
        expires_at: When it, or the session that it calls by, ends.
        revoked_at: When it was ended.
        limits: Pairs of role and site; a role in none of them is not limited.
        confirmed: False while an officer's appointment waits for a second officer.
        credential: SHA-256 of the token that was shown; nothing can be done with it.
        certificates: Of a site, PEM: the one that it was admitted with, and the one before that.
    """

    name: str
    roles: frozenset[Role]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limits: frozenset[tuple[Role, str]] = frozenset()
    confirmed: bool = True
    credential: str = field(default="", repr=False, compare=False)
    certificates: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def scope(self, *roles: Role) -> Scope:
        """Where the principal holds any of these roles."""
        sites: set[str] = set()
        for role in self.roles.intersection(roles):
            if role == "site":
                sites.add(self.name.removeprefix("site:"))
                continue
            limited = {site for limit, site in self.limits if limit == role}
            if not limited:
                return EVERYWHERE
            sites |= limited
        return Scope(frozenset(sites)) if sites else NOWHERE

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


TWO_TOKENS: Final = Refused("token-ambiguous", _TOKEN_REFUSED, _TOKEN_FIX, "unauthorised")
ROLES_CHANGED: Final = Refused(
    "roles-changed", "your roles were changed meanwhile", "repeat the call", "conflict"
)


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


def may_call(bearer: Bearer, roles: Collection[Role], *, by_site: bool = False) -> Ruling:
    """Whether a principal's roles allow an operation at all.

    Args:
        bearer: Who calls.
        roles: Any of these is needed.
        by_site: The operation shows and changes, for a limited role, only what concerns its sites.
    """
    if not bearer.confirmed:
        return Refused(
            "principal-unconfirmed",
            "an officer's appointment holds once a second officer has confirmed it",
            "ask another officer: `compliance principals confirm NAME`",
            "forbidden",
        )
    held = bearer.roles.intersection(roles)
    if not held:
        return Refused(
            "role-missing",
            f"this needs the role {' or '.join(sorted(roles))}",
            "use the token of a principal with that role",
            "forbidden",
        )
    if by_site or not held <= {role for role, _ in bearer.limits}:
        return ALLOWED
    return Refused(
        "site-limited",
        "this concerns all sites, and the role is limited to some",
        "ask an officer whose role is not limited",
        "forbidden",
    )


def may_commit(scope: Scope, sites: Collection[str]) -> Ruling:
    """Whether somebody may bind these sites to something: only who answers for all of them."""
    if scope.covers(sites):
        return ALLOWED
    return Refused(
        "site-outside",
        "this binds a site for which the role does not hold",
        "ask an officer whose role is not limited, or holds for every site that it names",
        "forbidden",
    )
