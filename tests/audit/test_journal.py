"""The journal: durable when it says so, whatever process dies, however many write at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.journal import Journal
from audit.keys import SigningKey
from audit.proof import Proof, verify_proof
from audit.sqlite_log import SqliteStore
from audit.storage import LogUnavailable
from audit.verifier import verify_log
from tests.audit.logs import ORIGIN, Site, entries, entry

ROOT = Path(__file__).parents[2]


def start_appender(site: Site, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.audit.appender", str(site.folder), name, str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def sqlite_connection(journal: Journal) -> sqlite3.Connection:
    store = journal._store
    assert isinstance(store, SqliteStore)
    return store._connection


@pytest.fixture
def shared(site: Site) -> Site:
    site.signer.save(site.folder / "key.pem")
    return site


def test_record_and_reopen(site: Site) -> None:
    assert site.journal.record(entry(1)).position == 0
    assert [item.position for item in site.journal.record_many(entries(4))] == [1, 2, 3, 4]
    checkpoint = site.journal.checkpoint()
    site.journal.close()
    again = Journal.open(site.path, site.signer, site.keyring)
    assert again.origin == ORIGIN
    assert again.key == site.signer.public
    assert again.checkpoint() == checkpoint
    assert again.size() == 5
    assert again.read(0)[1] == {"number": 1}
    assert [leaf.position for leaf in again.leaves(after=1, limit=2)] == [2, 3]
    assert again.record(entry()).position == 5
    again.close()


def test_the_files_are_private(site: Site) -> None:
    site.journal.record(entry())
    for path in site.folder.glob("journal.sqlite*"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_half_made_is_left(site: Site) -> None:
    with pytest.raises(Conflict):
        Journal.create(site.path, ORIGIN, site.signer, site.keyring)
    with pytest.raises(MalformedInput):
        Journal.create(site.folder / "bad.sqlite", "", site.signer, site.keyring)
    names = {path.name for path in site.folder.iterdir()}
    assert names - {"journal.sqlite-wal", "journal.sqlite-shm"} == {"journal.sqlite", "keyring"}


def test_files_that_are_no_journal(site: Site) -> None:
    with pytest.raises(NotFound):
        Journal.open(site.folder / "none.sqlite", site.signer, site.keyring)
    (site.folder / "junk.sqlite").write_bytes(b"junk" * 500)
    (site.folder / "empty.sqlite").touch()
    for name in ("junk.sqlite", "empty.sqlite"):
        with pytest.raises(MalformedInput):
            Journal.open(site.folder / name, site.signer, site.keyring)
    with pytest.raises(Conflict):
        Journal.open(site.path, SigningKey.generate(ORIGIN), site.keyring)


def test_a_tampered_journal_is_not_opened(site: Site) -> None:
    site.fill(3)
    site.journal.close()
    connection = sqlite3.connect(site.path)
    connection.execute("DELETE FROM log_entries WHERE position = 2")
    connection.commit()
    connection.close()
    with pytest.raises(VerificationFailed):
        Journal.open(site.path, site.signer, site.keyring)


def test_a_failed_record_leaves_nothing(site: Site) -> None:
    site.fill(3)
    with pytest.raises(MalformedInput):
        site.journal.record_many([entry(), entry(payload={"x": 0.5})])
    assert site.journal.size() == 3
    assert site.journal.record(entry()).position == 3
    assert verify_log(site.path, site.signer.public).ok


def test_a_full_disk_is_said_and_survived(site: Site) -> None:
    site.fill(3)
    connection = sqlite_connection(site.journal)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(LogUnavailable, match="full"):
        site.journal.record(entry(payload={"x": "y" * 100_000}))
    assert site.journal.size() == 3
    connection.execute("PRAGMA max_page_count = 1000000")
    assert site.journal.record(entry()).position == 3
    assert verify_log(site.path, site.signer.public).ok


def test_a_closed_journal_says_so(site: Site) -> None:
    site.journal.close()
    with pytest.raises(LogUnavailable):
        site.journal.record(entry())


def test_threads_share_a_journal(site: Site) -> None:
    positions: list[int] = []

    def work(name: str) -> None:
        positions.extend(
            site.journal.record(entry(number, actor=name)).position for number in range(20)
        )

    threads = [threading.Thread(target=work, args=(f"thread:{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(positions) == list(range(80))
    assert verify_log(site.path, site.signer.public).ok


def test_processes_share_a_journal(shared: Site) -> None:
    workers = [start_appender(shared, f"process:{n}", 25) for n in range(3)]
    mine = [shared.journal.record(entry(number)).position for number in range(25)]
    theirs = []
    for worker in workers:
        output, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        theirs += [int(line.split()[0]) for line in output.splitlines()]
    assert sorted(mine + theirs) == list(range(100))
    assert verify_log(shared.path, shared.signer.public).entries == 100


def test_killed_while_appending(shared: Site) -> None:
    """No acknowledged entry is lost, none appears twice, and the log verifies, again and again."""
    acknowledged: dict[int, int] = {}
    for turn in range(4):
        worker = start_appender(shared, "doomed", 1_000_000)
        stream = worker.stdout
        assert stream is not None
        lines = [stream.readline() for _ in range(5 + 7 * turn)]
        worker.send_signal(signal.SIGKILL)
        lines += stream.readlines()
        worker.wait(timeout=30)
        stream.close()
        for line in lines:
            if line.endswith("\n"):
                position, number = map(int, line.split())
                assert position not in acknowledged
                acknowledged[position] = number
        report = verify_log(shared.path, shared.signer.public)
        assert report.ok, report.problems
        assert report.entries > max(acknowledged)
    for position, number in acknowledged.items():
        assert shared.journal.read(position)[1] == {"number": number}
    assert shared.journal.size() - len(acknowledged) <= 4  # one unacknowledged entry a turn


def test_a_proof_is_of_one_snapshot(shared: Site) -> None:
    """Proofs made while another process appends verify against their own checkpoint."""
    shared.fill(2)
    worker = start_appender(shared, "busy", 60)
    while worker.poll() is None:
        text = shared.journal.prove(1, with_leaf=True)
        verify_proof(Proof.parse(text), shared.signer.public)
        assert verify_log(shared.path, shared.signer.public).ok
    worker.communicate()
    assert shared.journal.size() == 62


def test_errors_of_the_database_are_ours(site: Site) -> None:
    site.fill(2)
    sqlite_connection(site.journal).execute("DROP TABLE log_nodes")
    with pytest.raises(FiduciaryError):
        site.journal.record(entry())
    with pytest.raises(FiduciaryError):
        site.journal.prove(0)
