"""The terminal on which a person reviews rows: the alternate screen, which leaves nothing behind.

What is shown is raw text of people's records. It is written to the operator's terminal alone, never
to a file, a log or a pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from audit.terminal import visible
from client.recall.review import Marks, Row, Session, marked

HELP: Final = (
    "Type what identifies somebody and is not coloured, as it stands there, one thing a line. "
    "-2 says that [2] identifies nobody. An empty line: this row is done. "
    "/clear begins the row anew, /back shows the last one again, /quit ends for today."
)

Ask = Callable[[], str]


def look_through(
    session: Session, rows: Sequence[Row], console: Console, ask: Ask, save: Callable[[], None]
) -> bool:
    """Show each row that nobody looked at, and keep what is said of it.

    Args:
        session: The review; it changes.
        rows: Its rows.
        console: The operator's terminal.
        ask: Gives what is typed; EOFError ends as `/quit` does.
        save: Makes the session durable; called after each row.

    Returns:
        Whether every row was looked at.
    """
    at = next((n for n, row in enumerate(rows) if session.marks_of(row) is None), len(rows))
    while at < len(rows):
        row = rows[at]
        marks = session.marks_of(row) or Marks()
        said = ""
        while True:
            _show(console, row, marks, f"row {at + 1} of {len(rows)}", said)
            try:
                typed = visible(ask()).strip()
            except EOFError:
                return False
            said = ""
            if typed == "/quit":
                return False
            if typed == "/back":
                at = max(0, at - 1)
                break
            if typed == "/clear":
                marks = Marks()
            elif not typed:
                session.mark(row, marks)
                save()
                at += 1
                break
            elif (more := marked(row, marks, typed)) is None:
                said = "the row holds no such thing"
            else:
                marks = more
    return True


def shown(row: Row, marks: Marks) -> Text:
    """A row with what was found and what was missed in colour, findings numbered."""
    text = Text()
    missed = sorted(marks.missed)
    done = 0
    for number, finding in enumerate(row.found):
        text.append_text(_plain(row, done, finding.start, missed))
        wrong = number in marks.wrong
        text.append(
            visible(row.text[finding.start : finding.end]),
            style="strike yellow" if wrong else "black on green",
        )
        text.append(f"[{number + 1}]", style="dim")
        done = finding.end
    text.append_text(_plain(row, done, len(row.text), missed))
    return text


def _plain(row: Row, start: int, end: int, missed: Sequence[tuple[int, int]]) -> Text:
    part = Text(visible(row.text[start:end]))
    for a, b in missed:
        part.stylize("bold white on red", max(0, a - start), max(0, b - start))
    return part


def _show(console: Console, row: Row, marks: Marks, where: str, said: str) -> None:
    console.clear()
    console.print(f"[bold]{where}[/]  [black on green]found[/] [bold white on red]missed[/]")
    console.print(Text(HELP, style="dim"))
    console.print()
    console.print(shown(row, marks), soft_wrap=False)
    console.print()
    if said:
        console.print(Text(said, style="yellow"))
