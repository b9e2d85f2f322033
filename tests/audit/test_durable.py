"""A file that cannot be written: errors name what was asked for, and nothing is left."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("write", [lambda path: write_durably(path, b"x"), private_temporary])
def test_a_device_or_a_pipe_is_never_replaced(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no regular file"):
        write(pipe)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
