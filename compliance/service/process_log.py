"""The service's messages as JSON lines: what `logging` carries, as events of the catalogue."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from audit.process_events import EventField, JsonLines

EVENT: Final = "fiduciary_event"
FIELDS: Final = "fiduciary_fields"

logger = logging.getLogger("compliance.service")


def event(name: str, **fields: EventField) -> Mapping[str, object]:
    """The `extra` of a message that is an event of `compliance.event_kinds`."""
    return {EVENT: name, FIELDS: fields}


class JsonHandler(logging.Handler):
    """Writes messages as events. Text is left out: a library's may quote anything."""

    def __init__(self, lines: JsonLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        name = getattr(record, EVENT, None)
        if name is not None:
            self._lines(str(name), getattr(record, FIELDS, {}))
        elif record.levelno >= logging.WARNING:
            error = record.exc_info[0] if record.exc_info else None
            fields = {"logger": record.name} | ({"error": error.__name__} if error else {})
            self._lines("library-message", fields)


def set_up_plain() -> None:
    """Warnings as lines for people."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def set_up_json(lines: JsonLines) -> None:
    """Events, and that libraries complained, as JSON lines."""
    logging.basicConfig(level=logging.WARNING, handlers=[JsonHandler(lines)])
    logger.setLevel(logging.INFO)
