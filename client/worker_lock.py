"""One worker a site: two would share a node key, and answer for each other.

The lock is the operating system's: it is let go of when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from audit.errors import Conflict
from client.site import Site


@contextmanager
def hold_worker_lock(site: Site) -> Iterator[None]:
    """Be this site's only worker inside the block.

    Raises:
        Conflict: When another process is.
    """
    with site.paths.worker_lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"`client start` is running already for site {site.name}",
                fix="`client status` shows what it does",
            ) from error
        yield


def is_worker_running(site: Site) -> bool:
    """Whether some process is this site's worker."""
    try:
        with site.paths.worker_lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
