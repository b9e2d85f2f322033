"""The callers, as a process of their own: connections that each wait for one answer at a time.

Standard input has one JSON document (`Load`), standard output another one (`Measured`).
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

FRESH: Final = "an id that is another each time."
"""Stands in a call for 32 hexadecimal digits, new whenever it is sent."""

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        port: Where, on 127.0.0.1.
        certificate: The server's, PEM.
        calls: For each connection the requests that it sends in turn, as HTTP/1.1 text.
        seconds: How long to go on; 0 for each request once.
        shown: For each connection the PEM file of the client certificate that it shows; empty for
            none at all.
    """

    port: int
    certificate: str
    calls: list[list[str]]
    seconds: float
    shown: list[str]


@dataclass(frozen=True)
class Measured:
    """What came back. `milliseconds` are percentiles of an answer; errors, answers above 299."""

    answers: int
    errors: int
    per_second: float
    p50_ms: float
    p99_ms: float
    worst_ms: float


class _Caller:
    def __init__(self, load: Load, context: ssl.SSLContext) -> None:
        self._load = load
        self._context = context
        self.times: list[float] = []
        self.errors = 0

    async def run(self, calls: list[str], ready: asyncio.Barrier) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._load.port, ssl=self._context, server_hostname="127.0.0.1"
        )
        requests = [call.encode() for call in calls]
        await ready.wait()
        until = time.perf_counter() + self._load.seconds
        turn = 0
        while (turn < len(requests)) if not self._load.seconds else (time.perf_counter() < until):
            began = time.perf_counter()
            fresh = secrets.token_hex(16).encode()
            writer.write(requests[turn % len(requests)].replace(FRESH.encode(), fresh))
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if length is not None:
                await reader.readexactly(int(length[1]))
            self.times.append(time.perf_counter() - began)
            self.errors += not head.startswith(b"HTTP/1.1 2")
            turn += 1
        writer.close()


async def call_all(load: Load) -> Measured:
    """Send everything, and measure."""
    shown: Sequence[str | None] = load.shown or [None] * len(load.calls)
    callers = [_Caller(load, _context(load.certificate, file)) for file in shown]
    ready = asyncio.Barrier(len(callers) + 1)
    tasks = [
        asyncio.create_task(caller.run(calls, ready))
        for caller, calls in zip(callers, load.calls, strict=True)
    ]
    await ready.wait()
    began = time.perf_counter()
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - began
    times = sorted(one for caller in callers for one in caller.times)
    percentiles = statistics.quantiles(times, n=100)
    return Measured(
        answers=len(times),
        errors=sum(caller.errors for caller in callers),
        per_second=len(times) / seconds,
        p50_ms=percentiles[49] * 1000,
        p99_ms=percentiles[98] * 1000,
        worst_ms=times[-1] * 1000,
    )


def _context(certificate: str, shown: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=certificate)
    if shown is not None:
        context.load_cert_chain(shown)
    return context


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(call_all(Load(**json.load(sys.stdin)))))))
