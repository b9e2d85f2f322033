"""What a request may fail with, and the HTTP status of each failure.

```
Denied                  a rule said no; carries the rule's own code       401 403 409 422
ServiceUnavailable      the action or its audit entry cannot be stored    503
TooLarge                more octets than the operation takes              413
TooSlow                 the sender stopped sending                        408
TooManyAttempts         many failed attempts from one address             429
```

* `problem_type` is what the wire shows as the problem's type: the nearest class that every caller
  knows (`audit.errors`); `reason` is the stable code of the exact cause.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from audit.errors import (
    Conflict,
    ExitCode,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    VerificationFailed,
)
from audit.keyring import KeyringUnavailable
from compliance import rules


class Denied(FiduciaryError):
    """A rule of `compliance.rules` said no."""

    code = "denied"

    def __init__(self, refusal: rules.Refused) -> None:
        super().__init__(refusal.reason, fix=refusal.fix)
        self.refusal = refusal


class ServiceUnavailable(FiduciaryError):
    """The database or the log cannot take the change. Nothing was done, or all of it was."""

    exit_code = ExitCode.UNREACHABLE
    code = "unavailable"


class TooLarge(FiduciaryError):
    """A body with more octets than the operation takes."""

    code = "too-large"


class TooSlow(FiduciaryError):
    """A body whose sender stopped sending."""

    code = "too-slow"


class TooManyAttempts(FiduciaryError):
    """Many failed attempts from one address; the present one was not looked at closely."""

    code = "too-many-attempts"


_RULE_STATUS: Final[dict[rules.Status, tuple[HTTPStatus, str]]] = {
    "unauthorised": (HTTPStatus.UNAUTHORIZED, Unauthorised.code),
    "forbidden": (HTTPStatus.FORBIDDEN, Unauthorised.code),
    "refused": (HTTPStatus.FORBIDDEN, Refused.code),
    "conflict": (HTTPStatus.CONFLICT, Conflict.code),
    "malformed": (HTTPStatus.UNPROCESSABLE_ENTITY, MalformedInput.code),
}

_CLASS_STATUS: Final[tuple[tuple[type[FiduciaryError], HTTPStatus], ...]] = (
    (ServiceUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (KeyringUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (TooSlow, HTTPStatus.REQUEST_TIMEOUT),
    (TooManyAttempts, HTTPStatus.TOO_MANY_REQUESTS),
    (Refused, HTTPStatus.FORBIDDEN),
    (Unauthorised, HTTPStatus.UNAUTHORIZED),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (MalformedInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (VerificationFailed, HTTPStatus.UNPROCESSABLE_ENTITY),
)


def classify(error: FiduciaryError) -> tuple[HTTPStatus, str, str]:
    """Status, problem type and exact reason code of an error."""
    if isinstance(error, Denied):
        status, problem_type = _RULE_STATUS[error.refusal.status]
        return status, problem_type, error.refusal.code
    for kind, status in _CLASS_STATUS:
        if isinstance(error, kind):
            return status, kind.code, error.code
    return HTTPStatus.INTERNAL_SERVER_ERROR, FiduciaryError.code, error.code


def enforce(ruling: rules.Ruling) -> None:
    """Go on when a rule allows it.

    Raises:
        Denied: When it does not.
    """
    if isinstance(ruling, rules.Refused):
        raise Denied(ruling)
