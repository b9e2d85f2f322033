"""Looking at a log changes nothing, at rest, in use or copied; and hostile files are refused."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from audit.errors import Conflict, MalformedInput, NotFound
from audit.verifier import verify_log
from tests.audit.logs import Site, entry


@pytest.fixture(scope="module")
def log(filled: Site) -> Path:
    return filled.copy()


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_nothing_is_changed_at_rest(log: Path) -> None:
    before = state(log.parent)
    assert verify_log(log).ok
    assert state(log.parent) == before


def test_a_read_only_copy(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.sqlite"
    shutil.copyfile(log, target)
    target.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert verify_log(target).entries == 21
    finally:
        tmp_path.chmod(0o700)


def test_a_log_in_use(site: Site) -> None:
    site.fill(10)
    main, wal = site.path.read_bytes(), Path(f"{site.path}-wal").read_bytes()
    assert len(wal) > 0
    assert verify_log(site.path, site.signer.public).entries == 10
    assert site.path.read_bytes() == main
    assert Path(f"{site.path}-wal").read_bytes() == wal
    site.fill(1)
    assert verify_log(site.path, site.signer.public).entries == 11


def test_a_copy_of_a_log_in_use(site: Site, tmp_path: Path) -> None:
    """With its `-wal` file it is whole; without, it is the log as it was some time before."""
    site.fill(10)
    folder = tmp_path / "copies"
    folder.mkdir()
    copy = folder / "copy.sqlite"
    shutil.copyfile(site.path, copy)
    assert verify_log(copy, site.signer.public).entries == 0
    shutil.copyfile(f"{site.path}-wal", f"{copy}-wal")
    before = state(folder)
    assert verify_log(copy, site.signer.public).entries == 10
    assert state(folder) == before


def test_a_copy_whose_wal_was_cut_in_the_middle(site: Site, tmp_path: Path) -> None:
    for _ in range(10):
        site.journal.record(entry())
    copy = tmp_path / "cut.sqlite"
    shutil.copyfile(site.path, copy)
    wal = Path(f"{site.path}-wal").read_bytes()
    for share in (3, 2):
        Path(f"{copy}-wal").write_bytes(wal[: len(wal) // share + 100])
        report = verify_log(copy, site.signer.public)
        assert report.ok
        assert 0 < report.entries < 10


def test_changed_while_it_was_read(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copyfile(log, copy)

    def disturb(done: int, total: int) -> None:
        with copy.open("ab") as file:
            file.write(b"x")

    with pytest.raises(Conflict):
        verify_log(copy, progress=disturb)


def test_files_that_are_no_log(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify_log(tmp_path / "none.sqlite")
    with pytest.raises(MalformedInput, match="no file head"):
        verify_log(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "junk").write_bytes(b"SQLite format 3\x00" + b"junk" * 1000)
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    broken = sqlite3.connect(tmp_path / "broken")
    broken.execute("CREATE TABLE log_entries (position)")
    broken.close()
    data = (tmp_path / "broken").read_bytes().replace(b"TABLE log_entries", b"T\xc1BLE log_entries")
    (tmp_path / "broken").write_bytes(data)
    for name in ("empty", "junk", "other", "broken"):
        with pytest.raises(MalformedInput):
            verify_log(tmp_path / name)


def test_views_are_no_tables(log: Path) -> None:
    target = log.with_name("views.sqlite")
    shutil.copyfile(log, target)
    connection = sqlite3.connect(target)
    connection.execute("ALTER TABLE log_entries RENAME TO hidden")
    connection.execute("CREATE VIEW log_entries AS SELECT * FROM hidden")
    connection.close()
    with pytest.raises(MalformedInput, match="log_entries"):
        verify_log(target)
