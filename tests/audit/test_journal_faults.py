"""Whatever fails, and wherever a process is killed: nothing that was acknowledged is lost, nothing
is there twice, the log verifies, and no two heads that anybody saw disagree."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from audit import file_head
from audit.checkpoint import Checkpoint, read_checkpoint
from audit.file_log import FileStore
from audit.journal import Journal
from audit.sqlite_log import SqliteStore
from audit.storage import LogReader, LogStorage, LogStore, LogUnavailable, stored_root
from audit.verifier import verify_log
from tests.audit.faulty import (
    Fault,
    PowerFailure,
    install_faulty_connection,
    install_faulty_disk,
)
from tests.audit.logs import Clock, entries, entry
from tests.audit.test_file_log import KeptInFiles, KeptInSqlite

ROOT = Path(__file__).parents[2]
Kept = KeptInFiles | KeptInSqlite
KINDS: dict[str, type[Kept]] = {"files": KeptInFiles, "sqlite": KeptInSqlite}
MOST_WRITES = 40


class Ground:
    """A log with a few entries, and every head that was ever seen of it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kept: Kept = KINDS[kind](folder)
        self.heads: list[Checkpoint] = []
        with self.journal() as journal:
            journal.record_many(entries(6))
        self.look()

    def journal(
        self, fault: Fault | None = None, patch: pytest.MonkeyPatch | None = None
    ) -> Journal:
        store = self.kept.open()
        journal = Journal.over(store, self.kept.signer, self.kept.keyring, Clock())
        if fault is not None and isinstance(store, SqliteStore):
            install_faulty_connection(store, fault)
        elif fault is not None and patch is not None:
            install_faulty_disk(patch, fault)
        return journal

    def look(self) -> None:
        """See the head, as a witness or a reader does."""
        with self.journal() as journal:
            self.heads.append(read_checkpoint(journal.checkpoint()))

    def count(self, number: int) -> int:
        """How often the entry with that number is in the log."""
        with self.journal() as journal:
            payloads = [journal.read(position)[1] for position in range(journal.size())]
        return payloads.count({"number": number})

    def judge(self) -> None:
        """The log verifies, and contains every history that was ever shown."""
        self.look()
        report = verify_log(self.kept.where, self.kept.signer.public)
        assert report.ok, report.problems
        store = self.kept.open()
        with store.reading() as storage:
            for head in self.heads:
                assert stored_root(storage, head.size) == head.root
        store.close()


@pytest.fixture(params=list(KINDS))
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(request.param, tmp_path)
    yield made
    made.kept.keyring.close()


def record_under(
    ground: Ground, fault: Fault, patch: pytest.MonkeyPatch, number: int
) -> LogUnavailable | None:
    """Record two entries of one group under a fault; what the caller is told."""
    with patch.context() as disk:
        journal = ground.journal(fault, disk)
        try:
            group = [entry(number, payload={"number": number}), entry(0, payload={"number": -1})]
            journal.record_many(group)
        except LogUnavailable as error:
            return error
        finally:
            fault.stays_broken = False
            journal.close()
    return None


@pytest.mark.parametrize(
    ("after", "half"),
    [(False, False), (False, True), (True, False)],
    ids=["not done", "half done", "done and failed"],
)
def test_every_write_of_a_commit_fails(
    ground: Ground, after: bool, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that repeats what failed has its entry once, never twice."""
    outcomes = set()
    for at in range(1, MOST_WRITES):
        fault = Fault(at=at, after=after, half=half)
        number = 1000 + at
        error = record_under(ground, fault, monkeypatch, number)
        outcomes.add(error is None)
        ground.judge()
        assert ground.count(number) == (0 if error else 1), (at, error)
        if error is not None:
            with ground.journal() as journal:
                journal.record(entry(number, payload={"number": number}))
        assert ground.count(number) == 1
        if not fault.happened:
            break
    else:
        pytest.fail("a commit has more writes than were tried")
    assert outcomes == {True, False}
    ground.judge()


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done and failed"])
def test_the_disk_is_gone_from_some_write_on(
    ground: Ground, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be looked up is said to be unknown; it is there once, or not at all."""
    for at in range(1, MOST_WRITES):
        fault = Fault(at=at, after=after, stays_broken=True)
        number = 1000 + at
        error = record_under(ground, fault, monkeypatch, number)
        happened = fault.happened
        ground.judge()
        count = ground.count(number)
        if error is None:
            assert count == 1
        elif "not known" in str(error):
            assert count in (0, 1)
        else:
            assert count == 0, (at, error)
        if not happened:
            break


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done and failed"])
def test_a_journal_goes_on_when_the_disk_is_back(
    ground: Ground, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the failed transaction is left in the process, neither lock nor entries."""
    for at in range(1, MOST_WRITES):
        fault = Fault(at=at, after=after, stays_broken=True)
        number = 1000 + at
        with monkeypatch.context() as disk, ground.journal(fault, disk) as journal:
            with suppress(LogUnavailable):
                journal.record(entry(number, payload={"number": number}))
            happened = fault.happened
            fault.at = 0
            last = journal.record(entry(number, payload={"number": -1})).position
            assert journal.size() == last + 1
            assert ground.count(number) <= 1
        ground.judge()
        if not happened:
            break


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_process_is_killed_at_every_write(
    ground: Ground, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, MOST_WRITES):
        number = 1000 + at
        told = in_dying_process(lambda at=at, number=number: doomed(ground, at, after, number))  # type: ignore[misc]
        ground.judge()
        count = ground.count(number)
        assert count in (0, 1)
        if told:
            assert count == 1
            break
        if count == 0:
            with ground.journal() as journal:
                journal.record(entry(number, payload={"number": number}))
        assert ground.count(number) == 1
    else:
        pytest.fail("a commit has more writes than were tried")
    ground.judge()


def doomed(ground: Ground, at: int, after: bool, number: int) -> None:
    """Runs in a process of its own."""
    patch = pytest.MonkeyPatch()
    journal = ground.journal(Fault(at=at, after=after, kill=True), patch)
    journal.record(entry(number, payload={"number": number}))


def in_dying_process(call: Callable[[], None]) -> bool:
    """Run a call in a child process; whether it came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            call()
            os.write(writer, b"1")
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, 1) == b"1"
    os.close(reader)
    os.waitpid(child, 0)
    return told


def start_appender(ground: Ground, kind: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.audit.appender",
            str(ground.kept.path.parent),
            name,
            "1000000",
            "--store",
            kind,
            "--threads",
            "4",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_killed_again_and_again_while_threads_append(kind: str, tmp_path: Path) -> None:
    """kill -9 in the middle of group commits of two processes with four threads each."""
    ground = Ground(kind, tmp_path)
    ground.kept.signer.save(tmp_path / "key.pem")
    acknowledged: dict[int, str] = {}
    for turn in range(4):
        workers = [start_appender(ground, kind, f"{turn}{name}") for name in "ab"]
        lines: list[str] = []
        for worker in workers:
            assert worker.stdout is not None
            lines += [worker.stdout.readline() for _ in range(5 + 17 * turn)]
        ground.look()
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        for worker in workers:
            assert worker.stdout is not None
            lines += worker.stdout.readlines()
            worker.wait(timeout=30)
            worker.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                position, number = line.split()
                assert int(position) not in acknowledged
                acknowledged[int(position)] = number
        ground.judge()
    with ground.journal() as journal:
        payloads = [journal.read(position)[1]["number"] for position in range(journal.size())]
    for told, number in acknowledged.items():
        assert str(payloads[told]) == number
    assert len(acknowledged) >= 100
    own = [number for number in payloads[6:] if number != -1]
    assert len(set(own)) == len(own)
    ground.kept.keyring.close()


def test_an_answer_is_lost_and_somebody_else_appends(ground: Ground) -> None:
    """The head is another one by the time that the outcome is looked up; the entry is there."""
    journal = ground.journal()
    store = OvertakenStore(journal._store, lambda: ground.journal().record(entry(2)))
    journal._store = store
    assert journal.record(entry(1, payload={"number": 1000})).position == 6
    assert store.overtaken
    assert ground.count(1000) == 1
    journal.close()
    ground.judge()


class OvertakenStore:
    """A store whose first commit is done, but not answered before somebody else has appended."""

    def __init__(self, store: LogStore, overtake: Callable[[], object]) -> None:
        self._store = store
        self._overtake = overtake
        self.overtaken = False

    def reading(self) -> AbstractContextManager[LogReader]:
        return self._store.reading()

    @contextmanager
    def writing(self) -> Iterator[LogStorage]:
        with self._store.writing() as storage:
            yield storage
        if not self.overtaken:
            self.overtaken = True
            self._overtake()
            raise LogUnavailable("the answer was lost")

    def close(self) -> None:
        self._store.close()


@pytest.mark.parametrize("curious", [False, True], ids=["nobody looks", "somebody looks"])
def test_the_power_fails_at_any_moment(
    curious: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files: what was acknowledged, and every head that another process saw, is there afterwards.

    After every single change of the folder, each state is judged in which the disk may be found.
    """
    ground = Ground("files", tmp_path)
    monkeypatch.setattr(file_head, "MIN_TABLE_LINES", 2)
    found = tmp_path / "found"
    found.mkdir()
    judged = 0

    def judge() -> None:
        nonlocal judged
        for folder in power.states(found):
            report = verify_log(folder, ground.kept.signer.public)
            assert report.ok, report.problems
            store = FileStore.open(folder)
            with store.reading() as storage:
                for head in ground.heads:
                    assert storage.size() >= head.size
                    assert stored_root(storage, head.size) == head.root
            judged += 1
            shutil.rmtree(folder)
        if curious:
            ground.look()

    with monkeypatch.context() as patch:
        power = PowerFailure(ground.kept.path, patch, judge)
        store = ground.kept.open()
        for number in range(3):
            with Journal.over(
                ground.kept.open(), ground.kept.signer, ground.kept.keyring, Clock()
            ) as journal:
                journal.record_many([entry(number)] * (30 if number == 1 else 2))
                note = journal.checkpoint()
                ground.heads.append(read_checkpoint(note))
            with store.writing() as storage:
                for witness in range(5):  # the table is written anew every time
                    size = read_checkpoint(note).size
                    storage.write_cosignature(f"site/{witness}", size, note)
        store.close()
    assert judged > 300
    ground.judge()
    ground.kept.keyring.close()


def test_a_head_is_never_shown_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files: the new head is in place, but the folder was not synced: it must not be told."""
    ground = Ground("files", tmp_path)
    counted = Fault()
    record_under(ground, counted, monkeypatch, 1)
    last = counted.seen  # the folder's sync after the head was replaced
    error = record_under(ground, Fault(at=last, stays_broken=True), monkeypatch, 2)
    assert error is not None
    assert "not known" in str(error)
    ground.judge()
    ground.kept.keyring.close()
