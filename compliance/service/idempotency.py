"""Calls that may be repeated: the same key and the same request get the same answer.

After draft-ietf-httpapi-idempotency-key-header-07:

* A call that changes something may carry `Idempotency-Key: "<16 to 128 letters, digits, . _ : ->"`.
  Its answer is stored in the transaction of the change: either both are durable or neither is, so a
  caller whose answer was lost repeats the call and gets it.
* The same key with another request is refused (422). Two such calls at once are one after the
  other, as all changes are: the second gets the answer of the first.
* Keys are the caller's own: two principals may use the same one. Refusals and failures are not
  stored; the call is made again.
* An answer is kept for `KEPT`, sealed (`sealed_columns`), because it may hold a token; the key
  itself is not kept, only a hash of it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes, parse_canonical_object
from audit.errors import MalformedInput
from compliance import rules
from compliance.service.driver import Fixed
from compliance.service.errors import Denied
from compliance.service.idempotency_tables import GivenAnswerRow
from compliance.service.repeating import repeat
from compliance.service.sealed_columns import seal_cell
from compliance.service.tables import Base
from compliance.session import IDEMPOTENCY_HEADER
from compliance.statements import format_time

if TYPE_CHECKING:
    from compliance.service.registry import Registry, Transaction

KEPT: Final = timedelta(hours=24)
"""A caller repeats a call within minutes; an operator who comes back to it, the next day."""

PARAMETER: Final[dict[str, Any]] = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": False,
    "description": "Makes the call safe to repeat: the same key and request get the same answer.",
    "schema": {"type": "string", "pattern": '^"[A-Za-z0-9._:-]{16,128}"$'},
}
"""The header, as the OpenAPI document has it."""

_ANSWERS: Final = Base.metadata.tables[GivenAnswerRow.__tablename__]
_FIND: Final = Fixed(
    select(_ANSWERS.c.call_sha256, _ANSWERS.c.expires_at).where(
        _ANSWERS.c.call_sha256 == bindparam("call_sha256")
    )
)
_FORGET: Final = Fixed(delete(_ANSWERS).where(_ANSWERS.c.expires_at <= bindparam("now")))
_KEEP: Final = Fixed(insert(_ANSWERS))

_KEY: Final = re.compile(r'"([A-Za-z0-9._:-]{16,128})"', re.ASCII)
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MEDIA_TYPE: Final = "application/json"
_WRAPPED: Final = "__fiduciary_answers_once__"


class GivenAlready(BaseException):
    """Leaves an operation that was done before; no operation may catch it.

    Attributes:
        response: The answer that was given.
    """

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class KeyedCall:
    """A call with an idempotency key, while it is answered.

    `Registry.writing` gives its transaction to `join`, which leaves it open when the operation's
    block ends, so that the answer can be stored in it: it is committed when the operation has
    returned. An operation that makes several transactions does not join: its answer is stored in
    one more.

    Args:
        registry: The service.
        call_sha256: Of the caller and the key.
        request_sha256: Of everything that was asked for.
        joins: Whether the operation makes one transaction.
    """

    def __init__(
        self, registry: Registry, call_sha256: str, request_sha256: str, *, joins: bool
    ) -> None:
        self._registry = registry
        self._call_sha256 = call_sha256
        self._request_sha256 = request_sha256
        self.joins = joins
        self._is_new = False
        self._open: AbstractContextManager[Transaction] | None = None
        self.transaction: Transaction | None = None

    def join(self, opened: AbstractContextManager[Transaction]) -> Transaction:
        """Begin the operation's transaction.

        Raises:
            GivenAlready: When the call was answered before.
            Denied: When the key came with another request.
            TypeError: When the operation began one before: it must be declared as one that makes
                its own transactions.
        """
        if self.transaction is not None:
            raise TypeError("an operation with two transactions: declare own_transactions=True")
        transaction = opened.__enter__()
        self._open, self.transaction = opened, transaction
        self._find(transaction.session)
        return transaction

    def abort(self, error: BaseException) -> None:
        """Undo the operation's transaction, if it has one.

        Raises:
            FiduciaryError: What the failure means, where a database's error is the cause.
        """
        opened, self._open, self.transaction = self._open, None, None
        if opened is not None:
            opened.__exit__(type(error), error, error.__traceback__)

    def answer(self, operation: Callable[[], Any], render: Callable[[Any], Response]) -> Any:
        """What the operation answers, or answered before.

        Args:
            operation: Does it.
            render: Makes a response of what it returns.
        """
        try:
            if not self.joins:
                with self._registry.reading() as session:
                    self._find(session)
            answer = operation()
            if isinstance(answer, Response):  # a file or a page: nothing to store
                self._finish(None)
                return answer
            response = render(answer)
            self._finish(response)
        except GivenAlready as given:
            self.abort(given)
            return given.response
        except BaseException as error:
            self.abort(error)
            raise
        return response

    def _finish(self, response: Response | None) -> None:
        opened, transaction = self._open, self.transaction
        self._open, self.transaction = None, None
        if opened is not None and transaction is not None:
            if response is not None:
                session = transaction.session
                transaction.before_commit = lambda: self._store(session, response)
            opened.__exit__(None, None, None)
        elif response is not None and not self.joins:
            with self._registry.database.writing() as session:
                self._store(session, response)

    def _find(self, session: Session) -> None:
        found = _FIND.run(session, {"call_sha256": self._call_sha256}).fetchone()
        self._is_new = found is None
        if found is None or found[1] <= self._now():
            return
        row = session.get_one(GivenAnswerRow, self._call_sha256)
        if row.answer is None:
            return
        if row.request_sha256 != self._request_sha256:
            raise Denied(
                rules.Refused(
                    "idempotency-key-reused",
                    "this idempotency key came with another request before",
                    "make a new key for each request; keep it only to repeat that request",
                    "malformed",
                )
            )
        given = parse_canonical_object(row.answer.encode("utf-8"))
        raise GivenAlready(_response(str(given["body"]).encode("utf-8"), int(str(given["status"]))))

    def _store(self, session: Session, response: Response) -> None:
        _FORGET.run(session, {"now": self._now()})
        document = {"status": response.status_code, "body": bytes(response.body).decode("utf-8")}
        row = GivenAnswerRow(
            call_sha256=self._call_sha256,
            request_sha256=self._request_sha256,
            expires_at=format_time(self._registry.clock() + KEPT),
            answer=canonical_bytes(document).decode("utf-8"),
        )
        if not (self.joins and self._is_new):  # then somebody may have stored it meanwhile
            session.merge(row)
            session.flush()
            return
        place = f"{_ANSWERS.name}.answer"
        cell = seal_cell(
            session.connection(), place, row.sealing_key(place), [row.call_sha256], row.answer or ""
        )
        values = {name: getattr(row, name) for name in _ANSWERS.columns.keys()}  # noqa: SIM118
        _KEEP.run(session, values | {"answer": cell})

    def _now(self) -> str:
        return format_time(self._registry.clock())


KEYED_CALL: Final[ContextVar[KeyedCall | None]] = ContextVar("keyed_call", default=None)
"""The call that is being answered, if it came with a key."""


@contextmanager
def keyed_call(
    request: Request, registry: Registry, caller: str, body: bytes, *, joins: bool
) -> Iterator[None]:
    """Answer a request once, if it has an idempotency key.

    Args:
        request: The request.
        registry: The service.
        caller: The principal's name; empty for nobody in particular.
        body: The octets of its body.
        joins: Whether the operation makes one transaction.

    Raises:
        MalformedInput: When the key is none.
    """
    key = _key_of(request)
    if key is None:
        yield
        return
    asked = [request.method, request.url.path, request.url.query, hashlib.sha256(body).hexdigest()]
    call = KeyedCall(registry, _sha256([caller, key]), _sha256([caller, *asked]), joins=joins)
    token = KEYED_CALL.set(call)
    try:
        yield
    finally:
        KEYED_CALL.reset(token)


def answering_once(
    operation: Callable[..., Any], route: Callable[[], APIRoute], *, repeats: bool
) -> Callable[..., Any]:
    """The operation with its answer as it is sent.

    A call with a key does not do it twice, whatever becomes of the database.

    Args:
        operation: A coroutine, which reads its body itself, is left as it is, and so is one that
            adds headers to its answer.
        route: Its route.
        repeats: Whether it makes one transaction at most, and may be done again when the database
            undid that (`service.repeating`).
    """
    parameters = inspect.signature(operation).parameters.values()
    if (
        inspect.iscoroutinefunction(operation)
        or hasattr(operation, _WRAPPED)
        or any(parameter.annotation in (Response, "Response") for parameter in parameters)
    ):
        return operation

    def render(answer: Any) -> Response:
        declared = route()
        status = declared.status_code or int(HTTPStatus.OK)
        if declared.response_field is None:
            raise TypeError(f"{declared.path} declares no answer")
        value, errors = declared.response_field.validate(answer, {}, loc=("response",))
        if errors:
            raise TypeError(f"{declared.path} answers what it does not declare")
        return _response(declared.response_field.serialize_json(value), status)

    @functools.wraps(operation)
    def operate(**values: Any) -> Any:
        call = KEYED_CALL.get()

        def once() -> Any:
            if call is None:
                return operation(**values)
            return call.answer(lambda: operation(**values), render)

        answer = repeat(once, known=call is not None) if repeats else once()
        if isinstance(answer, Response) or route().response_field is None:
            return answer
        return render(answer)  # FastAPI would do it in one more thread

    setattr(operate, _WRAPPED, True)
    return operate


def _response(body: bytes, status: int) -> Response:
    return Response(body, status, media_type=_MEDIA_TYPE)


def _key_of(request: Request) -> str | None:
    values = request.headers.getlist(IDEMPOTENCY_HEADER)
    if not values or request.method not in _UNSAFE:
        return None
    matched = _KEY.fullmatch(values[0])
    if len(values) > 1 or matched is None:
        raise MalformedInput(
            f"malformed {IDEMPOTENCY_HEADER}",
            fix="send one, of 16 to 128 letters, digits, `.`, `_`, `:` or `-`, in double quotes",
        )
    return matched.group(1)


def _sha256(parts: list[str]) -> str:
    return hashlib.sha256(canonical_bytes(parts)).hexdigest()
