"""Reports for a regulator, each recorded before it is sent."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import Response

from compliance.report_api import POSITION_HEADER
from compliance.report_views import ReportFormat, ReportKind
from compliance.reports.narrowing import may_report
from compliance.rules import ALLOWED
from compliance.rules.registers import default_law
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.gate import GatedRoute
from compliance.service.reports import make_report

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/reports", tags=["reports"])

MEDIA_TYPES: Final[dict[ReportFormat, str]] = {
    "html": "text/html; charset=utf-8",
    "markdown": "text/markdown; charset=utf-8",
    "json": "application/json",
}

ENDINGS: Final[dict[ReportFormat, str]] = {"html": "html", "markdown": "md", "json": "json"}

_TEXT: Final = {"schema": {"type": "string"}}
_FILE: Final[dict[str, Any]] = {
    "description": "The report",
    "content": {
        "text/html": _TEXT,
        "text/markdown": _TEXT,
        "application/json": {"schema": {"type": "object"}},
    },
    "headers": {POSITION_HEADER: {"schema": {"type": "integer", "minimum": 0}}},
}


@router.get("")
@requires("officer", "auditor", by_site=True)
def list_reports(caller: Caller) -> dict[str, list[ReportKind]]:
    """The reports that can be made for the caller."""
    law, scope = default_law(), caller.scope("officer", "auditor")
    return {
        "reports": [
            ReportKind(name=report.name, title=report.title, law=report.law, as_of=law.version)
            for report in law.report
            if may_report(report.name, scope) == ALLOWED
        ]
    }


@router.get("/{report}", response_class=Response, responses={200: _FILE})
@requires("officer", "auditor", by_site=True)
def show_report(
    report: str,
    office: Office,
    caller: Caller,
    format: ReportFormat = "html",  # noqa: A002
) -> Response:
    """A report as it stands now. That it was made, and the digest of this file, is recorded.

    For a limited role it is of its sites alone, where a report can be.
    """
    made = make_report(office, report, format, caller)
    return Response(
        made.content,
        media_type=MEDIA_TYPES[format],
        headers={
            POSITION_HEADER: f"{made.position}",
            "content-disposition": f'attachment; filename="{made.name}.{ENDINGS[format]}"',
        },
    )
