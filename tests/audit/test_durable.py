"""A file that cannot be written: errors name what was asked for, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audit.durable import private_temporary, write_durably


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: write_durably(path, b"x"), "none/log.csv"),
        (lambda path: write_durably(path, b"x"), "folder"),
        (lambda path: write_durably(path, b"x", replace=False), "there"),
        (private_temporary, "none/log.csv"),
    ],
)
def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, write: Callable[[Path], object], name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError) as refused:
        write(tmp_path / name)
    assert refused.value.filename == str(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
