"""Counting what is left: it must find what a person would find, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.errors import MalformedInput, NotFound
from client.leaks import LeakCount, Planted, PlantedIdentifier, count_leaks, read_planted
from client.vault import Record

OWN, OTHER = "own", "other"


def count(kind: str, value: str, text: str, *, family: str = "", of: str = OWN) -> LeakCount:
    identifier = PlantedIdentifier(kind=kind, value=value, family_name=family)
    planted = Planted(subjects={"P": (identifier,)})
    return count_leaks(planted, [Record(of, text, "label")], {"P": OWN})


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("phone", "07700 900123", "call 07700900123"),
        ("phone", "07700900123", "call (0770) 090-0123."),
        ("record-number", "H-2291-884", "no h2291884 please"),
        ("name", "Ana García", "it was ANA GARCIA"),
        ("email", "a.lee@mail.example", "write to A.Lee@Mail.Example."),
        ("street", "12 Elm Tree Close", "12, elm-tree close"),
        ("name", "O'Neill", "dr o neill"),
        ("date", "12 March 2024", "on 12 march, 2024"),
    ],
)
def test_spelling_does_not_hide_a_leak(kind: str, value: str, text: str) -> None:
    assert count(kind, value, text).left == 1


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("name", "Lin", "the online bank"),
        ("account", "12345", "number 9123456"),
        ("phone", "07700 900123", "07700 900 and then, much later, 123"),
        ("name", "Ana García", "Ana called, and Maria García"),
    ],
)
def test_what_only_looks_alike_is_no_leak(kind: str, value: str, text: str) -> None:
    assert count(kind, value, text).left == 0


def test_a_family_name_alone_counts_in_the_subjects_own_records() -> None:
    assert count("name", "Ana García", "Ms garcia's bill", family="García").left == 1
    assert count("name", "Ana García", "Ms García", family="García", of=OTHER).left == 0


def test_unique_kinds_are_searched_for_in_every_record() -> None:
    assert count("phone", "07700 900123", "07700 900123", of=OTHER).left == 1
    assert count("town", "Harrowby", "in Harrowby", of=OTHER).left == 0
    assert count("town", "Harrowby", "in Harrowby").left == 1


def test_counts_are_by_kind_and_subject() -> None:
    planted = Planted(
        subjects={
            "P": (
                PlantedIdentifier(kind="name", value="Ana Lee", family_name="Lee"),
                PlantedIdentifier(kind="phone", value="07700 900123"),
            ),
            "Q": (PlantedIdentifier(kind="phone", value="07700 900456"),),
        }
    )
    records = [Record("p", "Ana Lee, 07700 900123", "l"), Record("q", "nothing", "l")]
    found = count_leaks(planted, records, {"P": "p", "Q": "q"})
    assert (found.planted, found.left, found.records, found.subjects_with_leak) == (3, 2, 2, 1)
    assert found.planted_by_kind == {"name": 1, "phone": 2}
    assert found.left_by_kind == {"name": 1, "phone": 1}


def test_two_records_are_not_read_as_one() -> None:
    planted = Planted(subjects={"P": (PlantedIdentifier(kind="phone", value="07700 900123"),)})
    records = [Record(OWN, "07700", "l"), Record(OWN, "900123", "l")]
    assert count_leaks(planted, records, {"P": OWN}).left == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, '{"subjects": {"P": [{"kind": "name"}]}}', "{"]
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "planted.json"
    with pytest.raises(NotFound):
        read_planted(path)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(MalformedInput):
        read_planted(path)
