"""Calls about identity and keys; `ComplianceClient.access` makes them."""

from __future__ import annotations

from compliance.access_views import (
    DEFAULT_OVERLAP_HOURS,
    IdentityView,
    LoginBegun,
    LoginBody,
    NewKey,
    NewSession,
    PrincipalView,
    RotationBody,
    SessionBody,
    SessionEnded,
)
from compliance.session import ComplianceSession, make_body, parse_answer, path_segment


class AccessCalls:
    """Who calls, and with which keys."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    def identity(self) -> IdentityView:
        """Who the caller is (everybody with a token)."""
        return self._session.fetch("/v1/identity", IdentityView)

    def rotate(self, name: str, *, overlap_hours: int = DEFAULT_OVERLAP_HOURS) -> NewKey:
        """Replace a key: one's own, or as an officer that of somebody who is none.

        Args:
            name: Whose key.
            overlap_hours: How long the present key goes on working; 0 ends all earlier keys now.
        """
        path = f"/v1/principals/{path_segment(name)}/rotation"
        body = make_body(RotationBody, overlap_hours=overlap_hours)
        return self._session.send("POST", path, body, NewKey)

    def confirm(self, name: str) -> PrincipalView:
        """Confirm an officer whom another officer appointed (officer)."""
        path = f"/v1/principals/{path_segment(name)}/confirmation"
        return parse_answer(PrincipalView, self._session.request("POST", path))

    def begin_login(self, *, redirect_uri: str, code_challenge: str) -> LoginBegun:
        """Begin a login (needs no token).

        Args:
            redirect_uri: `http://127.0.0.1:PORT/callback`, where the answer is waited for.
            code_challenge: RFC 7636, by S256.
        """
        body = make_body(LoginBody, redirect_uri=redirect_uri, code_challenge=code_challenge)
        return self._session.send("POST", "/v1/logins", body, LoginBegun)

    def finish_login(self, begun: LoginBegun, *, code: str, code_verifier: str) -> NewSession:
        """End a login: the provider's code for a session (needs no token)."""
        body = make_body(
            SessionBody,
            ticket=begun.ticket,
            state=begun.state,
            code=code,
            code_verifier=code_verifier,
        )
        return self._session.send("POST", "/v1/sessions", body, NewSession)

    def log_out(self) -> SessionEnded:
        """End the session by which this client calls."""
        return parse_answer(SessionEnded, self._session.request("DELETE", "/v1/session"))
