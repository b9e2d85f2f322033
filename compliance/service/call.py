"""What is known of the call that an operation serves: by whom, from where, to what."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from compliance import rules
from compliance.service.connections import Turns
from compliance.service.registry import Registry


def registry_of(request: Request) -> Registry:
    """The registry of the application that serves this request."""
    registry = request.app.state.registry
    if not isinstance(registry, Registry):
        raise TypeError("the application has no registry")
    return registry


def caller_of(request: Request) -> rules.Bearer:
    """The principal that the gate identified."""
    bearer = request.state.bearer
    if not isinstance(bearer, rules.Bearer):
        raise TypeError("the operation is public and has no caller")
    return bearer


# FastAPI runs what is not a coroutine in a thread: a dozen times the work of these two.
async def _office(request: Request) -> Registry:
    return registry_of(request)


async def _caller(request: Request) -> rules.Bearer:
    return caller_of(request)


Office = Annotated[Registry, Depends(_office)]
Caller = Annotated[rules.Bearer, Depends(_caller)]


def turns_of(request: Request) -> Turns:
    """The turns that the application gives."""
    turns = request.app.state.turns
    if not isinstance(turns, Turns):
        raise TypeError("the application gives no turns")
    return turns


def address_of(request: Request) -> str:
    """Where a request comes from, as far as the connection tells."""
    return request.client.host if request.client else "unknown"


def operation_of(request: Request) -> str:
    """Method and path template, which hold no identifiers."""
    return f"{request.method} {template_of(request)}"


def template_of(request: Request) -> str:
    """The template of its path."""
    return str(getattr(request.scope.get("route"), "path", "(none)"))
