"""Logging in by the login provider, and out.

Both operations of a login are public: whoever logs in has no token yet.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from compliance import rules
from compliance.access_views import LoginBegun, LoginBody, NewSession, SessionBody, SessionEnded
from compliance.service.access import ANY_ROLE, public, requires
from compliance.service.access_tables import SessionRow
from compliance.service.call import Caller, Office
from compliance.service.errors import Denied
from compliance.service.gate import GatedRoute
from compliance.service.login import LoginDesk
from compliance.service.registry import Registry
from compliance.service.routes.principals import limits_by_role, present_officers
from compliance.service.sessions import open_session
from compliance.statements import format_time

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["logins"])


@router.post("/logins", status_code=201)
@public
def begin_login(body: LoginBody, office: Office) -> LoginBegun:
    """Begin a login: where to log in, and the ticket to come back with."""
    address, ticket, state, expires_at = _desk(office).begin(body.redirect_uri, body.code_challenge)
    return LoginBegun(
        authorization_url=address, ticket=ticket, state=state, expires_at=format_time(expires_at)
    )


@router.post("/sessions", status_code=201)
@public
def finish_login(body: SessionBody, office: Office) -> NewSession:
    """End a login: the provider's code for a session. The answer holds its token, this once."""
    desk = _desk(office)
    ticket = desk.read_ticket(body.ticket, body.state, body.code_verifier)
    person = desk.identify(ticket, body.code, body.code_verifier)
    with office.writing(None) as transaction:
        opened = open_session(transaction, ticket, person, desk.session, present_officers)
    return NewSession(
        name=opened.bearer.name,
        roles=tuple(sorted(opened.bearer.roles)),
        sites=limits_by_role(opened.bearer),
        expires_at=opened.expires_at,
        confirmed=opened.bearer.confirmed,
        token=opened.token,
        position=opened.position,
    )


@router.delete("/session")
@requires(*ANY_ROLE, by_site=True)
def log_out(office: Office, caller: Caller) -> SessionEnded:
    """End the session by which the caller calls. Its token is dead when this is answered."""
    with office.writing(caller) as transaction:
        row = transaction.session.get(SessionRow, caller.credential)
        if row is None:
            raise Denied(
                rules.Refused(
                    "no-session",
                    "the token that was shown is a key, not a session",
                    "to end a key: `compliance principals rotate NAME --overlap-hours 0`",
                    "conflict",
                )
            )
        row.ended_at = transaction.time
        position = transaction.record("session.ended", f"principal:{caller.name}", {})
    return SessionEnded(position=position)


def _desk(office: Registry) -> LoginDesk:
    if office.login is None:
        raise Denied(
            rules.Refused(
                "login-not-offered",
                "this service knows no login provider",
                "use a token, or add an [oidc] section to compliance.toml (docs/access.md)",
                "conflict",
            )
        )
    return office.login
