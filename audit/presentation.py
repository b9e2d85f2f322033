"""What the `audit` command shows to people. Scripts use `--json`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audit.report import Report, WitnessReport
from audit.terminal import err, out, visible
from audit.words import count_of

ENTRY_COLUMNS: Final = ("position", "time", "actor", "action", "object", "subject")

_SHORT_DIGEST: Final = 12
"""Hexadecimal digits of a digest in a table; all of them are in `--json`."""


def say(markup: str) -> None:
    """Print one line of rich markup; values in it must be escaped."""
    out().print(visible(markup), highlight=False, emoji=False)


def write_text(text: str) -> None:
    """Print text byte for byte: notes and proofs are signed as they stand."""
    sys.stdout.write(text)


@contextmanager
def progress_bar(
    what: str, *, quiet: bool, unit: str = "entries"
) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error where that is a terminal, otherwise nothing."""
    console = err()
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_report(log: str, report: Report) -> None:
    """The verdict, what is wrong, what was checked, and against whose key."""
    what = "chosen entries, each proven" if report.selection else "entries"
    if report.ok:
        say(f"[bold green]verified[/] {escape(log)}: {report.entries} {what}")
    else:
        say(f"[bold red]NOT VERIFIED[/] {escape(log)}")
        for problem in report.problems:
            say(f"  [red]{escape(str(problem))}[/]")
    known = (
        None
        if report.known_entries is None
        else f"{count_of(report.known_entries, 'entry')}, contained"
    )
    witnessed = report.witnessed_entries
    print_fields(
        {
            "log": report.origin,
            "entries": report.entries,
            "root": report.root,
            "signed": f"{count_of(report.signed_entries, 'entry')},"
            f" {count_of(report.checkpoints, 'checkpoint')}",
            "kept checkpoint": known,
            "witnessed": None
            if witnessed is None
            else f"{witnessed} of {count_of(report.entries, 'entry')}",
            "payloads": _payloads(report),
            "key": report.key,
        }
    )
    for witness in report.witnesses:
        say(f"witness {escape(witness.name)}: {_vouches(witness)}")
    if report.unchecked_cosignatures:
        say(
            f"[yellow]not checked: {count_of(report.unchecked_cosignatures, 'cosignature')}.[/]"
            " Give the witnesses' keys with --witness."
        )
    if not report.key_pinned:
        say(
            "[yellow]The key is the one that the log itself states.[/] This shows that the log is"
            " intact under that key, not whose key it is.\nGet the key from its owner and give it"
            " with --key."
        )


def _vouches(witness: WitnessReport) -> str:
    if witness.time is None:
        return "[red]does not vouch for this log[/]"
    moment = datetime.fromtimestamp(witness.time, UTC)
    first = count_of(witness.entries, "entry")
    return f"vouches for the first {first}, at {moment:%Y-%m-%dT%H:%M:%SZ}"


def _payloads(report: Report) -> str | None:
    if not report.payloads_proven + report.payloads_stated:
        return None
    return (
        f"{report.payloads_proven} proven by their entry, {report.payloads_stated} on the"
        " exporter's word"
    )


def print_fields(fields: Mapping[str, Any]) -> None:
    """Names and values in two columns; empty values are left out."""
    shown = {name: value for name, value in fields.items() if value not in ("", None)}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        say(f"{escape(f'{name:<{width}}')}  {escape(str(value))}")


def print_entries(entries: Sequence[Mapping[str, Any]]) -> None:
    """Entries in columns, never cut to the terminal's width: lines can be searched and piped."""
    if not entries:
        say("no entries")
        return
    cells = [
        [_short("" if fields[name] is None else str(fields[name])) for name in ENTRY_COLUMNS]
        for fields in entries
    ]
    widths = [max(map(len, column)) for column in zip(ENTRY_COLUMNS, *cells, strict=True)]
    header = "  ".join(n.ljust(w) for n, w in zip(ENTRY_COLUMNS, widths, strict=True))
    say(f"[bold]{header.rstrip()}[/]")
    for row, fields in zip(cells, entries, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(escape(line.rstrip()))
        if "payload" in fields:
            say(f"  [dim]{escape(str(fields['payload']))}[/]")


def _short(text: str) -> str:
    head, marker, tail = text.partition("sha256:")
    if marker and len(tail) > _SHORT_DIGEST:
        return f"{head}{marker}{tail[:_SHORT_DIGEST]}…"
    return text
