"""Text that means something to an interpreter means nothing to the service, in any string field.

Requests come from the OpenAPI document: for each operation a well-formed one, in which one string
after the other (path, query, body) is replaced. SQL, templates, HTML, header lines, paths and
format strings are tried; each carries a person's name, which may not come back in an error, be
printed or be counted.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core import NotSet

from audit.verifier import verify_log
from tests.compliance.fuzzing import CANARY, DEEP, FuzzedService, InProcess, Operation, in_process
from tests.compliance.running import RunningService

FACTORS: Final = (918_273, 645_546)
COMPUTED: Final = str(FACTORS[0] * FACTORS[1])
_SUM: Final = f"{FACTORS[0]}*{FACTORS[1]}"
_MARKUP: Final = f"<script>alert({_SUM})</script>"

PAYLOADS: Final = (
    "' OR '1'='1' -- ",
    '"; DROP TABLE principals; -- ',
    "1); DELETE FROM log_entries; -- ",
    "' UNION SELECT token_sha256 FROM principals -- ",
    f"{{{{{_SUM}}}}}",
    f"${{{_SUM}}}",
    f"<%= {_SUM} %>",
    _MARKUP,
    "\r\nset-cookie: admin=1\r\n\r\n",
    "../../../../../etc/passwd",
    "..\\..\\keys\\log.pem",
    "\x00",
    "%s%n%x{0.__class__}",
    "\u202e\ufeff\U0001f9a0",
)

HARMLESS: Final = "zzz-nothing-is-called-so"

SMALLEST_ROW: Final = 200
"""Octets of an answer's rows; an answer may repeat the question."""

_EXAMPLES: Final = 3 if DEEP else 1
"""Requests around each text; they vary what stands beside it."""

Place = tuple[str, tuple[str | int, ...]]
"""Where a text stands: `path`, `query` or `body`, and the way to it from there."""


def test_no_string_field_is_interpreted(
    fuzzed: FuzzedService, service: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    schema = schemathesis.openapi.from_dict(fuzzed.document)
    tables = set(service.tables())
    payloads = itertools.cycle(PAYLOADS)
    tried: set[tuple[str, Place]] = set()

    def attack(http: InProcess, operation: Operation, case: schemathesis.Case[Any]) -> None:
        known = fuzzed.known.get(operation.path, {})
        for place in _string_fields(fuzzed.document, operation):
            for payload in PAYLOADS if DEEP else (next(payloads), next(payloads)):
                answer = _send(http, operation, case, known, place, payload + CANARY)
                _check(answer, f"{operation.label} {place}: {payload!r}")
                tried.add((operation.label, place))
                if place[0] == "query" and answer.status_code == 200:
                    # It selects what any other text selects that nothing is equal to.
                    other = _send(http, operation, case, known, place, HARMLESS)
                    more = len(answer.content) - len(other.content)
                    assert more < SMALLEST_ROW, (operation.label, payload)

    with caplog.at_level(logging.DEBUG, "compliance"), in_process(fuzzed.application) as http:
        for operation in fuzzed.operations:
            token = fuzzed.tokens[operation.roles[0]] if operation.roles else None
            http.token = token
            for case in _well_formed(schema[operation.path][operation.method.lower()]):
                attack(http, operation, case)

    assert ("POST /v1/plans/{plan_id}/approval", ("body", ("reason",))) in tried
    assert ("POST /v1/principals", ("body", ("roles", 0))) in tried
    assert ("GET /v1/log/entries", ("query", ("actor",))) in tried
    assert ("GET /v1/plans/{plan_id}", ("path", ("plan_id",))) in tried
    said = [record.getMessage() for record in caplog.records if record.name.startswith("compl")]
    assert not any(CANARY in message for message in said)
    assert CANARY not in fuzzed.exposed()
    assert set(service.tables()) == tables
    assert verify_log(service.folder.path / "compliance.sqlite", service.trust.log_key).ok


def _well_formed(
    operation: schemathesis.schemas.APIOperation[Any, Any, Any, Any],
) -> list[schemathesis.Case[Any]]:
    """Requests that the document allows, always the same ones."""
    cases: list[schemathesis.Case[Any]] = []

    @settings(
        max_examples=_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy())
    def collect(case: schemathesis.Case[Any]) -> None:
        cases.append(case)

    collect()
    return cases


def _string_fields(document: dict[str, Any], operation: Operation) -> Iterator[Place]:
    """Every place of a request where the document allows a text."""
    described = document["paths"][operation.path][operation.method.lower()]
    for parameter in described.get("parameters", ()):
        if parameter["in"] in ("path", "query"):
            yield parameter["in"], (parameter["name"],)
    for content in described.get("requestBody", {}).get("content", {}).values():
        for way in _strings(document, content.get("schema", {})):
            yield "body", way


def _strings(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str | int, ...]]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for kind in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(kind, ()):
            yield from _strings(document, option)
    if schema.get("type") == "string" or isinstance(schema.get("const"), str):
        yield ()
    for name, part in schema.get("properties", {}).items():
        yield from ((name, *way) for way in _strings(document, part))
    if isinstance(schema.get("items"), dict):
        yield from ((0, *way) for way in _strings(document, schema["items"]))


def _send(
    http: InProcess,
    operation: Operation,
    case: schemathesis.Case[Any],
    known: dict[str, str],
    place: Place,
    text: str,
) -> httpx.Response:
    """The request of a case, about something `known`, with one text in it replaced."""
    where, way = place
    path = {**(case.path_parameters or {}), **known}
    query = {**(case.query or {})}
    body: Any = case.body
    if where == "path":
        path[str(way[0])] = text
    elif where == "query":
        query[str(way[0])] = text
    else:
        body = _replaced(body, way, text)
    url = operation.path
    for name, value in path.items():
        url = url.replace(f"{{{name}}}", quote(str(value), safe=""))
    if isinstance(body, NotSet):
        return http.request(operation.method, url, params=query)
    if isinstance(body, bytes):
        return http.request(operation.method, url, params=query, content=body)
    if case.media_type == "application/x-www-form-urlencoded":
        return http.request(operation.method, url, params=query, data=body)
    return http.request(operation.method, url, params=query, json=body)


def _replaced(value: Any, way: tuple[str | int, ...], text: str) -> Any:
    if not way:
        return text
    step, rest = way[0], way[1:]
    if isinstance(step, int):
        items = list(value) if isinstance(value, list) and value else [None]
        return [_replaced(items[0], rest, text), *items[1:]]
    members = dict(value) if isinstance(value, dict) else {}
    return {**members, step: _replaced(members.get(step), rest, text)}


def _check(answer: httpx.Response, what: str) -> None:
    assert answer.status_code < 500, f"{what}: {answer.status_code} {answer.text}"
    assert COMPUTED not in answer.text, what
    assert "set-cookie" not in answer.headers, what
    assert "root:" not in answer.text, what
    if answer.status_code >= 400:
        assert CANARY not in answer.text, f"{what}: {answer.text}"
    if "html" in answer.headers.get("content-type", ""):
        assert _MARKUP not in answer.text, what
