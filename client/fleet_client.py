"""The site's HTTP client for Fleet calls: Flower's, with connections that last and held polls."""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from collections.abc import Callable
from typing import Any, Final

import httpx
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.fleet_frames import PUSH_ANSWER, Frames
from client.polling import PULL_TASK, WAIT_HEADER

IDLE_SECONDS: Final = 60.0
"""How long an idle connection is kept; the coordinator keeps it a little longer."""


class FleetClient(FleetHttpClient):  # type: ignore[misc]  # flwr has no types
    """Flower's client, with our two calls, and connections that outlive a heartbeat's interval.

    Its own lets go of one after 5 seconds, so that every heartbeat began with a TLS handshake.
    """

    _client: httpx.Client

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(base_url, **options)
        self._client.close()
        self._client = httpx.Client(
            verify=options["verify"],
            timeout=options["timeout"],
            limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
        )

    def pull_task(self, request: PullMessagesRequest) -> Frames:
        """The next task with its objects (`client.fleet_frames`)."""
        return self._framed(PULL_TASK, request)

    def push_answer(self, frames: Frames) -> Frames:
        """An answer with its objects (`client.fleet_frames`)."""
        return self._framed(PUSH_ANSWER, frames)

    def _framed(self, call: str, request: Any) -> Frames:
        answer: Frames = self._unary_unary(
            path=f"/v1/fleet/{call}", rpc_method=call, request=request, response_type=Frames
        )
        return answer


class WaitHeader:
    """Adds `WAIT_HEADER` to polls (a `ProtobufClientInterceptor`)."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Pass a call on, a poll with the header."""
        if self.seconds > 0 and context.rpc_method == PULL_TASK:
            context.request.headers[WAIT_HEADER] = f"{self.seconds:g}"
        return call_next(context)
