"""A log in a real PostgreSQL server, which the tests start, crash and stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit.bundle_verifier import verify_bundle
from audit.checkpoint import read_checkpoint
from audit.errors import Conflict, ExitCode, MalformedInput, NotFound
from audit.exporting import export_bundle
from audit.journal import Journal
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import AuditLog
from audit.merkle import verify_consistency
from audit.postgresql_log import PostgresStore, libpq_address
from audit.proof import Proof, verify_proof
from audit.source import open_source
from audit.sql_log import POSTGRESQL_LOCK
from audit.storage import LogStorage, LogStore, LogUnavailable, stored_root
from audit.verifier import verify_log
from tests.audit.logs import ORIGIN, Clock, entries, entry
from tests.audit.storage_contract import KeyedLog, LogStorageContract, LogStoreContract, undone
from tests.postgresql import MISSING, PostgresServer, find_programs, running_server

pytestmark = pytest.mark.skipif(find_programs() is None, reason=MISSING)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as started:
        yield started


class Remote:
    """A journal in a database of its own."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.address = server.new_database()
        self.signer = SigningKey.generate(ORIGIN)
        self.keyring = Keyring.create(folder / "keyring")
        with PostgresStore.create(self.address) as store, store.writing() as storage:
            AuditLog(ORIGIN, self.signer, self.keyring, Clock()).create(storage)
        self.journal = self.open()

    def open(self) -> Journal:
        return Journal.over(PostgresStore.open(self.address), self.signer, self.keyring, Clock())

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.address) as connection:
            connection.execute(statement)

    def close(self) -> None:
        self.journal.close()
        self.keyring.close()


@pytest.fixture
def remote(server: PostgresServer, tmp_path: Path) -> Iterator[Remote]:
    made = Remote(server, tmp_path)
    yield made
    made.close()


class TestPostgresStorage(LogStorageContract):
    @pytest.fixture
    def storage(self, server: PostgresServer) -> Iterator[LogStorage]:
        address = server.new_database()
        with PostgresStore.create(address):
            pass
        with undone(PostgresStore(address)) as storage:
            yield storage


class KeptInPostgresql(KeyedLog):
    def __init__(self, server: PostgresServer, folder: Path) -> None:
        super().__init__(Keyring.create(folder / "keyring"))
        self.where = server.new_database()
        with PostgresStore.create(self.where) as store, store.writing() as storage:
            self.create(storage)

    def open(self) -> LogStore:
        return PostgresStore.open(self.where)


class TestPostgresStore(LogStoreContract):
    @pytest.fixture
    def kept(self, server: PostgresServer, tmp_path: Path) -> Iterator[KeptInPostgresql]:
        made = KeptInPostgresql(server, tmp_path)
        yield made
        made.keyring.close()


def test_record_reopen_prove_and_verify(remote: Remote) -> None:
    for number in range(5):
        assert remote.journal.record(entry(number)).position == number
    assert [item.position for item in remote.journal.record_many(entries(7))] == list(range(5, 12))
    again = remote.open()
    assert again.checkpoint() == remote.journal.checkpoint()
    assert again.read(3)[1] == {"number": 3}
    for position in range(12):
        proof = Proof.parse(again.prove(position, with_leaf=True))
        verify_proof(proof, remote.signer.public, origin=ORIGIN)
    head = read_checkpoint(again.checkpoint())
    store = PostgresStore.open(remote.address)
    for first in range(1, 12):
        path = again.consistency(first, 12)
        with store.reading() as storage:
            old = stored_root(storage, first)
        verify_consistency(first, 12, old, head.root, path)
    store.close()
    again.close()
    report = verify_log(remote.address, remote.signer.public)
    assert report.ok, report.problems
    assert report.entries == 12


def test_threads_share_transactions(remote: Remote) -> None:
    positions: list[int] = []

    def work(name: str) -> None:
        positions.extend(
            remote.journal.record(entry(number, actor=name)).position for number in range(20)
        )

    threads = [threading.Thread(target=work, args=(f"thread:{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(positions) == list(range(160))
    assert verify_log(remote.address, remote.signer.public).ok


def test_two_processes_take_turns(remote: Remote) -> None:
    """Two stores with connections of their own, as two processes have."""
    other = remote.open()
    for number in range(6):
        journal = (remote.journal, other)[number % 2]
        assert journal.record(entry(number)).position == number
    other.close()
    assert verify_log(remote.address, remote.signer.public).ok


def test_the_database_in_sqlalchemys_spelling(remote: Remote) -> None:
    remote.journal.record(entry())
    spelled = remote.address.replace("postgresql://", "postgresql+psycopg://")
    assert libpq_address(spelled) == remote.address
    assert verify_log(spelled, remote.signer.public).ok


def test_create_twice_and_open_what_is_not_there(server: PostgresServer, remote: Remote) -> None:
    with pytest.raises(Conflict), PostgresStore.create(remote.address):
        pass
    empty = server.new_database()
    with pytest.raises(NotFound):
        PostgresStore.open(empty)
    with pytest.raises(MalformedInput, match="holds no log"):
        verify_log(empty)
    with pytest.raises(LogUnavailable), PostgresStore.create(empty) as store:
        raise LogUnavailable("filled half-way")
    store.close()
    with pytest.raises(NotFound):
        PostgresStore.open(empty)


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("DELETE FROM log_entries WHERE position = 4", 4),
        ("UPDATE log_entries SET leaf = set_byte(leaf, 40, 120) WHERE position = 6", 6),
        ("UPDATE log_nodes SET hash = set_byte(hash, 0, 1) WHERE place = 5", 2),
        ("DELETE FROM log_entries WHERE position > 7", 8),
        ("DELETE FROM log_nodes WHERE place = 6", 0),
    ],
)
def test_tampering_is_noticed_and_named(remote: Remote, statement: str, position: int) -> None:
    remote.journal.record_many(entries(10))
    remote.execute(statement)
    report = verify_log(remote.address, remote.signer.public)
    assert not report.ok
    assert report.first_bad_entry == position


def test_a_changed_tail_is_noticed_by_the_journal_itself(remote: Remote) -> None:
    remote.journal.record_many(entries(5))
    remote.execute("DELETE FROM log_entries WHERE position = 4")
    with pytest.raises(Exception, match="entries"):
        remote.journal.record(entry())


def test_a_bundle_from_a_database(remote: Remote, tmp_path: Path) -> None:
    remote.journal.record_many(entries(30))
    with open_source(remote.address) as source:
        export_bundle(source, tmp_path / "evidence.zip")
    report = verify_bundle(tmp_path / "evidence.zip", remote.signer.public)
    assert report.ok
    assert report.entries == 30


def test_the_server_crashes_and_comes_back(remote: Remote, server: PostgresServer) -> None:
    """What was acknowledged is there; what was not is said to have failed; the journal goes on."""
    acknowledged: list[int] = []
    failed = threading.Event()

    def work() -> None:
        for number in range(100_000):
            try:
                acknowledged.append(remote.journal.record(entry(number)).position)
            except LogUnavailable:
                failed.set()
                return

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 20:
        threads[0].join(0.01)
    server.stop(signal.SIGQUIT)
    for thread in threads:
        thread.join(60)
    assert failed.is_set()
    with pytest.raises(LogUnavailable, match="cannot be used"):
        remote.journal.record(entry())
    server.start()
    after = remote.journal.record(entry()).position
    report = verify_log(remote.address, remote.signer.public)
    assert report.ok, report.problems
    assert len(set(acknowledged)) == len(acknowledged)
    assert max(acknowledged) < after
    assert after <= len(acknowledged) + 4  # an entry whose answer was lost, of each thread


def test_a_cut_connection_during_a_commit_is_looked_up(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is stored and its answer lost: the journal finds the entry, and says so once."""
    store = remote.journal._store

    def lose_the_answer(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
        monkeypatch.undo()
        connection.commit()
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(store, "_commit", lose_the_answer)
    assert remote.journal.record(entry(7)).position == 0
    assert remote.journal.record(entry(8)).position == 1
    assert remote.journal.size() == 2
    assert verify_log(remote.address, remote.signer.public).ok


def test_a_commit_that_did_not_happen_is_not_acknowledged(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = remote.journal._store

    def lose_the_connection(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
        monkeypatch.undo()
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(store, "_commit", lose_the_connection)
    with pytest.raises(LogUnavailable):
        remote.journal.record(entry(7))
    assert remote.journal.record(entry(8)).position == 0
    assert remote.journal.size() == 1


def test_a_server_whose_default_is_not_durable(server: PostgresServer, remote: Remote) -> None:
    remote.execute(
        f"ALTER DATABASE {remote.address.rsplit('/', 1)[1]} SET synchronous_commit = off"
    )
    store = PostgresStore.open(remote.address)
    with store.reading():
        connection = store._connection
        assert connection is not None
        row = connection.execute("SHOW synchronous_commit").fetchone()
    assert row == ("on",)
    store.close()


def test_an_address_where_nobody_listens() -> None:
    with pytest.raises(LogUnavailable) as refused:
        PostgresStore.open("postgresql://anna:secret@127.0.0.1:1/log")
    assert "secret" not in str(refused.value)
    with pytest.raises(LogUnavailable) as refused:
        verify_log("postgresql://anna:secret@127.0.0.1:1/log")
    assert refused.value.exit_code == ExitCode.UNREACHABLE


def test_the_lock_is_the_services_own() -> None:
    """Both ends of the system keep each other out with the same lock."""
    assert str(int.from_bytes(b"fiduciar", "big")) in POSTGRESQL_LOCK
