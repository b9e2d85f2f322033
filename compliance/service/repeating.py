"""What a database's failure means, and repeating what it undid.

* Passing failures are those that the next attempt need not meet: a connection that was lost, a
  deadlock or serialization failure that this transaction was chosen to end, a locked SQLite file.
* An attempt that failed before its commit left nothing. One whose commit failed may have happened:
  it is repeated only where a repeat is known as one (`service.idempotency`).
* Attempts come soon and end soon: the caller waits, and repeats the call itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from compliance.service.errors import ServiceUnavailable

ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.05
LAST_PAUSE_SECONDS: Final = 1.0
SECONDS: Final = 8.0
"""Less than clients wait for an answer, with room for the last attempt."""

_PASSING_CLASSES: Final = ("08", "40")
"""SQLSTATE: connection exception; transaction rollback (deadlock, serialization)."""

_PASSING_STATES: Final = frozenset({"55P03", "57P01", "57P02", "57P03"})
"""A lock that was not available; a server that stops, crashed, or begins."""

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PRIMARY_CODE: Final = 0xFF

Result = TypeVar("Result")


def is_passing(error: SQLAlchemyError) -> bool:
    """Whether the next attempt may succeed."""
    if not isinstance(error, DBAPIError):
        return False
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code: int = getattr(cause, "sqlite_errorcode", None) or 0
        return code & _PRIMARY_CODE in _LOCKED
    if error.connection_invalidated:
        return True
    state = getattr(cause, "sqlstate", "")
    if state is None:  # psycopg: the connection itself failed
        return type(cause).__name__ == "OperationalError"
    return state[:2] in _PASSING_CLASSES or state in _PASSING_STATES


def repeat(operation: Callable[[], Result], *, known: bool = False) -> Result:
    """Do something, and again if the database undid it for a reason that passes.

    Args:
        operation: Makes at most one transaction.
        known: Whether a repeat of what has happened is known as one.
    """

    def undone(error: BaseException) -> bool:
        return isinstance(error, ServiceUnavailable) and (
            error.passing and (known or not error.may_have_happened)
        )

    began = time.monotonic()
    try:
        return operation()  # nearly always all there is to do
    except ServiceUnavailable as error:
        if not undone(error):
            raise
        failed = [error]

    def attempt() -> Result:
        if failed:
            raise failed.pop()
        return operation()

    attempts = Retrying(
        retry=retry_if_exception(undone),
        wait=wait_random_exponential(FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS),
        stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(SECONDS + began - time.monotonic()),
        reraise=True,
    )
    return attempts(attempt)
