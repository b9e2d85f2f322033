"""`server status --watch`: the runs that are going on, kept up to date.

What is shown is `server.status.federation_status`, so that nothing here knows more than
`server status --json` tells.
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
from server.federation import Federation
from server.progress import BAR_WIDTH
from server.status import federation_status

LAST_ERRORS = 3
"""How many errors fit under the runs; `server status` shows all."""

_STYLES = {"answered": "green", "working": "yellow", "not asked": "dim", "": "dim"}


def watch_status(federation: Federation, *, as_json: bool, interval_seconds: float) -> WatchEnd:
    """Watch the federation until somebody ends it."""
    return watch(
        lambda: federation_status(federation),
        render=screen,
        line=one_line,
        document=(lambda status: status) if as_json else None,
        interval_seconds=interval_seconds,
    )


def going_on(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The plans to watch: those whose run has begun and not ended; else the last one that ended."""
    running = [plan for plan in status["plans"] if plan["activity"] or plan["stage"] == "running"]
    ended = [plan for plan in status["plans"] if plan["stage"] in ("completed", "failed")]
    return running or ended[-1:]


def screen(status: dict[str, Any]) -> RenderableType:
    """The federation as a terminal shows it."""
    state = "[green]running[/]" if status["running"] else "[yellow]stopped[/] (server start)"
    parts: list[RenderableType] = [
        Text.from_markup(
            f"federation [bold]{escape(status['federation'])}[/]: {state}, compliance service "
            f"{status['compliance']}"
        ),
        Text(_sites_line(status)),
    ]
    plans = going_on(status)
    for plan in plans:
        parts += [Text(""), _plan_head(plan), _plan_bar(plan)]
        if plan["measured"]:
            parts.append(Text(plan["measured"]))
        parts.append(_plan_sites(plan, status))
        if plan["reason"]:
            parts.append(Text(plan["reason"], style="red"))
    if not plans:
        parts.append(Text("no run is going on"))
    parts += [Text(error, style="red") for error in status["errors"][-LAST_ERRORS:]]
    parts.append(Text("q ends this", style="dim"))
    return Group(*parts)


def one_line(status: dict[str, Any]) -> str:
    """The federation as one line of a log."""
    parts = ["running" if status["running"] else "stopped", _sites_line(status)]
    for plan in going_on(status):
        doing = f", {plan['activity']}" if plan["activity"] else f", {plan['stage']}"
        parts.append(f"{plan['name']} {_rounds(plan)}{doing}, {_pace_line(plan)}")
    if status["errors"]:
        parts.append(f"last error: {status['errors'][-1]}")
    return "; ".join(parts).replace("\n", " ")


def _sites_line(status: dict[str, Any]) -> str:
    online = [site["name"] for site in status["sites"] if site["online"]]
    return f"{len(online)} of {count_of(len(status['sites']), 'site')} online"


def _rounds(plan: dict[str, Any]) -> str:
    phase = f" ({plan['phase']})" if plan["phase"] else ""
    return f"round {plan['rounds_done']} of {plan['rounds']} done{phase}"


def _plan_head(plan: dict[str, Any]) -> Text:
    doing = plan["activity"] or plan["stage"] or plan["state"]
    return Text.assemble((plan["name"], "bold"), f"  {_rounds(plan)}, {doing}")


def _plan_bar(plan: dict[str, Any]) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(plan["rounds"], 1), completed=plan["rounds_done"], width=BAR_WIDTH)
    row.add_row(bar, Text(_pace_line(plan)))
    return row


def _pace_line(plan: dict[str, Any]) -> str:
    pace = plan["pace"]
    if pace is None or plan["stage"] in ("completed", "failed"):
        return "no time left to tell"
    speed = "no round of this phase measured yet"
    if pace["seconds_a_round"] is not None:
        speed = f"{pace['seconds_a_round']:.1f} s a round"
        if pace["rounds_an_hour"] is not None:
            speed += f", {count_of(round(pace['rounds_an_hour']), 'round')} an hour"
    left = in_words(pace["seconds_left"])
    if pace["seconds_left"] is None and pace["phase_seconds_left"] is not None:
        left += f" (this phase: {in_words(pace['phase_seconds_left'])})"
    return f"{speed}; time left: {left}"


def _plan_sites(plan: dict[str, Any], status: dict[str, Any]) -> RenderableType:
    online = {site["name"]: site["online"] for site in status["sites"]}
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for column in ("site", "online", "this round", "ε spent", "ε left"):
        table.add_column(column)
    for site in plan["sites"]:
        table.add_row(
            site["site"],
            "yes" if online.get(site["site"]) else "no",
            Text(site["doing"], style=_STYLES.get(site["doing"], "red")),
            site["epsilon_spent"],
            site["epsilon_left"],
        )
    return table
