"""Rows of a table pass or are kept out, and the column says where an identifier was."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from client.deidentification.pipeline import (
    Deidentified,
    Deidentifier,
    Outcome,
    Quarantined,
    Reason,
    SourceRecord,
)
from client.table_rows import MIN_CATEGORY_SUBJECTS, TableDeidentifier, stored_row


def row(subject: str, cells: Mapping[str, str], *known: str) -> SourceRecord:
    return SourceRecord(subject, stored_row(cells), known)


def outcome(deidentifier: Deidentifier, cell: str, *known: str, subject: str = "S") -> Outcome:
    record = row(subject, {"age": "54", "other": cell}, *known)
    (found,) = TableDeidentifier(deidentifier, (), [record]).deidentify([record])
    if isinstance(found, Deidentified):
        assert found.text == record.text, "nothing is replaced in a table"
    return found


@pytest.mark.parametrize(
    "cell",
    [
        "0",
        "-1.5e-3",
        "263358.03",
        "999999",
        ".5",
        "7.",
        "",
        "?",
        "nan",
        "yes",
        "never smoker",
        "18-30",
    ],
)
def test_numbers_and_words_pass(deidentifier: Deidentifier, cell: str) -> None:
    assert isinstance(outcome(deidentifier, cell), Deidentified)


@pytest.mark.parametrize(
    "cell",
    [
        "Maria Lopez",
        "07700900123",
        "123456789",
        "1612137600",
        "2021-03-04",
        "03/04/2021",
        "20210304",
        "m.lopez@mail.example",
        "Harrowby",
    ],
)
def test_an_identifier_or_a_date_keeps_the_row_out(deidentifier: Deidentifier, cell: str) -> None:
    found = outcome(deidentifier, cell)
    assert found == Quarantined(Reason.IDENTIFIER_IN_CELL, "other")
    assert isinstance(found, Quarantined)
    assert found.counted_as == "identifier-in-cell other"


def test_a_number_that_is_known_of_the_subject_keeps_the_row_out(
    deidentifier: Deidentifier,
) -> None:
    for found in (
        outcome(deidentifier, "471123", "47-11-23"),
        outcome(deidentifier, "471123", subject="471123"),
        outcome(deidentifier, "lopez", "Maria Lopez"),
    ):
        assert found == Quarantined(Reason.IDENTIFIER_IN_CELL, "other")
    assert isinstance(outcome(deidentifier, "54", subject="54"), Deidentified), "by chance"


def test_a_cell_that_is_no_text_says_so(deidentifier: Deidentifier) -> None:
    assert outcome(deidentifier, "a\x01b") == Quarantined(Reason.NOT_TEXT, "other")


def test_a_declared_category_passes_when_many_share_it(deidentifier: Deidentifier) -> None:
    """Codes look like licence numbers to a recogniser; what many people share names nobody."""
    records = [row(f"S{n}", {"code": "C50912"}) for n in range(MIN_CATEGORY_SUBJECTS)]
    records.append(row("S9", {"code": "Maria Lopez"}))
    declared = TableDeidentifier(deidentifier, ["code"], records)
    *shared, alone = declared.deidentify(records)
    assert all(isinstance(one, Deidentified) for one in shared)
    assert alone == Quarantined(Reason.IDENTIFIER_IN_CELL, "code")
    undeclared = TableDeidentifier(deidentifier, [], records).deidentify(records)
    assert all(isinstance(one, Quarantined) for one in undeclared)
    one_person = [row("S", {"code": "C50912", "n": str(n)}) for n in range(20)]
    found = TableDeidentifier(deidentifier, ["code"], one_person).deidentify(one_person)
    assert all(isinstance(one, Quarantined) for one in found), "many rows, but one person"


def test_the_digest_names_the_pipeline_behind(deidentifier: Deidentifier) -> None:
    table = TableDeidentifier(deidentifier, (), ())
    assert table.digest != deidentifier.digest
    assert table.digest == TableDeidentifier(deidentifier, ("x",), ()).digest
