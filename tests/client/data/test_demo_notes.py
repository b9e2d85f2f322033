"""The demo's messages: reproducible, varied, with identifiers that really stand in them."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from audit.errors import Conflict
from client.demo_notes import LABELS, Profile, Written, write_notes
from client.leaks import read_planted


def rows(written: Written) -> list[dict[str, str]]:
    with written.notes.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("profile", list(Profile))
def test_every_planted_identifier_stands_in_its_subjects_texts(
    tmp_path: Path, profile: Profile
) -> None:
    written = write_notes(tmp_path, profile, site="st-elm", subjects=200, seed=1)
    texts: defaultdict[str, str] = defaultdict(str)
    for row in rows(written):
        texts[row["subject_id"]] += row["text"].casefold() + "\n"
    planted = read_planted(written.planted)
    for subject, identifiers in planted.subjects.items():
        for identifier in identifiers:
            assert identifier.value.casefold() in texts[subject]
    counted = sum(map(len, planted.subjects.values()))
    assert written.identifiers == counted > 2 * 200


def test_messages_are_varied_and_share_their_labels(tmp_path: Path) -> None:
    openings: Counter[str] = Counter()
    labels: set[str] = set()
    for number, profile in enumerate(Profile):
        written = write_notes(tmp_path / profile, profile, site="s", subjects=300, seed=number)
        found = rows(written)
        labels |= {row["label"] for row in found}
        openings.update(row["text"][:40] for row in found)
        by_label = Counter(row["label"] for row in found)
        assert min(by_label.values()) > 15
        several = Counter(Counter(row["subject_id"] for row in found).values())
        assert several[1] > several[2] > 0
        assert len({row["text"] for row in found}) == len(found)
    assert labels == set(LABELS)
    assert len(openings) > 400


def test_same_seed_same_files_and_other_sites_other_people(tmp_path: Path) -> None:
    first = write_notes(tmp_path / "a", Profile.BANK, site="east", subjects=20, seed=5)
    again = write_notes(tmp_path / "b", Profile.BANK, site="east", subjects=20, seed=5)
    other = write_notes(tmp_path / "c", Profile.BANK, site="west", subjects=20, seed=5)
    assert first.notes.read_bytes() == again.notes.read_bytes()
    assert first.planted.read_bytes() == again.planted.read_bytes()
    assert first.notes.read_bytes() != other.notes.read_bytes()


def test_files_are_never_overwritten(tmp_path: Path) -> None:
    write_notes(tmp_path, Profile.BANK, site="s", subjects=1, seed=0)
    before = (tmp_path / "notes.csv").read_bytes()
    with pytest.raises(Conflict, match="exists"):
        write_notes(tmp_path, Profile.BANK, site="s", subjects=2, seed=0)
    assert (tmp_path / "notes.csv").read_bytes() == before


def test_planted_json_says_its_format(tmp_path: Path) -> None:
    written = write_notes(tmp_path, Profile.HOSPITAL, site="st-elm", subjects=3, seed=0)
    content = json.loads(written.planted.read_text(encoding="utf-8"))
    assert content["format"] == "fiduciary.planted/1"
    assert content["site"] == "st-elm"
    assert min(content["subjects"]).startswith("STE-")
