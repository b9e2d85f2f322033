"""The log, or what a question finds of it, as one file that is made while it is sent.

* One batch of entries is in memory. Each is read in a transaction of its own, so that a slow reader
  holds no connection; all of them are about the tree of one size, which never changes again.
* JSON Lines (`audit.export_file`): a header, then one entry a line with leaf and path. It can be
  checked offline, without the service.
* CSV (RFC 4180): for spreadsheets. Nothing in it is proven by itself; `leaf_hash` and checkpoint
  lead to what is. A cell that a spreadsheet could take for a formula (CWE-1236) gets an apostrophe
  in front, and so does one that begins with an apostrophe: taking one away restores every cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from audit.canonical import canonical_bytes
from audit.errors import FiduciaryError
from audit.export_file import export_entry, export_header
from audit.shown import CLEAR_FIELDS, ShownEntry
from audit.words import count_of
from compliance.log_views import LogEntryView, LogExport
from compliance.rules import EVERYWHERE, Scope
from compliance.service.log_positions import count_entries, find_positions
from compliance.service.log_search import EntryReader, Head, read_head
from compliance.service.registry import Registry

MEDIA_TYPES: Final = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}

CSV_COLUMNS: Final = (
    *CLEAR_FIELDS,
    "site",
    "plan",
    "release",
    "payload",
    "leaf_hash",
    "checkpoint_size",
    "checkpoint_root",
)

FORGOTTEN: Final = "forgotten"
"""Stands in a CSV file for a payload whose key was destroyed. No payload is this word."""

_BATCH: Final = 200
"""Entries in memory at a time."""

_FORMULA: Final = frozenset("=+-@\t\r\n＝＋－＠'")  # noqa: RUF001  full-width forms count too
"""First characters that make a cell a formula, and the guard itself (OWASP, CSV injection)."""


class ExportBroken(FiduciaryError):
    """The index changed under an export; the file ends early."""

    code = "export-broken"


@dataclass(frozen=True)
class Export:
    """What is about to be sent.

    Attributes:
        wanted: The question.
        head: The log that it is asked of.
        count: The number of entries that it finds.
        scope: Whose entries may be shown.
    """

    wanted: LogExport
    head: Head
    count: int
    scope: Scope = EVERYWHERE


def prepare_export(office: Registry, wanted: LogExport, scope: Scope = EVERYWHERE) -> Export:
    """Fix the log that an export is about, and count what is to be sent."""
    with office.reading() as session:
        head = read_head(session, office.storage(session))
        count = count_entries(session, wanted, head.checkpoint.size, scope)
        return Export(wanted, head, count, scope)


def export_lines(office: Registry, export: Export) -> Iterator[bytes]:
    """The file, line by line.

    Raises:
        ExportBroken: When fewer or more entries were found than announced.
        VerificationFailed: When an entry is not what it should be.
    """
    head, line = _FORMATS[export.wanted.format]
    yield head(export)
    sent = 0
    for view in _views(office, export):
        yield line(export, view)
        sent += 1
    if sent != export.count:
        raise ExportBroken(f"{count_of(sent, 'entry')} found, not the {export.count} announced")


def guard_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula.

    >>> guard_cell("=1+1"), guard_cell("plan.approved"), guard_cell("'x")
    ("'=1+1", 'plan.approved', "''x")
    """
    return f"'{text}" if text[:1] in _FORMULA and text else text


def _views(office: Registry, export: Export) -> Iterator[LogEntryView]:
    size = export.head.checkpoint.size
    reader = EntryReader(office, export.head.checkpoint)
    last: int | None = None
    while True:
        with office.reading() as session:
            positions = find_positions(
                session,
                office.log_times,
                export.wanted,
                size,
                "oldest",
                _BATCH,
                last=last,
                scope=export.scope,
            )
            views = list(reader.read(session, positions))
        yield from views
        if len(positions) < _BATCH:
            return
        last = positions[-1]


def _json_head(export: Export) -> bytes:
    return export_header(
        origin=export.head.checkpoint.origin,
        checkpoint=export.head.note,
        filters=export.wanted.conditions(),
        count=export.count,
    )


def _json_line(_export: Export, view: LogEntryView) -> bytes:
    fields = {name: getattr(view, name) for name in CLEAR_FIELDS}
    shown = ShownEntry(fields, view.payload, view.leaf, view.leaf_hash, view.path)
    return export_entry(shown, {"site": view.site, "plan": view.plan, "release": view.release})


def _csv_head(_export: Export) -> bytes:
    return _csv_row(list(CSV_COLUMNS))


def _csv_line(export: Export, view: LogEntryView) -> bytes:
    checkpoint = export.head.checkpoint
    payload = FORGOTTEN
    if view.payload is not None:
        payload = canonical_bytes(view.payload).decode("utf-8")
    named = view.model_dump(include=set(CSV_COLUMNS) - {"payload"})
    values: dict[str, Any] = named | {
        "payload": payload,
        "checkpoint_size": checkpoint.size,
        "checkpoint_root": checkpoint.root.hex(),
    }
    return _csv_row([values[name] for name in CSV_COLUMNS])


def _csv_row(values: list[Any]) -> bytes:
    cells = ["" if value is None else guard_cell(str(value)) for value in values]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerow(cells)
    return text.getvalue().encode("utf-8")


_FORMATS: Final[
    dict[str, tuple[Callable[[Export], bytes], Callable[[Export, LogEntryView], bytes]]]
] = {"jsonl": (_json_head, _json_line), "csv": (_csv_head, _csv_line)}
