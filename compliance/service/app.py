"""The compliance service as an ASGI application."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from compliance.service.connections import Turns
from compliance.service.problems import install_error_handlers
from compliance.service.registry import Registry
from compliance.service.routes import (
    aliases,
    breaches,
    erasure_cases,
    grants,
    log,
    log_entries,
    logins,
    plans,
    principals,
    public_requests,
    recalls,
    releases,
    service,
    sites,
    subject_pages,
    subject_parts,
    subject_requests,
)
from compliance.service.routes import reports as report_routes
from compliance.service.routes import retention as retention_routes
from compliance.service.routes import subjects as subject_routes
from compliance.service.routes import witnesses as witness_routes

TITLE: Final = "Fiduciary compliance service"
VERSION: Final = "0.1.0"

SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
}


_HEADERS: Final = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def create_app(registry: Registry) -> FastAPI:
    """The application over one registry. Nothing is opened or closed by it."""
    app = FastAPI(
        title=TITLE,
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.registry = registry
    app.state.turns = Turns()
    app.state.routes = []
    for module in (
        service,
        sites,
        plans,
        releases,
        grants,
        aliases,
        recalls,
        subject_routes,
        erasure_cases,
        principals,
        logins,
        log,
        log_entries,
        witness_routes,
        retention_routes,
        breaches,
        subject_requests,
        subject_parts,
        public_requests,
        subject_pages,
        report_routes,
    ):
        # Not `include_router`: it makes the operation's handler anew for each call.
        app.router.routes.extend(module.router.routes)
        app.state.routes.extend(module.router.routes)
    install_error_handlers(app)
    app.add_middleware(SecurityHeaders)
    return app


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the bearer scheme that the gate enforces."""
    document = get_openapi(title=TITLE, version=VERSION, routes=app.routes)
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    _close_maps(document)
    return document


def _close_maps(schema: Any) -> None:
    """Say of objects whose names follow a pattern that they have no other names."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close_maps(part)
    elif isinstance(schema, list):
        for part in schema:
            _close_maps(part)


class SecurityHeaders:
    """Adds headers that keep answers out of caches, frames and guesses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, adding the headers to the answer's start."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in message["headers"]}
                # A page names what it may load itself.
                message["headers"] += [one for one in _HEADERS if one[0] not in named]
            await send(message)

        await self._app(scope, receive, send_with_headers)
