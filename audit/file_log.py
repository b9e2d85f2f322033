"""A log in plain files, without a database.

```
journal/
├── head             what counts (`audit.file_head`); replacing it commits
├── entries          leaves, one after the other
├── offsets          where each ends: 8 bytes, big-endian
├── hashes           node hashes, 32 bytes each, in the order of `audit.node_order`
├── checkpoints.N    older checkpoints that were kept
├── cosignatures.N   what witnesses signed
└── lock             held by whoever appends
```

* The large files are only ever appended to. A transaction appends to them, syncs them, and then
  replaces the head atomically. A crash before that leaves tails that no head covers: readers do not
  see them, and the next appender cuts them off.
* Readers take no lock: they read the head, and then only what it covers, which never changes.
* Entries and hashes are found by arithmetic. Nothing is read or rebuilt at start but the head.
* Appenders of all threads and processes take turns at the lock.

Decision record: docs/adr/0015-file-backed-log.md.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from audit.durable import create_private_file, sync_directory, write_durably
from audit.errors import Conflict, MalformedInput, NotFound
from audit.file_head import MAX_HEAD_BYTES, Head, NoteKey, Table, table_lines
from audit.merkle import HASH_BYTES, Node
from audit.node_order import node_count, node_place
from audit.storage import LogReader, LogStorage, LogTampered, LogUnavailable, StoredCosignature

_HEAD: Final = "head"
ENTRIES: Final = "entries"
OFFSETS: Final = "offsets"
HASHES: Final = "hashes"
_LOCK: Final = "lock"

OFFSET: Final = struct.Struct(">Q")


class FileStore:
    """`audit.storage.LogStore` in a folder (0700, files 0600). Safe under threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Use `create` or `open`."""
        self._folder = folder
        self._mutex = threading.RLock()
        self._files = {
            name: os.open(folder / name, os.O_RDWR) for name in (ENTRIES, OFFSETS, HASHES, _LOCK)
        }
        self._closed = False
        self._head_unsynced = False

    @classmethod
    @contextmanager
    def create(cls, folder: Path) -> Iterator[Self]:
        """A new store, which gets its name when the block is left normally.

        Raises:
            Conflict: When there is something already.
        """
        if folder.exists():
            raise Conflict(f"{folder} exists already", fix="choose another folder")
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name in (ENTRIES, OFFSETS, HASHES, _LOCK):
                create_private_file(staging / name)
            write_durably(staging / _HEAD, Head().encoded())
            store = cls(staging)
            try:
                yield store
            finally:
                store.close()
            staging.rename(folder)
            sync_directory(folder.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a store.

        Raises:
            NotFound: When there is no such folder.
            MalformedInput: When it holds no log.
        """
        if not folder.is_dir():
            raise NotFound(f"no journal at {folder}")
        try:
            read_head(folder)
            return cls(folder)
        except FileNotFoundError as error:
            raise MalformedInput(
                f"{folder} is no journal: it has no file {Path(error.filename).name}"
            ) from error

    @contextmanager
    def reading(self) -> Iterator[LogReader]:
        """One moment's view."""
        with self._mutex, _translated():
            self._check_usable()
            yield FileView(self._folder, self._files, read_head(self._folder))

    @contextmanager
    def writing(self) -> Iterator[LogStorage]:
        """A transaction that begins with the appenders' lock."""
        with self._mutex, _translated():
            self._check_usable()
            fcntl.flock(self._files[_LOCK], fcntl.LOCK_EX)
            try:
                change = _Change(self._folder, self._files, read_head(self._folder))
                yield change
                head = change.append()
                if head is not None:
                    self._head_unsynced = True
                    write_durably(self._folder / _HEAD, head.encoded())
                    self._head_unsynced = False
                    change.remove_old_tables()
            finally:
                fcntl.flock(self._files[_LOCK], fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the files."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                for descriptor in self._files.values():
                    os.close(descriptor)

    def _check_usable(self) -> None:
        if self._closed:
            raise LogUnavailable("the journal is closed")
        if self._head_unsynced:
            # A head was replaced and not synced: what it says must be durable before it is told.
            sync_directory(self._folder)
            self._head_unsynced = False


class FileView:
    """`LogReader` over what one head covers."""

    def __init__(self, folder: Path, files: Mapping[str, int], head: Head) -> None:
        self._folder = folder
        self._files = files
        self._head = head

    def size(self) -> int:
        """Number of entries."""
        return self._head.entries

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        if not 0 <= position < self._head.entries:
            return None
        start, end = self.offset(position), self.offset(position + 1)
        if end < start:
            raise LogTampered(f"entry {position} ends before it begins", fix="run: audit verify")
        return self.read(ENTRIES, start, end - start)

    def read_hashes(self, nodes: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The hashes of nodes, in their order."""
        return [self._read_hash(level, index) for level, index in nodes]

    def latest_checkpoint(self) -> str | None:
        """The checkpoint note of the largest size."""
        if self._head.latest is not None:
            return self._head.latest[1]
        kept = self.table(self._head.checkpoints)
        return kept[max(kept)] if kept else None

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Size and note of every checkpoint, smallest first."""
        notes = {size: note for (size, _), note in self.table(self._head.checkpoints).items()}
        if self._head.latest is not None:
            notes[self._head.latest[0]] = self._head.latest[1]
        return iter(sorted(notes.items()))

    def cosignatures(self) -> list[StoredCosignature]:
        """What witnesses have signed, smallest size first."""
        notes = self.table(self._head.cosignatures)
        return [StoredCosignature(witness, size, note) for (size, witness), note in notes.items()]

    def read_meta(self, name: str) -> str | None:
        """A fact about the log."""
        return self._head.meta.get(name)

    def meta(self) -> Mapping[str, str]:
        """All facts about the log."""
        return self._head.meta

    def table(self, table: Table) -> dict[NoteKey, str]:
        """The notes of a table."""
        if table.length == 0:
            return {}
        with (self._folder / table.file_name).open("rb") as file:
            data = file.read(table.length)
        try:
            return table.parse(data)
        except MalformedInput as error:
            raise LogTampered(str(error), fix="run: audit verify") from error

    def _read_hash(self, level: int, index: int) -> bytes | None:
        place = node_place(level, index)
        if place >= node_count(self._head.entries):
            return None
        return self.read(HASHES, place * HASH_BYTES, HASH_BYTES)

    def offset(self, position: int) -> int:
        """Where the entry at `position` begins in the file of entries."""
        if position == 0:
            return 0
        data = self.read(OFFSETS, (position - 1) * OFFSET.size, OFFSET.size)
        return int(OFFSET.unpack(data)[0])

    def read(self, name: str, start: int, length: int) -> bytes:
        """Bytes of a file, which the head covers.

        Raises:
            LogTampered: When the file is shorter than that.
        """
        descriptor = self._files[name]
        if start + length > os.fstat(descriptor).st_size:  # before so much memory is asked for
            raise _too_short(name)
        data = os.pread(descriptor, length, start)
        if len(data) != length:
            raise LogTampered(
                f"the file {name} is shorter than its head says", fix="run: audit verify"
            )
        return data


class _Change(FileView):
    """`LogStorage`: what a transaction wants appended, in memory until it commits."""

    def __init__(self, folder: Path, files: Mapping[str, int], head: Head) -> None:
        super().__init__(folder, files, head)
        self._stored = head
        self._leaves: list[bytes] = []
        self._hashes: list[bytes] = []
        self._checkpoints: dict[NoteKey, str | None] = {}
        self._cosignatures: dict[NoteKey, str | None] = {}
        self._old_tables: list[Table] = []

    def lock(self) -> None:
        """`FileStore.writing` has taken it."""

    def size(self) -> int:
        """Number of entries."""
        return self._stored.entries + len(self._leaves)

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        own = position - self._stored.entries
        return self._leaves[own] if 0 <= own < len(self._leaves) else super().read_leaf(position)

    def write_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        """Append entries; a log in files has no gaps and no second entry at a position."""
        if first != self.size():
            taken = "is taken: duplicate entry" if first < self.size() else "would leave a gap"
            raise LogTampered(f"position {first} {taken}; the log has {self.size()} entries")
        self._leaves += leaves

    def _read_hash(self, level: int, index: int) -> bytes | None:
        own = node_place(level, index) - node_count(self._stored.entries)
        return (
            self._hashes[own] if 0 <= own < len(self._hashes) else super()._read_hash(level, index)
        )

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        """Append nodes, in the order in which entries complete them."""
        count = node_count(self._stored.entries) + len(self._hashes)
        for number, (level, index, _) in enumerate(nodes):
            place = node_place(level, index)
            if place != count + number:
                what = (
                    "is there already: duplicate node" if place < count else "is not the next one"
                )
                raise LogTampered(f"the node of level {level}, index {index} {what}")
        self._hashes += [value for _, _, value in nodes]

    def write_checkpoint(self, size: int, note: str) -> None:
        """Insert or replace the checkpoint of that size."""
        latest = self._head.latest
        if latest is not None and size < latest[0]:
            self._checkpoints[size, ""] = note
            return
        if latest is not None and size > latest[0]:
            self._checkpoints[latest[0], ""] = latest[1]
        self._head = replace(self._head, latest=(size, note))

    def delete_checkpoint(self, size: int) -> None:
        """Remove the checkpoint of that size."""
        if self._head.latest is not None and self._head.latest[0] == size:
            self._head = replace(self._head, latest=None)
        self._checkpoints[size, ""] = None

    def write_cosignature(self, witness: str, size: int, note: str) -> None:
        """Insert or replace what a witness signed at that size."""
        self._cosignatures[size, witness] = note

    def delete_cosignature(self, witness: str, size: int) -> None:
        """Remove what a witness signed at that size."""
        self._cosignatures[size, witness] = None

    def write_meta(self, name: str, value: str) -> None:
        """Insert a fact about the log."""
        if name in self._head.meta:
            raise LogTampered(f"the log's {name} is there already: duplicate fact")
        self._head = replace(self._head, meta={**self._head.meta, name: value})

    def table(self, table: Table) -> dict[NoteKey, str]:
        """The notes of a table, with what this transaction changed."""
        changes = self._checkpoints if table.name == "checkpoints" else self._cosignatures
        notes: dict[NoteKey, str | None] = {**super().table(table), **changes}
        return {key: note for key, note in sorted(notes.items()) if note is not None}

    def append(self) -> Head | None:
        """Append everything, durably; the head that commits it, None when nothing changed."""
        head = replace(self._head, entries=self.size())
        if self._leaves:
            end = super().offset(self._stored.entries)
            ends = []
            for leaf in self._leaves:
                end += len(leaf)
                ends.append(OFFSET.pack(end))
            self._append(ENTRIES, super().offset(self._stored.entries), self._leaves)
            self._append(OFFSETS, self._stored.entries * OFFSET.size, ends)
        if self._hashes:
            start = node_count(self._stored.entries) * HASH_BYTES
            self._append(HASHES, start, self._hashes)
        if self.size() and node_count(head.entries) - node_count(self._stored.entries) != len(
            self._hashes
        ):
            raise LogTampered("entries and hashes of a transaction do not belong together")
        head = replace(
            head,
            checkpoints=self._append_table(head.checkpoints, self._checkpoints),
            cosignatures=self._append_table(head.cosignatures, self._cosignatures),
        )
        return None if head == self._stored else head

    def remove_old_tables(self) -> None:
        """Remove what is two generations old: no reader reads that slowly."""
        for table in self._old_tables:
            old = replace(table, generation=table.generation - 1)
            (self._folder / old.file_name).unlink(missing_ok=True)

    def _append(self, name: str, start: int, pieces: Sequence[bytes]) -> None:
        descriptor = self._files[name]
        length = os.fstat(descriptor).st_size
        if length < start:
            raise LogTampered(
                f"the file {name} is shorter than its head says", fix="run: audit verify"
            )
        if length > start:
            os.ftruncate(descriptor, start)  # what an interrupted appender left
        _write_all(descriptor, b"".join(pieces), start)
        os.fdatasync(descriptor)

    def _append_table(self, table: Table, changes: Mapping[NoteKey, str | None]) -> Table:
        present = FileView.table(self, table)
        changes = {key: note for key, note in changes.items() if present.get(key) != note}
        if not changes:
            return table
        if table.is_full_with(len(changes)):
            notes = self.table(table)
            data = table_lines(notes)
            grown = table.rewritten_with(data, len(notes))
            start = 0
            self._old_tables.append(table)
        else:
            data = table_lines(changes)
            grown = table.appended(data, len(changes))
            start = table.length
        path = self._folder / grown.file_name
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, start)
            _write_all(descriptor, data, start)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_directory(self._folder)
        return grown


def read_head(folder: Path) -> Head:
    """The head of a log in a folder.

    Raises:
        FileNotFoundError: When there is none.
        MalformedInput: When it is no head.
    """
    with (folder / _HEAD).open("rb") as file:
        data = file.read(MAX_HEAD_BYTES + 1)
    return Head.parse(data)


def _too_short(name: str) -> LogTampered:
    return LogTampered(f"the file {name} is shorter than the head says", fix="run: audit verify")


def _write_all(descriptor: int, data: bytes, start: int) -> None:
    """Write at `start`, whatever number of bytes the system takes at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, start)
        view = view[written:]
        start += written


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogUnavailable(
            f"the journal cannot be used: {error.strerror or error}",
            fix="check the disk's free space and the files' permissions, then try again",
        ) from error
