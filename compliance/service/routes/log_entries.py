"""Questions to the audit log, for officers and auditors.

* A question is itself an entry, durable before an octet of the answer is sent: no entry, no answer.
* The answer is read first, in a snapshot of its own, so that a large one keeps no writer waiting;
  its entry says which log it was about and how much was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from compliance.log_access import COUNT_HEADER
from compliance.log_views import LogExport, LogPage, LogQuery
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.gate import GatedRoute
from compliance.service.log_export import MEDIA_TYPES, export_lines, prepare_export
from compliance.service.log_search import read_page
from compliance.wire import Role

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1/log", tags=["log"])

READERS: Final[tuple[Role, ...]] = ("officer", "auditor")
"""Whoever holds these for some sites alone finds the entries about those."""

LOG_OBJECT: Final = "log:entries"
"""What a question is about, whatever it asks: a plan's entries are not who read them."""

_PIECE_BYTES: Final = 64 * 1024
"""A thread switch and a TLS record for each line would cost more than the line."""

_TEXT: Final = {"schema": {"type": "string"}}
_FILE: Final[dict[str, Any]] = {
    "description": "The entries",
    "content": {"application/jsonl": _TEXT, "text/csv": _TEXT},
    "headers": {COUNT_HEADER: {"schema": {"type": "integer", "minimum": 0}}},
}


@router.get("/entries")
@requires(*READERS, by_site=True)
def query_log(query: Annotated[LogQuery, Query()], office: Office, caller: Caller) -> LogPage:
    """Entries that meet all conditions, decrypted and proven. The question is recorded."""
    with office.reading() as session:
        page = read_page(office, session, query, caller.scope(*READERS))
    with office.writing(caller) as transaction:
        transaction.record(
            "log.queried",
            LOG_OBJECT,
            {
                "filters": query.conditions(),
                "order": query.order,
                "continued": query.cursor is not None,
                "size": page.size,
                "answers": len(page.entries),
            },
        )
    return page


@router.get("/export", response_class=StreamingResponse, responses={200: _FILE})
@requires(*READERS, by_site=True)
def export_log(
    query: Annotated[LogExport, Query()], office: Office, caller: Caller
) -> StreamingResponse:
    """All entries that meet the conditions, as one file, oldest first. The export is recorded."""
    export = prepare_export(office, query, caller.scope(*READERS))
    with office.writing(caller) as transaction:
        transaction.record(
            "log.exported",
            LOG_OBJECT,
            {
                "filters": query.conditions(),
                "format": query.format,
                "size": export.head.checkpoint.size,
                "answers": export.count,
            },
        )
    name = f"log-entries.{query.format}"
    return StreamingResponse(
        _pieces(export_lines(office, export)),
        media_type=MEDIA_TYPES[query.format],
        headers={
            COUNT_HEADER: str(export.count),
            "content-disposition": f'attachment; filename="{name}"',
        },
    )


def _pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines in pieces that are worth sending."""
    pending: list[bytes] = []
    size = 0
    for line in lines:
        pending.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield b"".join(pending)
            pending, size = [], 0
    yield b"".join(pending)
