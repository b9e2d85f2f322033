"""Appending to a log in plain files: a transaction in memory, and then on disk up to its commit.

What `FileChange.append` does can be interrupted anywhere: until its caller replaces the head,
nothing counts, and the next transaction that appends begins by removing what is left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final

from audit.durable import sync_directory
from audit.file_head import Head, NoteKey, Table, table_lines
from audit.file_view import ENTRIES, HASHES, HEAD, OFFSET, OFFSETS, FileView, OpenFiles, too_short
from audit.merkle import HASH_BYTES, Node
from audit.node_order import node_count, node_place
from audit.storage import Append, LogTampered, write_parts
from audit.words import count_of

_REMAINS: Final = re.compile(rf"\.{HEAD}\..+|(checkpoints|cosignatures)\.[0-9]+")
"""A head that was not put in place, or a generation of a table."""


class FileChange(FileView):
    """`LogStorage`: what a transaction wants appended."""

    def __init__(self, files: OpenFiles) -> None:
        super().__init__(files)
        self._stored = files.head
        self._leaves: list[bytes] = []
        self._hashes: list[bytes] = []
        self._checkpoints: dict[NoteKey, str | None] = {}
        self._cosignatures: dict[NoteKey, str | None] = {}

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
            raise LogTampered(
                f"position {first} {taken}; the log has {count_of(self.size(), 'entry')}"
            )
        self._leaves += leaves

    def _read_hash(self, level: int, index: int) -> bytes | None:
        own = node_place(level, index) - node_count(self._stored.entries)
        if 0 <= own < len(self._hashes):
            return self._hashes[own]
        return super()._read_hash(level, index)

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
        latest = self._head.latest
        if latest is None or size > latest[0]:
            return
        if size == latest[0]:
            kept = [(key[0], note) for key, note in self.table(self._head.checkpoints).items()]
            self._head = replace(self._head, latest=kept[-1] if kept else None)
            if not kept:
                return
            size = kept[-1][0]
        if self._stored.latest is not None and size < self._stored.latest[0]:
            self._checkpoints[size, ""] = None
        else:
            # The table holds none of that size: it holds those before the latest. That is how it
            # is with every append, which must not read or write the table.
            self._checkpoints.pop((size, ""), None)

    def write_append(self, append: Append) -> None:
        """All of an append."""
        write_parts(self, append)

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
        """Append everything, durably.

        Returns:
            The head that commits it, None when nothing changed.

        Raises:
            LogTampered: When the files are not what the head says, or when hashes are not those of
                the entries. Nothing was changed then.
            OSError: When something could not be written.
        """
        stored = self._stored
        if node_count(self.size()) != node_count(stored.entries) + len(self._hashes):
            raise LogTampered("entries and hashes of a transaction do not belong together")
        self.check_length()
        ends = list(accumulate(map(len, self._leaves), initial=stored.length))
        head = replace(self._head, entries=self.size(), length=ends[-1])
        if head == stored and not self._checkpoints and not self._cosignatures:
            return None
        self._remove_remains()
        hashed = node_count(stored.entries) * HASH_BYTES
        offsets = b"".join(map(OFFSET.pack, ends[1:]))
        for name, start, data in (
            (ENTRIES, stored.length, b"".join(self._leaves)),
            (OFFSETS, stored.entries * OFFSET.size, offsets),
            (HASHES, hashed, b"".join(self._hashes)),
        ):
            if data:
                _append(self._files.descriptors[name], name, start, data)
        return replace(
            head,
            checkpoints=self._append_table(stored.checkpoints, self._checkpoints),
            cosignatures=self._append_table(stored.cosignatures, self._cosignatures),
        )

    def _remove_remains(self) -> None:
        """Remove the files that the head does not name, from this or an interrupted appender."""
        named = {self._stored.checkpoints.file_name, self._stored.cosignatures.file_name}
        with os.scandir(self._files.folder) as found:
            remains = [item.name for item in found if _REMAINS.fullmatch(item.name)]
        for name in remains:
            if name not in named:
                (self._files.folder / name).unlink()

    def _append_table(self, table: Table, changes: Mapping[NoteKey, str | None]) -> Table:
        if not changes:
            return table
        if table.is_full_with(len(changes)):
            notes = self.table(table)
            data, start = table_lines(notes), 0
            grown = table.rewritten_with(data, len(notes))
        else:
            data, start = table_lines(changes), table.length
            grown = table.appended(data, len(changes))
        path = self._files.folder / grown.file_name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _append(descriptor, grown.file_name, start, data)
        finally:
            os.close(descriptor)
        if start == 0:
            sync_directory(self._files.folder)  # its name must be durable before a head says it
        return grown


def _append(descriptor: int, name: str, start: int, data: bytes) -> None:
    """Write at `start`, cut off what an interrupted appender left there, and sync."""
    length = os.fstat(descriptor).st_size
    if length < start:
        raise too_short(name)
    if length > start:
        os.ftruncate(descriptor, start)
    view = memoryview(data)
    while view:  # the system takes as much at a time as it likes
        written = os.pwrite(descriptor, view, start)
        view = view[written:]
        start += written
    os.fdatasync(descriptor)
