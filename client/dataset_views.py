"""How `client data` shows datasets, ingests and leak counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from audit.terminal import err, out
from audit.words import count_of
from compliance.rules.deidentification import in_words

if TYPE_CHECKING:  # so that `client --help` does not wait for the language model
    from client.ingest import IngestResult
    from client.leaks import LeakCount
    from client.recall.kept import Measured
    from client.source_file import SourceFile
    from client.vault import Content, Dataset


_RECORDS_OF: dict[Content, str] = {
    "text": "texts with a class each",
    "spans": "texts with labelled spans",
    "language": "texts without labels",
    "table": "rows of a table, with a class each",
    "image": "pictures with a class each",
}


def print_datasets(datasets: Iterable[Dataset]) -> None:
    """One line for each dataset."""
    columns = (
        "dataset",
        "version",
        "content",
        "subjects",
        "records",
        "labels",
        "groups",
        "purposes",
    )
    table = Table(*columns, box=None)
    for dataset in datasets:
        table.add_row(
            dataset.name,
            str(dataset.version),
            dataset.datasheet.content,
            str(dataset.subjects),
            str(dataset.records),
            str(len(dataset.labels)),
            str(len(dataset.datasheet.groups)),
            ", ".join(dataset.datasheet.purposes) or "none stated",
        )
    out().print(table)


def described(dataset: Dataset, measured: Sequence[Measured] = ()) -> dict[str, Any]:
    """A dataset as JSON, with what was measured of its de-identification."""
    sheet = dataset.datasheet.model_dump(mode="json", exclude={"format", "digest"})
    return {
        "content": dataset.datasheet.content,
        "groups": dict(dataset.datasheet.groups),
        "deidentification": dataset.datasheet.deidentification,
        "name": dataset.name,
        "version": dataset.version,
        "digest": dataset.digest,
        "labels": list(dataset.labels),
        **sheet,
        "deidentification_measured": [
            {**each.figures.model_dump(mode="json"), "details": dict(each.details)}
            for each in measured
        ],
    }


def source_counts(source: SourceFile) -> dict[str, int]:
    """A source as JSON: counts only."""
    return {
        "records": source.rows - source.duplicates_dropped,
        "duplicates_dropped": source.duplicates_dropped,
        "empty_dropped": source.empty_dropped,
        "subjects_with_several_records": source.subjects_with_several_records,
    }


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time on a terminal; nothing elsewhere."""
    console = err()
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(description, total=total, rate="")

        def advance(done: int, _total: int) -> None:
            speed = progress.tasks[bar].speed
            rate = "" if speed is None else f"{speed:.0f} records/s"
            progress.update(bar, completed=done, rate=rate)

        yield advance


def print_added(result: IngestResult, source: SourceFile) -> None:
    """What an ingest did, and what the operator should know of it."""
    dataset, sheet = result.dataset, result.dataset.datasheet
    say = out().print
    say(
        f"[green]stored[/] {dataset.name}, version {dataset.version}:"
        f" {count_of(dataset.records, 'record')} of"
        f" {count_of(dataset.subjects, 'subject')}{_in_classes(dataset)}",
        highlight=False,
    )
    notes = [_searched(dataset)]
    if sheet.groups:
        notes.append(f"evaluation can be sliced by {count_of(len(sheet.groups), 'group')}")
    if several := result.subjects_with_several_records:
        notes.append(f"subjects with several records, each one person: {several}")
    if source.duplicates_dropped:
        notes.append(f"{count_of(source.duplicates_dropped, 'repeated row')} left out")
    if source.empty_dropped:
        notes.append(f"{count_of(source.empty_dropped, 'incomplete row')} left out")
    if sheet.erased_rows_left_out:
        notes.append(f"{count_of(sheet.erased_rows_left_out, 'row')} of erased subjects left out")
    for step, count in sorted(sheet.cleaned.items()):
        notes.append(f"{count_of(count, 'row')} cleaned: {step}")
    for reason, count in sorted(sheet.quarantined.items()):
        notes.append(f"{count_of(count, 'row')} kept out: {reason}")
    if sheet.quarantined:
        notes.append(f"see them, and resolve them: client data quarantine list {dataset.name}")
    if result.resumed:
        notes.append("went on where an interrupted ingest had stopped")
    if result.interrupted_ingests_removed:
        notes.append("what an interrupted ingest had left was removed")
    if not sheet.purposes:
        notes.append("no purpose was stated, so no plan may use it: --purpose")
    for note in notes:
        say(f"  {note}", highlight=False)


def _in_classes(dataset: Dataset) -> str:
    match dataset.datasheet.content:
        case "language":
            return ""
        case "spans":
            spans = sum(dataset.datasheet.label_counts.values())
            return f", {count_of(spans, 'span')} of {count_of(len(dataset.labels), 'label')}"
        case _:
            return f" in {count_of(len(dataset.labels), 'class')}"


def _searched(dataset: Dataset) -> str:
    """What was done about identifiers."""
    sheet = dataset.datasheet
    match sheet.deidentification:
        case "pixels-not-searched":
            return "metadata removed; pixels were NOT searched for names or faces"
        case "rows-kept-out":
            return "rows with an identifier in a cell were kept out"
        case "identifiers-replaced":
            replaced = sum(sheet.replacements.values())
            return f"{count_of(replaced, 'identifier')} replaced by stand-ins"


def print_dataset(dataset: Dataset, measured: Sequence[Measured] = ()) -> None:
    """What is known of a dataset."""
    sheet = dataset.datasheet
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a digest is of use only whole
    rows = [
        ("dataset", f"{dataset.name}, version {dataset.version}, added {sheet.created_at}"),
        ("content", _RECORDS_OF[sheet.content]),
        ("purposes", ", ".join(sheet.purposes) or "none stated"),
        ("legal basis", ", ".join((sheet.legal_basis or "not stated", *sheet.legal_bases))),
        ("uses", "by record, some less than all" if sheet.row_terms else "the same of all records"),
        ("subjects", str(dataset.subjects)),
        ("records", str(dataset.records)),
        ("columns", ", ".join(f"{name}: {role}" for name, role in sheet.columns.items())),
        ("labels", _counted(sheet.label_counts)),
        ("groups", _counted(sheet.groups)),
        ("searched", _searched(dataset)),
        ("replaced", ", ".join(f"{kind} {n}" for kind, n in sorted(sheet.replacements.items()))),
        ("kept out", ", ".join(f"{why} {n}" for why, n in sorted(sheet.quarantined.items()))),
        ("repeated rows", str(sheet.duplicates_dropped)),
        ("incomplete rows", str(sheet.empty_dropped)),
        ("cleaned", _counted(sheet.cleaned)),
        ("digest", dataset.digest),
        ("de-identification", sheet.deidentification_digest),
        ("its recall", in_words(each.figures for each in measured)),
    ]
    for name, value in rows:
        table.add_row(name, escape(value) or "nothing")
    out().print(table)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def print_leaks(found: LeakCount) -> None:
    """How many planted identifiers are left, by kind."""
    table = Table("kind", "planted", "left", box=None)
    for kind, count in found.planted_by_kind.items():
        table.add_row(kind, str(count), str(found.left_by_kind.get(kind, 0)))
    table.add_row("all", str(found.planted), str(found.left), style="bold")
    out().print(table)
    out().print(
        f"searched {count_of(found.records, 'record')}; something is left of"
        f" {count_of(found.subjects_with_leak, 'person', 'people')}",
        highlight=False,
    )
