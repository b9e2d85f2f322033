"""Nothing that identifies anybody is on a site's disk, in its temporary files, caches or logs.

Identifiers are planted in a file, and every byte that the whole way leaves behind is searched for
each of them: ingest, measuring, a round of training, evaluation, erasure.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.terminal import run_app
from client import erasure_cli
from client.cli import app
from client.demo_notes import Profile, write_notes
from client.leaks import read_planted
from client.learning.tasks.text_classification import TextClassifier
from tests.client.site.documents import PURPOSE
from tests.client.site.world import World

SHORTEST = 6
"""Bytes of a shorter value, such as an age, occur by chance in a megabyte of ciphertext."""


def written(planted: Path, source: Path) -> set[str]:
    """Every planted identifier, family name and subject id that is long enough to search for."""
    people = read_planted(planted).subjects
    values = {one.value for identifiers in people.values() for one in identifiers}
    values |= {one.family_name for identifiers in people.values() for one in identifiers}
    with source.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            values |= {row["subject_id"], row["full_name"], row["phone"]}
    return {value for value in values if len(value) >= SHORTEST}


def found_in(folders: tuple[Path, ...], values: set[str]) -> dict[str, set[str]]:
    """Which values stand in which files, in any case, as UTF-8 or UTF-16, or in a file's name."""
    found: dict[str, set[str]] = {}
    for path in (one for folder in folders for one in folder.rglob("*")):
        data = path.read_bytes().lower() if path.is_file() else b""
        named = path.name.lower()
        hits = {
            value
            for value in values
            if (low := value.lower()).encode() in data
            or low.encode("utf-16-le") in data
            or json.dumps(low)[1:-1].encode() in data
            or low in named
        }
        if hits:
            found[str(path)] = hits
    return found


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Where temporary files and caches go."""
    temporary, home = tmp_path / "temporary", tmp_path / "home"
    for folder in (temporary, home):
        folder.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP", "SQLITE_TMPDIR"):
        monkeypatch.setenv(name, str(temporary))
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    before, tempfile.tempdir = tempfile.tempdir, None
    yield temporary, home
    tempfile.tempdir = before


def test_no_planted_identifier_is_on_the_disk(
    world: World,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    outside = tmp_path / "outside"  # what the operator has of the records; the site has none of it
    notes = write_notes(outside, Profile.HOSPITAL, site="disk", subjects=14, seed=7)
    values = written(notes.planted, notes.notes)
    assert len(values) > 50
    assert set().union(*found_in((outside,), values).values()) == values, "a search that finds"
    with notes.notes.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labelled = outside / "labelled.json"
    person = rows[0]["full_name"]
    span = {"entity_type": "PERSON", "start_position": 0, "end_position": len(person)}
    labelled.write_text(json.dumps([{"full_text": f"{person} rang.", "spans": [span]}]))
    monkeypatch.setattr(erasure_cli, "open_service", lambda _site: world.compliance)
    said = []

    def types(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["client", *words, "--dir", str(world.site.paths.root)])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        printed = capfd.readouterr()
        said.append(printed.out + printed.err)
        assert ended.value.code == 0, printed.err

    columns = ["--subject", "subject_id", "--text", "text", "--label", "label"]
    types(
        "data", "add", str(notes.notes), *columns, "--known", "full_name", "--known", "phone",
        "--purpose", PURPOSE, "--legal-basis", "public-task", "--dataset", "notes", "--replace",
    )  # fmt: skip
    types("deidentify", "evaluate", str(labelled))
    plan_id = world.approve(name="planted", labels=sorted({row["label"] for row in rows}))
    plan = world.compliance.plan(plan_id).plan
    world.state = TextClassifier.build(plan, world.model).get_state()
    world.train(0, plan_id=plan_id)
    world.run()
    for subject in sorted({row["subject_id"] for row in rows})[:2]:
        types("erase", subject, "--yes")
    world.train(1, plan_id=plan_id)
    world.run()
    assert world.codes() == []
    types("data", "verify")
    types("data", "show", "notes")
    logged = tmp_path / "logged"
    logged.mkdir()
    (logged / "log").write_text("\n".join([*said, *world.notes.lines, caplog.text]), "utf-8")
    everywhere = tuple(path for path in tmp_path.iterdir() if path != outside)
    assert world.site.paths.root in everywhere
    assert found_in(everywhere, values) == {}
