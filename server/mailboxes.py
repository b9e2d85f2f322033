"""Where held polls of sites wait until there is a message for them."""

from __future__ import annotations

import asyncio
import threading

from server.asgi import Receive


class Mailboxes:
    """Wakes the held polls of a node when a message for it was stored.

    A notification stays until the node looks for itself, so a poll that comes after it is not held.
    One that is lost, because two came before one look, costs the time that a poll is held.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._boxes: dict[bytes, asyncio.Event] = {}
        self._lock = threading.Lock()
        self._closed = False

    def notify(self, node_key: bytes) -> None:
        """Wake the node; may be called from any thread."""
        with self._lock:
            loop, box = self._loop, self._boxes.setdefault(node_key, asyncio.Event())
            if loop is None:  # nobody has ever waited, so nobody is to be woken
                box.set()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(box.set)

    def close(self) -> None:
        """Let go of every held poll; may be called from any thread."""
        self._closed = True
        with self._lock:
            keys = list(self._boxes)
        for key in keys:
            self.notify(key)

    def empty(self, node_key: bytes) -> None:
        """Forget earlier notifications: the node is about to look for itself."""
        self._box(node_key).clear()

    async def wait(self, node_key: bytes, seconds: float, receive: Receive) -> bool:
        """Wait for a notification; False when the caller has gone away meanwhile."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
        if self._closed:
            return True
        notified = asyncio.ensure_future(self._box(node_key).wait())
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait(
                {notified, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return not gone.done()
        finally:
            notified.cancel()
            gone.cancel()

    def _box(self, node_key: bytes) -> asyncio.Event:
        with self._lock:
            return self._boxes.setdefault(node_key, asyncio.Event())
