"""What a simulation reads of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.errors import MalformedInput
from client.demo_notes import LABELS
from client.simulation.records import ColumnNames, read_file, synthetic

NAMES = ColumnNames(subject="id", text="note", label="topic", site="hospital")


def _file(folder: Path, *rows: str) -> Path:
    path = folder / "notes.csv"
    path.write_text("\n".join(("id,note,topic,hospital", *rows)) + "\n", encoding="utf-8")
    return path


def test_a_file_is_read_as_a_site_reads_it_and_nothing_is_replaced(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "p1,Call Maria Jones back,billing,st-elm",
        "p1,Call Maria Jones back,billing,st-elm",
        "p2,,billing,st-elm",
        "p3,My bill,billing,lakeside",
    )
    collected = read_file(path, "text-classification", NAMES)
    assert [record.text for record in collected.records] == ["Call Maria Jones back", "My bill"]
    assert collected.sites == ("st-elm", "lakeside")
    assert (collected.repeated, collected.incomplete) == (1, 1)


def test_a_row_without_a_site_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "p1,My bill,billing,")
    with pytest.raises(MalformedInput, match="1 row without a site in column 'hospital'"):
        read_file(path, "text-classification", NAMES)


def test_synthetic_messages_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, again, other = (
        synthetic(tmp_path / str(number), 30, seed) for number, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other
    assert len({record.subject for record in first.records}) == 30
    assert {record.label for record in first.records} <= set(LABELS)
