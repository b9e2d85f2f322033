"""What every `LogStorage` must do. A new storage is tested by subclassing with its own fixture."""

from __future__ import annotations

import pytest

from audit.log import LogStorage


class LogStorageContract:
    """Subclasses give a fixture `storage`: an empty log's tables inside an open transaction."""

    def test_empty(self, storage: LogStorage) -> None:
        storage.lock()
        assert storage.size() == 0
        assert storage.read_leaf(0) is None
        assert storage.read_hashes([(0, 0)]) == [None]
        assert storage.read_hashes([]) == []
        assert storage.latest_checkpoint() is None
        assert storage.read_meta("origin") is None

    def test_leaves(self, storage: LogStorage) -> None:
        storage.write_leaves(0, [b"first", b"\x00\xff"])
        assert storage.size() == 2
        assert storage.read_leaf(0) == b"first"
        assert storage.read_leaf(1) == b"\x00\xff"
        assert storage.read_leaf(2) is None

    def test_a_position_is_taken_once(self, storage: LogStorage) -> None:
        storage.write_leaves(0, [b"first", b"next"])
        with pytest.raises(Exception, match=r"(?i)unique|primary|duplicate"):
            storage.write_leaves(1, [b"second"])

    def test_hashes(self, storage: LogStorage) -> None:
        storage.write_hashes([(0, 0, b"a" * 32), (0, 1, b"b" * 32), (1, 0, b"c" * 32)])
        nodes = [(1, 0), (1, 1), (0, 1), (1, 0)]
        assert storage.read_hashes(nodes) == [b"c" * 32, None, b"b" * 32, b"c" * 32]

    def test_a_hash_is_written_once(self, storage: LogStorage) -> None:
        storage.write_hashes([(0, 0, b"a" * 32)])
        with pytest.raises(Exception, match=r"(?i)unique|primary|duplicate"):
            storage.write_hashes([(0, 0, b"a" * 32)])

    def test_checkpoints(self, storage: LogStorage) -> None:
        storage.write_checkpoint(9, "nine")
        storage.write_checkpoint(10, "ten")
        assert storage.latest_checkpoint() == "ten"
        storage.write_checkpoint(10, "ten again")
        assert storage.latest_checkpoint() == "ten again"
        storage.delete_checkpoint(10)
        storage.delete_checkpoint(11)
        assert storage.latest_checkpoint() == "nine"

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
