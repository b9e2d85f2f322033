"""Reading a log in plain files: what one head covers, and nothing else.

* All files are opened before anything is read, and read up to where the head says. Appenders only
  add beyond that, and a table that is written anew gets another file, so a reader may be as slow as
  it likes.
* A file that is shorter than its head says, or an offset out of order, raises `LogTampered`.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from audit.durable import sync_directory
from audit.errors import MalformedInput
from audit.file_head import MAX_HEAD_BYTES, Head, NoteKey, Table
from audit.merkle import HASH_BYTES
from audit.node_order import node_count, node_place
from audit.storage import LogTampered, StoredCosignature

HEAD: Final = "head"
ENTRIES: Final = "entries"
OFFSETS: Final = "offsets"
HASHES: Final = "hashes"

OFFSET: Final = struct.Struct(">Q")


class OpenFiles:
    """A head that is durable, and the files that it covers, open.

    Attributes:
        folder: Where they are.
        head: What counts.
        head_data: Its bytes.
        descriptors: Of the files, by name.
    """

    def __init__(self, folder: Path, head_data: bytes) -> None:
        """Use `open`."""
        self.folder = folder
        self.head = Head.parse(head_data)
        self.head_data = head_data
        self.descriptors: dict[str, int] = {}

    @classmethod
    def open(cls, folder: Path, flags: int, durable: bytes = b"") -> Self:
        """Open the files of a log.

        Args:
            folder: The log.
            flags: `os.O_RDONLY` or `os.O_RDWR`.
            durable: A head that is known to be durable.

        Raises:
            FileNotFoundError: When a file is missing.
            MalformedInput: When the head is no head.
        """
        data = _read_head(folder, durable)
        while True:
            files = cls(folder, data)
            try:
                for name in files._names():
                    files.descriptors[name] = os.open(folder / name, flags)
            except FileNotFoundError:
                files.close()
                later = _read_head(folder, data)
                if later == data:
                    raise
                data = later  # meanwhile an appender replaced the head and a table
            except BaseException:
                files.close()
                raise
            else:
                return files

    def close(self) -> None:
        """Close the files."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def _names(self) -> Iterator[str]:
        yield from (ENTRIES, OFFSETS, HASHES)
        for table in (self.head.checkpoints, self.head.cosignatures):
            if table.length > 0:
                yield table.file_name


class FileView:
    """`LogReader` over what one head covers."""

    def __init__(self, files: OpenFiles) -> None:
        self._files = files
        self._head = files.head

    def size(self) -> int:
        """Number of entries."""
        return self._head.entries

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        if not 0 <= position < self._head.entries:
            return None
        start, end = self.offset(position), self.offset(position + 1)
        if not start <= end <= self._head.length:
            raise LogTampered(
                f"entry {position} is said to be at bytes {start} to {end}", fix="run: audit verify"
            )
        return self.read(ENTRIES, start, end - start)

    def read_leaves(self, positions: Sequence[int]) -> list[bytes | None]:
        """The entries at some positions, in their order."""
        return [self.read_leaf(position) for position in positions]

    def read_hashes(self, nodes: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The hashes of nodes, in their order."""
        return [self._read_hash(level, index) for level, index in nodes]

    def read_proof(
        self, position: int, nodes: Sequence[tuple[int, int]]
    ) -> tuple[bytes | None, list[bytes | None]]:
        """An entry, and the hashes of nodes."""
        return self.read_leaf(position), self.read_hashes(nodes)

    def head(self) -> tuple[str | None, int]:
        """The checkpoint note of the largest size, and the number of entries."""
        return (None if self._head.latest is None else self._head.latest[1]), self.size()

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Size and note of every checkpoint, smallest first."""
        for (size, _), note in self.table(self._head.checkpoints).items():
            yield size, note
        if self._head.latest is not None:
            yield self._head.latest

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
        """The notes of a table, smallest key first."""
        if table.length == 0:
            return {}
        try:
            return table.parse(self.read(table.file_name, 0, table.length))
        except MalformedInput as error:
            raise LogTampered(str(error), fix="run: audit verify") from error

    def check_length(self) -> None:
        """Check that the last offset is where the entries end.

        Raises:
            LogTampered: When it is not.
        """
        end = self.offset(self._files.head.entries)
        if end != self._files.head.length:
            raise LogTampered(
                f"the last entry ends at byte {end}, but the head counts {self._files.head.length}",
                fix="run: audit verify",
            )

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
        descriptor = self._files.descriptors[name]
        if start + length > os.fstat(descriptor).st_size:  # before so much memory is asked for
            raise too_short(name)
        data = os.pread(descriptor, length, start)
        while len(data) < length:  # the system may return less, at most 2 GiB at a time
            more = os.pread(descriptor, length - len(data), start + len(data))
            if not more:
                raise too_short(name)
            data += more
        return data

    def _read_hash(self, level: int, index: int) -> bytes | None:
        place = node_place(level, index)
        if place >= node_count(self._head.entries):
            return None
        return self.read(HASHES, place * HASH_BYTES, HASH_BYTES)


def too_short(name: str) -> LogTampered:
    """A file that lost its end."""
    return LogTampered(f"the file {name} is shorter than the head says", fix="run: audit verify")


def _read_head(folder: Path, durable: bytes) -> bytes:
    """The bytes of the head, which a power failure cannot take back.

    Args:
        folder: The log.
        durable: Bytes that are known to be durable.
    """
    with (folder / HEAD).open("rb") as file:
        data = file.read(MAX_HEAD_BYTES + 1)
    if data != durable:
        # It was synced before it got its name; whether the name was too, only its writer knows.
        try:
            sync_directory(folder)
        except OSError as error:
            if error.errno != errno.EINVAL:  # said by read-only media, which have nothing to sync
                raise
    return data
