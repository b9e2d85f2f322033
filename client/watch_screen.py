"""`client status --watch`: what the worker does and what is left, kept up to date.

What is shown is `client.status.read_status`. Records a second follow from how many were sampled, so
this is for the operator's own screen, as `worker.json` is.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from audit.watching import WatchEnd, watch
from audit.words import count_of
from client.pace import in_words
from client.presentation import short
from client.site import Site
from client.status import BudgetReader, read_status


def watch_status(site: Site, *, as_json: bool, interval_seconds: float) -> WatchEnd:
    """Watch the site until somebody ends it."""
    budget = BudgetReader()
    return watch(
        lambda: read_status(site, budget),
        render=screen,
        line=one_line,
        document=(lambda found: found) if as_json else None,
        interval_seconds=interval_seconds,
    )


def screen(found: dict[str, Any]) -> RenderableType:
    """The site as a terminal shows it."""
    worker = found["worker"]
    parts: list[RenderableType] = [
        Text.from_markup(
            f"site [bold]{escape(found['site'])}[/] of {escape(found['federation'])}: "
            f"{found['stage']}"
        ),
        Text(f"worker: {_doing(worker)}"),
    ]
    if worker["running"] and worker.get("steps"):
        steps = Table.grid(padding=(0, 2))
        steps.add_row(
            f"step {worker['step']} of {worker['steps']}",
            ProgressBar(total=worker["steps"], completed=worker["step"] or 0, width=30),
            _speed(worker),
        )
        parts.append(steps)
    if worker["running"] and worker.get("pace"):
        parts.append(Text(_time_left(worker["pace"])))
    if worker["running"] and worker.get("epsilon_promised"):
        parts.append(Text(_plan_epsilon(worker)))
    parts.append(Text(_budget(found["budget"])))
    if found["waiting_statements"]:
        parts.append(
            Text(f"{count_of(found['waiting_statements'], 'statement')} waiting", style="yellow")
        )
    parts += [Text(problem, style="red") for problem in _problems(found)]
    parts.append(Text("q ends this", style="dim"))
    return Group(*parts)


def one_line(found: dict[str, Any]) -> str:
    """The site as one line of a log."""
    worker = found["worker"]
    parts = [_doing(worker)]
    if worker["running"] and worker.get("steps"):
        speed = _speed(worker)
        parts.append(f"step {worker['step']} of {worker['steps']}" + (f", {speed}" * bool(speed)))
    if worker["running"] and worker.get("pace"):
        parts.append(_time_left(worker["pace"]))
    parts.append(_budget(found["budget"]))
    parts += _problems(found)
    return "; ".join(parts).replace("\n", " ")


def _doing(worker: dict[str, Any]) -> str:
    if not worker["running"]:
        return "not running"
    if worker["plan_id"] is None or worker["round"] is None:
        return str(worker["doing"])
    return (
        f"{worker['doing']} round {worker['round'] + 1} of {worker['rounds']} ({worker['phase']}), "
        f"plan {short(worker['plan_id'])}"
    )


def _speed(worker: dict[str, Any]) -> str:
    parts = []
    if worker["records_per_second"] is not None:
        parts.append(f"{worker['records_per_second']:.0f} records/s")
    if worker["step_seconds_left"] is not None:
        parts.append(f"round done in {in_words(worker['step_seconds_left'])}")
    return ", ".join(parts)


def _time_left(pace: dict[str, Any]) -> str:
    left = f"plan done in: {in_words(pace['seconds_left'])}"
    if pace["seconds_left"] is None and pace["phase_seconds_left"] is not None:
        left += f" (this phase: {in_words(pace['phase_seconds_left'])})"
    if pace["seconds_a_round"] is not None:
        left += f", {pace['seconds_a_round']:.1f} s a round"
    return left


def _plan_epsilon(worker: dict[str, Any]) -> str:
    spent = worker["epsilon_spent"] or "0"
    return f"this plan: epsilon {spent} of {worker['epsilon_promised']} spent"


def _budget(budget: dict[str, Any]) -> str:
    if "problem" in budget:
        return f"budget: {budget['problem']}"
    return (
        f"budget: epsilon {budget['epsilon_spent']:.4g} spent, {budget['epsilon_reserved']:.4g} "
        f"reserved, {budget['epsilon_left']:.4g} left of {budget['epsilon_limit']:.4g}"
    )


def _problems(found: dict[str, Any]) -> list[str]:
    """The last problem, and what `client status` tells at length."""
    problems = []
    if found["worker"].get("last_problem"):
        problems.append(f"last problem: {found['worker']['last_problem']}")
    witness = found["witness"]
    if witness and witness["alarms"]:
        problems.append("ALARM: the audit log misbehaved; see `client status`")
    if found["unfinished_erasures"]:
        problems.append("an erasure was interrupted; see `client status`")
    return problems
