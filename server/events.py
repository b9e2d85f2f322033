"""Who called the coordinator's ports, and how it went: one JSON line per event.

* A line holds a time, a port, an actor, a path, a status and a reason: never a body, a token or a
  key.
* Routine polls and heartbeats that succeed are left out; every refusal is in.
* The file is bounded: at `MAX_LOG_BYTES` it becomes `events.1.jsonl` and a new one begins. What
  must be provable is in the compliance service's log, not here.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from compliance.statements import utc_now

MAX_LOG_BYTES = 16 * 1024 * 1024
"""Two such files are the most that a hostile partner can make the coordinator keep."""


class EventLog:
    """An append-only, bounded file of events, safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def record(
        self, *, port: str, actor: str, path: str, status: int, remote: str = "", reason: str = ""
    ) -> None:
        """Write one event.

        Args:
            port: `control` or `partner`.
            actor: A site, `coordinator`, or `unknown`.
            path: Path of the call.
            status: HTTP status of the answer.
            remote: Address of the caller.
            reason: Stable code of a refusal.
        """
        event = {
            "time": utc_now(),
            "port": port,
            "actor": actor,
            "path": path[:200],
            "status": status,
            "remote": remote,
            "reason": reason,
        }
        line = json.dumps({name: value for name, value in event.items() if value != ""}) + "\n"
        with self._lock:
            self._rotate()
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line.encode("utf-8"))
            finally:
                os.close(descriptor)

    def _rotate(self) -> None:
        try:
            size_bytes = self._path.stat().st_size
        except FileNotFoundError:
            return
        if size_bytes >= MAX_LOG_BYTES:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
