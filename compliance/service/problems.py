"""How the service answers what it refuses or fails at, and what it writes down of it.

* A refusal of a declared operation is itself a log entry, made before the refusal is answered; if
  it cannot be made the answer is 503. Reads refused as 404 or 422 are not written down: they were
  no attempt at anything.
* Every error is problem+json (RFC 9457). It never holds a token, nor what the sender sent beyond
  the name of a field.
"""

from __future__ import annotations

import secrets
import traceback
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from audit.errors import FiduciaryError, MalformedInput
from compliance.resources import Problem
from compliance.service.call import address_of, operation_of, registry_of, template_of
from compliance.service.errors import ServiceUnavailable, TooManyAttempts, TooManyCalls, classify
from compliance.service.log_index import topics_of_path
from compliance.service.process_log import event, logger
from compliance.service.throttle import WINDOW, Verdict
from compliance.session import PROBLEM_PREFIX
from compliance.statements import field_path, problem_reason

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

ALWAYS_RECORDED: Final = frozenset({401, 403, 409, 429})
"""Refusals that are log entries whatever the method; the other 4xx are for methods that change."""

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status in (401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503)
}
"""What every operation may answer, as OpenAPI says it."""


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


def on_unexpected_error(request: Request, error: Exception) -> Response:
    """The answer to a failure that nobody foresaw; what it was is in the process' own log."""
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


def _first_problem(error: RequestValidationError) -> str:
    problem = error.errors()[0]
    source, *inside = problem["loc"]
    # What a path and a query may name is declared, and the gate has refused the rest.
    declared = () if source == "body" else tuple(map(str, inside))
    where = field_path(inside if source == "body" else problem["loc"], declared) or "body"
    return f"{where}: {problem_reason(problem)}"


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
        about = topics_of_path(template_of(request), request.path_params)
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


def _too_many() -> TooManyAttempts:
    return TooManyAttempts(
        "too many failed attempts from this address", fix="wait a minute; valid tokens still work"
    )


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
