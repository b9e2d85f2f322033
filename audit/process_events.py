"""What a long-running process says of its work, for machines: one JSON object a line.

* An event has a stable name in kebab case and a fixed set of fields: ids, codes and counts. Both
  are in the catalogue of its process (`server/event_kinds.py`, `client/event_kinds.py`,
  `compliance/event_kinds.py`), and docs/monitoring.md lists them.
* What the catalogue does not name is not written. There is no field for free text: sentences may
  quote what somebody else sent, and lines like these travel to systems that this project does not
  know. The sentence is in `server status`, `client status` and the plain output.
* Names do not change meaning. New events and fields may be added.
* A line that cannot be written is lost; nothing waits for it. Evidence is in the audit log.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, TextIO

Level = Literal["info", "warning", "error"]

EventField = str | int | float
"""An id, a code, a count or a measure."""

MAX_TEXT_CHARACTERS: Final = 200
"""An id is shorter; what is longer is no id, and is cut."""


@dataclass(frozen=True)
class EventKind:
    """One event that a process may tell.

    Attributes:
        level: `warning` where somebody may have to act, `error` where somebody must.
        fields: Names of its fields.
        meaning: One line for the documentation.
    """

    level: Level
    fields: tuple[str, ...]
    meaning: str


Catalogue = Mapping[str, EventKind]


class EventSink(Protocol):
    """Where events go."""

    def __call__(self, name: str, fields: Mapping[str, EventField]) -> None:
        """Take one event."""


class JsonLines:
    """Writes events as JSON lines, safe to use from several threads.

    Args:
        process: `server`, `client` or `compliance`.
        catalogue: The events of that process.
        stream: Where lines go.
        about: Fields of every line, such as the site's name.
        clock: The present time, with its zone.
    """

    def __init__(
        self,
        process: str,
        catalogue: Catalogue,
        stream: TextIO,
        about: Mapping[str, EventField] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._process = process
        self._catalogue = catalogue
        self._stream = stream
        self._about = dict(about or {})
        self._clock = clock
        self._lock = threading.Lock()

    def __call__(self, name: str, fields: Mapping[str, EventField]) -> None:
        """Write one event; fields that its kind does not have are left out.

        Raises:
            KeyError: When the catalogue has no such event: a fault of ours, which tests find.
        """
        kind = self._catalogue[name]
        now = self._clock().astimezone(UTC)
        line = {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": kind.level,
            "process": self._process,
            "event": name,
            **self._about,
            **{field: _plain(fields[field]) for field in kind.fields if field in fields},
        }
        text = json.dumps(line, allow_nan=False) + "\n"
        with self._lock:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError:
                pass  # nobody reads any more; the work goes on


def _plain(value: EventField) -> EventField | None:
    if isinstance(value, str):
        return value[:MAX_TEXT_CHARACTERS]
    return value if isinstance(value, int) or math.isfinite(value) else None
