"""What `server simulate` shows: progress on standard error, a table or a document at the end."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from audit.words import count_of
from compliance.statements import RoundReport, TrainingPlan
from server.progress import RunView
from server.simulation.results import Figures, Spread
from server.simulation.run import Watcher
from server.simulation.wire import Conditions

NOT_PRIVATE = (
    "This is a simulation: nothing was de-identified, no budget was spent, and its noise can be "
    "repeated from the seed. Its models are removed; none of them can be released."
)


class Progressing(Watcher):
    """A bar for the rounds of the present variant, and a line for each round; a context manager.

    Args:
        console: Standard error.
        variants: How many plans will be simulated.
    """

    def __init__(self, console: Console, variants: int) -> None:
        self._console = console
        self._variants = variants
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} rounds"),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def began(self, plan: TrainingPlan, number: int) -> None:
        """Another bar."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        which = f"{number + 1} of {self._variants}, " if self._variants > 1 else ""
        title = f"{which}epsilon {plan.privacy.epsilon}"
        self._task = self._progress.add_task(title, total=plan.rounds, doing="")
        self._say(
            f"{which}epsilon {plan.privacy.epsilon}, {count_of(plan.rounds, 'round')} over "
            f"{count_of(len(plan.sites), 'site')}, quorum {plan.quorum}"
        )

    def finished_round(self, plan: TrainingPlan, report: RoundReport) -> None:
        """One line."""
        measured = "" if report.metrics is None else f", {report.metrics.in_words()}"
        spent = max(report.epsilon_by_site.values(), default=0)
        self._say(
            f"round {report.round + 1} of {plan.rounds} ({report.phase}): "
            f"{len(report.participants)} of {count_of(len(plan.sites), 'site')}{measured},"
            f" epsilon {spent:.2f}"
        )
        if self._task is not None:
            self._progress.update(self._task, completed=report.round + 1)

    def show(self, view: RunView | None) -> None:
        """How many sites have answered."""
        if view is not None and self._task is not None:
            doing = f"{view.activity} {len(view.answered)} of {len(view.sites)}"
            self._progress.update(self._task, doing=doing)

    def _say(self, line: str) -> None:
        self._console.print(escape(line), highlight=False)


TABLE_WIDTH: Final = 120
"""Of the table, also where it is written to a file."""


def print_table(console: Console, figures: Sequence[Figures]) -> None:
    """A row for each variant, on a line of its own also where the terminal is narrower."""
    console.width = max(console.width, TABLE_WIDTH)
    console.print(_table_of(figures), crop=False)


def _table_of(figures: Sequence[Figures]) -> Table:
    language = any(each.last is not None and each.last.perplexity is not None for each in figures)
    table = Table(box=None, pad_edge=False)
    second = "perplexity" if language else "macro F1"
    sent = ("kB to a site", "and back", "s a round", "took")
    for name in ("epsilon", "clip", "rounds", "sites", "accuracy", second, *sent):
        table.add_column(name, justify="right", no_wrap=True)
    for each in figures:
        last = each.last
        if language:
            score = _number(None if last is None else last.perplexity, 2)
        else:
            score = _over_sites(None if last is None else last.macro_f1, each.macro_f1_of_sites)
        table.add_row(
            f"{each.epsilon}",
            "/".join(f"{norm:g}" for norm in dict.fromkeys(each.clipping)),
            f"{len(each.history)}" + ("" if each.verdict == "completed" else f" of {each.rounds}"),
            f"{_participants(each):.0f}/{each.sites}",
            _over_sites(None if last is None else last.accuracy, each.accuracy_of_sites),
            score,
            f"{each.bytes_to_site / 1e3:,.1f}",
            f"{each.bytes_from_site / 1e3:,.1f}",
            f"{each.simulated_seconds:.1f}",
            f"{each.real_seconds:.0f} s",
        )
    return table


def explanation(conditions: Conditions) -> str:
    """What the table's columns rest on."""
    return (
        "Accuracy and F1 are of all held-out subjects together; in brackets the lowest and the "
        "highest site. Bytes are of one site in one round. A round's seconds assume that each site "
        f"has a link of {conditions.bandwidth_mbit:g} Mbit/s either way and computes as fast as a "
        "worker process here. Epsilon is what each site would have spent, were the noise fresh."
    )


def failures(figures: Sequence[Figures]) -> list[str]:
    """A sentence for each variant that did not come to its end, and for sites that refused."""
    told = []
    for each in figures:
        if each.verdict != "completed":
            told.append(f"epsilon {each.epsilon} failed: {each.reason}")
        last = each.last
        refused = {
            reason: number
            for reason, number in ({} if last is None else last.absent).items()
            if reason.startswith("refused")
        }
        told += [
            f"epsilon {each.epsilon}: {count_of(number, 'site')} {reason}"
            for reason, number in refused.items()
        ]
    return told


def document_of(
    figures: Sequence[Figures],
    conditions: Conditions,
    *,
    sites: int,
    subjects: int,
    records: int,
    said: Sequence[str],
) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "format": "fiduciary.simulation/1",
        "private": False,
        "seed": conditions.seed,
        "sites": sites,
        "subjects": subjects,
        "records": records,
        "assumed": {
            "bandwidth_mbit": conditions.bandwidth_mbit,
            "dropout": conditions.dropout,
        },
        "notes": [NOT_PRIVATE, explanation(conditions), *said],
        "variants": [each.to_json() for each in figures],
    }


def _participants(figures: Figures) -> float:
    history = figures.history
    return sum(each.participants for each in history) / len(history) if history else 0.0


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _over_sites(value: float | None, spread: Spread | None) -> str:
    sites = "" if spread is None else f" ({spread.lowest:.2f} to {spread.highest:.2f})"
    return _number(value) + sites
