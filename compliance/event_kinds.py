"""The events that `compliance start --log-format json` tells (docs/monitoring.md).

Who called, and about what, is in the audit log alone.
"""

from __future__ import annotations

from typing import Final

from audit.process_events import Catalogue, EventKind

EVENTS: Final[Catalogue] = {
    "service-started": EventKind("info", ("port",), "the service accepts connections"),
    "metrics-served": EventKind("info", ("port",), "the metrics port is open"),
    "service-ended": EventKind("info", (), "it was asked to end, and did"),
    "request-failed": EventKind(
        "error",
        ("incident", "error", "operation"),
        "a fault of the service; the caller was told the incident, the plain output has the place",
    ),
    "retention-swept": EventKind("info", ("keys",), "retention ran; so many keys were shredded"),
    "retention-failed": EventKind("error", ("code",), "it did not run, and is tried tomorrow"),
    "breach-overdue": EventKind(
        "error",
        ("breaches",),
        "more breaches than before are past the deadline of their notification",
    ),
    "breach-watch-failed": EventKind(
        "error", ("code",), "the clocks of breaches were not read; it is tried again in a minute"
    ),
    "requests-failed": EventKind(
        "error", ("code",), "subjects' requests were not chased; tried again a minute later"
    ),
    "mail-failed": EventKind(
        "error", ("code",), "a message to a data subject waits; tried again a minute later"
    ),
    "library-message": EventKind(
        "warning", ("logger", "error"), "a library complains; the plain output has its words"
    ),
}
