"""The gate that every request passes: who may call, how much they may send, what is written down.

* An operation declares its access (`@requires(...)`, `@public`); one that declares none cannot be
  registered. Identity and role are checked before one octet of the body is read.
* A query parameter that the operation does not know, or that comes twice, is refused by name.
* A refusal of a declared operation is itself a log entry, made before the refusal is answered; if
  it cannot be made the answer is 503. Reads refused as 404 or 422 are not written down: they were
  no attempt at anything.
* Every error is problem+json (RFC 9457). It never holds a token, nor what the sender sent beyond
  the name of a field.
"""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from audit.errors import FiduciaryError, MalformedInput
from compliance import rules
from compliance.api import PROBLEM_PREFIX
from compliance.resources import Problem, Role
from compliance.service import idempotency
from compliance.service.connections import Turns
from compliance.service.errors import (
    Denied,
    ServiceUnavailable,
    TooManyAttempts,
    TooManyCalls,
    UnsupportedCoding,
    classify,
    enforce,
)
from compliance.service.log_index import topics_of_path
from compliance.service.process_log import event, logger
from compliance.service.registry import Registry
from compliance.service.request import MAX_JSON_BYTES, StrictRequest
from compliance.service.site_certificates import PEER_CERTIFICATE
from compliance.service.throttle import WINDOW, Verdict

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

ALWAYS_RECORDED: Final = frozenset({401, 403, 409, 429})
"""Refusals that are log entries whatever the method; the other 4xx are for methods that change."""

_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status in (401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503)
}

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
        options["responses"] = {**_PROBLEMS, **(options.get("responses") or {})}
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
                _turns_of(request),
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
                return _on_unexpected_error(request, error)

        return handle


def _is_keyed(access: Access, methods: Collection[str] | None) -> bool:
    """Whether calls may carry an idempotency key; a stream's content says itself what it is."""
    return not access.streams and "GET" not in (methods or ())


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
        MalformedInput: With the name of the parameter that is unknown or given twice.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    takes = f"this takes {', '.join(sorted(known)) or 'no parameters'}"
    for name in names:
        if name not in known:
            raise MalformedInput(
                f"malformed request: query.{name[:40]}: unknown parameter", fix=takes
            )
        if names.count(name) > 1:
            raise MalformedInput(f"malformed request: query.{name}: given twice", fix=takes)


def _check_coding(request: Request) -> None:
    """Refuse a compressed body: a small one may unpack to any size, and no caller needs it.

    Raises:
        UnsupportedCoding: RFC 9110 §8.4, §15.5.16.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedCoding("bodies are taken as they are, not compressed")


def _turns_of(request: Request) -> Turns:
    turns = request.app.state.turns
    if not isinstance(turns, Turns):
        raise TypeError("the application gives no turns")
    return turns


def address_of(request: Request) -> str:
    """Where a request comes from, as far as the connection tells."""
    return request.client.host if request.client else "unknown"


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


# --- errors --------------------------------------------------------------------------------------


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of the application as problem+json, and record refusals."""
    app.add_exception_handler(FiduciaryError, _on_known_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


def _on_known_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, FiduciaryError):
        raise TypeError("expected a FiduciaryError") from error
    status, problem_type, reason = classify(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _report(request, error)
    elif _is_recorded(request, status) and not (
        isinstance(error, TooManyCalls) and error.noted_before
    ):
        try:
            _record_refusal(request, status, reason, str(error))
        except TooManyAttempts as limited:
            return _problem(*classify(limited), str(limited), limited.fix)
        except FiduciaryError as failure:
            _report(request, failure)
            unavailable = ServiceUnavailable(
                "the refusal could not be recorded; nothing was done", fix="try again"
            )
            return _problem(*classify(unavailable), str(unavailable), unavailable.fix)
    return _problem(status, problem_type, reason, str(error), error.fix)


def _on_validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError("expected a RequestValidationError") from error
    return _on_known_error(request, MalformedInput(f"malformed request: {_first_problem(error)}"))


def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError("expected an HTTPException") from error
    status = HTTPStatus(error.status_code)
    response = _problem(status, status.phrase.lower().replace(" ", "-"), "", status.phrase, "")
    response.headers.update(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(_methods_of(request))
    return response


def _methods_of(request: Request) -> list[str]:
    """Every method that the path has; the router names those of the first route only."""
    path = request.scope["path"]
    routes: list[APIRoute] = request.app.state.routes
    matching = (route for route in routes if route.path_regex.fullmatch(path))
    return sorted({method for route in matching for method in route.methods or ()})


def _on_unexpected_error(request: Request, error: Exception) -> Response:
    incident = _report(request, error)
    return _problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        FiduciaryError.code,
        "",
        f"the service failed; it noted the incident {incident}",
        "report the incident to the service's operator",
    )


def _problem(
    status: HTTPStatus, problem_type: str, reason: str, detail: str, fix: str
) -> JSONResponse:
    document: dict[str, Any] = {
        "type": PROBLEM_PREFIX + problem_type,
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    if reason:
        document["reason"] = reason
    if fix:
        document["fix"] = fix
    headers = {
        HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
        HTTPStatus.TOO_MANY_REQUESTS: {"retry-after": str(int(WINDOW.total_seconds()))},
    }.get(status)
    return JSONResponse(document, int(status), headers, PROBLEM_MEDIA_TYPE)


def problem_response(error: FiduciaryError) -> Response:
    """An error as its answer, without an entry: for what anybody may ask without a token."""
    return _problem(*classify(error), str(error), error.fix)


_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,39}|\[key\]")
"""Names as our own fields have them. Others are a caller's words, as a value is."""


def _first_problem(error: RequestValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(_shown(part) for part in problem["loc"] if part != "body") or "body"
    reason = "unknown field" if problem["type"] == "extra_forbidden" else str(problem["msg"])
    return f"{where}: {reason.removeprefix('Value error, ')}"


def _shown(part: int | str) -> str:
    return str(part) if isinstance(part, int) or _FIELD.fullmatch(part) else "?"


def _is_recorded(request: Request, status: HTTPStatus) -> bool:
    if request.scope.get("route") is None:
        return False
    return status in ALWAYS_RECORDED or request.method not in ("GET", "HEAD", "OPTIONS")


def _record_refusal(request: Request, status: HTTPStatus, reason: str, detail: str) -> None:
    """Write a refusal down, as its caller and about its operation.

    Raises:
        TooManyAttempts: When the caller is nobody and failed too often.
        ServiceUnavailable: When it cannot be recorded.
    """
    registry = registry_of(request)
    bearer = getattr(request.state, "bearer", None)
    address = address_of(request)
    if bearer is None or status is HTTPStatus.UNAUTHORIZED:
        verdict = registry.throttle.failed(address, registry.clock())
        if verdict is Verdict.LIMIT:
            raise _too_many()
    else:
        verdict = registry.rates.refused(bearer.name, registry.clock())
        if verdict is Verdict.LIMIT:
            raise _too_many()
    payload = {
        "status": int(status),
        "reason": reason,
        "detail": detail,
        "address": address,
        "about": {name: str(value)[:100] for name, value in request.path_params.items()},
    }
    actor = bearer if status is not HTTPStatus.UNAUTHORIZED else None
    with registry.writing(actor) as transaction:
        limited = verdict is Verdict.LIMIT_AND_LOG
        action = "attempts.limited" if limited else "request.refused"
        about = topics_of_path(_template_of(request), request.path_params)
        transaction.record(
            action,
            f"operation:{operation_of(request)}",
            payload,
            site=about.site,
            plan_id=about.plan,
            release_id=about.release,
        )
    if limited:
        raise _too_many()


def _limit(verdict: Verdict) -> None:
    if verdict is not Verdict.ANSWER:
        raise TooManyCalls(noted_before=verdict is Verdict.LIMIT)


def _too_many() -> TooManyAttempts:
    return TooManyAttempts(
        "too many failed attempts from this address", fix="wait a minute; valid tokens still work"
    )


def operation_of(request: Request) -> str:
    """Method and path template, which hold no identifiers."""
    return f"{request.method} {_template_of(request)}"


def _template_of(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", "(none)"))


def _report(request: Request, error: Exception) -> str:
    """Log a failure: where and what kind, never its message, which may hold values."""
    incident = secrets.token_hex(6)
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
        logger.error(
            "incident %s: %s in %s at %s",
            incident,
            type(cause).__name__,
            operation_of(request),
            places,
            extra=event(
                "request-failed",
                incident=incident,
                error=type(cause).__name__,
                operation=operation_of(request),
            ),
        )
        cause = cause.__cause__
    return incident
