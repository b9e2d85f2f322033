"""Work that goes on beside the service for as long as it serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(
    name: str, serve: Callable[[], None], stop: Callable[[], None], stop_seconds: float
) -> Iterator[None]:
    """Run something in a thread of its own until the block ends.

    Args:
        name: The thread's name.
        serve: The work; it returns soon after `stop` was called.
        stop: Asks it to end.
        stop_seconds: How long it is waited for.
    """
    thread = threading.Thread(target=serve, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(stop_seconds)
