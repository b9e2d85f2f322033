"""What one connection, and one address, may take of the listener.

| what is taken                    | how much                                                    |
|----------------------------------|-------------------------------------------------------------|
| connections, handshakes included | `MAX_CONNECTIONS`, of one address `MAX_OF_ADDRESS`          |
| time for the TLS handshake       | `HANDSHAKE_SECONDS`                                         |
| time for a request's head        | `HEAD_SECONDS`, from its first octet or the connection's    |
| octets of a head                 | `MAX_HEAD_BYTES`                                            |
| a body that nobody reads         | `LINGER_SECONDS` after the answer                           |
| an answer that is not taken      | `STALLED_SECONDS` without one piece of it                   |
| calls that run at once           | of one address half of what the service runs (`Turns`)      |

* A connection too many is closed before its handshake, without an answer: the cheapest refusal.
* Calls too many of one address wait for each other, and for nobody else. They are not refused:
  a whole hospital may call from behind one gateway.
* An IPv6 address counts as its /64, which is what one subscriber gets (RFC 6177).
* HTTP is h11's: it refuses what two readers could take for different requests (RFC 9112 §6, §11.2).

Sources: OWASP Denial of Service Cheat Sheet; CWE-400, CWE-444, CWE-770.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS: Final = 512
"""Half of the files that a process may usually have open."""

MAX_OF_ADDRESS: Final = 128
"""Every principal of a large institution behind one gateway, twice."""

HANDSHAKE_SECONDS: Final = 10.0
HEAD_SECONDS: Final = 10.0
"""A head is one packet; a slow line needs a second for it."""

MAX_HEAD_BYTES: Final = 32 * 1024

LINGER_SECONDS: Final = 2.0
"""For a caller to read why its body was not."""

STALLED_SECONDS: Final = 60.0

MAX_CALLS_OF_ADDRESS: Final = 20
"""Half of the threads that run calls (Starlette's pool has 40)."""


@lru_cache(maxsize=4096)
def caller_address(address: str) -> str:
    """Whom an address stands for.

    >>> caller_address("192.0.2.1"), caller_address("2001:db8:1:2:3::4")
    ('192.0.2.1', '2001:db8:1:2::/64')
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return address


class LimitedSocket(socket.socket):
    """A listening socket that closes a connection too many as soon as it comes."""

    max_connections = MAX_CONNECTIONS
    max_of_address = MAX_OF_ADDRESS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._open: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            ConnectionAbortedError: When it was one too many. It is closed; the next may be taken.
        """
        plain, address = super().accept()
        caller = caller_address(address[0])
        if self._open.total() >= self.max_connections or self._open[caller] >= self.max_of_address:
            plain.close()
            raise ConnectionAbortedError
        return _Connection(plain, self._open, caller), address


class _Connection(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, plain: socket.socket, counts: Counter[str], caller: str) -> None:
        blocking = plain.getblocking()
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self.setblocking(blocking)
        self._counts, self._caller, self._counted = counts, caller, True
        counts[caller] += 1

    def close(self) -> None:
        """Close it, and count it no more."""
        super().close()
        if self._counted:
            self._counted = False
            self._counts[self._caller] -= 1
            if self._counts[self._caller] == 0:
                del self._counts[self._caller]


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers do not wait long for a handshake."""

    handshake_seconds = HANDSHAKE_SECONDS

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """As asyncio does, with a limit on TLS handshakes."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = self.handshake_seconds
        return await super().create_server(*arguments, **options)


class _StrictConnection(h11.Connection):
    """Refuses a head that RFC 9112 lets a recipient understand, but that others may not alike."""

    def next_event(self) -> Any:
        """What came next.

        Raises:
            h11.RemoteProtocolError: For a body framed twice (request smuggling), or framed in a
                way that HTTP/1.0 does not know; for another version; for a target that is a whole
                URI, which only a proxy is asked for; for a head of too many octets.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (
                b"content-length" in names or event.http_version != b"1.1"
            ):
                raise h11.RemoteProtocolError("ambiguous framing")
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("another version of HTTP")
            if not event.target.startswith(b"/"):
                raise h11.RemoteProtocolError("the target is no path")
            size = sum(len(name) + len(value) for name, value in event.headers)
            if size + len(event.target) > MAX_HEAD_BYTES:
                raise h11.RemoteProtocolError("the head is too large")
        return event


class BoundedProtocol(H11Protocol):
    """HTTP on one connection, with limits on the time that each part of a request may take."""

    head_seconds = HEAD_SECONDS
    linger_seconds = LINGER_SECONDS
    stalled_seconds = STALLED_SECONDS

    _deadline: asyncio.TimerHandle | None = None
    """Until when the head must be there, or until when an unread body is put up with."""

    _stalled: asyncio.TimerHandle | None = None

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        size = config.h11_max_incomplete_event_size or MAX_HEAD_BYTES
        self.conn = _StrictConnection(h11.SERVER, size)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_deadline()
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Take what came, and see whether it was a whole head."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            if self.conn.our_state is not h11.DONE:
                self._end_deadline()
        elif self.conn.trailing_data[0] and self._deadline is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        """Do not read for long what the answer did not wait for."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._deadline is None:
            self._deadline = self.loop.call_later(self.linger_seconds, self._give_up)

    def shutdown(self) -> None:
        """Drop an idle connection; let a request in flight end.

        A caller that keeps a connection for its next question reads nothing meanwhile, so it would
        not answer TLS's goodbye, and the stop would wait for it in vain.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            if self.transport.get_write_buffer_size() == 0:
                self.transport.abort()
            else:
                self.transport.close()
        else:
            cycle.keep_alive = False

    def pause_writing(self) -> None:
        """The caller does not take the answer: for how long?"""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stalled_seconds, self._give_up)

    def resume_writing(self) -> None:
        """The caller took a piece of it."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self._give_up)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


class Turns:
    """Lets so many calls of one address run at once; the others wait for each other.

    Used by one event loop alone.
    """

    def __init__(self, at_once: int = MAX_CALLS_OF_ADDRESS) -> None:
        self._at_once = at_once
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._calls: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, address: str) -> AsyncIterator[None]:
        """Hold one of the address's turns."""
        caller = caller_address(address)
        self._calls[caller] += 1
        turn = self._turns.setdefault(caller, asyncio.Semaphore(self._at_once))
        try:
            async with turn:
                yield
        finally:
            self._calls[caller] -= 1
            if self._calls[caller] == 0:
                del self._calls[caller], self._turns[caller]
