"""What every `LogStorage` and every `LogStore` must do. A new one is tested by subclassing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import pytest

from audit import sql_log
from audit.checkpoint import read_checkpoint
from audit.keyring import Keyring
from audit.keys import SigningKey
from audit.log import AuditLog
from audit.merkle import verify_consistency
from audit.proof import verify_proof
from audit.storage import Append, LogStorage, LogStore, LogUnavailable, prove_entry
from audit.verifier import verify_log
from tests.audit.logs import ORIGIN, Clock, entries, entry


def _refused() -> AbstractContextManager[object]:
    return pytest.raises(Exception, match=r"(?i)unique|primary|duplicate")


class Undone(Exception):
    """Ends a test's transaction."""


@contextmanager
def undone(store: LogStore) -> Iterator[LogStorage]:
    """A transaction that is rolled back in the end."""
    with suppress(Undone), store.writing() as storage:
        yield storage
        raise Undone
    store.close()


class LogStorageContract:
    """Subclasses give a fixture `storage`: an empty log's tables inside an open transaction."""

    def test_empty(self, storage: LogStorage) -> None:
        storage.lock()
        assert storage.size() == 0
        assert storage.read_leaf(0) is None
        assert storage.read_hashes([(0, 0)]) == [None]
        assert storage.read_hashes([]) == []
        assert storage.head() == (None, 0)
        assert storage.read_meta("origin") is None

    def test_leaves(self, storage: LogStorage) -> None:
        storage.write_leaves(0, [b"first", b"\x00\xff"])
        assert storage.size() == 2
        assert storage.read_leaf(0) == b"first"
        assert storage.read_leaf(1) == b"\x00\xff"
        assert storage.read_leaf(2) is None
        assert storage.read_leaves([2, 1, 0]) == [None, b"\x00\xff", b"first"]
        assert storage.read_leaves([]) == []

    @pytest.mark.parametrize("superseded", [1, None])
    def test_an_append_in_one_go(self, storage: LogStorage, superseded: int | None) -> None:
        storage.write_checkpoint(1, "old")
        nodes = [(0, 0, b"a" * 32), (0, 1, b"b" * 32), (1, 0, b"c" * 32)]
        storage.write_append(Append(0, [b"first", b"second"], nodes, 2, "new", superseded))
        assert storage.read_leaves([0, 1, 2]) == [b"first", b"second", None]
        assert storage.read_hashes([(1, 0), (0, 1)]) == [b"c" * 32, b"b" * 32]
        assert storage.head() == ("new", 2)
        storage.delete_checkpoint(2)
        assert storage.head()[0] == (None if superseded else "old")
        with _refused():
            storage.write_append(Append(1, [b"other"], [(0, 2, b"d" * 32)], 2, "newer", None))
            storage.size()  # a store may wait for no answer before

    def test_more_than_fits_into_one_statement(
        self, storage: LogStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sql_log, "_MOST_BYTES", 100)
        leaves = [bytes([number]) * size for number, size in enumerate((60, 40, 1, 250, 99, 1, 7))]
        storage.write_leaves(0, leaves)
        assert [storage.read_leaf(position) for position in range(8)] == [*leaves, None]

    def test_a_position_is_taken_once(self, storage: LogStorage) -> None:
        storage.write_leaves(0, [b"first", b"next"])
        with _refused():
            storage.write_leaves(1, [b"second"])
            storage.size()  # a database that is not waited for says so at the next question

    def test_hashes(self, storage: LogStorage) -> None:
        storage.write_leaves(0, [b"first", b"second"])
        storage.write_hashes([(0, 0, b"a" * 32), (0, 1, b"b" * 32), (1, 0, b"c" * 32)])
        nodes = [(1, 0), (1, 1), (0, 1), (1, 0)]
        hashes = [b"c" * 32, None, b"b" * 32, b"c" * 32]
        assert storage.read_hashes(nodes) == hashes
        assert storage.read_proof(1, nodes) == (b"second", hashes)
        assert storage.read_proof(0, []) == (b"first", [])
        assert storage.read_proof(2, nodes[:1]) == (None, hashes[:1])
        assert storage.head() == (None, 2)

    def test_a_hash_is_written_once(self, storage: LogStorage) -> None:
        storage.write_leaves(0, [b"first"])
        storage.write_hashes([(0, 0, b"a" * 32)])
        with _refused():
            storage.write_hashes([(0, 0, b"a" * 32)])
            storage.size()

    def test_checkpoints(self, storage: LogStorage) -> None:
        storage.write_checkpoint(9, "nine")
        storage.write_checkpoint(10, "ten")
        assert storage.head()[0] == "ten"
        storage.write_checkpoint(10, "ten again")
        assert storage.head()[0] == "ten again"
        storage.delete_checkpoint(10)
        storage.delete_checkpoint(11)
        assert storage.head()[0] == "nine"

    def test_meta(self, storage: LogStorage) -> None:
        storage.write_meta("origin", "log.test/é")
        storage.write_meta("key", "k")
        assert storage.read_meta("origin") == "log.test/é"
        assert storage.read_meta("format") is None

    def test_cosignatures(self, storage: LogStorage) -> None:
        assert storage.cosignatures() == []
        storage.write_cosignature("site/b", 9, "nine")
        storage.write_cosignature("site/a", 10, "ten")
        storage.write_cosignature("site/a", 9, "nine of a")
        storage.write_cosignature("site/b", 9, "nine again")
        assert storage.cosignatures() == [
            ("site/a", 9, "nine of a"),
            ("site/b", 9, "nine again"),
            ("site/a", 10, "ten"),
        ]
        storage.delete_cosignature("site/a", 9)
        storage.delete_cosignature("site/c", 9)
        assert [(item.witness, item.size) for item in storage.cosignatures()] == [
            ("site/b", 9),
            ("site/a", 10),
        ]


class Kept(Protocol):
    """A log in a store of some kind."""

    signer: SigningKey
    log: AuditLog

    def open(self) -> LogStore:
        """Another store over the same log, as another process has."""

    @property
    def where(self) -> str:
        """What `audit verify` is given."""


class LogStoreContract:
    """Subclasses give a fixture `kept`: an empty log (`Kept`)."""

    def test_a_commit_is_there_after_reopening(self, kept: Kept) -> None:
        store = kept.open()
        with store.writing() as storage:
            kept.log.append_many(storage, entries(5))
        store.close()
        again = kept.open()
        with again.reading() as storage:
            assert storage.size() == 5
            assert read_checkpoint(kept.log.checkpoint(storage)).size == 5
            for position in range(5):
                verify_proof(prove_entry(storage, position, with_leaf=True), kept.signer.public)
        again.close()
        report = verify_log(kept.where, kept.signer.public)
        assert report.ok, report.problems
        assert report.entries == 5

    def test_a_failed_transaction_leaves_nothing(self, kept: Kept) -> None:
        store = kept.open()
        with store.writing() as storage:
            kept.log.append_many(storage, entries(3))

        def fail_after_appending() -> None:
            with store.writing() as storage:
                kept.log.append_many(storage, entries(2))
                storage.write_cosignature("a", 3, "note")
                raise RuntimeError("after everything was written")

        with pytest.raises(RuntimeError):
            fail_after_appending()
        with store.reading() as seen:
            assert seen.size() == 3
            assert seen.cosignatures() == []
        with store.writing() as storage:
            assert kept.log.append(storage, entry()).position == 3
        store.close()
        assert verify_log(kept.where, kept.signer.public).ok

    def test_what_a_transaction_wrote_it_reads(self, kept: Kept) -> None:
        store = kept.open()
        with store.writing() as storage:
            kept.log.append_many(storage, entries(3))
            assert storage.size() == 3
            kept.log.append_many(storage, entries(4))
            assert storage.size() == 7
            head = read_checkpoint(kept.log.checkpoint(storage))
            path = kept.log.consistency(storage, 7, 7)
            verify_consistency(7, 7, head.root, head.root, path)
            assert storage.read_leaf(6) is not None
        store.close()
        assert verify_log(kept.where, kept.signer.public).ok

    def test_readers_see_one_moment(self, kept: Kept) -> None:
        reader, writer = kept.open(), kept.open()
        with writer.writing() as storage:
            kept.log.append_many(storage, entries(4))
        with reader.reading() as old:
            before = kept.log.checkpoint(old)
            with writer.writing() as storage:
                kept.log.append_many(storage, entries(4))
            assert old.size() == 4
            assert kept.log.checkpoint(old) == before
            verify_proof(prove_entry(old, 1, with_leaf=True), kept.signer.public)
        with reader.reading() as new:
            assert new.size() == 8
        reader.close()
        writer.close()

    def test_appenders_take_turns(self, kept: Kept) -> None:
        """Three stores with a thread each: nobody reads a size that somebody else then uses."""
        positions: list[int] = []

        def work() -> None:
            store = kept.open()
            log = AuditLog(ORIGIN, kept.signer, kept.log._keys, Clock())
            for number in range(15):
                with store.writing() as storage:
                    positions.append(log.append(storage, entry(number)).position)
            store.close()

        run_together([work] * 3)
        assert sorted(positions) == list(range(45))
        assert verify_log(kept.where, kept.signer.public).ok

    def test_kept_checkpoints_and_cosignatures(self, kept: Kept) -> None:
        store = kept.open()
        for count in (1000, 20, 10, 10):
            with store.writing() as storage:
                kept.log.append_many(storage, entries(count))
        for size in (1000, 1020, 1040):
            with store.writing() as storage:
                storage.write_cosignature("site/a", size, f"note {size}")
        for size in (1000, 1020):
            with store.writing() as storage:
                storage.delete_cosignature("site/a", size)
        store.close()
        again = kept.open()
        with again.reading() as storage:
            assert storage.cosignatures() == [("site/a", 1040, "note 1040")]
            assert read_checkpoint(storage.head()[0] or "").size == 1040
        with again.writing() as storage:
            storage.delete_cosignature("site/a", 1040)
        again.close()
        report = verify_log(kept.where, kept.signer.public)
        assert report.ok, report.problems
        assert report.checkpoints == 2  # 1020, the last below 1024, and 1040

    def test_a_transaction_within_a_transaction_is_refused(self, kept: Kept) -> None:
        """One of the two would undo, or commit, what the other one wrote."""
        store = kept.open()
        with store.writing() as storage:
            kept.log.append(storage, entry())
            with pytest.raises(LogUnavailable), store.writing():
                pass
            kept.log.append(storage, entry())
        with store.writing() as storage:
            assert storage.size() == 2
        store.close()
        assert verify_log(kept.where, kept.signer.public).ok

    def test_a_closed_store_says_so(self, kept: Kept) -> None:
        store = kept.open()
        store.close()
        with pytest.raises(LogUnavailable), store.reading():
            pass
        with pytest.raises(LogUnavailable), store.writing():
            pass


def run_together(calls: list[Callable[[], None]]) -> None:
    """Run calls in threads, and raise what one of them raised."""
    errors: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


class KeyedLog:
    """A signing key, a keyring and the log that uses them."""

    def __init__(self, keyring: Keyring) -> None:
        self.signer = SigningKey.generate(ORIGIN)
        self.keyring = keyring
        self.log = AuditLog(ORIGIN, self.signer, keyring, Clock())

    def create(self, storage: LogStorage) -> None:
        self.log.create(storage)
