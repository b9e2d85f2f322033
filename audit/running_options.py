"""Options of commands that run for long (`start`, `status --watch`), or again and again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class LogFormat(StrEnum):
    """How a long-running process writes to standard error."""

    PLAIN = "plain"
    JSON = "json"


LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        envvar="FIDUCIARY_LOG_FORMAT",
        help="What goes to standard error: lines for people, or one JSON object a line.",
    ),
]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65_535,
        metavar="PORT",
        help="Serve Prometheus metrics at http://127.0.0.1:PORT/metrics; 0 picks a free port.",
        show_default="off",
    ),
]
IfMissingOption = Annotated[
    bool,
    typer.Option(
        "--if-missing",
        help="Succeed and change nothing where it is there already, as a set-up that is run again"
        " expects.",
    ),
]
WatchOption = Annotated[
    bool,
    typer.Option("--watch", help="Keep it up to date until q or Ctrl-C; plain lines in a pipe."),
]
IntervalOption = Annotated[
    float,
    typer.Option(
        "--interval", min=0.2, max=3600, metavar="SECONDS", help="How often `--watch` looks."
    ),
]
