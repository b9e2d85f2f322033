"""Unwrapped keys in memory, so that a key-management service is not asked at each use.

* A key is served only for the very wrapped bytes that it was unwrapped from: whoever reads the row
  first, and finds it destroyed or changed, gets nothing from here.
* Bounded in number (the least recently used goes first) and, for a service, in time: a service
  that was sealed, or whose token was revoked, is felt after that time at the latest.
* Python cannot overwrite the memory of `bytes`; a dropped key is gone when that memory is reused.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from audit.key_manager import WrappedKey

MAX_CACHED_KEYS: Final = 10_000
"""About 5 MB; the subjects of a busy hour."""


class _Cached(NamedTuple):
    wrapped: WrappedKey
    key: bytes
    until: float


class KeyCache:
    """Unwrapped keys by the name of their row. Safe under threads."""

    def __init__(
        self, size: int = MAX_CACHED_KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """An empty cache.

        Args:
            size: At most so many keys.
            clock: Seconds that never go back.
        """
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: OrderedDict[tuple[str, str], _Cached] = OrderedDict()
        self._drops = 0

    @property
    def drops(self) -> int:
        """How often keys were dropped; take it before unwrapping and give it to `put`."""
        return self._drops

    def get(self, row: tuple[str, str], wrapped: WrappedKey) -> bytes | None:
        """The key of a row, if it was unwrapped from just these bytes and not too long ago."""
        with self._lock:
            cached = self._keys.get(row)
            if cached is None:
                return None
            if cached.wrapped != wrapped or cached.until <= self._clock():
                del self._keys[row]
                return None
            self._keys.move_to_end(row)
            return cached.key

    def put(
        self, row: tuple[str, str], wrapped: WrappedKey, key: bytes, seconds: float, drops: int
    ) -> None:
        """Keep a key for some time, unless a key was dropped since `drops` was taken.

        That could have been this one: a key must not come back into memory after its destruction.
        """
        if seconds <= 0:
            return
        with self._lock:
            if drops != self._drops:
                return
            self._keys[row] = _Cached(wrapped, key, self._clock() + seconds)
            self._keys.move_to_end(row)
            if len(self._keys) > self._size:
                self._keys.popitem(last=False)

    def drop(self, row: tuple[str, str]) -> None:
        """Forget the key of a row."""
        with self._lock:
            self._drops += 1
            self._keys.pop(row, None)

    def clear(self) -> None:
        """Forget every key."""
        with self._lock:
            self._drops += 1
            self._keys.clear()
