"""Nobody without a token learns from an answer, or from the work for it, what exists.

Work is counted, not timed: what is asked of the database for a right guess and for a wrong one must
be the same questions, one for one. A new public operation must be named here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import event

from compliance.service.access import access_of
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import RunningService
from tests.compliance.subjects import Desk, ask, configure

BY_RECEIPT_CODE: Final = {
    "POST /v1/public/requests/status": {},
    "POST /v1/public/requests/identity": {"code": "00000000"},
    "POST /v1/public/requests/code": {},
    "POST /v1/public/requests/package": {"site": "north"},
    "POST /requests/status": {},
}
"""What else their bodies hold."""

BY_KIT: Final = "POST /v1/enrolments"

WITHOUT_GUESSES: Final = {
    "GET /health": "takes nothing",
    "GET /v1/trust": "takes nothing",
    "GET /v1/public/offer": "takes nothing; says which sites may be asked, which is no secret",
    "POST /v1/public/requests": "files something new under 128 bits of the caller's own",
    "GET /requests": "takes nothing",
    "GET /requests/status": "takes nothing",
    "GET /requests/style.css": "takes nothing",
    "GET /requests/seal.js": "takes nothing",
    "GET /requests/open.js": "takes nothing",
    "GET /requests/hpke.js": "takes nothing",
    "POST /v1/logins": "begins with a challenge of the caller's own",
    "POST /v1/sessions": "the provider, not the service, knows whose code it is",
}


@contextmanager
def questions(service: RunningService) -> Iterator[list[str]]:
    """What is asked of the database inside the block."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        asked.append(statement)

    engine = service.registry.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_every_public_operation_is_looked_at(service: RunningService) -> None:
    public = {
        f"{method} {route.path}"
        for route in service.app.state.routes
        for method in route.methods
        if not access_of(route.endpoint).roles
    }
    assert public == {*BY_RECEIPT_CODE, BY_KIT, *WITHOUT_GUESSES}


@pytest.fixture
def receipt(service: RunningService, north: Site) -> str:
    """The receipt code of a request that exists."""
    configure(service)
    Desk(service, north)
    return ask(service, "north").receipt_code


def _show(http: httpx.Client, operation: str, code: str) -> httpx.Response:
    """Show a receipt code: the pages take a form, everything else JSON."""
    path = operation.partition(" ")[2]
    fields = {"receipt_code": code, **BY_RECEIPT_CODE[operation]}
    return http.post(path, json=fields) if path.startswith("/v1/") else http.post(path, data=fields)


def _altered(code: str) -> str:
    last = "A" if code[-1] != "A" else "B"
    return code[:-1] + last


@pytest.mark.parametrize("operation", BY_RECEIPT_CODE)
def test_a_wrong_receipt_code_says_nothing(
    service: RunningService, receipt: str, operation: str
) -> None:
    http = service.http()
    guesses = (_altered(receipt), receipt[::-1], secrets.token_hex(20))
    entries = len(service.entries())
    seen = set()
    for guess in guesses:
        with questions(service) as asked:
            answer = _show(http, operation, guess)
        seen.add((answer.status_code, answer.text, tuple(asked)))
    assert len(seen) == 1
    status, _, asked_for_wrong = seen.pop()
    assert status == 404
    assert len(service.entries()) == entries  # a guess costs nobody anything
    with questions(service) as asked:
        _show(http, operation, receipt)
    # What a right code does more comes after the same beginning, and is its owner's.
    assert tuple(asked)[: len(asked_for_wrong) - 1] == asked_for_wrong[:-1]


def test_a_right_receipt_code_takes_the_work_of_a_wrong_one(
    service: RunningService, receipt: str
) -> None:
    http = service.http()
    asked = []
    for code, status in ((receipt, 200), (_altered(receipt), 404)):
        with questions(service) as one:
            answer = http.post("/v1/public/requests/status", json={"receipt_code": code})
        assert answer.status_code == status
        asked.append(tuple(one))
    assert asked[0] == asked[1]


def test_a_wrong_kit_does_not_say_which_sites_there_are(
    service: RunningService, coordinator: Coordinator, north: Site
) -> None:
    http = service.http()
    seen = set()
    for site in (Site("north"), Site("nowhere")):  # with keys of a stranger
        body = {
            "token": secrets.token_urlsafe(32),
            "kit_sha256": secrets.token_hex(32),
            "statement": site.enrolment().to_json(),
        }
        with questions(service) as asked:
            answer = http.post("/v1/enrolments", json=body)
        seen.add((answer.status_code, answer.text, tuple(asked)))
    assert len(seen) == 1
    assert seen.pop()[0] == 401
