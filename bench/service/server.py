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
from compliance.resources import PlanView, SiteView, SubjectRequestBody, SubjectRequestView
from compliance.service.connections import BoundedProtocol, PatientLoop
from compliance.service.database import Database
from compliance.service.folder import Folder, open_registry
from compliance.service.listener import Listener, open_socket
from compliance.service.routes import plans, sites, subjects
from compliance.service.settings import read_settings
from compliance.service.tables import PlanRow, SiteRow, SubjectRequestRow
from compliance.service.throttle import Rates
from compliance.statements import utc_now

OURS: Final = "ours"
BARE: Final = "bare"


def bare_application(engine: Engine, positions: Iterator[int]) -> FastAPI:
    """The same routes without evidence."""
    app = FastAPI(openapi_url=None)

    @contextmanager
    def session() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False) as opened:
            yield opened

    @app.get("/v1/plans/{plan_id}")
    def show_plan(plan_id: str) -> PlanView:
        with session() as opened:
            return plans._views(opened, [opened.get_one(PlanRow, plan_id)])[0]

    @app.get("/v1/sites/{name}")
    def show_site(name: str) -> SiteView:
        with session() as opened:
            return sites._views(opened, [opened.get_one(SiteRow, name)])[0]

    @app.post("/v1/requests", status_code=201)
    def file_request(body: SubjectRequestBody) -> SubjectRequestView:
        with session() as opened:
            row = SubjectRequestRow(
                request_id=body.request_id or secrets.token_hex(16),
                kind=body.kind,
                site=body.site,
                state="open",
                sealed=body.sealed,
                subject=body.subject,
                filed_by=f"site:{body.site}",
                filed_at=utc_now(),
                position=next(positions),
            )
            opened.add(row)
            opened.commit()
            return subjects._view(row)

    return app


def _bare(folder: Folder) -> tuple[uvicorn.Server, Any]:
    # The service's pool and durability (WAL, synchronous=FULL), with transactions as they come.
    engine = Database(read_settings(folder.settings).database_url, folder.path).engine
    with engine.connect() as connection:
        used = connection.scalar(select(text("max(position)")).select_from(SubjectRequestRow))
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
