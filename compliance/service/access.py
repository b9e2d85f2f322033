"""What an operation declares of itself: who may call it, and how.

* An operation that declares nothing has no access: nothing is open by omission.
* `compliance.service.gate` enforces what is declared here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from compliance.service.request import MAX_JSON_BYTES
from compliance.wire import Role

_ACCESS: Final = "__fiduciary_access__"
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Access:
    """Who may call an operation and how.

    Attributes:
        roles: Any of these; empty for everybody, known or not.
        streams: The operation reads the body itself, piece by piece.
        by_site: For a role that is limited to sites, the operation itself shows and changes what
            concerns them alone. Without it, a limited role is not enough.
        max_body_bytes: The most that the body may have.
        own_transactions: It makes several transactions, or does something once its transaction is
            durable (destroys a key, sends a message). Others are committed when they have returned,
            if the call has an idempotency key.
        token_alone: A site calls it before it has its certificate.
    """

    roles: tuple[Role, ...]
    streams: bool = False
    max_body_bytes: int = MAX_JSON_BYTES
    by_site: bool = False
    own_transactions: bool = False
    token_alone: bool = False


ANY_ROLE: Final[tuple[Role, ...]] = ("coordinator", "site", "officer", "auditor", "consumer")


def requires(
    *roles: Role,
    streams: bool = False,
    max_body_bytes: int = MAX_JSON_BYTES,
    by_site: bool = False,
    own_transactions: bool = False,
    token_alone: bool = False,
) -> Callable[[_Endpoint], _Endpoint]:
    """Declare which roles an operation needs any of, and whether it narrows itself to sites."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        access = Access(roles, streams, max_body_bytes, by_site, own_transactions, token_alone)
        setattr(endpoint, _ACCESS, access)
        return endpoint

    return declare


def public(endpoint: _Endpoint) -> _Endpoint:
    """Declare that an operation needs no bearer token."""
    setattr(endpoint, _ACCESS, Access(()))
    return endpoint


def public_counted(endpoint: _Endpoint) -> _Endpoint:
    """Declare that an operation needs no bearer token, and that its refusals leave something.

    What it counts is durable before it refuses, also when the call carries an idempotency key: a
    guess that cost nothing could be repeated for ever.
    """
    setattr(endpoint, _ACCESS, Access((), own_transactions=True))
    return endpoint


def public_form(max_body_bytes: int) -> Callable[[_Endpoint], _Endpoint]:
    """Declare that an operation needs no bearer token and reads a form of so many bytes itself."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _ACCESS, Access((), streams=True, max_body_bytes=max_body_bytes))
        return endpoint

    return declare


def access_of(endpoint: Callable[..., Any]) -> Access:
    """What an operation declared.

    Raises:
        TypeError: When it declared nothing: nothing is open by omission.
    """
    access = getattr(endpoint, _ACCESS, None)
    if not isinstance(access, Access):
        raise TypeError(f"{endpoint.__name__} declares neither @requires(...) nor @public")
    return access
