"""What to do where a process may not read or write: usually the folder is somebody else's.

A folder that a container engine mounts belongs to whoever made it on the host, and the process in
the container runs as a user of its own. The message names both.
"""

from __future__ import annotations

import os
from pathlib import Path

from audit.errors import FiduciaryError


def denied(error: PermissionError) -> FiduciaryError:
    """What a refusal of the operating system means to the operator."""
    reason = error.strerror or "not permitted"
    path = error.filename2 or error.filename
    if not isinstance(path, str | bytes | os.PathLike):
        return FiduciaryError(reason, fix="check permissions, then try again")
    place = Path(os.fsdecode(path))
    found = _nearest(place)
    user, owner = os.geteuid(), found.stat().st_uid
    if user == owner:
        return FiduciaryError(
            f"{place}: {reason}",
            fix=f"let its owner read and write: chmod u+rwX {found}, then try again",
        )
    return FiduciaryError(
        f"{place}: {reason}; {found} belongs to user {owner}, and this process is user {user}",
        fix=f"as root: chown -R {user}:{os.getegid()} {found}, or run this as user {owner}",
    )


def _nearest(path: Path) -> Path:
    """The path itself or the nearest folder above it of which anything can be learned."""
    for place in (path, *path.absolute().parents):
        try:
            place.stat()
        except OSError:
            continue
        return place
    return Path("/")
