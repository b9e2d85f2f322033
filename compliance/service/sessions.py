"""What a person who logged in gets: a principal, roles, and a session.

* A person is the provider's identifier (`iss` and `sub`), kept as an HMAC. A name that another
  principal has is refused, so that nobody becomes somebody by choosing a name at the provider; a
  person who gets another name there keeps the first one here.
* Roles are set anew by each login, from the person's groups, in the transaction that opens the
  session. Who becomes an officer that way waits for one who is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import delete

from compliance import rules
from compliance.rules.logins import login_refused, may_log_in, widens
from compliance.service.access_tables import (
    AppointmentRow,
    PersonRow,
    RoleSiteRow,
    SessionRow,
    SpentLoginRow,
)
from compliance.service.errors import Denied, enforce
from compliance.service.identities import find_bearer, hash_token
from compliance.service.login import Person, Ticket
from compliance.service.registry import Transaction, new_token
from compliance.service.tables import PrincipalRow
from compliance.statements import format_time

SESSION_PREFIX: Final = "fses_"

MADE_BY: Final = "oidc"
"""Stands for the provider where a principal is named that made another one."""

_KEPT_AFTER_END: Final = timedelta(days=1)


@dataclass(frozen=True)
class Opened:
    """A session that was just opened."""

    bearer: rules.Bearer
    token: str
    expires_at: str
    position: int


def open_session(
    transaction: Transaction,
    ticket: Ticket,
    person: Person,
    lasting: timedelta,
    officers: Callable[[Transaction], list[rules.Bearer]],
) -> Opened:
    """Spend the ticket and open a session for a person, whose roles are set anew.

    Raises:
        Denied: When the ticket was spent, or the person may not log in.
    """
    session = transaction.session
    if session.get(SpentLoginRow, ticket.login_id) is not None:
        raise Denied(login_refused("login-replayed"))
    row = session.get(PersonRow, person.tag)
    name = person.bearer.name if row is None else row.principal
    known = find_bearer(session, name)
    enforce(may_log_in(person.bearer, known=known, same_person=row is not None))
    transaction.actor = name
    confirmed = known is None or known.confirmed
    if widens(known, person.bearer):
        confirmed = not rules.needs_confirmation(person.bearer, MADE_BY, officers(transaction))
    elif not person.bearer.holds("officer"):
        confirmed = True
    bearer = rules.Bearer(
        name, person.bearer.roles, limits=person.bearer.limits, confirmed=confirmed
    )
    token = SESSION_PREFIX + new_token().removeprefix("fid_")
    expires_at = format_time(transaction.now + lasting)
    position = transaction.record(
        "session.opened",
        f"principal:{name}",
        {
            "roles": sorted(bearer.roles),
            "sites": sorted(f"{role}@{site}" for role, site in bearer.limits),
            "confirmed": confirmed,
            "first": known is None,
            "expires_at": expires_at,
        },
    )
    _set_roles(transaction, known, bearer)
    if row is None:
        session.add(PersonRow(tag=person.tag, principal=name))
    session.add(SpentLoginRow(login_id=ticket.login_id, expires_at=format_time(ticket.expires_at)))
    session.add(
        SessionRow(
            token_sha256=hash_token(token),
            principal=name,
            opened_at=transaction.time,
            expires_at=expires_at,
        )
    )
    _forget_old(transaction)
    return Opened(bearer, token, expires_at, position)


def _set_roles(transaction: Transaction, known: rules.Bearer | None, bearer: rules.Bearer) -> None:
    session, name = transaction.session, bearer.name
    roles = ",".join(sorted(bearer.roles))
    if known is None:
        session.add(
            PrincipalRow(
                name=name,
                roles=roles,
                token_sha256=hash_token(new_token()),  # nobody has it: this one has sessions alone
                created_by=MADE_BY,
                created_at=transaction.time,
            )
        )
        session.flush()
    else:
        session.get_one(PrincipalRow, name).roles = roles
        session.execute(delete(RoleSiteRow).where(RoleSiteRow.principal == name))
    session.add_all(
        RoleSiteRow(principal=name, role=role, site=site) for role, site in sorted(bearer.limits)
    )
    appointment = session.get(AppointmentRow, name)
    if bearer.confirmed:
        if appointment is not None and appointment.confirmed_at is None:
            session.delete(appointment)
    elif appointment is None or appointment.confirmed_at is not None:
        row = appointment or AppointmentRow(principal=name)
        row.proposed_by, row.proposed_at = MADE_BY, transaction.time
        row.confirmed_by = row.confirmed_at = None
        session.add(row)


def _forget_old(transaction: Transaction) -> None:
    """What ended long ago lets nobody in; the log says that it was there."""
    past = format_time(transaction.now - _KEPT_AFTER_END)
    for row in (SessionRow, SpentLoginRow):
        transaction.session.execute(delete(row).where(row.expires_at < past))
