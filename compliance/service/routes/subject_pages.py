"""Pages for data subjects: make a request, and see where it stands.

* Identifiers are sealed in the browser (`pages/hpke.js`); no form sends them here in clear.
* Nothing is loaded from elsewhere, and no script but these pages' own files runs.
* A copy of one's data is opened in the browser: neither its key nor what it holds comes here.
* A receipt code is in no address: it is sent in a form's body.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from audit.errors import FiduciaryError, MalformedInput, NotFound
from compliance.resources import Problem
from compliance.rules.subject_requests import WITHOUT_IDENTITY
from compliance.service.access import public, public_form
from compliance.service.call import Office
from compliance.service.errors import Denied
from compliance.service.gate import GatedRoute
from compliance.service.problems import PROBLEM_MEDIA_TYPE
from compliance.service.registry import Registry
from compliance.service.routes.public_requests import (
    look_up,
    mail_code,
    prove,
    show_offer,
    unknown_code,
)
from compliance.service.subject_views import public_status
from compliance.statements import SiteSealingKey
from compliance.subject_requests_views import PublicPart, PublicStatus

router: Final = APIRouter(route_class=GatedRoute, prefix="/requests", tags=["pages"])

PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may load and do: its own style, its own scripts, and asking this service."""

MAX_FORM_BYTES: Final = 4096

_PAGES: Final = Path(__file__).parent.parent / "pages"
_HEADERS: Final = {"content-security-policy": PAGE_POLICY}

RIGHT_TEXTS: Final = (
    ("access", "A copy of what they have about me, and what it was used for"),
    ("erasure", "That they erase what they have about me"),
    ("rectification", "That they correct what is wrong"),
    ("restriction", "That they keep it, and do not use it"),
    ("objection", "That they no longer train models with it (objection, opt-out)"),
    ("portability", "A copy that I can take elsewhere"),
)

STAGE_TEXTS: Final = {
    "received": "It has come",
    "identity-pending": "We do not know yet who asks",
    "verified": "We know who asks",
    "at-sites": "The sites have it",
    "answered": "The sites have answered, and an officer looks at it",
    "completed": "It is answered",
    "refused": "It was refused",
    "expired": "It has expired: nobody showed who asks",
}
PART_TEXTS: Final = {
    "held": "Knows nothing of it yet.",
    "sent": "Has not fetched it yet.",
    "taken": "Has it, and has not answered yet.",
    "cancelled": "Need not answer any more.",
    "waived": "No longer takes part, and cannot answer.",
}
OUTCOME_TEXTS: Final = {
    "done": "Did what you asked for.",
    "not-found": "Does not know you by this number.",
    "refused": "Said no",
}

_FORM_BODY: Final = {
    "required": True,
    "content": {
        "application/x-www-form-urlencoded": {
            "schema": {
                "type": "object",
                "properties": {
                    "receipt_code": {"type": "string"},
                    "code": {"type": "string"},
                    "again": {"type": "string"},
                },
            }
        }
    },
}


_TOLD_ON_THE_PAGE: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": status.phrase,
        "content": {
            "text/html": {"schema": {"type": "string"}},
            PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()},
        },
    }
    for status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
}
"""What is wrong is told in words, to a person."""


@router.get("", response_class=HTMLResponse, responses=_TOLD_ON_THE_PAGE)
@public
def show_form(office: Office) -> HTMLResponse:
    """The form of a request; where none is taken, where to ask instead."""
    try:
        offer = show_offer(office)
    except NotFound:
        return _page("closed.html", office, HTTPStatus.NOT_FOUND)
    sites = [
        {
            "name": view.site,
            "key": SiteSealingKey.from_body(view.statement.body).public_key,
        }
        for view in offer.sites
    ]
    return _page(
        "form.html",
        office,
        rights=RIGHT_TEXTS,
        sites=sites,
        laws=offer.jurisdictions,
        methods=offer.identity,
        without_proof=[
            f"{law}:{right}" for law, rights in offer.without_proof.items() for right in rights
        ],
    )


@router.get("/status", response_class=HTMLResponse)
@public
def show_status_form(office: Office) -> HTMLResponse:
    """The form that asks for the receipt code."""
    return _status_page(office, None)


@router.post(
    "/status",
    response_class=HTMLResponse,
    responses=_TOLD_ON_THE_PAGE,
    openapi_extra={"requestBody": _FORM_BODY},
)
@public_form(MAX_FORM_BYTES)
async def show_status(request: Request, office: Office) -> HTMLResponse:
    """Where a request stands, for whoever has its receipt code.

    A mailed code is tried; with `again`, another one is mailed instead.
    """
    fields = _fields(await request.body())
    receipt, code = fields.get("receipt_code", ""), fields.get("code", "")
    return await run_in_threadpool(_answer, office, request, receipt, code, "again" in fields)


@router.get("/style.css", response_class=Response)
@public
def style() -> Response:
    """How pages look."""
    return Response(_file("style.css"), media_type="text/css; charset=utf-8")


@router.get("/seal.js", response_class=Response)
@public
def sealing() -> Response:
    """What seals identifiers in the browser, and makes the key for a copy."""
    return _script("seal.js")


@router.get("/open.js", response_class=Response)
@public
def opening() -> Response:
    """What opens a copy in the browser."""
    return _script("open.js")


@router.get("/hpke.js", response_class=Response)
@public
def hpke() -> Response:
    """What both need: RFC 9180."""
    return _script("hpke.js")


def _answer(
    office: Registry, request: Request, receipt: str, code: str, again: bool
) -> HTMLResponse:
    case = look_up(office, request, receipt)
    if case is None:
        return _status_page(office, None, _in_words(unknown_code()), HTTPStatus.NOT_FOUND)
    problem, told = "", ""
    status = HTTPStatus.OK
    try:
        if again:
            case = mail_code(office, receipt)
            told = "A new code is on its way to you."
        elif code.strip():
            case = prove(office, receipt, code)
    except Denied as denied:
        problem = _in_words(denied)
        status = HTTPStatus.FORBIDDEN
    return _status_page(office, public_status(case), problem, status, receipt, told)


def _status_page(
    office: Registry,
    status: PublicStatus | None,
    problem: str = "",
    http_status: HTTPStatus = HTTPStatus.OK,
    receipt: str = "",
    told: str = "",
) -> HTMLResponse:
    wants_code = (
        status is not None
        and status.stage in WITHOUT_IDENTITY
        and status.identity == "email-challenge"
    )
    return _page(
        "status.html",
        office,
        http_status,
        status=status,
        stage_text="" if status is None else STAGE_TEXTS[status.stage],
        part_texts={} if status is None else {one.site: _told(one) for one in status.parts},
        copies=[] if status is None else [one.site for one in status.parts if one.package],
        problem=problem,
        told=told,
        receipt_code=receipt,
        wants_code=wants_code,
    )


def _script(name: str) -> Response:
    return Response(_file(name), media_type="text/javascript; charset=utf-8")


def _told(part: PublicPart) -> str:
    return PART_TEXTS[part.state] if part.outcome is None else OUTCOME_TEXTS[part.outcome]


def _in_words(error: FiduciaryError) -> str:
    said = f"{error}: {error.fix}." if error.fix else f"{error}."
    return said[0].upper() + said[1:]


def _page(
    name: str, office: Registry, http_status: HTTPStatus = HTTPStatus.OK, /, **values: Any
) -> HTMLResponse:
    text = _templates().get_template(name).render(origin=office.trust.origin, **values)
    return HTMLResponse(text, int(http_status), _HEADERS)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


@cache
def _file(name: str) -> bytes:
    return (_PAGES / name).read_bytes()


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form; of one that comes twice, the first."""
    try:
        parsed = parse_qs(body.decode("ascii"), max_num_fields=10, errors="strict")
    except ValueError as error:
        raise MalformedInput("malformed form: not application/x-www-form-urlencoded") from error
    return {name: values[0] for name, values in parsed.items()}
