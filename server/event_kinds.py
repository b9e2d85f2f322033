"""The events that `server start --log-format json` tells (docs/monitoring.md)."""

from __future__ import annotations

from typing import Final

from audit.process_events import Catalogue, EventKind

EVENTS: Final[Catalogue] = {
    "coordinator-started": EventKind(
        "info", ("fleet_port", "control_port"), "the ports are open and plans are looked for"
    ),
    "metrics-served": EventKind("info", ("port",), "the metrics port is open"),
    "coordinator-stopped": EventKind("info", (), "it was asked to stop, and did"),
    "certificate-renewed": EventKind("info", (), "the server's TLS certificate was renewed"),
    "compliance-away": EventKind("warning", ("code",), "the compliance service does not answer"),
    "compliance-back": EventKind("info", (), "it answers again"),
    "site-let-in": EventKind("info", ("site",), "an admitted site may call"),
    "site-certificate-renewed": EventKind(
        "info", ("site",), "a site asked for its next certificate, and got it"
    ),
    "site-let-out": EventKind("warning", ("site",), "a site that is no longer admitted may not"),
    "run-started": EventKind(
        "info", ("plan", "rounds", "sites"), "an approved plan begins, or goes on after a stop"
    ),
    "answer-accepted": EventKind(
        "info", ("plan", "round", "activity", "site"), "a site's answer counts"
    ),
    "site-absent": EventKind(
        "warning",
        ("plan", "round", "activity", "site", "code"),
        "a site is not counted in; the codes are below",
    ),
    "round-finished": EventKind(
        "info",
        ("plan", "round", "phase", "participants", "absent", "seconds"),
        "a round counts: its report is in the audit log",
    ),
    "epsilon-reported": EventKind(
        "info", ("plan", "round", "site", "epsilon"), "what a site says that it spent of the plan"
    ),
    "round-missed": EventKind(
        "warning", ("plan", "round"), "a round had no quorum, and the plan allows that"
    ),
    "round-failed": EventKind("error", ("plan", "round"), "a round failed, and the run with it"),
    "run-ended": EventKind(
        "info", ("plan", "verdict", "rounds"), "the outcome of a run is recorded"
    ),
    "release-published": EventKind(
        "info", ("plan", "release", "bytes"), "a release waits for an officer"
    ),
    "plan-refused": EventKind("error", ("plan", "code"), "an approved plan does not verify"),
    "trouble": EventKind(
        "error", ("code",), "something must be mended; `server status` has the sentence"
    ),
}
