"""A log in plain files: the contract of every store, and what is special to files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import file_head
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.file_log import FileStore
from audit.file_view import FileView
from audit.journal import Journal
from audit.keyring import Keyring
from audit.merkle import Frontier
from audit.node_order import node_count, node_place
from audit.source import LogDamaged, open_source
from audit.sqlite_log import SqliteStore
from audit.storage import LogStorage, LogStore, LogUnavailable
from audit.verifier import verify_log
from tests.audit.logs import Clock, entries, entry
from tests.audit.storage_contract import (
    KeyedLog,
    LogStorageContract,
    LogStoreContract,
    Undone,
    undone,
)


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
    assert len(tables) == 1
    assert sum(path.stat().st_size for path in tables) < 20_000


def test_a_reader_may_be_slower_than_any_number_of_appenders(files: KeptInFiles) -> None:
    store = files.open()
    with store.writing() as storage:
        storage.write_cosignature("site/a", 1, "first")
        files.log.append_many(storage, entries(3))
    with store.reading() as old, open_source(files.path) as source:
        for number in range(600):
            with store.writing() as storage:
                storage.write_cosignature("site/a", 1, f"note {number}")
        for seen in (old, source):
            assert seen.cosignatures() == [("site/a", 1, "first")]
    store.close()


def test_a_forked_process_takes_turns_too(files: KeptInFiles) -> None:
    """It has the same open files, and so had the same lock, were it taken on one of them."""
    journal = files.journal()
    journal.record(entry())
    child = os.fork()
    if child == 0:
        try:
            for number in range(100):
                journal.record(entry(number))
            os._exit(0)
        finally:
            os._exit(1)
    for number in range(100):
        journal.record(entry(number))
    assert os.waitpid(child, 0)[1] == 0
    assert journal.size() == 201
    journal.close()
    report = verify_log(files.where, files.signer.public)
    assert report.ok, report.problems


def test_a_damaged_offset_makes_no_appender_cut_off_entries(files: KeptInFiles) -> None:
    with files.journal() as journal:
        journal.record_many(entries(9))
    content = (files.path / "entries").read_bytes()
    offsets = (files.path / "offsets").read_bytes()
    (files.path / "offsets").write_bytes(offsets[:-8] + (100).to_bytes(8, "big"))
    with files.journal() as journal, pytest.raises(VerificationFailed, match="ends at byte 100"):
        journal.record(entry())
    assert (files.path / "entries").read_bytes() == content
    assert not verify_log(files.where, files.signer.public).ok


def test_what_a_killed_appender_left_beside_is_removed(files: KeptInFiles) -> None:
    before = {path.name for path in files.path.iterdir()}
    for name in (".head.abc", "checkpoints.7", "cosignatures.1"):
        (files.path / name).write_bytes(b"left")
    (files.path / "notes of an operator.txt").touch()
    with files.journal() as journal:
        journal.record(entry())
    names = {path.name for path in files.path.iterdir()}
    assert names == before | {"notes of an operator.txt"}


def test_an_append_reads_no_table(files: KeptInFiles) -> None:
    """Its cost must not grow with the number of kept checkpoints."""
    with files.journal() as journal:
        journal.record_many(entries(2000))
        journal.record_many(entries(100))
    (files.path / "checkpoints.0").write_bytes(b"x" * (files.path / "checkpoints.0").stat().st_size)
    with files.journal() as journal:
        assert journal.record(entry()).position == 2100
        journal.record_many(entries(1000))  # into the next block
    with open_source(files.path) as source, pytest.raises(LogDamaged):
        list(source.checkpoints())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_files_and_sqlite_agree(data: st.DataObject) -> None:
    """Whatever is written, replaced, removed, committed or rolled back in whatever order."""
    sizes, witnesses = st.integers(0, 6), st.sampled_from(["site/a", "site/b"])
    steps = st.one_of(
        st.tuples(st.just("write_checkpoint"), sizes, st.text(max_size=3)),
        st.tuples(st.just("delete_checkpoint"), sizes),
        st.tuples(st.just("write_cosignature"), witnesses, sizes, st.text(max_size=3)),
        st.tuples(st.just("delete_cosignature"), witnesses, sizes),
    )
    transactions = st.lists(st.tuples(st.lists(steps, max_size=8), st.booleans()), max_size=12)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_head, "MIN_TABLE_LINES", 3)
        folder = Path(name)
        with FileStore.create(folder / "files"), SqliteStore.create(folder / "sqlite") as sqlite:
            files = FileStore.open(next(folder.glob(".files.*")))
            for calls, commits in data.draw(transactions):
                for store in (files, sqlite):
                    with suppress(Undone), store.writing() as storage:
                        for call, *arguments in calls:
                            getattr(storage, call)(*arguments)
                        seen = (storage.head()[0], storage.cosignatures())
                        if store is files:
                            expected = seen
                        assert seen == expected
                        if not commits:
                            raise Undone
                with files.reading() as left, sqlite.reading() as right:
                    assert left.head()[0] == right.head()[0]
                    assert left.cosignatures() == right.cosignatures()
                    assert isinstance(left, FileView)
                    connection = sqlite._connection
                    stored = connection.execute("SELECT size, note FROM log_checkpoints")
                    assert list(left.checkpoints()) == sorted(stored)


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


def test_any_flipped_bit_of_the_head(files: KeptInFiles) -> None:
    head = (files.path / "head").read_bytes()
    for bit in range(len(head) * 8):
        content = bytearray(head)
        content[bit // 8] ^= 1 << bit % 8
        (files.path / "head").write_bytes(content)
        with pytest.raises(MalformedInput, match="head"):
            FileStore.open(files.path)


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
