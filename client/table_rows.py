"""Rows of a table: which cells may be stored, and which keep their row out.

A column is no place for an identifier, so nothing is replaced: a row with one is kept out, counted
under its column. A cell may be stored when it is

* empty, or a mark that says so (`MISSING_MARKS`);
* a number with at most `MAX_DIGITS` digits before its point, written without leading zeros, and not
  the subject's id or another value that identifies the subject;
* in a column that the operator declared as categories, a value that at least
  `MIN_CATEGORY_SUBJECTS` subjects of the file share: what many share names none of them;
* in such a column with `suppress_rare`, any other value, which is emptied and counted;
* anything else in which the whole pipeline for text finds nothing.

A date is found by the pipeline: give ages, or days since an event. A code of few people, a place or
a name is found likewise.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from audit.canonical import canonical_bytes, digest
from client.deidentification.person_level import MIN_NUMBER_CHARACTERS
from client.deidentification.pipeline import (
    Deidentified,
    Outcome,
    Quarantined,
    Reason,
    SourceRecord,
)

MAX_DIGITS = 6
"""Counts and amounts have up to a million; telephone, account and insurance numbers have more."""

MIN_CATEGORY_SUBJECTS = 5
"""The smallest cell that statistical offices publish, commonly."""

RARE = "RARE_VALUE"
"""As what suppressed cells are counted, beside identifiers that were replaced."""

MISSING_MARKS = frozenset({"", "?", "nan"})
"""As a plan's task reads them (`client.learning.table_inputs`); in small letters."""

_WHOLE = rf"(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_NUMBER = re.compile(
    rf"[+-]?(?:{_WHOLE}(?:\.[0-9]{{0,20}})?|\.[0-9]{{1,20}})(?:[eE][+-]?[0-9]{{1,3}})?"
)


class TextDeidentifier(Protocol):
    """The pipeline for text (`client.deidentification.pipeline.Deidentifier`)."""

    @property
    def digest(self) -> str:
        """Names the whole pipeline."""
        ...

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """One outcome for each record."""
        ...


def stored_row(cells: Mapping[str, str]) -> str:
    """A row as the vault stores it.

    >>> stored_row({"sex": "f", "age": "63"})
    '{"age":"63","sex":"f"}'
    """
    return canonical_bytes(cells).decode()


class TableDeidentifier:
    """Lets rows pass that hold no identifier.

    Args:
        pipeline: Searches cells as text.
        categories: Columns that were declared as categories.
        records: All of the file: they say which values many subjects share.
        suppress_rare: Empty cells of categories that fewer share, instead of searching them.
    """

    def __init__(
        self,
        pipeline: TextDeidentifier,
        categories: Iterable[str],
        records: Iterable[SourceRecord],
        suppress_rare: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._suppressed = frozenset(categories) if suppress_rare else frozenset[str]()
        self._shared = _shared_values(frozenset(categories), records)

    @property
    def digest(self) -> str:
        """Names these rules and the pipeline behind them."""
        rules = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        configuration = {
            "format": "fiduciary.table-deidentification/1",
            "pipeline": self._pipeline.digest,
            "rules": rules,
        }
        if self._suppressed:
            configuration["suppressed"] = "rare"
        return digest(canonical_bytes(configuration))

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """Each row as it is, but for suppressed cells, or why it is kept out.

        Args:
            records: Texts as `stored_row` makes them.
        """
        outcomes: list[Outcome] = [self._without_rare(record) for record in records]
        searched: list[tuple[int, str, SourceRecord]] = []
        for at, record in enumerate(records):
            for column, cell in _cells(record).items():
                if column in self._suppressed or cell.lower() in MISSING_MARKS:
                    continue
                if (column, cell) in self._shared:
                    continue
                if not _NUMBER.fullmatch(cell):
                    searched.append((at, column, SourceRecord(record.subject, cell, record.known)))
                elif _identifies(cell, record):
                    outcomes[at] = Quarantined(Reason.IDENTIFIER_IN_CELL, column)
        found = self._pipeline.deidentify([cell for _, _, cell in searched])
        for (at, column, _), outcome in zip(searched, found, strict=True):
            if isinstance(outcomes[at], Quarantined):
                continue  # one reason is enough
            if isinstance(outcome, Quarantined):
                outcomes[at] = Quarantined(outcome.reason, column)
            elif outcome.replaced:
                outcomes[at] = Quarantined(Reason.IDENTIFIER_IN_CELL, column)
        return outcomes

    def _without_rare(self, record: SourceRecord) -> Deidentified:
        cells = _cells(record)
        rare = [
            column
            for column, cell in cells.items()
            if column in self._suppressed
            and cell.lower() not in MISSING_MARKS
            and (column, cell) not in self._shared
        ]
        if not rare:
            return Deidentified(record.text)
        return Deidentified(stored_row({**cells, **dict.fromkeys(rare, "")}), {RARE: len(rare)})


def _shared_values(
    categories: frozenset[str], records: Iterable[SourceRecord]
) -> frozenset[tuple[str, str]]:
    subjects: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        for column, cell in _cells(record).items():
            if column in categories and len(subjects[column, cell]) < MIN_CATEGORY_SUBJECTS:
                subjects[column, cell].add(record.subject)
    return frozenset(value for value, who in subjects.items() if len(who) >= MIN_CATEGORY_SUBJECTS)


def _cells(record: SourceRecord) -> dict[str, str]:
    cells: dict[str, str] = json.loads(record.text)
    return cells


def _identifies(number: str, record: SourceRecord) -> bool:
    """Whether a number is one that the row's own columns say of the subject."""
    bare = _squeezed(number)
    return len(bare) >= MIN_NUMBER_CHARACTERS and bare in map(
        _squeezed, (record.subject, *record.known)
    )


def _squeezed(value: str) -> str:
    return "".join(char for char in value.casefold() if char.isalnum())
