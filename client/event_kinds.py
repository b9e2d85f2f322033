"""The events that `client start --log-format json` tells (docs/monitoring.md).

Nothing here counts subjects or records, and nothing names one, not even by a pseudonym.
"""

from __future__ import annotations

from typing import Final

from audit.process_events import Catalogue, EventKind

EVENTS: Final[Catalogue] = {
    "worker-started": EventKind("info", (), "the site's worker begins"),
    "metrics-served": EventKind("info", ("port",), "the metrics port is open"),
    "worker-ended": EventKind("info", ("ending",), "stopped, completed, failed or refused"),
    "connected": EventKind("info", (), "the coordinator answers; tasks are waited for"),
    "disconnected": EventKind(
        "warning", ("code", "retry_seconds"), "the coordinator does not answer, or not to this site"
    ),
    "round-trained": EventKind(
        "info",
        ("plan", "round", "phase", "steps", "seconds", "epsilon"),
        "a round was trained; the epsilon is what the plan has spent before it",
    ),
    "round-evaluated": EventKind("info", ("plan", "round"), "held-out subjects were evaluated"),
    "task-refused": EventKind(
        "warning", ("plan", "round", "activity", "code"), "this site said no; the code says why"
    ),
    "message-refused": EventKind("warning", ("code",), "a message of the coordinator is no task"),
    "answer-lost": EventKind("warning", (), "an answer did not arrive, or came too late"),
    "plan-settled": EventKind(
        "info", ("plan", "state", "rounds_returned"), "a plan ended; what never started is returned"
    ),
    "statement-rejected": EventKind(
        "error", (), "the compliance service did not take a statement of this site"
    ),
    "witness-failed": EventKind("warning", ("code",), "the audit log could not be witnessed"),
    "log-alarm": EventKind("error", ("code",), "the audit log misbehaved; the worker ends"),
    "erasure-interrupted": EventKind("error", (), "run `client erase` again"),
    "request-answered": EventKind("info", (), "a data subject's request was answered"),
    "request-waits": EventKind(
        "warning", (), "a data subject's request waits for the operator: `client requests list`"
    ),
    "certificate-renewed": EventKind("info", (), "the site's node certificate was renewed"),
    "retention-swept": EventKind(
        "info", ("keys",), "retention of the journal ran; so many keys were shredded"
    ),
    "retention-failed": EventKind("error", ("code",), "it did not run, and is tried tomorrow"),
}
