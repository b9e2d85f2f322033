"""How other processes are started beside this one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def starting_processes() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started inside; it comes to this one afterwards.

    A terminal sends it to all of them, and one that has just begun knows no better than to end with
    a traceback. The mask is inherited: whoever starts a process decides when it ends.
    """
    resource_tracker.ensure_running()  # it would take SIGINT out of the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
