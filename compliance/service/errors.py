"""What a request may fail with, and the HTTP status of each failure.

```
Denied                  a rule said no; carries the rule's own code       401 403 409 422
ServiceUnavailable      the action or its audit entry cannot be stored    503
TooLarge                more octets than the operation takes              413
TooSlow                 the sender stopped sending                        408
UnsupportedCoding       a body that was compressed                        415
TooManyAttempts         many failed attempts from one address             429
└── TooManyCalls        more calls than anybody needs                     429
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
from audit.key_manager import KeyringUnavailable
from compliance import rules


class Denied(FiduciaryError):
    """A rule of `compliance.rules` said no."""

    code = "denied"

    def __init__(self, refusal: rules.Refused) -> None:
        super().__init__(refusal.reason, fix=refusal.fix)
        self.refusal = refusal


class ServiceUnavailable(FiduciaryError):
    """The database or the log cannot take the change. Nothing was done, or all of it was.

    Args:
        message: See `FiduciaryError`.
        fix: See `FiduciaryError`.
        passing: The next attempt may succeed.
        may_have_happened: It failed while it was committed.
    """

    exit_code = ExitCode.UNREACHABLE
    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        fix: str = "",
        passing: bool = False,
        may_have_happened: bool = False,
    ) -> None:
        super().__init__(message, fix=fix)
        self.passing = passing
        self.may_have_happened = may_have_happened


class TooLarge(FiduciaryError):
    """A body with more octets than the operation takes."""

    code = "too-large"


class TooSlow(FiduciaryError):
    """A body whose sender stopped sending."""

    code = "too-slow"


class UnsupportedCoding(FiduciaryError):
    """A body in a content coding, such as gzip."""

    code = "unsupported-coding"


class TooManyAttempts(FiduciaryError):
    """Many failed attempts from one address; the present one was not looked at closely."""

    code = "too-many-attempts"


class TooManyCalls(TooManyAttempts):
    """More calls than anybody needs, from one address or principal; the present one was not made.

    Args:
        noted_before: The log says already that there were too many.
    """

    code = "too-many-calls"

    def __init__(self, *, noted_before: bool) -> None:
        super().__init__("too many calls in one minute", fix="wait a minute, and call less often")
        self.noted_before = noted_before


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
    (UnsupportedCoding, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
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
