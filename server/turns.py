"""Long answers come in a few at a time, so that memory does not grow with the number of sites.

* A site that sends a long body takes a turn before the body is read; while it waits, TCP holds it
  back. It keeps its turn over all calls that its answer takes, until the coordinator has collected
  the answer.
* Nobody waits for ever: a turn that is held for longer than `PATIENCE_SECONDS` counts as free, and
  who has waited that long goes on without one. So a slow site delays the others' answers, never the
  round, and nothing can be locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

AT_ONCE = 4
"""Long answers in memory: one is judged, others arrive meanwhile."""

LONG_BODY_BYTES = 256 * 1024
"""A body from which on its sender takes a turn."""

PATIENCE_SECONDS = 20.0
"""Below a site's own request timeout."""


class Turns:
    """Turns of the callers of one event loop.

    Args:
        at_once: How many are held at most, as long as nobody's patience ends.
        patience_seconds: How long one is waited for, and how long one counts.
    """

    def __init__(self, at_once: int = AT_ONCE, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._at_once = at_once
        self._patience_seconds = patience_seconds
        self._held: dict[bytes, float] = {}  # who holds a turn, and since when
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given = asyncio.Event()
        self._closed = False

    async def take(self, holder: bytes) -> None:
        """Take a turn, or keep the one that is held; waits until one is free, and not for ever.

        Args:
            holder: The site's node key.
        """
        loop = self._loop = asyncio.get_running_loop()
        last = loop.time() + self._patience_seconds
        while not self._taken(holder, loop.time()) and loop.time() < last:
            self._given.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(last, self._oldest_ends())):
                    await self._given.wait()

    def give(self, holder: bytes) -> None:
        """Give a turn back; may be called from any thread, and without holding one."""
        with self._lock:
            given = self._held.pop(holder, None) is not None
        if given:
            self._wake()

    def close(self) -> None:
        """Let everybody go on; may be called from any thread."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._given.set)

    def _taken(self, holder: bytes, now: float) -> bool:
        with self._lock:
            for other, since in list(self._held.items()):
                if now - since >= self._patience_seconds:
                    del self._held[other]
            free = self._closed or holder in self._held or len(self._held) < self._at_once
            if free:
                self._held.setdefault(holder, now)
            return free

    def _oldest_ends(self) -> float:
        with self._lock:
            return min(self._held.values(), default=0.0) + self._patience_seconds
