"""What travels about identity and keys, for both ends of the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compliance.resources import Answer, RequestBody
from compliance.statements import Name, Time
from compliance.wire import ASSIGNABLE_ROLES, Role

DEFAULT_OVERLAP_HOURS = 24
"""Long enough to bring the new key to where the old one is used, on a working day."""

MAX_OVERLAP_HOURS = 168


class RotationBody(RequestBody):
    """How long the key that is replaced goes on working."""

    overlap_hours: Annotated[int, Field(ge=0, le=MAX_OVERLAP_HOURS)] = DEFAULT_OVERLAP_HOURS


class NewKey(Answer):
    """A key that was just made; `token` is shown this once.

    Attributes:
        name: Whose it is.
        token: The key.
        former_works_until: When the key that it replaces ends; None when it has ended.
        position: The log entry that says so.
    """

    name: str
    token: str
    former_works_until: Time | None
    position: int


class IdentityView(Answer):
    """Who calls, as the service sees it.

    Attributes:
        name: The principal.
        roles: What it may do.
        sites: By role, the sites to which it is limited; a role that is not in it is not limited.
        expires_at: When the key or session that was shown ends; None when it does not by itself.
    """

    name: str
    roles: tuple[Role, ...]
    sites: dict[Role, tuple[str, ...]]
    expires_at: Time | None


class LoginBody(RequestBody):
    """How a login comes back: to a loopback address (RFC 8252 section 7.3), with PKCE."""

    redirect_uri: Annotated[
        str, Field(pattern=r"^http://127\.0\.0\.1:[1-9][0-9]{0,4}/callback$", max_length=64)
    ]
    code_challenge: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]


class LoginBegun(Answer):
    """Where a person logs in, and what to come back with.

    Attributes:
        authorization_url: At the login provider.
        ticket: To be handed in with the provider's code.
        state: What the provider's answer must repeat.
        expires_at: When it is too late.
    """

    authorization_url: str
    ticket: str
    state: str
    expires_at: Time


class SessionBody(RequestBody):
    """The provider's code, and the proof that it was asked for here."""

    ticket: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.[0-9a-f]{64}$", max_length=2000)]
    state: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    code: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$", max_length=4000)]
    code_verifier: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{43,128}$")]


class NewSession(IdentityView):
    """A session that was just opened; `token` is shown this once.

    Attributes:
        confirmed: False while a second officer must confirm that this person is one.
    """

    confirmed: bool
    token: str
    position: int


class SessionEnded(Answer):
    """The log entry that says that a session was ended."""

    position: int


class PrincipalBody(RequestBody):
    """A new principal. With `sites`, its roles hold for these alone."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?$")]
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(ASSIGNABLE_ROLES))]
    sites: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    expires_at: Time | None = None


class PrincipalView(Answer):
    """One principal. Tokens are never shown again.

    Attributes:
        sites: By role, the sites to which it is limited; a role that is not in it is not limited.
        confirmed: False while an officer's appointment waits for a second officer.
        last_used_at: About when it called last.
    """

    name: str
    roles: tuple[Role, ...]
    sites: dict[Role, tuple[str, ...]] = Field(default={})
    created_by: str
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    confirmed: bool = True
    last_used_at: Time | None = None


class NewPrincipal(PrincipalView):
    """A principal that was just made; `token` is shown this once."""

    position: int
    token: str
