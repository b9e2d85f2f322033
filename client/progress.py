"""What `client start` shows: progress bars on a terminal, plain lines elsewhere, and a status file.

Lines are for people, events for machines (`audit.process_events`); a reporter shows the ones that
its reader wants.

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

from audit.process_events import EventField, EventSink, JsonLines
from client.pace import WINDOW_ROUNDS, Pace, pace_of, phase_index
from compliance.statements import TrainingPlan, utc_now

StepsDone = Callable[[int, int, int], None]
"""Told after each step: steps done, steps in all, records that they used so far (0: unknown)."""

LINE_SECONDS = 30.0
"""How often a long round says how far it is where no person watches."""

PROGRESS_SECONDS = 1.0
"""How often the steps of a round are written down: a person cannot read faster."""

Doing = Literal["connecting", "waiting", "training", "evaluating", "offline", "stopped"]


class Reporter(Protocol):
    """Where the worker says what it does."""

    def say(self, message: str, *, problem: bool = False) -> None:
        """One line."""

    def steps(self, description: str, total: int) -> AbstractContextManager[StepsDone]:
        """Show the progress of `total` steps."""

    def event(self, name: str, **fields: EventField) -> None:
        """Something happened that `client.event_kinds` names."""


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

    def event(self, name: str, **fields: EventField) -> None:
        """Nothing: people read the lines."""


class JsonReporter:
    """One JSON object a line, for systems that collect logs."""

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines

    def say(self, message: str, *, problem: bool = False) -> None:
        """Nothing: sentences may quote others, and these lines travel."""

    @contextmanager
    def steps(
        self,
        description: str,  # noqa: ARG002  the protocol's
        total: int,  # noqa: ARG002  the protocol's
    ) -> Iterator[StepsDone]:
        """Nothing: `client status --watch` shows steps."""
        yield lambda _done, _total, _records: None

    def event(self, name: str, **fields: EventField) -> None:
        """Write one line."""
        self._lines(name, fields)


class CountedReporter:
    """Passes everything on, and events to a counter, too."""

    def __init__(self, reporter: Reporter, count: EventSink) -> None:
        self._reporter = reporter
        self._count = count

    def say(self, message: str, *, problem: bool = False) -> None:
        """Pass it on."""
        self._reporter.say(message, problem=problem)

    def steps(self, description: str, total: int) -> AbstractContextManager[StepsDone]:
        """Pass it on."""
        return self._reporter.steps(description, total)

    def event(self, name: str, **fields: EventField) -> None:
        """Count it, and pass it on."""
        self._count(name, fields)
        self._reporter.event(name, **fields)


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
    """What the worker is doing, as `worker.json` holds it.

    Attributes:
        round: The round that it trains or evaluates, from 0; None between tasks.
        phase: Kind of the phase of the last round that it began.
        phase_rounds: Rounds of each phase of that plan.
        measured: Round and seconds, of the last rounds: from one beginning to the next, so that
            waiting for others is in it.
        last_round: The last round that it began to train; kept between tasks.
        step: Steps done of the round, of `steps`.
        records_per_second: How fast this round goes; follows from what was sampled.
        step_seconds_left: What is left of this round's steps.
        epsilon_spent: Of the plan, when its last round began.
    """

    pid: int
    doing: Doing
    plan_id: str | None = None
    round: int | None = None
    rounds: int | None = None
    rounds_trained: int = 0
    last_problem: str = ""
    since: str = ""
    phase: str = ""
    phase_rounds: tuple[int, ...] = ()
    measured: tuple[tuple[int, float], ...] = ()
    last_round: int | None = None
    step: int | None = None
    steps: int | None = None
    records_per_second: float | None = None
    step_seconds_left: float | None = None
    epsilon_spent: str = ""
    epsilon_promised: str = ""

    def pace(self) -> Pace | None:
        """How the plan goes; None before its first round here."""
        if not self.phase_rounds or self.last_round is None:
            return None
        return pace_of(self.phase_rounds, self.measured, self.last_round)


class ActivityFile:
    """Keeps `worker.json` up to date. It is information only: nothing decides by it.

    Args:
        path: The file.
        clock: Gives the time as statements write it.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], str] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._clock = clock
        self._monotonic = monotonic
        self._began: tuple[str, int, float] | None = None
        self._stepped = float("-inf")
        self.activity = Activity(pid=os.getpid(), doing="connecting", since=clock())

    def update(self, **changes: Any) -> None:
        """Change fields and write the file."""
        self.activity = replace(self.activity, **{"since": self._clock(), **changes})
        staging = self._path.with_suffix(".new")
        staging.write_text(json.dumps(asdict(self.activity)), encoding="utf-8")
        staging.replace(self._path)

    def begin(self, doing: Doing, plan_id: str, number: int, plan: TrainingPlan) -> None:
        """A round begins; the time since the one before it is kept.

        Args:
            doing: `training` or `evaluating`.
            plan_id: The plan's digest.
            number: The round, from 0.
            plan: The plan.
        """
        phase_rounds = tuple(phase.rounds for phase in plan.phases)
        changes: dict[str, Any] = {"doing": doing, "plan_id": plan_id, "round": number}
        if plan_id != self.activity.plan_id:  # nothing that was told of another plan holds
            changes |= {"epsilon_spent": "", "measured": (), "last_round": None}
            changes |= {"step": None, "steps": None}
        if doing == "training":
            changes |= {"measured": self._measured(plan_id, number, phase_rounds)}
            changes |= {"last_round": number, "step": 0}
            changes |= {"steps": plan.phase_of(number).steps_per_round}
        self.update(
            **changes,
            rounds=plan.rounds,
            phase=plan.phase_of(number).kind,
            phase_rounds=phase_rounds,
            epsilon_promised=str(plan.privacy.epsilon),
            records_per_second=None,
            step_seconds_left=None,
        )

    def ended(self) -> None:
        """The plan whose round began last has ended: nothing of it is left to do."""
        self.update(plan_id=None, phase_rounds=(), last_round=None, steps=None, epsilon_promised="")

    def step(self, done: int, total: int, records: int) -> None:
        """A step of the round that was begun last is done.

        Args:
            done: Steps done.
            total: Steps in all.
            records: Records that they used so far; 0 where that is not known.
        """
        now = self._monotonic()
        if self._began is None or (done < total and now - self._stepped < PROGRESS_SECONDS):
            return
        self._stepped = now
        seconds = now - self._began[2]
        known = done > 0 and seconds > 0
        self.update(
            since=self.activity.since,
            step=done,
            steps=total,
            records_per_second=round(records / seconds, 1) if known and records else None,
            step_seconds_left=round(seconds * (total - done) / done, 1) if known else None,
        )

    def _measured(
        self, plan_id: str, number: int, phase_rounds: tuple[int, ...]
    ) -> tuple[tuple[int, float], ...]:
        now, before = self._monotonic(), self._began
        self._began = (plan_id, number, now)
        if before is None or before[0] != plan_id:
            return ()
        kept = self.activity.measured
        if before[1] + 1 == number:  # else rounds went by without this site
            kept = (*kept, (before[1], round(now - before[2], 3)))
        phases = [phase_index(phase_rounds, measured) for measured, _ in kept]
        return tuple(
            item
            for place, item in enumerate(kept)
            if phases[place:].count(phases[place]) <= WINDOW_ROUNDS
        )


def read_activity(path: Path) -> Activity | None:
    """What the worker last said, or None when it never ran or the file cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["phase_rounds"] = tuple(found.get("phase_rounds", ()))
        found["measured"] = tuple((int(n), float(s)) for n, s in found.get("measured", ()))
        return Activity(**found)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
