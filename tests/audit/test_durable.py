"""Files that are there whole or not at all: what is synced when, and what errors leave."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.durable import (
    create_private_file,
    private_temporary,
    remove_durably,
    write_durably,
)


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


@dataclass(frozen=True)
class Synced:
    """A file or folder as it was when it was synced, and what lay at the target then."""

    content: bytes | None
    mode: int
    target: bytes | None


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Synced]:
    """Every sync, in order; the target is `tmp_path / "target"`."""
    seen: list[Synced] = []
    fsync, target = os.fsync, tmp_path / "target"

    def watched(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_file = stat.S_ISREG(status.st_mode)
        content = Path(f"/proc/self/fd/{descriptor}").read_bytes() if is_file else None
        found = target.read_bytes() if target.exists() else None
        seen.append(Synced(content, stat.S_IMODE(status.st_mode) if is_file else 0, found))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return seen


@pytest.mark.parametrize("replace", [True, False])
def test_the_content_is_on_the_disk_before_its_name_and_then_the_name(
    tmp_path: Path, synced: list[Synced], replace: bool
) -> None:
    before = None
    if replace:
        before = b"old"
        (tmp_path / "target").write_bytes(before)
    write_durably(tmp_path / "target", b"new", mode=0o640, replace=replace)
    assert synced == [Synced(b"new", 0o640, before), Synced(None, 0, b"new")]
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


def test_a_private_file_and_its_name_are_on_the_disk(tmp_path: Path, synced: list[Synced]) -> None:
    create_private_file(tmp_path / "target")
    assert synced == [Synced(b"", 0o600, b""), Synced(None, 0, b"")]


def test_a_secret_is_overwritten_before_it_is_removed(tmp_path: Path, synced: list[Synced]) -> None:
    (tmp_path / "target").write_bytes(b"a secret of some length")
    remove_durably(tmp_path / "target")
    over, gone = synced
    assert over.content is not None
    assert len(over.content) == 23
    assert over.content != b"a secret of some length"
    assert gone == Synced(None, 0, None)
