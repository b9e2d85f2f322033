"""kill -9 before every single statement of an ingest and of an erasure: what must hold after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.client.data.records import ROWS

ROOT = Path(__file__).parents[3]
OLD_TEXTS = ["of another person", "the old version"]
NEW_TEXTS = sorted(text for _, text, _ in ROWS)


def run(folder: Path, scenario: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.data.killed_ingest", str(folder), scenario],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_killed_ingest_leaves_the_version_before(tmp_path: Path) -> None:
    runs = run(tmp_path, "ingest")
    for found in runs:
        assert found["texts"] in (OLD_TEXTS, NEW_TEXTS), "half a dataset"
        assert found["problems"] == []
        visible = found["texts"] == NEW_TEXTS
        assert found["versions"] == [["notes", 2 if visible else 1]]
        # What is visible is in the journal; what is in the journal may have died before it showed.
        assert found["journal"] >= (2 if visible else 1)
        # The same ingest goes on where the killed one stopped: no row is lost, none is doubled.
        assert found["after"] == NEW_TEXTS
        assert found["resumed"] == (found["staged"] > 0)
        assert found["sheet_after"]["replacements"] == {"PERSON": len(NEW_TEXTS)}
        assert found["sheet_after"]["label_counts"] == {"even": 5, "odd": 5}
        assert found["problems_after"] == []
        assert found["building_after"] == 0
    assert runs[-1]["ended"]
    assert {"the old version"} < {text for found in runs[:-1] for text in found["texts"]}
    assert len(runs) > 30, "the ingest has many statements to die at"
    assert {found["staged"] for found in runs} == {0, 4, 8, 10}, "it died between batches too"


def test_a_killed_ingest_of_pictures_leaves_the_texts_before(tmp_path: Path) -> None:
    runs = run(tmp_path, "pictures")
    assert runs[-1]["ended"]
    pictures = runs[-1]["texts"]
    assert len(set(pictures)) == 3
    for found in runs:
        assert found["texts"] in (OLD_TEXTS, pictures), "half a dataset"
        visible = found["texts"] == pictures
        assert found["groups"] == (["ICU"] * 3 if visible else ["", ""])
        assert found["sheet"].get("content", "text") == ("image" if visible else "text")
        assert found["sheet"].get("groups", {}) == ({"ICU": 3} if visible else {})
        assert found["problems"] == found["problems_after"] == []
        assert found["after"] == pictures
        assert found["building_after"] == 0


def test_a_killed_erasure_is_not_begun_or_completed(tmp_path: Path) -> None:
    runs = run(tmp_path, "erase")
    for found in runs:
        assert found["texts"] == (["of another person"] if found["erased"] else OLD_TEXTS)
        # Opening the vault completes an erasure that was begun: no key outlives its subject.
        assert found["keys"] == (1 if found["erased"] else 2)
        assert found["problems"] == []
        assert found["after"] == ["of another person"]
    assert runs[-1]["ended"]
    assert {found["erased"] for found in runs[:-1]} == {False, True}
