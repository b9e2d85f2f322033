"""Questions to the log in tests: a service with a history, and a network that cannot be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from compliance.api import ComplianceClient
from compliance.log_views import LogQuery
from compliance.service.log_search import EntryReader, read_head
from tests.compliance.running import RunningService
from tests.compliance.test_one_transaction import every_write

Change = Callable[[dict[str, Any]], None]


def with_history(service: RunningService, folder: Path) -> RunningService:
    """A service in which nearly everything happened once, a minute apart."""
    for _, write in every_write(service, folder):
        write()
        service.clock.advance(minutes=1)
    return service


class ForgingTransport(httpx.BaseTransport):
    """The real service, behind somebody who changes answers.

    Args:
        service: Where requests go.
        path: Only answers of this path are changed.
        change: Changes a JSON answer in place.
        cut: Instead, changes the answer's octets.
    """

    def __init__(
        self,
        service: RunningService,
        path: str,
        change: Change | None = None,
        cut: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._real = httpx.HTTPTransport(verify=service.trust.ssl_context())
        self._path = path
        self._change = change
        self._cut = cut

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._real.handle_request(request)
        if request.url.path != self._path:
            return answer
        content = answer.read()
        if self._change is not None:
            document = json.loads(content)
            self._change(document)
            content = json.dumps(document).encode()
        if self._cut is not None:
            content = self._cut(content)
        kept = ("content-type", "fiduciary-entries")
        headers = {name: answer.headers[name] for name in kept if name in answer.headers}
        answer.close()
        return httpx.Response(answer.status_code, headers=headers, content=content)

    def close(self) -> None:
        self._real.close()


def forged(
    service: RunningService,
    change: Change | None = None,
    *,
    path: str = "/v1/log/entries",
    cut: Callable[[bytes], bytes] | None = None,
) -> ComplianceClient:
    """An officer whose answers are changed on their way."""
    transport = ForgingTransport(service, path, change, cut)
    return ComplianceClient(service.trust, service.token("officer"), transport=transport)


def everything(service: RunningService) -> list[dict[str, Any]]:
    """Every entry as it would be shown, oldest first, read without asking."""
    registry = service.registry
    with registry.reading() as session:
        head = read_head(session, registry.storage(session))
        reader = EntryReader(registry, head.checkpoint)
        views = list(reader.read(session, range(head.checkpoint.size)))
    return [view.model_dump() for view in views]


def ask(client: ComplianceClient, **question: Any) -> list[list[int]]:
    """The positions on each page of an answer."""
    pages = client.log_pages(LogQuery(**question))
    return [[view.position for view in page.entries] for page in pages]
