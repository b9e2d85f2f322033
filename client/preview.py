"""What an ingest would do to a source, shown to its operator side by side; nothing is stored.

The preview is raw text beside what would be stored. It goes to the operator's terminal and nowhere
else; what a script gets are counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from audit.terminal import visible
from audit.words import count_of
from client.cleaning.settings import Cleaning
from client.cleaning.steps import clean_subject
from client.deidentification.pipeline import Deidentified, Outcome, Quarantined
from client.ingest import RecordDeidentifier
from client.intake import LabelledRecord
from client.source_file import SourceFile

PREVIEW_SUBJECTS: Final = 10
"""People whose records are shown: a screen or two."""


@dataclass(frozen=True)
class Previewed:
    """A record, and what would become of it."""

    text: str
    outcome: Outcome


def preview(
    source: SourceFile,
    deidentifier: RecordDeidentifier,
    cleaning: Cleaning,
    subjects: int = PREVIEW_SUBJECTS,
) -> list[Previewed]:
    """De-identify all records of the first people of a source, in memory.

    Args:
        source: A checked source.
        deidentifier: What an ingest would use.
        cleaning: As the ingest would.
        subjects: How many people.
    """
    of: dict[str, dict[str, LabelledRecord]] = {}
    for record, content in source.read():
        subject = record.source.subject
        if subject in of or len(of) < subjects:
            of.setdefault(subject, {}).setdefault(content, record)
    records: list[LabelledRecord] = []
    for own in of.values():
        fit, _ = clean_subject(cleaning, tuple(own.values()))
        records += fit
    outcomes = deidentifier.deidentify([record.source for record in records])
    return [
        Previewed(record.source.text, outcome)
        for record, outcome in zip(records, outcomes, strict=True)
    ]


def counted(rows: Sequence[Previewed]) -> dict[str, Any]:
    """A preview as JSON: counts only."""
    kept = [row.outcome for row in rows if isinstance(row.outcome, Deidentified)]
    replaced: Counter[str] = Counter()
    for outcome in kept:
        replaced.update(outcome.replaced)
    reasons = [row.outcome.counted_as for row in rows if isinstance(row.outcome, Quarantined)]
    return {
        "previewed": len(rows),
        "replacements": dict(sorted(replaced.items())),
        "quarantined": dict(sorted(Counter(reasons).items())),
        "stored": 0,
    }


def print_preview(rows: Sequence[Previewed], console: Console) -> None:
    """Original and result side by side, what was replaced in colour."""
    table = Table("as it is", "as it would be stored", expand=True, show_lines=True)
    for column in table.columns:
        column.ratio = 1
        column.overflow = "fold"
    for row in rows:
        table.add_row(*side_by_side(row))
    console.print(table)


def side_by_side(row: Previewed) -> tuple[Text, Text]:
    """The two cells of a row."""
    if isinstance(row.outcome, Quarantined):
        return Text(visible(row.text)), Text(f"kept out: {row.outcome.counted_as}", style="yellow")
    replacements = row.outcome.replacements
    return (
        _marked(row.text, ((one.start, one.end) for one in replacements), "white on red"),
        _marked(
            row.outcome.text,
            ((one.new_start, one.new_end) for one in replacements),
            "black on green",
        ),
    )


def _marked(text: str, spans: Iterable[tuple[int, int]], style: str) -> Text:
    shown = Text(visible(text))
    for start, end in spans:
        shown.stylize(style, start, end)
    return shown


def in_words(counts: Mapping[str, Any]) -> str:
    """The counts of a preview, for people."""
    replaced = ", ".join(f"{kind} {count}" for kind, count in counts["replacements"].items())
    kept_out = ", ".join(f"{why} {count}" for why, count in counts["quarantined"].items())
    return (
        f"{count_of(counts['previewed'], 'record')} previewed; replaced: {replaced or 'nothing'};"
        f" kept out: {kept_out or 'nothing'}\nnothing was stored"
    )
