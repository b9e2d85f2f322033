"""The service keeps to its OpenAPI document whatever comes, as every role and as nobody.

All of schemathesis' checks are on: no 5xx, nothing that the document does not say, nothing accepted
that it forbids, no operation open that it calls closed.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest
import schemathesis
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from compliance.resources import Answer, RequestBody
from compliance.service.access import public, requires
from compliance.service.app import SECURITY_HEADERS
from compliance.service.gate import GatedRoute
from compliance.service.problems import PROBLEM_MEDIA_TYPE
from compliance.service.routes.subject_pages import PAGE_POLICY
from compliance.statements import Name
from tests.compliance.fuzzing import CANARY, DEEP, NOBODY, FuzzedService, fuzz, is_positive
from tests.compliance.running import RunningService

ROLES: Final = ("coordinator", "site", "officer", "auditor", "consumer")

_SIGNED = " statement: malformed "
"""What a signature covers is more than a schema can describe."""


def _is_page(response: schemathesis.Response) -> bool:
    return response.headers.get("content-type", [""])[0].startswith("text/html")


def judge(case: schemathesis.Case[Any], response: schemathesis.Response) -> Iterator[str]:
    """What must hold for every answer beside what its operation says."""
    if CANARY.encode() in response.content:
        yield "identifier: the answer holds what a header said"
    html = response.headers.get("content-type", [""])[0].startswith("text/html")
    page = html and case.path.startswith("/requests")
    expected = SECURITY_HEADERS | ({"content-security-policy": PAGE_POLICY} if page else {})
    for name, value in expected.items():
        if response.headers.get(name) != [value]:
            yield f"security headers: {name} is {response.headers.get(name)}"
    if response.status_code < 400 or _is_page(response):
        return  # whether an operation may answer with a page is its own document's to say
    if page:
        return
    if response.headers.get("content-type") != [PROBLEM_MEDIA_TYPE]:
        yield "problem: an error is no problem document"
        return
    detail = json.loads(response.content)["detail"]
    if is_positive(case) and detail.startswith("malformed request") and _SIGNED not in detail:
        yield "description: a request that the document allows is called malformed"


@pytest.mark.parametrize("caller", [None, *((*ROLES, NOBODY) if DEEP else ())])
def test_the_service_keeps_to_its_document(
    fuzzed: FuzzedService, caplog: pytest.LogCaptureFixture, caller: str | None
) -> None:
    with caplog.at_level(logging.DEBUG, "compliance"):
        found = fuzz(fuzzed, judge, caller)
    sys.stdout.write(f"as {caller or 'everybody in turn'}: {found.sent}\n")
    assert not found.problems, found.text()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("compl")]
    assert not any(CANARY in message for message in said)
    assert CANARY not in fuzzed.exposed()
    if caller is None:
        reached = {
            label for label, statuses in found.statuses.items() if set(statuses) - {401, 405}
        }
        assert reached == {operation.label for operation in fuzzed.operations}


class _Shelf(RequestBody):
    """What the broken routes below take."""

    book: Name


class _Book(Answer):
    """What they promise."""

    pages: int


def _broken_routes() -> APIRouter:
    router = APIRouter(route_class=GatedRoute)

    @router.post("/breaks")
    @requires("officer")
    def breaks(body: _Shelf) -> _Book:
        raise RuntimeError(body.book)

    @router.post("/lies", response_model=None, responses={200: {"model": _Book}})
    @requires("officer")
    def lies(body: _Shelf) -> JSONResponse:
        return JSONResponse({"pages": body.book})

    @router.post("/surprises", response_model=None)
    @requires("officer")
    def surprises(body: _Shelf) -> JSONResponse:
        return JSONResponse({"book": body.book}, 418)

    @router.get("/echoes")
    @public
    def echoes(request: Request) -> list[str]:
        return request.headers.getlist("user-agent")

    @router.post("/swallows", openapi_extra={"requestBody": _ANY_BODY})
    @requires("officer")
    def swallows() -> None:
        return None

    @router.get("/open", openapi_extra={"security": [{"bearer": []}]})
    @public
    def open_door() -> None:
        return None

    return router


_ANY_BODY: Final = {
    "required": True,
    "content": {"application/json": {"schema": _Shelf.model_json_schema()}},
}


def test_it_finds_what_it_looks_for(service: RunningService) -> None:
    tokens = {name: service.token(name) for name in ("coordinator", "officer", "auditor")}
    broken = FuzzedService(service, tokens, _broken_routes())
    problems = fuzz(broken, judge).problems
    assert {
        ("POST /breaks", "not_a_server_error"),
        ("POST /lies", "response_schema_conformance"),
        ("POST /surprises", "status_code_conformance"),
        ("GET /echoes", "identifier"),
        ("POST /swallows", "negative_data_rejection"),
        ("GET /open", "ignored_auth"),
    } <= set(problems), problems
