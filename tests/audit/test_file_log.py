"""A log in plain files: the contract of every store, and what is special to files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.file_log import FileStore
from audit.journal import Journal
from audit.keyring import Keyring
from audit.log import LogStorage
from audit.merkle import Frontier
from audit.node_order import node_count, node_place
from audit.source import open_source
from audit.sqlite_log import SqliteStore
from audit.storage import LogStore, LogUnavailable
from audit.verifier import verify_log
from tests.audit.logs import Clock, entries, entry
from tests.audit.storage_contract import KeyedLog, LogStorageContract, LogStoreContract, undone


class KeptInFiles(KeyedLog):
    def __init__(self, folder: Path) -> None:
        super().__init__(Keyring.create(folder / "keyring"))
        self.path = folder / "journal"
        with FileStore.create(self.path) as store, store.writing() as storage:
            self.create(storage)

    @property
    def where(self) -> str:
        return str(self.path)

    def open(self) -> LogStore:
        return FileStore.open(self.path)

    def journal(self) -> Journal:
        return Journal.over(FileStore.open(self.path), self.signer, self.keyring, Clock())


class KeptInSqlite(KeyedLog):
    def __init__(self, folder: Path) -> None:
        super().__init__(Keyring.create(folder / "keyring"))
        self.path = folder / "journal.sqlite"
        with SqliteStore.create(self.path) as store, store.writing() as storage:
            self.create(storage)

    @property
    def where(self) -> str:
        return str(self.path)

    def open(self) -> LogStore:
        return SqliteStore.open(self.path)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[KeptInFiles]:
    made = KeptInFiles(tmp_path)
    yield made
    made.keyring.close()


class TestFileStorage(LogStorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[LogStorage]:
        with FileStore.create(tmp_path / "log"):
            pass
        with undone(FileStore.open(tmp_path / "log")) as storage:
            yield storage


class TestFileStore(LogStoreContract):
    @pytest.fixture
    def kept(self, files: KeptInFiles) -> KeptInFiles:
        return files


class TestSqliteStore(LogStoreContract):
    @pytest.fixture
    def kept(self, tmp_path: Path) -> Iterator[KeptInSqlite]:
        made = KeptInSqlite(tmp_path)
        yield made
        made.keyring.close()


@given(st.integers(0, 3000))
def test_nodes_stand_in_the_order_of_their_completion(size: int) -> None:
    _, nodes = Frontier().extend(bytes(32) for _ in range(size))
    assert [node_place(level, index) for level, index, _ in nodes] == list(range(len(nodes)))
    assert node_count(size) == len(nodes)


def test_the_files_are_private(files: KeptInFiles) -> None:
    with files.journal() as journal:
        journal.record_many(entries(2000))
    assert files.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files.path.iterdir()} == {0o600}


def test_create_leaves_a_whole_folder_or_none(files: KeptInFiles, tmp_path: Path) -> None:
    with pytest.raises(Conflict), FileStore.create(files.path):
        pass
    with pytest.raises(RuntimeError), FileStore.create(tmp_path / "half"):
        raise RuntimeError("half-way")
    assert {path.name for path in tmp_path.iterdir()} == {"journal", "keyring"}


@pytest.mark.parametrize("name", ["head", "entries", "offsets", "hashes"])
def test_a_folder_that_lacks_a_file_is_no_log(files: KeptInFiles, name: str) -> None:
    (files.path / name).unlink()
    with pytest.raises(MalformedInput, match=name):
        FileStore.open(files.path)
    with pytest.raises(MalformedInput, match=name), open_source(files.path):
        pass


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        FileStore.open(tmp_path / "none")
    with pytest.raises(MalformedInput):
        FileStore.open(tmp_path)


def test_old_tables_are_written_anew_and_removed(files: KeptInFiles) -> None:
    store = files.open()
    for size in range(1, 400):
        with store.writing() as storage:
            storage.write_cosignature("site/a", size, "note")
            storage.delete_cosignature("site/a", size - 1)
    with store.reading() as storage:
        assert storage.cosignatures() == [("site/a", 399, "note")]
    store.close()
    tables = [path for path in files.path.iterdir() if path.name.startswith("cosignatures.")]
    assert len(tables) == 2  # this generation, and the one before for readers that are slower
    assert sum(path.stat().st_size for path in tables) < 20_000


def test_what_a_crash_left_is_not_read_and_cut_off(files: KeptInFiles) -> None:
    with files.journal() as journal:
        journal.record_many(entries(5))
    for name in ("entries", "offsets", "hashes"):
        with (files.path / name).open("ab") as file:
            file.write(b"half of something")
    assert verify_log(files.where, files.signer.public).ok
    with files.journal() as journal:
        assert journal.size() == 5
        assert journal.record(entry()).position == 5
    report = verify_log(files.where, files.signer.public)
    assert report.ok, report.problems
    assert (files.path / "offsets").stat().st_size == 6 * 8


@pytest.mark.parametrize("name", ["entries", "offsets", "hashes"])
def test_a_file_that_lost_its_end(files: KeptInFiles, name: str) -> None:
    with files.journal() as journal:
        journal.record_many(entries(9))
    os.truncate(files.path / name, (files.path / name).stat().st_size - 1)
    report = verify_log(files.where, files.signer.public)
    assert not report.ok
    assert "shorter" in str(report.problems)
    with pytest.raises(VerificationFailed), files.journal() as journal:
        journal.record(entry())


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_flipped_bit_of_any_file(files: KeptInFiles, data: st.DataObject) -> None:
    """It is noticed by the verifier, whatever byte of the log it is in."""
    original = files.path.with_name("original")
    if not original.exists():
        with files.journal() as journal:
            journal.record_many(entries(1030))
            journal.record_many(entries(3))
        shutil.copytree(files.path, original)
    damaged = files.path.with_name("damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(original, damaged)
    name = data.draw(st.sampled_from(["entries", "offsets", "hashes", "head", "checkpoints.0"]))
    content = bytearray((damaged / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    (damaged / name).write_bytes(content)
    try:
        report = verify_log(damaged, files.signer.public)
    except FiduciaryError:
        return
    assert not report.ok, (name, at)


def test_errors_of_the_disk_are_ours(files: KeptInFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with files.journal() as journal:
        journal.record_many(entries(3))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LogUnavailable, match="No space left"):
            journal.record(entry())
        monkeypatch.undo()
        assert journal.size() == 3
        assert journal.record(entry()).position == 3
    assert verify_log(files.where, files.signer.public).ok


def test_short_writes_are_finished(files: KeptInFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite: Callable[..., int] = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    with files.journal() as journal:
        journal.record_many(entries(5))
    assert verify_log(files.where, files.signer.public).ok
