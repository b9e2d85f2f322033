"""The engine of these tests refuses what a container would, so that its green means something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.compose import interpolate, seconds
from tests.deployment.engine import READ_ONLY_ROOT


def ran(code: str, writable: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(READ_ONLY_ROOT), "WRITABLE": str(writable)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "write",
    [
        "open({!r}, 'w')",
        "import pathlib; pathlib.Path({!r}).mkdir()",
        "import os; os.open({!r}, os.O_CREAT | os.O_WRONLY)",
        "import os; os.symlink('x', {!r})",
        "import sqlite3; sqlite3.connect({!r})",
    ],
)
def test_writes_are_refused_but_where_they_are_allowed(tmp_path: Path, write: str) -> None:
    allowed = tmp_path / "volume"
    allowed.mkdir()
    inside, outside = allowed / "file", tmp_path / "file"
    assert ran(write.format(str(inside)), allowed).returncode == 0
    refused = ran(write.format(str(outside)), allowed)
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr
    assert not outside.exists()


def test_a_file_is_not_moved_out(tmp_path: Path) -> None:
    allowed = tmp_path / "volume"
    allowed.mkdir()
    (allowed / "file").write_text("x")
    code = f"import os; os.rename({str(allowed / 'file')!r}, {str(tmp_path / 'file')!r})"
    assert "Read-only file system" in ran(code, allowed).stderr
    assert (allowed / "file").exists()


def test_settings_are_put_in_as_compose_does() -> None:
    text = "${A:-one}/${B}/$${C}/${D:?needed}"
    assert interpolate([text], {"B": "two", "D": "four"}) == ["one/two/${C}/four"]


@pytest.mark.parametrize(("text", "expected"), [("2m", 120), ("1m30s", 90), ("500ms", 0.5)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected
