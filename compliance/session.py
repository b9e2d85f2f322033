"""How a call to the compliance service is made and its answer read.

* TLS trusts the one certificate of `trust.json`; proxies and the environment are ignored.
* A client certificate that is replaced while the session lasts is shown from the next call on.
* Every failure is one of `audit.errors`, with the service's own reason; a token is never in it.
* Connection attempts are repeated. A request that changes something carries an idempotency key of
  its own and is repeated, too, when its answer was lost: the service does it once. What names
  itself, as a signed statement does by its digest, is recorded once without a key. Others are not
  repeated.
"""

from __future__ import annotations

import secrets
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    NotFound,
    Refused,
    Unauthorised,
    Unreachable,
    VerificationFailed,
)
from audit.statement import SignedStatement
from compliance.resources import DecisionBody, Recorded, StatementBody
from compliance.statements import first_problem
from compliance.trust import Trust

PROBLEM_PREFIX: Final = "urn:fiduciary:problem:"
"""Every problem `type` is this and the stable `code` of an error."""

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
"""Names a call, so that a repeat of it is known (draft-ietf-httpapi-idempotency-key-header)."""

TIMEOUT_SECONDS: Final = 30.0
CONNECT_ATTEMPTS: Final = 3
ANSWER_ATTEMPTS: Final = 3
"""How often a call that may be repeated is made, when its answer is lost on the way."""

_FIRST_PAUSE_SECONDS: Final = 0.1
_CHANGES: Final = frozenset({"POST", "PATCH", "DELETE"})

IDLE_SECONDS: Final = 20.0
"""How long an idle connection is kept: less than the service does, so that the client closes it
first. A site calls every few seconds, and a new connection costs more than a call."""

_ERRORS: Final[dict[str, type[FiduciaryError]]] = {
    kind.code: kind
    for kind in (Refused, NotFound, MalformedInput, VerificationFailed, Unauthorised, Conflict)
}
_STATUSES: Final[dict[int, type[FiduciaryError]]] = {
    400: MalformedInput,
    401: Unauthorised,
    403: Unauthorised,
    404: NotFound,
    409: Conflict,
    413: MalformedInput,
    415: MalformedInput,
    422: MalformedInput,
    429: Unauthorised,
    503: Unreachable,
}

_LOST: Final = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""The connection ended before the answer came. One that cannot be made is another matter."""

Model = TypeVar("Model", bound=BaseModel)


class ComplianceSession:
    """One principal's connection to one compliance service.

    Args:
        trust: Whom to talk to, and by which certificate to know it.
        token: Bearer token, or None for what needs none.
        timeout_seconds: Limit on each network operation.
        transport: Replaces the network, for tests.
        certificate: PEM files of a client certificate and its key, to be shown to the service.
    """

    def __init__(
        self,
        trust: Trust,
        token: str | None,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self._trust = trust
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._transport = transport
        self._certificate = certificate
        self._shown = _stamp_of(certificate)
        self._http = self._connect()
        self._former: list[httpx.Client] = []

    def close(self) -> None:
        """Give the connections back."""
        for http in (self._http, *self._former):
            http.close()

    def without_certificate(self) -> ComplianceSession:
        """The same caller by the token alone. The caller closes it."""
        return ComplianceSession(
            self._trust, self._token, self._timeout_seconds, self._transport, None
        )

    def _connect(self) -> httpx.Client:
        context = self._trust.ssl_context()
        if self._certificate is not None:
            certificate, key = self._certificate
            try:
                context.load_cert_chain(certificate, key)
            except (OSError, ssl.SSLError) as error:
                raise MalformedInput(
                    f"{certificate} and {key} are no certificate and its key",
                    fix="restore both from the backup",
                ) from error
        return httpx.Client(
            base_url=self._trust.url,
            headers={} if self._token is None else {"authorization": f"Bearer {self._token}"},
            timeout=self._timeout_seconds,
            trust_env=False,
            transport=self._transport
            or httpx.HTTPTransport(
                verify=context,
                retries=CONNECT_ATTEMPTS - 1,
                limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
            ),
        )

    def _present(self) -> httpx.Client:
        """The connections that show the certificate which is in the file now."""
        stamp = _stamp_of(self._certificate)
        if stamp is not None and stamp != self._shown:
            self._former.append(self._http)  # another thread may be in the middle of a call
            self._http, self._shown = self._connect(), stamp
        return self._http

    def send(
        self,
        method: str,
        path: str,
        body: BaseModel,
        answer: type[Model],
        *,
        names_itself: bool = False,
    ) -> Model:
        """Send a body and read the answer.

        Args:
            method: The request's method.
            path: Its path.
            body: What is sent.
            answer: What comes back.
            names_itself: The service knows a repeat by the body, and keeps no answer for it.
        """
        content = body.model_dump(mode="json", exclude_none=True)
        response = self.request(method, path, names_itself=names_itself, json=content)
        return parse_answer(answer, response)

    def fetch(self, path: str, answer: type[Model], **query: str | int | None) -> Model:
        """Read one thing."""
        return parse_answer(answer, self.request("GET", path, params=_present(query)))

    def fetch_list(
        self, path: str, member: str, item: type[Model], **query: str | int | None
    ) -> tuple[Model, ...]:
        """Read the list that the answer has under `member`."""
        document = _object(self.request("GET", path, params=_present(query)))
        items = document.get(member)
        if not isinstance(items, list):
            raise MalformedInput(f"the compliance service's answer has no {member}")
        return tuple(_validate(item, value) for value in items)

    def fetch_object(self, method: str, path: str) -> dict[str, Any]:
        """Read a JSON object."""
        return _object(self.request(method, path))

    def request(
        self, method: str, path: str, *, names_itself: bool = False, **options: Any
    ) -> httpx.Response:
        """Make one request, of which the service knows a repeat if it changes something.

        Raises:
            FiduciaryError: When the service refuses, fails or cannot be reached.
        """
        attempts = 1
        if method in _CHANGES and not names_itself:
            key = f'"{secrets.token_urlsafe(24)}"'
            options["headers"] = {**options.get("headers", {}), IDEMPOTENCY_HEADER: key}
        if method in _CHANGES:
            attempts = ANSWER_ATTEMPTS
        lost = Retrying(
            retry=retry_if_exception_type(_LOST),
            wait=wait_exponential(_FIRST_PAUSE_SECONDS),
            stop=stop_after_attempt(attempts),
            reraise=True,
        )
        try:
            response = lost(self._present().request, method, path, **options)
        except httpx.HTTPError as error:
            raise self.unreachable(error) from error
        if response.is_success:
            return response
        raise _problem(response)

    def stream(self, path: str, **query: str | int | None) -> Streaming:
        """Begin a download."""
        return Streaming(self._present(), path, _present(query))

    def unreachable(self, error: httpx.HTTPError) -> Unreachable:
        """What a failure of the network means to the operator."""
        reason = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return Unreachable(
                f"{self._trust.url} shows another certificate than the trust file names",
                fix="ask the compliance officer for the present trust.json; do not go on without",
            )
        return Unreachable(
            f"the compliance service at {self._trust.url} did not answer: {reason}",
            fix="start it with `compliance start`, or check the address and the network",
        )


class Streaming:
    """A GET whose body is read as it comes; an error answer is raised on entry."""

    def __init__(self, http: httpx.Client, path: str, query: dict[str, str | int]) -> None:
        self._context = http.stream("GET", path, params=query)

    def __enter__(self) -> httpx.Response:
        response = self._context.__enter__()
        if not response.is_success:
            try:
                response.read()
                raise _problem(response)
            finally:
                self._context.__exit__(None, None, None)
        return response

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.__exit__(kind, error, trace)


def _stamp_of(certificate: tuple[Path, Path] | None) -> tuple[int, ...] | None:
    """What is another when the certificate's file was replaced; None where there is none."""
    if certificate is None:
        return None
    try:
        status = certificate[0].stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _problem(response: httpx.Response) -> FiduciaryError:
    """The error that a problem+json answer (RFC 9457) stands for."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    code = str(document.get("type", "")).removeprefix(PROBLEM_PREFIX)
    kind = _ERRORS.get(code) or _STATUSES.get(response.status_code, FiduciaryError)
    detail = document.get("detail") or f"the compliance service answered {response.status_code}"
    return kind(str(detail), fix=str(document.get("fix", "")))


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError as error:
        raise MalformedInput("the compliance service's answer is not JSON") from error
    if not isinstance(document, dict):
        raise MalformedInput("the compliance service's answer is not an object")
    return document


def parse_answer(answer: type[Model], response: httpx.Response) -> Model:
    """The answer as a model.

    Raises:
        MalformedInput: When it is something else.
    """
    return _validate(answer, _object(response))


def _validate(model: type[Model], value: object) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise MalformedInput(
            f"the compliance service's answer cannot be read: {first_problem(error)}"
        ) from error


def _present(query: dict[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in query.items() if value is not None}


def make_body(model: type[Model], **fields: Any) -> Model:
    """A request body; what the service would refuse is refused before it is sent."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise MalformedInput(f"malformed request: {first_problem(error)}") from error


def path_segment(name: str) -> str:
    """One segment of a path. No identifier has a slash; a hostile one must not gain a segment."""
    plain = name.isascii() and name.isprintable() and not set("/?#%") & set(name)
    if not plain or name in ("", ".", ".."):
        raise MalformedInput(
            "an identifier holds a character that none may have",
            fix="copy it from a list, such as `compliance plans`",
        )
    return name


class SessionCalls:
    """Calls of one topic over a session; `ComplianceClient` is made of them."""

    trust: Trust
    _session: ComplianceSession

    def _decide(self, path: str, reason: str, answer: type[Model]) -> Model:
        return self._session.send("POST", path, make_body(DecisionBody, reason=reason), answer)

    def _state(self, path: str, statement: SignedStatement) -> Recorded:
        body = StatementBody(statement=statement)
        return self._session.send("POST", path, body, Recorded, names_itself=True)
