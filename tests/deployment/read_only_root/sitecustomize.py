"""Makes everything read-only to this interpreter but the folders in WRITABLE, as `read_only: true`.

Python imports it by itself where its folder is on PYTHONPATH. What Python's own audit events see is
refused as the kernel would refuse it; a library that writes by system calls of its own is not seen.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

_WRITABLE = tuple(
    os.path.realpath(path) for path in os.environ.get("WRITABLE", "").split(os.pathsep) if path
)
_CHANGES = {
    # The event's arguments that are paths which would change.
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _paths(event: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else bool(flags & _WRITING)
        return (path,) if writes else ()
    if event == "sqlite3.connect":
        path = os.fsdecode(arguments[0])
        return (
            () if path in ("", ":memory:") or "mode=ro" in path else (path.removeprefix("file:"),)
        )
    return tuple(arguments[index] for index in _CHANGES.get(event, ()))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    for path in _paths(event, arguments):
        if isinstance(path, int):  # opened before, and judged then
            continue
        place = os.path.realpath(os.fsdecode(path))
        if place.startswith(("/dev/", "/proc/self/")):
            continue
        if not any(place == allowed or place.startswith(f"{allowed}/") for allowed in _WRITABLE):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)


if _WRITABLE:
    sys.addaudithook(_refuse)
