"""A source of people's records, checked as a whole before anything is done with it.

* What is wrong is named with its line or row, never with a value. Several rows of one subject are
  that person's records. The same content twice for one subject is a mistake in the source, refused
  unless the operator says otherwise. Why the kinds of content are these: docs/adr/0021.
* A source is never in memory as a whole: checking keeps 16 bytes of each row, and a checked source
  is read again, as often as it takes. Reading it again gives the very rows that were checked, or
  `SourceChanged`.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from audit.canonical import canonical_bytes
from audit.errors import Conflict, MalformedInput, Refused
from audit.words import count_of
from client.cleaning.steps import clean_record
from client.deidentification.pipeline import SourceRecord
from client.intake import (
    COLUMNS_OF_CONTENT,
    MAX_GROUP_CHARACTERS,
    MAX_GROUPS,
    MAX_LABEL_CHARACTERS,
    Columns,
    Intake,
    LabelledRecord,
    described,
)
from client.labelled_spans import read_spans
from client.pictures import PictureFolder
from client.row_terms import LeftOut, terms_of
from client.sources.source import SEVERAL, Source
from client.sources.table_file import TableFile
from client.table_rows import stored_row
from client.vault.contents import Content
from compliance.statements import MAX_LABELS

NO_FOLDER = Path("/nonexistent")
"""Where pictures of a source that can have none would be: none is found."""


class UnfitRows(MalformedInput):
    """Rows without subject, content or label."""

    code = "unfit-rows"


class DuplicateRows(MalformedInput):
    """The same content twice for one subject."""

    code = "duplicate-rows"


class UnsearchedPixels(Refused):
    """Pictures without the operator's word that what stands in them may be stored."""

    code = "unsearched-pixels"


class SourceChanged(Conflict):
    """Reading a source again gave other rows."""

    code = "source-changed"


class _Place(NamedTuple):
    """A row as it was read, where it stood, and what tells its content from another's."""

    place: str
    record: LabelledRecord
    content: str


@dataclass(frozen=True)
class SourceFile:
    """A checked source.

    Attributes:
        name: What messages call it.
        digest: SHA-256 over the decisions and the rows; another for another row or another order.
        rows: How many records it has, repeated ones included.
        characters: Of all their contents.
        content: What the records are.
        duplicates_dropped: Rows that repeat another.
        empty_dropped: Rows left out because something is missing.
        left_out: Rows that may not be used, by reason.
        cleaned: Rows that cleaning changed or left out, by step.
        columns: What each column was read for.
        subjects_with_several_records: How many subjects have more than one record.
    """

    name: str
    digest: str
    rows: int
    characters: int
    content: Content = "text"
    duplicates_dropped: int = 0
    empty_dropped: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    cleaned: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    subjects_with_several_records: int = 0
    again: Callable[[], Iterator[tuple[LabelledRecord, str]]] = lambda: iter(())

    def read(self) -> Iterator[tuple[LabelledRecord, str]]:
        """Every record, with what tells its content from another of the same subject.

        Raises:
            SourceChanged: After the last of them, when they are not those that were checked.
        """
        return self.again()

    @property
    def records(self) -> tuple[LabelledRecord, ...]:
        """All records in memory, the first of those that repeat: for small sources."""
        kept: dict[tuple[str, str], LabelledRecord] = {}
        for record, content in self.read():
            kept.setdefault((record.source.subject, content), record)
        return tuple(kept.values())


def read_source(source: Source | Path, columns: Columns, intake: Intake) -> SourceFile:
    """Read and check a whole source.

    Args:
        source: A source, or the path of a table's file.
        columns: Which columns say what.
        intake: The operator's decisions.

    Raises:
        MalformedTable, MissingColumns, NotFound: See `client.sources.source.Source.rows`.
        UnfitRows: When a row lacks subject, content or label, and they are not to be dropped.
        DuplicateRows: When a subject has the same content twice, and they are not to be dropped.
        UnsearchedPixels: When pictures were not accepted explicitly.
        MalformedSpans, MalformedPicture: When spans or pictures are none.
        MalformedInput: When cleaning does not fit the content, or the labels cannot be classes, or
            the groups no groups, or a row's own terms cannot be read.
    """
    intake.cleaning.check(columns.content, columns.cells)
    if columns.content == "image" and not intake.accept_unsearched_pixels:
        raise UnsearchedPixels(
            "nobody searches pixels for burned-in names, or for faces",
            fix="look through the pictures, then say --accept-unsearched-pixels",
        )
    return _Reader(TableFile(source) if isinstance(source, Path) else source, columns, intake).file


class _Reader:
    """Reads a source once to check it, and again for who asks."""

    def __init__(self, source: Source, columns: Columns, intake: Intake) -> None:
        self._source = source
        self._columns = columns
        self._intake = intake
        self._pictures = PictureFolder(source.folder or NO_FOLDER)
        self._asked = canonical_bytes(described(columns, intake))
        self.file = self._checked()

    def _checked(self) -> SourceFile:
        unfit: _Places = _Places()
        left_out: Counter[str] = Counter()
        cleaned: Counter[str] = Counter()
        values: dict[str, set[str]] = {"label": set(), "group": set()}
        contents, subjects = array("Q"), array("Q")
        characters = 0
        digest = hashlib.sha256(self._asked)
        for read in self._read(digest, unfit, left_out, cleaned):
            subject = read.record.source.subject
            contents.append(_short(f"{subject}\x00{read.content}"))
            subjects.append(_short(subject))
            characters += len(read.record.source.text)
            self._collect(values, read.record)
        name = self._source.name
        if unfit.count and not self._intake.drop_empty:
            raise UnfitRows(
                f"{name}: {unfit.first}{unfit.and_more}",
                fix="fill or remove the rows, or leave them out with --drop-empty",
            )
        repeated = self._repeated(contents)
        if repeated.count and not self._intake.drop_duplicates:
            raise DuplicateRows(
                f"{name}: {repeated.first} repeats the content of an earlier row of the same"
                f" subject{repeated.and_more}",
                fix="remove the repeated rows, or keep the first of each with --allow-duplicates",
            )
        if not contents:
            why_not = sorted((left_out + cleaned).items())
            reasons = ", ".join(f"{count} {why}" for why, count in why_not)
            raise UnfitRows(
                f"{name} has no record{reasons and f' that may be used: {reasons}'}",
                fix="add rows below the header",
            )
        self._check_values(values)
        return SourceFile(
            name=name,
            digest=f"sha256:{digest.hexdigest()}",
            rows=len(contents),
            characters=characters,
            content=self._columns.content,
            duplicates_dropped=repeated.count,
            empty_dropped=unfit.count,
            left_out=dict(left_out),
            cleaned=dict(cleaned),
            columns=self._columns.roles,
            subjects_with_several_records=len(_repeated_values(subjects)),
            again=self._again,
        )

    def _again(self) -> Iterator[tuple[LabelledRecord, str]]:
        digest = hashlib.sha256(self._asked)
        for read in self._read(digest, _Places(), Counter(), Counter()):
            yield read.record, read.content
        if f"sha256:{digest.hexdigest()}" != self.file.digest:
            raise SourceChanged(
                f"{self._source.name} changed while it was read",
                fix="add it again when nobody writes to it; nothing of it is visible yet",
            )

    def _read(
        self,
        digest: hashlib._Hash,
        unfit: _Places,
        left_out: Counter[str],
        cleaned: Counter[str],
    ) -> Iterator[_Place]:
        """Every record that may be used; the others are counted. Every row enters the digest."""
        columns = self._columns
        for row in self._source.rows(columns.wanted, lists=(columns.spans,)):
            values = dict(zip(columns.wanted, row.values, strict=True))
            digest.update(canonical_bytes(list(row.values)))
            record = _record(columns, values)
            lacking = _lacking(columns, values, record)
            if lacking:
                unfit.add(f"{row.place} has no {lacking}")
                continue
            place = f"{self._source.name}, {row.place}"
            if columns.spans:
                spans = read_spans(values[columns.spans], record.source.text, place)
                record = replace(record, label="", spans=spans)
            terms = terms_of(columns, self._intake, values, place)
            if isinstance(terms, LeftOut):
                left_out[terms.value] += 1
                continue
            fit, steps = clean_record(self._intake.cleaning, record)
            cleaned.update(step.value for step in steps)
            if fit is None:
                continue
            content = fit.source.text
            if columns.content == "image":
                content = self._pictures.check(content, place)
                digest.update(content.encode())
            yield _Place(row.place, replace(fit, terms=terms), content.strip())

    def _repeated(self, contents: array[int]) -> _Places:
        """Rows whose content an earlier row of their subject has."""
        places = _Places()
        suspects = frozenset(_repeated_values(contents))
        if not suspects:
            return places
        seen: set[tuple[str, str]] = set()
        for read in self._read(hashlib.sha256(), _Places(), Counter(), Counter()):
            subject = read.record.source.subject
            if _short(f"{subject}\x00{read.content}") not in suspects:
                continue
            if (subject, read.content) in seen:
                places.add(read.place)
            seen.add((subject, read.content))
        return places

    def _collect(self, values: Mapping[str, set[str]], record: LabelledRecord) -> None:
        """Take in labels and groups, until there are too many to be any."""
        labels = {span.label for span in record.spans} if self._columns.spans else {record.label}
        for name, found, most in (
            ("label", labels, MAX_LABELS),
            ("group", {record.group}, MAX_GROUPS),
        ):
            if len(values[name]) <= most:
                values[name].update(found)

    def _check_values(self, values: Mapping[str, set[str]]) -> None:
        columns, name = self._columns, self._source.name
        _check_set(
            f"{name}: column {columns.label or columns.spans!r} does not look like classes",
            values["label"],
            lambda label: len(label) <= MAX_LABEL_CHARACTERS,
            most=MAX_LABELS,
            fix="name the column of the classes with --label",
        )
        _check_set(
            f"{name}: column {columns.group!r} does not look like groups",
            values["group"],
            lambda group: len(group) <= MAX_GROUP_CHARACTERS and "/" not in group,
            most=MAX_GROUPS,
            fix=f"name a column of at most {MAX_GROUPS} short values without a slash with --group",
        )


class _Places:
    """The first of several places, and how many there are."""

    def __init__(self) -> None:
        self.first = ""
        self.count = 0

    def add(self, place: str) -> None:
        """One more."""
        self.first = self.first or place
        self.count += 1

    @property
    def and_more(self) -> str:
        """How many there are beside the first."""
        return f" (and {self.count - 1} more such rows)" if self.count > 1 else ""


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
    cells = (value.strip() for name in columns.known for value in values[name].split(SEVERAL))
    source = SourceRecord(unicodedata.normalize("NFC", subject), text, tuple(filter(None, cells)))
    return LabelledRecord(source, label, group)


def _lacking(columns: Columns, values: Mapping[str, str], record: LabelledRecord) -> str:
    """What a row lacks, in the words of its kind; empty when it is complete."""
    is_empty: dict[str, bool] = {"subject": not record.source.subject}
    for name in COLUMNS_OF_CONTENT[columns.content]:
        of = columns.cells if name == "cells" else (str(getattr(columns, name)),)
        is_empty[name] = not any(values[column].strip() for column in of)
    return next((name for name, empty in is_empty.items() if empty), "")


def _short(value: str) -> int:
    """64 bits of a hash: equal for equal values; others may collide, and are compared then."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big")


def _repeated_values(hashes: array[int]) -> list[int]:
    """Which values occur more than once."""
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, dtype=np.uint64))
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    repeated: list[int] = np.unique(again).tolist()
    return repeated


def _check_set(
    problem: str, values: set[str], fits: Callable[[str], bool], *, most: int, fix: str
) -> None:
    if len(values) > most or not all(map(fits, values)):
        raise MalformedInput(f"{problem} ({count_of(len(values), 'different value')})", fix=fix)
