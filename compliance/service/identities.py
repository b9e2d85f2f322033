"""Principals as the database knows them: by name, by the key that they show.

* A key is looked up by its SHA-256 alone: a principal's present one, a replaced one that works a
  while longer, or that of a session. What is stored lets nobody in.
* One query finds the principal together with its limits, its appointment and, of a site, the
  certificates that it may come by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, select
from sqlalchemy.orm import Session

from compliance import rules
from compliance.service.access_tables import (
    AppointmentRow,
    FormerTokenRow,
    RoleSiteRow,
    SessionRow,
    SiteRenewalRow,
)
from compliance.service.driver import Fixed
from compliance.service.tables import PrincipalRow, SiteRow
from compliance.wire import Role

_PRINCIPALS: Final = PrincipalRow.__table__.c
_LIMITS: Final = RoleSiteRow.__table__.c
_APPOINTMENTS: Final = AppointmentRow.__table__.c
_FORMER_TOKENS: Final = FormerTokenRow.__table__.c
_SESSIONS: Final = SessionRow.__table__.c
_SITES: Final = SiteRow.__table__.c
_RENEWALS: Final = SiteRenewalRow.__table__.c

_AFTER: Final = len("site:") + 1
"""Where the site's name begins in its principal's; SQL counts from one."""


def hash_token(token: str) -> str:
    """What is stored of a token: hexadecimal SHA-256. Enough, because tokens have 256 bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def parse_roles(text: str) -> tuple[Role, ...]:
    """Roles as the database stores them."""
    return cast(tuple[Role, ...], tuple(text.split(",")))


def parse_time(text: str | None) -> datetime | None:
    """A stored time, or None."""
    return None if text is None else datetime.fromisoformat(text)


_FIELDS: Final = (
    select(
        _PRINCIPALS.name,
        _PRINCIPALS.roles,
        _PRINCIPALS.expires_at,
        _PRINCIPALS.revoked_at,
        _LIMITS.role,
        _LIMITS.site,
        and_(_APPOINTMENTS.principal.is_not(None), _APPOINTMENTS.confirmed_at.is_(None)),
        _SITES.certificate,
        _RENEWALS.former_certificate,
    )
    .select_from(PrincipalRow.__table__)
    .outerjoin(RoleSiteRow.__table__, _LIMITS.principal == _PRINCIPALS.name)
    .outerjoin(AppointmentRow.__table__, _APPOINTMENTS.principal == _PRINCIPALS.name)
    .outerjoin(
        SiteRow.__table__,
        and_(_PRINCIPALS.roles == "site", _SITES.name == func.substr(_PRINCIPALS.name, _AFTER)),
    )
    .outerjoin(SiteRenewalRow.__table__, _RENEWALS.site == _SITES.name)
    .order_by(_PRINCIPALS.name)
)

# Every call asks the first two.
_BY_NAME: Final = Fixed(_FIELDS.where(_PRINCIPALS.name == bindparam("name")))
_BY_KEY: Final = Fixed(_FIELDS.where(_PRINCIPALS.token_sha256 == bindparam("token_sha256")))
_FORMER: Final = Fixed(
    select(_FORMER_TOKENS.principal, _FORMER_TOKENS.works_until).where(
        _FORMER_TOKENS.token_sha256 == bindparam("token_sha256")
    )
)
_SESSION: Final = Fixed(
    select(_SESSIONS.principal, _SESSIONS.expires_at, _SESSIONS.ended_at).where(
        _SESSIONS.token_sha256 == bindparam("token_sha256")
    )
)


def find_bearers(session: Session, *conditions: ColumnElement[bool]) -> list[rules.Bearer]:
    """All principals that meet the conditions, by name."""
    return _bearers(session.execute(_FIELDS.where(*conditions)))


def find_bearer(database: Session | Connection, name: str) -> rules.Bearer | None:
    """A principal by name."""
    return _one(_bearers(_BY_NAME.run(database, {"name": name}).fetchall()))


def find_by_key(database: Session | Connection, token_sha256: str) -> rules.Bearer | None:
    """Whoever a key belongs to, whether or not it still works."""
    key = {"token_sha256": token_sha256}
    bearer = _one(_bearers(_BY_KEY.run(database, key).fetchall()))
    if bearer is None:
        opened = _SESSION.run(database, key).fetchone()
        if opened is not None:
            principal, expires_at, ended_at = opened
            ends_at = min(expires_at, ended_at or expires_at)
            bearer = _until(find_bearer(database, principal), ends_at)
    if bearer is None:
        former = _FORMER.run(database, key).fetchone()
        if former is not None:
            principal, works_until = former
            bearer = _until(find_bearer(database, principal), works_until)
    return None if bearer is None else replace(bearer, credential=token_sha256)


def _bearers(rows: Iterable[Any]) -> list[rules.Bearer]:
    found: dict[str, rules.Bearer] = {}
    for name, roles, expires_at, revoked_at, role, site, waits, *certificates in rows:
        bearer = found.get(name)
        if bearer is None:
            bearer = rules.Bearer(
                name=name,
                roles=frozenset(parse_roles(roles)),
                expires_at=parse_time(expires_at),
                revoked_at=parse_time(revoked_at),
                confirmed=not waits,
                certificates=tuple(pem for pem in certificates if pem is not None),
            )
        if role is not None:
            bearer = replace(bearer, limits=bearer.limits | {(cast(Role, role), site)})
        found[name] = bearer
    return list(found.values())


def find_again(session: Session, bearer: rules.Bearer) -> rules.Bearer | None:
    """The same caller, as things stand now."""
    if bearer.credential:
        return find_by_key(session, bearer.credential)
    return find_bearer(session, bearer.name)


def _until(bearer: rules.Bearer | None, ends_at: str) -> rules.Bearer | None:
    """The bearer of a key that ends by itself: at the earlier of its end and the principal's."""
    if bearer is None:
        return None
    end = datetime.fromisoformat(ends_at)
    return replace(bearer, expires_at=min(end, bearer.expires_at or end))


def _one(bearers: Sequence[rules.Bearer]) -> rules.Bearer | None:
    return bearers[0] if bearers else None
