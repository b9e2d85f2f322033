"""The gate that every request passes: who may call, and how much they may send.

* An operation declares its access (`compliance.service.access`); one that declares none cannot be
  registered. Identity and role are checked before one octet of the body is read.
* A query parameter that the operation does not know, or that comes twice, is refused.
* How a refusal is answered and written down is in `compliance.service.problems`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from audit.errors import FiduciaryError, MalformedInput
from compliance import rules
from compliance.service import idempotency
from compliance.service.access import Access, access_of
from compliance.service.call import address_of, registry_of, turns_of
from compliance.service.errors import Denied, TooManyCalls, UnsupportedCoding, enforce
from compliance.service.problems import PROBLEMS, on_unexpected_error
from compliance.service.request import StrictRequest
from compliance.service.site_certificates import PEER_CERTIFICATE
from compliance.service.throttle import Verdict
from compliance.statements import field_path


class GatedRoute(APIRoute):
    """A route behind the gate."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        access = access_of(endpoint)
        extra: dict[str, Any] = options.get("openapi_extra") or {}
        if access.roles:
            extra["security"] = [{"bearer": []}]
            extra["x-roles"] = list(access.roles)
        if _is_keyed(access, options.get("methods")):
            extra["parameters"] = [*extra.get("parameters", ()), idempotency.PARAMETER]
        endpoint = idempotency.answering_once(
            endpoint, lambda: self, repeats=not access.own_transactions
        )
        options["openapi_extra"] = extra
        options["responses"] = {**PROBLEMS, **(options.get("responses") or {})}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The operation, behind identity, role and body limits."""
        access = access_of(self.endpoint)
        keyed = _is_keyed(access, self.methods)
        operation = super().get_route_handler()
        parameters = _query_parameters(self.dependant)

        async def pass_gate(request: Request) -> Response:
            registry, turns, address = (
                registry_of(request),
                turns_of(request),
                address_of(request),
            )
            if not access.roles:
                _limit(registry.rates.visited(address, request.method, registry.clock()))
            else:
                async with turns.of(address):
                    bearer = await run_in_threadpool(
                        registry.identify,
                        _bearer_token(request),
                        request.scope.get("state", {}).get(PEER_CERTIFICATE),
                        token_alone=access.token_alone,
                    )
                request.state.bearer = bearer
                _limit(registry.rates.called(bearer.name, registry.clock()))
                enforce(rules.may_call(bearer, access.roles, by_site=access.by_site))
            _check_query(request, parameters)
            _check_coding(request)
            strict = StrictRequest(request, access.max_body_bytes)
            if not access.streams and request.method != "GET":
                await strict.load()
            if not keyed:
                async with turns.of(address):
                    return await operation(strict)
            body = await strict.body()
            name = getattr(getattr(request.state, "bearer", None), "name", "")
            joins = not access.own_transactions
            async with turns.of(address):
                with idempotency.keyed_call(request, registry, name, body, joins=joins):
                    return await operation(strict)

        async def handle(request: Request) -> Response:
            try:
                return await pass_gate(request)
            except (FiduciaryError, RequestValidationError, HTTPException):
                raise
            except Exception as error:  # noqa: BLE001  the web server would print its message
                return on_unexpected_error(request, error)

        return handle


def _is_keyed(access: Access, methods: Collection[str] | None) -> bool:
    """Whether calls may carry an idempotency key; a stream's content says itself what it is."""
    return not access.streams and "GET" not in (methods or ())


def _query_parameters(dependant: Dependant) -> frozenset[str]:
    """The names that an operation's query may have."""
    names: set[str] = set()
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names.update(kind.model_fields)
        else:
            names.add(field.alias)
    return frozenset(names).union(*map(_query_parameters, dependant.dependencies))


def _check_query(request: Request, known: frozenset[str]) -> None:
    """Refuse a query that would be understood in part: a filter that is ignored shows too much.

    Raises:
        MalformedInput: With the parameter that is unknown or given twice.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    takes = f"this takes {', '.join(sorted(known)) or 'no parameters'}"
    for name in names:
        if name not in known:
            where = field_path(("query", name), known)
            raise MalformedInput(f"malformed request: {where}: unknown parameter", fix=takes)
        if names.count(name) > 1:
            raise MalformedInput(f"malformed request: query.{name}: given twice", fix=takes)


def _check_coding(request: Request) -> None:
    """Refuse a compressed body: a small one may unpack to any size, and no caller needs it.

    Raises:
        UnsupportedCoding: RFC 9110 §8.4, §15.5.16.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedCoding("bodies are taken as they are, not compressed")


def _bearer_token(request: Request) -> str | None:
    """The token that a request shows, if it shows exactly one.

    Raises:
        Denied: When it shows two: whoever stands between may have read the other one.
    """
    shown = request.headers.getlist("authorization")
    if len(shown) > 1:
        raise Denied(rules.TWO_TOKENS)
    scheme, _, token = "".join(shown).partition(" ")
    # Spaces alone are cut off: Unicode has more, and a token with one of them is another token.
    return token.strip(" ") if scheme.lower() == "bearer" else None


def _limit(verdict: Verdict) -> None:
    if verdict is not Verdict.ANSWER:
        raise TooManyCalls(noted_before=verdict is Verdict.LIMIT)
