"""One of the two servers that are compared, as a process: `ours` or `bare`.

The bare application has the service's own documents and tables, so that it reads, writes and
answers the same; it asks nobody who they are, and records nothing.
"""

from __future__ import annotations

import secrets
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from audit.log import utc_clock
from compliance.resources import PlanView, SiteView
from compliance.rules.deadlines import deadline_book, due
from compliance.service.connections import BoundedProtocol, PatientLoop
from compliance.service.database import Database
from compliance.service.folder import Folder, open_registry
from compliance.service.listener import Listener, open_socket
from compliance.service.plans import plan_views
from compliance.service.settings import read_settings
from compliance.service.site_views import site_views
from compliance.service.subject_cases import Case
from compliance.service.subject_codes import hash_receipt
from compliance.service.subject_settings import SubjectSettings
from compliance.service.subject_tables import CasePartRow, CaseRow
from compliance.service.subject_views import filed_view
from compliance.service.tables import PlanRow, SiteRow
from compliance.service.throttle import Rates
from compliance.statements import format_time
from compliance.subject_requests_views import FiledRequest, FiledRequestBody

OURS: Final = "ours"
BARE: Final = "bare"


def bare_application(engine: Engine, positions: Iterator[int]) -> FastAPI:
    """The same routes without evidence."""
    app = FastAPI(openapi_url=None)
    working = SubjectSettings().working

    @contextmanager
    def session() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False) as opened:
            yield opened

    @app.get("/v1/plans/{plan_id}")
    def show_plan(plan_id: str) -> PlanView:
        with session() as opened:
            return plan_views(opened, [opened.get_one(PlanRow, plan_id)])[0]

    @app.get("/v1/sites/{name}")
    def show_site(name: str) -> SiteView:
        with session() as opened:
            return site_views(opened, [opened.get_one(SiteRow, name)])[0]

    @app.post("/v1/subject-requests", status_code=201)
    def file_request(body: FiledRequestBody) -> FiledRequest:
        received, book, code = utc_clock(), deadline_book(), secrets.token_hex(20)
        answer = book.find(body.jurisdiction, body.right, "answer")
        if answer is None:
            raise TypeError("the law has no deadline")
        row = CaseRow(
            request_id=body.request_id,
            right=body.right,
            jurisdiction=body.jurisdiction,
            stage="received",
            identity=body.identity,
            filed_by="officer",
            received_at=format_time(received),
            filed_at=format_time(received),
            position=next(positions),
            rules_version=book.version,
            content_hmac=secrets.token_hex(32),
            receipt_sha256=hash_receipt(code),
            due_at=format_time(due(answer, received, working)),
        )
        parts = [
            CasePartRow(request_id=body.request_id, site=site, state="held", sealed=sealed)
            for site, sealed in body.sealed.items()
        ]
        with session() as opened:
            opened.add(row)
            opened.flush()
            opened.add_all(parts)
            opened.commit()
            return filed_view(Case(row, parts), code)

    return app


def _bare(folder: Folder) -> tuple[uvicorn.Server, Any]:
    # The service's pool and durability (WAL, synchronous=FULL), with transactions as they come.
    engine = Database(read_settings(folder.settings).database_url, folder.path).engine
    with engine.connect() as connection:
        used = connection.scalar(select(text("max(position)")).select_from(CaseRow))
    config = uvicorn.Config(
        bare_application(engine, iter(range((used or 0) + 10**9, 10**12))),
        http=BoundedProtocol,
        loop=f"{PatientLoop.__module__}:{PatientLoop.__name__}",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        ssl_keyfile=folder.tls_key,
        ssl_certfile=folder.certificate,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return uvicorn.Server(config), engine


def main() -> None:
    """Serve until killed; the port is the only line on standard output."""
    which, path = sys.argv[1:]
    folder = Folder(Path(path))
    listener = open_socket("127.0.0.1", 0)
    if which == OURS:
        # An officer's calls are counted, but one officer may make as many as all of them.
        registry = replace(open_registry(folder, utc_clock), rates=Rates(calls=10**9))
        server: uvicorn.Server = Listener(registry, folder)
    else:
        server, _ = _bare(folder)
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
