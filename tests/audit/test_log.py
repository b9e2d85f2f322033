"""The log inside a caller's transaction: all or nothing, no second history, and forgetting."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import read_checkpoint
from audit.errors import Conflict, MalformedInput, NotFound, VerificationFailed
from audit.key_manager import KeyDestroyed
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.leaf import Leaf
from audit.log import (
    CHECKPOINT_BLOCK,
    MAX_PAYLOAD_BYTES,
    AuditLog,
    action_key_name,
    subject_key_name,
)
from audit.merkle import Node, verify_consistency
from audit.proof import Proof, verify_proof
from audit.sql_log import SqlLogStorage
from audit.sqlite_log import SCHEMA
from audit.storage import LogTampered
from audit.verifier import verify_log
from tests.audit.logs import ORIGIN, Clock, entries, entry
from tests.audit.storage_contract import LogStorageContract


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


class TestSqliteStorage(LogStorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[SqlLogStorage]:
        connection = connect(tmp_path / "log.sqlite")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("BEGIN")
        yield SqlLogStorage(connection)
        connection.close()


class Service:
    """A service that keeps its own table beside the log, as the compliance service does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "service.sqlite"
        self.keyring = Keyring.create(folder / "keyring")
        self.signer = SigningKey.generate(ORIGIN)
        self.connection = connect(self.path)
        self.storage = SqlLogStorage(self.connection)
        self.log = AuditLog(ORIGIN, self.signer, self.keyring, Clock())
        for statement in (*SCHEMA, "CREATE TABLE plans (name TEXT)"):
            self.connection.execute(statement)
        self.connection.execute("BEGIN")
        self.log.create(self.storage)
        self.connection.execute("COMMIT")

    def transact(self, change: Callable[[], Any]) -> Any:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            result = change()
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    def add_plan(self, name: str) -> Any:
        def change() -> Any:
            self.connection.execute("INSERT INTO plans VALUES (?)", (name,))
            return self.log.append(self.storage, entry(payload={"plan": name}))

        return self.transact(change)

    def plans(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM plans").fetchone()[0])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.connection.close()
    made.keyring.close()


def test_append_read_prove(service: Service) -> None:
    appended = [service.add_plan(f"plan-{number}") for number in range(5)]
    assert [item.position for item in appended] == [0, 1, 2, 3, 4]
    for item in appended:
        leaf, payload = service.log.read(service.storage, item.position)
        assert payload == {"plan": f"plan-{item.position}"}
        assert leaf.encoded() == item.leaf
        assert leaf.time == item.time
        text = service.log.prove(service.storage, item.position)
        verify_proof(Proof.parse(text), service.signer.public, leaf=item.leaf, origin=ORIGIN)
        text = service.log.prove(service.storage, item.position, with_leaf=True)
        assert Proof.parse(text).extra == item.leaf
    assert verify_log(service.path, service.signer.public).ok


def test_what_happened_and_its_entry_commit_together(service: Service) -> None:
    service.add_plan("kept")

    def change() -> None:
        service.connection.execute("INSERT INTO plans VALUES ('lost')")
        service.log.append(service.storage, entry())
        raise RuntimeError("after the entry was written")

    with pytest.raises(RuntimeError):
        service.transact(change)
    assert service.plans() == service.storage.size() == 1
    service.add_plan("next")
    assert service.log.read(service.storage, 1)[1] == {"plan": "next"}
    assert verify_log(service.path, service.signer.public).ok


class Fault(Exception):
    pass


class FaultyStorage(SqlLogStorage):
    """Fails the n-th write of an append, before it is done or after."""

    def __init__(self, connection: sqlite3.Connection, fail_at: int, after: bool) -> None:
        super().__init__(connection)
        self._countdown = fail_at
        self._after = after

    def _write(self, write: Callable[[], None]) -> None:
        self._countdown -= 1
        if self._countdown == 0 and not self._after:
            raise Fault
        write()
        if self._countdown == 0:
            raise Fault

    def write_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        self._write(lambda: SqlLogStorage.write_leaves(self, first, leaves))

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        self._write(lambda: SqlLogStorage.write_hashes(self, nodes))

    def write_checkpoint(self, size: int, note: str) -> None:
        self._write(lambda: SqlLogStorage.write_checkpoint(self, size, note))

    def delete_checkpoint(self, size: int) -> None:
        self._write(lambda: SqlLogStorage.delete_checkpoint(self, size))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_every_write_may_fail(service: Service, fail_at: int, after: bool) -> None:
    service.add_plan("before")
    checkpoint = service.log.checkpoint(service.storage)
    faulty = FaultyStorage(service.connection, fail_at, after)
    with pytest.raises(Fault):
        service.transact(lambda: service.log.append(faulty, entry(subject="a")))
    assert service.storage.size() == 1
    assert service.log.checkpoint(service.storage) == checkpoint
    assert service.add_plan("after").position == 1
    assert verify_log(service.path, service.signer.public).ok


def test_two_logs_objects_on_one_database_take_turns(service: Service) -> None:
    """As two processes do: neither trusts what it remembers when the other appended."""
    other = AuditLog(ORIGIN, service.signer, service.keyring, Clock())
    for number in range(6):
        log = (service.log, other)[number % 2]
        appended = service.transact(partial(log.append, service.storage, entry()))
        assert appended.position == number
    assert verify_log(service.path, service.signer.public).ok


def test_a_batch_is_one_checkpoint(service: Service) -> None:
    first = service.log.checkpoint(service.storage)
    service.transact(lambda: service.log.append_many(service.storage, entries(10)))
    stored = service.connection.execute("SELECT size FROM log_checkpoints").fetchall()
    assert read_checkpoint(first).size == 0
    assert stored == [(10,)]
    service.transact(lambda: service.log.append_many(service.storage, []))
    assert service.storage.size() == 10


def test_the_last_checkpoint_of_each_block_stays(service: Service) -> None:
    for count in (1000, 20, 10, 10):
        service.transact(partial(service.log.append_many, service.storage, entries(count)))
    stored = service.connection.execute("SELECT size FROM log_checkpoints").fetchall()
    assert [size for (size,) in stored] == [1020, 1040]
    assert 1020 < CHECKPOINT_BLOCK < 1040


def test_checkpoints_are_consistent(service: Service) -> None:
    notes = []
    for number in range(9):
        service.add_plan(str(number))
        notes.append(read_checkpoint(service.log.checkpoint(service.storage)))
    for old in notes:
        for new in notes[old.size - 1 :]:
            path = service.log.consistency(service.storage, old.size, new.size)
            verify_consistency(old.size, new.size, old.root, new.root, path)
    with pytest.raises(NotFound):
        service.log.consistency(service.storage, 1, 10)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_entries WHERE position = 4",
        "INSERT INTO log_entries VALUES (5, x'00')",
        "DELETE FROM log_checkpoints",
        "UPDATE log_checkpoints SET note = replace(note, '5', '6')",
        "UPDATE log_nodes SET hash = zeroblob(32) WHERE place = 6",
        "UPDATE log_nodes SET hash = zeroblob(31) WHERE place = 6",
        "DELETE FROM log_nodes WHERE place = 6",
    ],
)
def test_the_log_never_signs_over_a_changed_history(service: Service, statement: str) -> None:
    for number in range(5):
        service.add_plan(str(number))
    service.connection.execute(statement)
    fresh = AuditLog(ORIGIN, service.signer, service.keyring, Clock())
    with pytest.raises((VerificationFailed, NotFound, MalformedInput)):
        service.transact(lambda: fresh.append(service.storage, entry()))


def test_a_replaced_log_is_noticed_by_the_process_that_remembers(service: Service) -> None:
    for number in range(5):
        service.add_plan(str(number))
    service.connection.execute("DELETE FROM log_entries WHERE position = 4")
    with pytest.raises(LogTampered):
        service.add_plan("next")


def test_create_twice_and_check(service: Service, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        service.transact(lambda: service.log.create(service.storage))
    service.log.check(service.storage)
    other_key = AuditLog(ORIGIN, SigningKey.generate(ORIGIN), service.keyring)
    other_name = AuditLog("log.test/other", service.signer, service.keyring)
    for log in (other_key, other_name):
        with pytest.raises(Conflict):
            log.check(service.storage)
    empty = connect(tmp_path / "empty.sqlite")
    for statement in SCHEMA:
        empty.execute(statement)
    with pytest.raises(NotFound):
        service.log.check(SqlLogStorage(empty))
    with pytest.raises(NotFound):
        service.log.append(SqlLogStorage(empty), entry())
    empty.close()


@pytest.mark.parametrize("origin", ["", "two\nlines", "x" * 201])
def test_malformed_origins(service: Service, origin: str) -> None:
    with pytest.raises(MalformedInput):
        AuditLog(origin, service.signer, service.keyring)


def test_payloads_that_cannot_be_recorded(service: Service) -> None:
    for payload in ({"x": 0.5}, {"x": "a" * MAX_PAYLOAD_BYTES}, {"x": b"bytes"}):
        with pytest.raises(MalformedInput):
            service.transact(partial(service.log.append, service.storage, entry(payload=payload)))
    assert service.storage.size() == 0


def test_payloads_are_not_in_the_file(service: Service) -> None:
    service.transact(
        lambda: service.log.append(service.storage, entry(payload={"diagnosis": "influenza"}))
    )
    assert b"influenza" not in service.path.read_bytes()


# --- forgetting -----------------------------------------------------------------------------------


def test_forgetting_a_subject(service: Service) -> None:
    service.transact(lambda: service.log.append_many(service.storage, entries(9)))
    assert service.keyring.destroy(subject_key_name("00000000"))
    forgotten = []
    for position in range(9):
        try:
            service.log.read(service.storage, position)
        except KeyDestroyed:
            forgotten.append(position)
        text = service.log.prove(service.storage, position, with_leaf=True)
        verify_proof(Proof.parse(text), service.signer.public)
    assert forgotten == [0, 6]
    assert verify_log(service.path, service.signer.public).ok


def test_nothing_more_is_recorded_under_a_destroyed_key(service: Service) -> None:
    service.keyring.destroy(subject_key_name("abc"))
    with pytest.raises(KeyDestroyed):
        service.transact(lambda: service.log.append(service.storage, entry(subject="abc")))
    assert service.storage.size() == 0
    receipt = entry(subject="abc", action="subject.erased", outlives_subject=True)
    service.transact(lambda: service.log.append(service.storage, receipt))
    leaf, payload = service.log.read(service.storage, 0)
    assert leaf.subject == "abc"
    assert leaf.key == action_key_name("subject.erased", "2026-01")
    assert payload == {"number": 0}


def test_one_action_of_one_month_can_be_forgotten(service: Service) -> None:
    service.transact(lambda: service.log.append(service.storage, entry(action="login.failed")))
    service.transact(lambda: service.log.append(service.storage, entry(action="plan.approved")))
    service.keyring.destroy(action_key_name("login.failed", "2026-01"))
    with pytest.raises(KeyDestroyed):
        service.log.read(service.storage, 0)
    assert service.log.read(service.storage, 1)[1] == {"number": 0}


def test_rotation_does_not_touch_the_log(service: Service) -> None:
    service.add_plan("a")
    before = service.storage.read_leaf(0)
    service.keyring.rotate()
    assert service.storage.read_leaf(0) == before
    assert service.log.read(service.storage, 0)[1] == {"plan": "a"}


# --- moved envelopes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"position": 1},
        {"time": "2026-01-31T12:00:00.000Z"},
        {"actor": "site:south"},
        {"action": "round.refused"},
        {"object": "plan:other"},
        {"subject": "abc"},
    ],
)
def test_a_payload_opens_in_its_own_place_only(service: Service, changes: dict[str, Any]) -> None:
    item = service.add_plan("a")
    fields = Leaf.parse(item.leaf).__dict__ | changes
    with pytest.raises(VerificationFailed):
        service.log.open(Leaf(**fields))


def test_a_payload_does_not_open_in_another_log(service: Service) -> None:
    item = service.add_plan("a")
    other = AuditLog("log.test/other", service.signer, service.keyring)
    with pytest.raises(VerificationFailed):
        other.open(Leaf.parse(item.leaf))


def test_a_moved_entry_is_not_read(service: Service) -> None:
    service.add_plan("a")
    service.add_plan("b")
    service.connection.execute(
        "UPDATE log_entries SET leaf = (SELECT leaf FROM log_entries WHERE position = 0)"
        " WHERE position = 1"
    )
    with pytest.raises(LogTampered):
        service.log.read(service.storage, 1)
    for junk in (b"junk", "text"):
        service.connection.execute("UPDATE log_entries SET leaf = ? WHERE position = 1", (junk,))
        with pytest.raises(LogTampered):
            service.log.read(service.storage, 1)
    with pytest.raises(NotFound):
        service.log.read(service.storage, 2)


def test_a_head_that_was_rolled_back_is_not_taken_for_another_of_its_size(
    service: Service,
) -> None:
    """Another process recorded as many entries instead."""

    def rolled_back() -> None:
        service.log.append(service.storage, entry())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.transact(rolled_back)
    other = AuditLog(ORIGIN, service.signer, service.keyring, Clock())
    service.transact(lambda: other.append(service.storage, entry(actor="officer:other")))
    service.transact(lambda: service.log.append(service.storage, entry()))
    assert verify_log(service.path, service.signer.public).problems == ()


def test_a_group_that_cannot_be_recorded_leaves_no_part_of_itself(service: Service) -> None:
    groups = [[entry()], [entry(), entry(payload={"share": 0.5})], [entry()]]
    results, _ = service.transact(lambda: service.log.append_each(service.storage, groups))
    assert isinstance(results[1], MalformedInput)
    assert [results[0][0].position, results[2][0].position] == [0, 1]
    assert service.storage.size() == 2
    assert verify_log(service.path, service.signer.public).problems == ()


def test_no_two_payloads_share_a_nonce_and_who_came_back_has_another_key(
    service: Service,
) -> None:
    wanted = [entry(subject="ab", subject_generation=1 + n % 2) for n in range(40)]
    made = service.transact(lambda: service.log.append_many(service.storage, wanted))
    leaves = [Leaf.parse(each.leaf) for each in made]
    assert len({leaf.envelope.nonce for leaf in leaves}) == 40
    assert [leaf.key for leaf in leaves[:2]] == ["subject:ab", "subject:ab:2"]
