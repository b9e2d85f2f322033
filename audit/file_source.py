"""A log in plain files as the verifier reads it: in order, in large pieces.

What the files are too short for raises `LogDamaged`: the verifier says how far it came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from audit.errors import MalformedInput, NotFound
from audit.file_view import ENTRIES, HASHES, OFFSET, OFFSETS, FileView, OpenFiles
from audit.merkle import HASH_BYTES
from audit.node_order import node_count
from audit.source import LogDamaged, LogSource
from audit.storage import LogReader, LogTampered, StoredCosignature

_PIECE_BYTES: Final = 1 << 20
"""How much is read at a time."""

_PIECE_ENTRIES: Final = 1000
"""Entries whose offsets are read together: about a megabyte of entries."""

_PIECE_LIMIT_BYTES: Final = 16 << 20
"""More is read at a time only for a single entry."""


class FileSource:
    """A log in files, to be read from the beginning to the end."""

    stores_hashes = True

    def __init__(self, view: FileView) -> None:
        self._view = view

    def meta(self) -> Mapping[str, str]:
        """The facts that the log states about itself."""
        return self._view.meta()

    def expected_entries(self) -> int:
        """Number of entries that the head states."""
        return self._view.size()

    def leaves(self, after: int = -1) -> Iterator[tuple[int, Any]]:
        """Position and bytes of the entries that follow `after`."""
        with _damage():
            first, size = after + 1, self._view.size()
            begin = self._view.offset(first) if first < size else 0
            while first < size:
                ends = self._offsets(first, min(size, first + _PIECE_ENTRIES))
                if sorted([begin, *ends]) != [begin, *ends]:
                    raise LogDamaged(f"the offsets of entries from {first} on are not in order")
                while len(ends) > 1 and ends[-1] - begin > _PIECE_LIMIT_BYTES:
                    del ends[len(ends) // 2 :]
                base, data = begin, self._view.read(ENTRIES, begin, ends[-1] - begin)
                for position, end in enumerate(ends, start=first):
                    yield position, data[begin - base : end - base]
                    begin = end
                first += len(ends)
            self._view.check_length()

    def hashes(self) -> Iterator[tuple[Any, Any]]:
        """Place and hash of every stored node."""
        with _damage():
            total = node_count(self._view.size()) * HASH_BYTES
            for start in range(0, total, _PIECE_BYTES):
                data = self._view.read(HASHES, start, min(_PIECE_BYTES, total - start))
                values = (data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))
                yield from enumerate(values, start=start // HASH_BYTES)

    def count_hashes(self) -> int:
        """Number of stored nodes."""
        return node_count(self._view.size())

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Size and note of every stored checkpoint, smallest first."""
        with _damage():
            yield from self._view.checkpoints()

    def cosignatures(self) -> Sequence[StoredCosignature]:
        """What witnesses have signed."""
        with _damage():
            return self._view.cosignatures()

    def reader(self) -> LogReader:
        """Single entries and proofs."""
        return self._view

    def _offsets(self, first: int, end: int) -> list[int]:
        data = self._view.read(OFFSETS, first * OFFSET.size, (end - first) * OFFSET.size)
        return [value for (value,) in OFFSET.iter_unpack(data)]


@contextmanager
def open_file_source(folder: Path) -> Iterator[LogSource]:
    """A log in files, opened so that looking at it changes nothing.

    Raises:
        NotFound: When there is no such folder.
        MalformedInput: When it holds no log.
    """
    if not folder.is_dir():
        raise NotFound(f"no log at {folder}", fix="check the path")
    try:
        files = OpenFiles.open(folder, os.O_RDONLY)
    except FileNotFoundError as error:
        raise MalformedInput(
            f"{folder} holds no log: it has no file {Path(error.filename).name}",
            fix="give the folder of a file-backed log, or the SQLite file of a journal",
        ) from error
    try:
        yield FileSource(FileView(files))
    finally:
        files.close()


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (LogTampered, OSError) as error:
        raise LogDamaged(f"the files are damaged: {error}") from error
