"""Which principals may be made, confirmed, given a new key, and ended, and by whom.

Two-person rules, which no role and no limit bypasses:

* nobody makes, confirms, widens or ends themselves;
* nobody hands out a power that they do not hold themselves, for sites that theirs does not cover;
* where another officer could confirm it, an officer's appointment needs that second officer;
* nobody gets another officer's key: who could, would be two people at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from audit.words import count_of
from compliance.rules.access import LIMITABLE_ROLES, Bearer, Scope
from compliance.rules.ruling import ALLOWED, Refused, Ruling
from compliance.wire import Role

RESERVED_NAMES: Final = frozenset({"anonymous", "compliance", "oidc"})
"""Names that the log and sealed keys use for nobody, for the service and for the login provider."""

MAX_OVERLAP: Final = timedelta(days=7)
"""How long a replaced key may go on working: a week's deployment, not a second key."""

MAX_FORMER_TOKENS: Final = 5
"""Replaced keys of one principal that still work; answers do get lost, but not without end."""


def may_add_principal(
    actor: Bearer,
    name: str,
    roles: Collection[Role],
    sites: Collection[str],
    expires_at: datetime | None,
    now: datetime,
) -> Ruling:
    """Whether an officer may make this principal.

    Args:
        actor: Who makes it.
        name: Its name.
        roles: Its roles.
        sites: The sites to which they are limited; none for no limit.
        expires_at: When it ends.
        now: The present moment.
    """
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
    unlimitable = sorted(set(roles) - LIMITABLE_ROLES)
    if sites and unlimitable:
        return Refused(
            "role-not-limitable",
            f"the role {unlimitable[0]} cannot be limited to sites",
            f"limit {' or '.join(sorted(LIMITABLE_ROLES))}, and add the other role separately",
            "malformed",
        )
    if not actor.scope("officer").contains(Scope(frozenset(sites) if sites else None)):
        return Refused(
            "beyond-own-scope",
            "nobody hands out a role for sites for which they do not hold one",
            "name sites of your own, or ask an officer whose role is not limited",
            "forbidden",
        )
    return ALLOWED


def needs_confirmation(appointee: Bearer, proposer: str, officers: Iterable[Bearer]) -> bool:
    """Whether an appointment waits for a second officer: where there is one who may confirm it.

    Args:
        appointee: The new principal.
        proposer: Who makes it.
        officers: Every officer whose token works now.
    """
    return "officer" in appointee.roles and any(
        officer.name not in (proposer, appointee.name)
        and officer.scope("officer").contains(appointee.scope("officer"))
        for officer in officers
    )


def may_confirm(actor: Bearer, appointee: Bearer, *, proposed_by: str) -> Ruling:
    """Whether an officer may confirm another's appointment."""
    if actor.name in (appointee.name, proposed_by):
        return Refused(
            "own-appointment",
            "nobody confirms themselves, or whom they proposed",
            "ask another officer",
        )
    if not actor.scope("officer").contains(appointee.scope("officer")):
        return Refused(
            "beyond-own-scope",
            "nobody confirms a role for sites for which they do not hold one",
            "ask an officer whose role is not limited",
            "forbidden",
        )
    if appointee.revoked_at is not None:
        return Refused("principal-ended", "the principal was revoked", status="conflict")
    return ALLOWED


NOT_OWN_KEY: Final = Refused(
    "not-own-key",
    "a key is replaced by its holder or by an officer",
    "use the token of the principal itself",
    "forbidden",
)
"""Said of every name but one's own, known or not: nobody learns names by asking."""


def may_rotate(
    actor: Bearer, target: Bearer, *, overlap: timedelta, former_tokens: int, now: datetime
) -> Ruling:
    """Whether somebody may replace a principal's key and see the new one.

    Args:
        actor: Who asks, and gets to see the key.
        target: Whose key it is.
        overlap: How long the present key goes on working.
        former_tokens: How many earlier keys work still.
        now: The present moment.
    """
    if actor.name != target.name:
        if not actor.holds("officer"):
            return NOT_OWN_KEY
        if target.holds("officer"):
            return Refused(
                "officers-key",
                "nobody but themselves gets an officer's key",
                "ask them to run `compliance principals rotate`; if they cannot, revoke them",
            )
        if not governs(actor, target):
            return _beyond(target)
    if target.site is not None:
        return Refused(
            "site-token",
            "a site's token belongs to its enrolment",
            "revoke the site and invite it under a new name",
        )
    expired = target.expires_at is not None and target.expires_at <= now
    if target.revoked_at is not None or expired:
        return Refused(
            "principal-ended",
            "the principal was revoked or has expired",
            "add a new one: a name is given once",
            "conflict",
        )
    if not timedelta() <= overlap <= MAX_OVERLAP:
        return Refused(
            "overlap-too-long",
            f"a replaced key works for {MAX_OVERLAP.days} days at most",
            status="malformed",
        )
    if overlap and former_tokens >= MAX_FORMER_TOKENS:
        return Refused(
            "too-many-keys",
            f"{count_of(former_tokens, 'replaced key')} of this principal work still",
            "end them all at once: --overlap-hours 0",
            "conflict",
        )
    return ALLOWED


def may_revoke_principal(actor: Bearer, target: Bearer) -> Ruling:
    """Whether a principal may be ended by this officer."""
    if actor.name == target.name:
        return Refused(
            "own-principal",
            "nobody revokes themselves: the last officer would lock everyone out",
            "ask another officer",
        )
    return ALLOWED if governs(actor, target) else _beyond(target)


def governs(actor: Bearer, target: Bearer) -> bool:
    """Whether an officer answers for every role of a principal, wherever it holds."""
    scope = actor.scope("officer")
    return scope.contains(target.scope(*target.roles))


def _beyond(target: Bearer) -> Refused:
    return Refused(
        "beyond-own-scope",
        f"{target.name} holds a role for sites for which you do not hold one",
        "ask an officer whose role is not limited",
        "forbidden",
    )
