"""A file of people's records, read and checked as a whole before anything is done with it.

What is wrong is named with its line or row, never with a value. Several rows of one subject are
that person's records. The same content twice for one subject is a mistake in the file, refused
unless the operator says otherwise. Why the kinds of content are these: docs/adr/0021.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from pydantic import TypeAdapter, ValidationError

from audit.errors import MalformedInput, Refused
from client.deidentification.pipeline import SourceRecord
from client.labelled_spans import LabelledSpan, read_spans
from client.pictures import PictureFolder
from client.table_rows import stored_row
from client.tables import read_rows
from client.vault.contents import Content
from compliance.statements import MAX_FEATURES, MAX_LABELS, Name, TrainingPlan

LEGAL_BASES: tuple[str, ...] = get_args(TrainingPlan.model_fields["legal_basis"].annotation)

MAX_LABEL_CHARACTERS = 200

MAX_GROUPS = 100
"""As many as a plan can declare."""

MAX_GROUP_CHARACTERS = 100

MAX_COLUMN_CHARACTERS = 100
"""Of a table's column: as much as a plan can name (`compliance.statements.Feature`)."""

COLUMNS_OF_CONTENT: Final[Mapping[Content, tuple[str, ...]]] = {
    "text": ("text", "label"),
    "spans": ("text", "spans"),
    "language": ("text",),
    "table": ("cells", "label"),
    "image": ("image", "label"),
}
"""Which of `Columns` a kind of content has; the subject, and no other."""


class UnfitRows(MalformedInput):
    """Rows without subject, content or label."""

    code = "unfit-rows"


class DuplicateRows(MalformedInput):
    """The same content twice for one subject."""

    code = "duplicate-rows"


class UnsearchedPixels(Refused):
    """Pictures without the operator's word that what stands in them may be stored."""

    code = "unsearched-pixels"


@dataclass(frozen=True)
class Columns:
    """Which columns of the file say what.

    Attributes:
        subject: The person's id; kept only as a keyed pseudonym.
        text: Free text; kept de-identified.
        label: The class; kept as it is.
        known: Columns that identify the subject; searched for in the content, never kept.
        content: What the records are.
        group: What evaluation is sliced by; kept as it is.
        spans: Labelled parts of the text (`client.labelled_spans`).
        features: Columns of a table (`client.table_rows`).
        categories: Columns of a table too, of few values that many people share.
        image: Paths of pictures (`client.pictures`).
    """

    subject: str
    text: str = ""
    label: str = ""
    known: tuple[str, ...] = ()
    content: Content = "text"
    group: str = ""
    spans: str = ""
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    image: str = ""

    def __post_init__(self) -> None:
        needed = COLUMNS_OF_CONTENT[self.content]
        for name in ("text", "label", "spans", "cells", "image"):
            option = "--features or --categories" if name == "cells" else f"--{name}"
            if bool(getattr(self, name)) != (name in needed):
                says = "needs" if name in needed else "has no"
                raise MalformedInput(
                    f"--kind {self.content} {says} {option}",
                    fix="`client data add --help` tells which columns each kind has",
                )
        kept_out = {self.subject, self.label, *self.known}
        cells = self.cells
        if len(cells) > MAX_FEATURES or any(len(name) > MAX_COLUMN_CHARACTERS for name in cells):
            raise MalformedInput(
                f"a table has at most {MAX_FEATURES} columns with names of at most"
                f" {MAX_COLUMN_CHARACTERS} characters",
                fix="name fewer, or rename them in the file",
            )
        if foreign := sorted(kept_out & set(cells)):
            raise MalformedInput(
                f"column {foreign[0]!r} names the subject or the class, so it is no feature",
                fix="leave it out of --features and --categories",
            )

    @property
    def cells(self) -> tuple[str, ...]:
        """All columns of a table, each once."""
        return tuple(dict.fromkeys((*self.features, *self.categories)))

    @property
    def wanted(self) -> tuple[str, ...]:
        """Everything to read, each once."""
        one = (self.subject, self.text, self.label, self.group, self.spans, self.image)
        return tuple(dict.fromkeys(name for name in (*one, *self.cells, *self.known) if name))


@dataclass(frozen=True)
class Intake:
    """What the operator decided about a file.

    Attributes:
        dataset: Name of the dataset.
        purposes: What the records may be used for.
        legal_basis: On what legal basis; one of `LEGAL_BASES` or "".
        replace: Whether a dataset of that name may be replaced.
        drop_duplicates: Keep the first of several equal rows instead of refusing the file.
        drop_empty: Leave out rows without subject, content or label instead of refusing the file.
        accept_unsearched_pixels: Store pictures, though nobody searches them for names or faces.
    """

    dataset: str
    purposes: tuple[str, ...] = ()
    legal_basis: str = ""
    replace: bool = False
    drop_duplicates: bool = False
    drop_empty: bool = False
    accept_unsearched_pixels: bool = False

    def __post_init__(self) -> None:
        for what, name in (("dataset", self.dataset), *(("purpose", p) for p in self.purposes)):
            try:
                TypeAdapter(Name).validate_python(name)
            except ValidationError as error:
                raise MalformedInput(
                    f"malformed {what} name {name!r}",
                    fix="use 1 to 64 lower-case letters, digits, '.', '_' and '-'",
                ) from error
        if self.legal_basis and self.legal_basis not in LEGAL_BASES:
            raise MalformedInput(
                f"unknown legal basis {self.legal_basis!r}", fix=f"one of {', '.join(LEGAL_BASES)}"
            )


@dataclass(frozen=True)
class LabelledRecord:
    """A row of the source, checked. Never stored.

    Attributes:
        source: Whose it is, and its content: text, a row's cells (`stored_row`), or the path of a
            picture.
        label: The class; empty where the content has none.
        group: What evaluation is sliced by; empty for none.
        spans: Labelled parts of the text, in order.
    """

    source: SourceRecord
    label: str = ""
    group: str = ""
    spans: tuple[LabelledSpan, ...] = ()


@dataclass(frozen=True)
class SourceFile:
    """A checked file.

    Attributes:
        records: In the order of the file.
        duplicates_dropped: Rows left out because they repeat another.
        empty_dropped: Rows left out because something is missing.
        content: What the records are.
    """

    records: tuple[LabelledRecord, ...]
    duplicates_dropped: int = 0
    empty_dropped: int = 0
    content: Content = "text"

    @property
    def subjects_with_several_records(self) -> int:
        """How many subjects have more than one record."""
        counts = Counter(record.source.subject for record in self.records)
        return sum(count > 1 for count in counts.values())


def read_source(path: Path, columns: Columns, intake: Intake) -> SourceFile:
    """Read and check a whole file.

    Raises:
        MalformedTable, MissingColumns, NotFound: See `client.tables.read_rows`.
        UnfitRows: When a row lacks subject, content or label, and they are not to be dropped.
        DuplicateRows: When a subject has the same content twice, and they are not to be dropped.
        UnsearchedPixels: When pictures were not accepted explicitly.
        MalformedSpans, MalformedPicture: When spans or pictures are none.
        MalformedInput: When the labels cannot be classes, or the groups no groups.
    """
    if columns.content == "image" and not intake.accept_unsearched_pixels:
        raise UnsearchedPixels(
            "nobody searches pixels for burned-in names, or for faces",
            fix="look through the pictures, then say --accept-unsearched-pixels",
        )
    pictures = PictureFolder(path.parent)
    records: list[LabelledRecord] = []
    seen: set[tuple[str, str]] = set()
    unfit: list[str] = []
    repeated: list[str] = []
    for row in read_rows(path, columns.wanted, lists=(columns.spans,)):
        values = dict(zip(columns.wanted, row.values, strict=True))
        record = _record(columns, values)
        lacking = _lacking(columns, values, record)
        if lacking:
            unfit.append(f"{row.place} has no {lacking}")
            continue
        place = f"{path.name}, {row.place}"
        content = record.source.text
        if columns.content == "image":
            content = pictures.check(content, place)
        if (record.source.subject, content.strip()) in seen:
            repeated.append(row.place)
            continue
        seen.add((record.source.subject, content.strip()))
        if columns.spans:
            spans = read_spans(values[columns.spans], content, place)
            record = LabelledRecord(record.source, "", record.group, spans)
        records.append(record)
    if unfit and not intake.drop_empty:
        raise UnfitRows(
            f"{path.name}: {unfit[0]}{_and_more(unfit)}",
            fix="fill or remove the rows, or leave them out with --drop-empty",
        )
    if repeated and not intake.drop_duplicates:
        raise DuplicateRows(
            f"{path.name}: {repeated[0]} repeats the content of an earlier row of the same subject"
            f"{_and_more(repeated)}",
            fix="remove the repeated rows, or keep the first of each with --allow-duplicates",
        )
    if not records:
        raise UnfitRows(f"{path.name} has no record", fix="add rows below the header")
    _check_labels(path, columns, records)
    _check_groups(path, columns, records)
    return SourceFile(tuple(records), len(repeated), len(unfit), columns.content)


def _record(columns: Columns, values: Mapping[str, str]) -> LabelledRecord:
    """A row, before its spans are read."""
    subject, label, group = (
        values.get(column, "").strip() for column in (columns.subject, columns.label, columns.group)
    )
    match columns.content:
        case "table":
            text = stored_row({name: values[name].strip() for name in columns.cells})
        case "image":
            text = values[columns.image].strip()
        case "spans":
            text = values[columns.text]  # as it is: offsets count its characters
        case _:
            text = values[columns.text].strip()
    known = tuple(values[name].strip() for name in columns.known if values[name].strip())
    source = SourceRecord(unicodedata.normalize("NFC", subject), text, known)
    return LabelledRecord(source, label, group)


def _lacking(columns: Columns, values: Mapping[str, str], record: LabelledRecord) -> str:
    """What a row lacks, in the words of its kind; empty when it is complete."""
    is_empty: dict[str, bool] = {"subject": not record.source.subject}
    for name in COLUMNS_OF_CONTENT[columns.content]:
        of = columns.cells if name == "cells" else (str(getattr(columns, name)),)
        is_empty[name] = not any(values[column].strip() for column in of)
    return next((name for name, empty in is_empty.items() if empty), "")


def _check_labels(path: Path, columns: Columns, records: Iterable[LabelledRecord]) -> None:
    if columns.spans:
        labels = {span.label for record in records for span in record.spans}
    else:
        labels = {record.label for record in records}
    _check_values(
        f"{path.name}: column {columns.label or columns.spans!r} does not look like classes",
        labels,
        lambda label: len(label) <= MAX_LABEL_CHARACTERS,
        most=MAX_LABELS,
        fix="name the column of the classes with --label",
    )


def _check_groups(path: Path, columns: Columns, records: Iterable[LabelledRecord]) -> None:
    _check_values(
        f"{path.name}: column {columns.group!r} does not look like groups",
        {record.group for record in records},
        lambda group: len(group) <= MAX_GROUP_CHARACTERS and "/" not in group,
        most=MAX_GROUPS,
        fix=f"name a column of at most {MAX_GROUPS} short values without a slash with --group",
    )


def _check_values(
    problem: str, values: set[str], fits: Callable[[str], bool], *, most: int, fix: str
) -> None:
    if len(values) > most or not all(map(fits, values)):
        raise MalformedInput(f"{problem} ({len(values)} different values)", fix=fix)


def _and_more(places: Sequence[str]) -> str:
    more = len(places) - 1
    return f" (and {more} more such rows)" if more else ""
