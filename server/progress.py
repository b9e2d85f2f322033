"""What the coordinator shows while it works: a live table on a terminal, plain lines elsewhere.

Notes are sentences for people; events are for machines (`audit.process_events`). A reporter shows
the ones that its reader wants.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from audit.process_events import EventField, EventSink, JsonLines

REFRESH_PER_SECOND = 4.0

BAR_WIDTH = 20
"""Columns of the bar of rounds: it and what happens beside it fit a terminal of 80."""


@dataclass(frozen=True)
class RunView:
    """A run, as it stands now.

    Attributes:
        activity: What is happening, in a word or two.
        answered: Sites that have answered the present question.
        waiting: Sites that are still out.
        absent: Sites that are not counted in, and why.
    """

    plan_id: str
    name: str
    round: int
    rounds: int
    phase: str
    activity: str
    sites: tuple[str, ...]
    answered: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    epsilon_by_site: Mapping[str, str] = field(default_factory=dict)
    epsilon_promised: str = ""
    accuracy: str = ""
    macro_f1: str = ""
    perplexity: str = ""

    def to_json(self, round_seconds: float) -> dict[str, Any]:
        """The run as the control port tells it."""
        return {
            "plan_id": self.plan_id,
            "name": self.name,
            "round": self.round,
            "round_seconds": round_seconds,
            "rounds": self.rounds,
            "phase": self.phase,
            "activity": self.activity,
            "answered": list(self.answered),
            "waiting": list(self.waiting),
            "absent": dict(self.absent),
            "epsilon_by_site": dict(self.epsilon_by_site),
            "epsilon_promised": self.epsilon_promised,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "perplexity": self.perplexity,
        }


class Reporter(Protocol):
    """Where news goes."""

    def note(self, message: str) -> None:
        """One line that stays."""

    def show(self, view: RunView | None) -> None:
        """The present state of the run; None when none is going on."""

    def event(self, name: str, **fields: EventField) -> None:
        """Something happened that `server.event_kinds` names."""


class LineReporter:
    """Plain lines with a time, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()

    def note(self, message: str) -> None:
        """Print one line."""
        with self._lock:
            time = datetime.now().astimezone().strftime("%H:%M:%S")
            self._console.print(f"{time} {message}", markup=False, highlight=False)

    def show(self, view: RunView | None) -> None:
        """Nothing: a log keeps what happened, not what is happening."""

    def event(self, name: str, **fields: EventField) -> None:
        """Nothing: people read the notes."""


class JsonReporter:
    """One JSON object a line, for systems that collect logs."""

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines

    def note(self, message: str) -> None:
        """Nothing: sentences may quote others, and these lines travel."""

    def show(self, view: RunView | None) -> None:
        """Nothing: a log keeps what happened, not what is happening."""

    def event(self, name: str, **fields: EventField) -> None:
        """Write one line."""
        self._lines(name, fields)


class CountedReporter:
    """Passes everything on, and events to a counter, too."""

    def __init__(self, reporter: Reporter, count: EventSink) -> None:
        self._reporter = reporter
        self._count = count

    def note(self, message: str) -> None:
        """Pass it on."""
        self._reporter.note(message)

    def show(self, view: RunView | None) -> None:
        """Pass it on."""
        self._reporter.show(view)

    def event(self, name: str, **fields: EventField) -> None:
        """Count it, and pass it on."""
        self._count(name, fields)
        self._reporter.event(name, **fields)


class RememberingReporter:
    """Passes news on, and keeps the last view and when its round began, for the control port."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._began = 0.0
        self.view: RunView | None = None

    @property
    def round_seconds(self) -> float:
        """How long the present round has gone on; 0 when none does."""
        return 0.0 if self.view is None else round(monotonic() - self._began, 1)

    def note(self, message: str) -> None:
        """Pass it on."""
        self._reporter.note(message)

    def show(self, view: RunView | None) -> None:
        """Keep it, and pass it on."""
        if view is not None and (self.view is None or _round_of(self.view) != _round_of(view)):
            self._began = monotonic()
        self.view = view
        self._reporter.show(view)

    def event(self, name: str, **fields: EventField) -> None:
        """Pass it on."""
        self._reporter.event(name, **fields)


def _round_of(view: RunView) -> tuple[str, int, bool]:
    """A round begins when it has its number and nothing is waited for any more."""
    return view.plan_id, view.round, view.activity.startswith(("starting", "waiting"))


class LiveReporter:
    """A table that is kept up to date, with the lines above it; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._view: RunView | None = None
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def note(self, message: str) -> None:
        """Print one line above the table."""
        time = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(f"[dim]{time}[/] {escape(message)}", highlight=False)

    def show(self, view: RunView | None) -> None:
        """Keep the view; it is drawn at the next refresh."""
        self._view = view

    def event(self, name: str, **fields: EventField) -> None:
        """Nothing: people read the notes."""

    def _render(self) -> RenderableType:
        return Text("") if self._view is None else table_of(self._view)


def table_of(view: RunView) -> RenderableType:
    """A run as a table: progress above, a line for each site below."""
    head = Text.assemble(
        (view.name, "bold"),
        f"  round {min(view.round + 1, view.rounds)} of {view.rounds} ({view.phase})",
    )
    progress = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(view.rounds, 1), completed=view.round, width=BAR_WIDTH)
    progress.add_row(bar, Text(view.activity))
    figures = {
        "accuracy": view.accuracy,
        "macro F1": view.macro_f1,
        "perplexity": view.perplexity,
    }
    measured = "  ".join(f"{name} {figure}" for name, figure in figures.items() if figure)
    sites = Table(box=None, padding=(0, 2))
    for column in ("site", "this round", f"ε (of {view.epsilon_promised})"):
        sites.add_column(column)
    for site in view.sites:
        sites.add_row(site, _state_of(view, site), view.epsilon_by_site.get(site, "0"))
    return Group(head, progress, *([Text(measured)] if measured else []), sites)


def _state_of(view: RunView, site: str) -> Text:
    if site in view.answered:
        return Text("answered", style="green")
    if site in view.absent:
        return Text(view.absent[site], style="red")
    return Text("working", style="yellow") if site in view.waiting else Text("offline", style="dim")
