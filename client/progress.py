"""What `client start` shows: progress bars on a terminal, plain lines elsewhere, and a status file.

Lines hold ids, names of rules and counts; never text, labels or identifiers of people. How many
records a second train follows from how many were sampled: it is for the operator who watches here,
and nothing of it leaves the site.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from compliance.statements import utc_now

StepsDone = Callable[[int, int, int], None]
"""Told after each step: steps done, steps in all, records that they used so far (0: unknown)."""

LINE_SECONDS = 30.0
"""How often a long round says how far it is where no person watches."""

Doing = Literal["connecting", "waiting", "training", "evaluating", "offline", "stopped"]


class Reporter(Protocol):
    """Where the worker says what it does."""

    def say(self, message: str, *, problem: bool = False) -> None:
        """One line."""

    def steps(self, description: str, total: int) -> AbstractContextManager[StepsDone]:
        """Show the progress of `total` steps."""


class TerminalReporter:
    """Progress bars where the stream is a terminal, else a line for each message.

    Args:
        console: Standard error, as a rule.
        clock: Seconds that never go back.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock

    def say(self, message: str, *, problem: bool = False) -> None:
        """One line, with the time where no person watches."""
        style = "yellow" if problem else ""
        stamp = "" if self._console.is_terminal else f"{utc_now()} "
        self._console.print(f"{stamp}{escape(message)}", style=style, highlight=False)

    @contextmanager
    def steps(self, description: str, total: int) -> Iterator[StepsDone]:
        """A bar with throughput and time left on a terminal; elsewhere a line now and then."""
        begun = self._clock()
        if not self._console.is_terminal:
            told = begun

            def line(done: int, total: int, records: int) -> None:
                nonlocal told
                now = self._clock()
                if now - told >= LINE_SECONDS and done < total:
                    told = now
                    speed = pace(done, total, records, now - begun)
                    self.say(f"{description}: step {done} of {total}, {speed}")

            yield line
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task(description, total=total, pace="")

            def update(done: int, total: int, records: int) -> None:
                shown = pace(done, total, records, self._clock() - begun)
                progress.update(bar, completed=done, total=total, pace=shown)

            yield update


def pace(done: int, total: int, records: int, seconds: float) -> str:
    """How fast it goes and how long it takes, from what was done so far.

    >>> pace(2, 10, 500, 4.0), pace(1, 4, 0, 30.0)
    ('125 records/s, 16 s left', '90 s left')
    """
    if done < 1 or seconds <= 0:
        return ""
    left = seconds * (total - done) / done
    shown = f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left"
    return f"{records / seconds:.0f} records/s, {shown}" if records else shown


@dataclass(frozen=True)
class Activity:
    """What the worker is doing, as `worker.json` holds it."""

    pid: int
    doing: Doing
    plan_id: str | None = None
    round: int | None = None
    rounds: int | None = None
    rounds_trained: int = 0
    last_problem: str = ""
    since: str = ""


class ActivityFile:
    """Keeps `worker.json` up to date. It is information only: nothing decides by it.

    Args:
        path: The file.
        clock: Gives the time as statements write it.
    """

    def __init__(self, path: Path, clock: Callable[[], str] = utc_now) -> None:
        self._path = path
        self._clock = clock
        self.activity = Activity(pid=os.getpid(), doing="connecting", since=clock())

    def update(self, **changes: Any) -> None:
        """Change fields and write the file."""
        self.activity = replace(self.activity, **{"since": self._clock(), **changes})
        staging = self._path.with_suffix(".new")
        staging.write_text(json.dumps(asdict(self.activity)), encoding="utf-8")
        staging.replace(self._path)


def read_activity(path: Path) -> Activity | None:
    """What the worker last said, or None when it never ran or the file cannot be read."""
    try:
        return Activity(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
