"""A stored log as a verifier reads it: each part once, in order, in flat memory.

* `LogSource` is what `audit.verifier` asks of wherever a log is kept: SQL tables, plain files, an
  exported bundle. Nothing of it is believed.
* `open_source` finds out what a path or a database address is. Whatever it is, nothing is written.
* Bytes that cannot even be read raise `LogDamaged`: the verifier says how far it came.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from audit.errors import MalformedInput
from audit.node_order import node_place
from audit.snapshot import DatabaseDamage, open_snapshot
from audit.sql_log import SqlLogStorage
from audit.storage import LogReader, StoredCosignature

POSTGRESQL_SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+psycopg://")


class LogDamaged(MalformedInput):
    """A part of the stored log cannot be read at all."""

    code = "log-damaged"


class LogSource(Protocol):
    """A stored log, to be read from the beginning to the end."""

    stores_hashes: bool
    """Whether interior hashes are kept beside the entries; a bundle leaves them out."""

    def meta(self) -> Mapping[str, str]:
        """The facts that the log states about itself."""
        ...

    def expected_entries(self) -> int:
        """The highest position plus one: for a progress bar, not for a verdict."""
        ...

    def leaves(self, after: int = -1) -> Iterator[tuple[int, Any]]:
        """Position and bytes of every entry that follows `after`, in order of position."""
        ...

    def hashes(self) -> Iterator[tuple[Any, Any]]:
        """Place (`audit.node_order`) and hash of every stored node, in order of place."""
        ...

    def count_hashes(self) -> int:
        """Number of stored nodes."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Size and note of every stored checkpoint, smallest first."""
        ...

    def cosignatures(self) -> Sequence[StoredCosignature]:
        """What witnesses have signed, smallest size first."""
        ...

    def reader(self) -> LogReader:
        """The same moment's view for single entries and proofs."""
        ...


Stream = Callable[[str, tuple[Any, ...]], Iterator[Any]]
"""Runs a query and yields its rows as they come; raises `LogDamaged` where they do not."""


class SqlSource:
    """A log in SQL tables.

    Args:
        stream: Runs a query; several may be read at the same time.
        reader: The same tables, for single rows.
        first_format: Whether hashes are stored as `fiduciary.log/1` did.
    """

    stores_hashes = True

    def __init__(self, stream: Stream, reader: LogReader, *, first_format: bool = False) -> None:
        self._stream = stream
        self._reader = reader
        self._first_format = first_format

    def meta(self) -> Mapping[str, str]:
        """The facts that the log states about itself."""
        rows = self._stream("SELECT name, value FROM log_meta", ())
        return {str(name): str(value) for name, value in rows}

    def expected_entries(self) -> int:
        """The highest position plus one."""
        highest = next(self._stream("SELECT max(position) FROM log_entries", ()))[0]
        return highest + 1 if isinstance(highest, int) else 0

    def leaves(self, after: int = -1) -> Iterator[tuple[int, Any]]:
        """Position and bytes of the entries that follow `after`."""
        return self._stream(
            "SELECT position, leaf FROM log_entries WHERE position > ? ORDER BY position", (after,)
        )

    def hashes(self) -> Iterator[tuple[Any, Any]]:
        """Place and hash of every stored node."""
        if self._first_format:
            return self._hashes_by_level()
        return self._stream("SELECT place, hash FROM log_nodes ORDER BY place", ())

    def count_hashes(self) -> int:
        """Number of stored nodes."""
        table = "log_hashes" if self._first_format else "log_nodes"
        return int(next(self._stream(f"SELECT count(*) FROM {table}", ()))[0])  # noqa: S608

    def _hashes_by_level(self) -> Iterator[tuple[Any, Any]]:
        """The nodes of the first format, in the order of the present one."""
        levels: list[Iterator[Any]] = []
        for entry in itertools.count():
            for level in range((entry ^ (entry + 1)).bit_length()):
                if level == len(levels):
                    # The level is read back: in a damaged index a row can be found under a level
                    # that it does not have.
                    levels.append(
                        self._stream(
                            "SELECT level, position, hash FROM log_hashes WHERE level = ?"
                            " ORDER BY position",
                            (level,),
                        )
                    )
                row = next(levels[level], None)
                if row is None:
                    return
                known = row[:2] == (level, entry >> level)
                yield (node_place(level, entry >> level) if known else None), row[2]

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Size and note of every stored checkpoint."""
        return self._stream("SELECT size, note FROM log_checkpoints ORDER BY size", ())

    def cosignatures(self) -> Sequence[StoredCosignature]:
        """What witnesses have signed."""
        if self._first_format:
            return []
        rows = self._stream(
            "SELECT witness, size, note FROM log_cosignatures ORDER BY size, witness", ()
        )
        return [StoredCosignature(*row) for row in rows]

    def reader(self) -> LogReader:
        """The tables, for single rows."""
        return self._reader


@contextmanager
def open_source(log: Path | str) -> Iterator[LogSource]:
    """Open a log for reading, whatever keeps it.

    Args:
        log: An SQLite file, the folder of a file-backed log, an exported bundle, or the address of
            a PostgreSQL database (`postgresql://…`).

    Raises:
        NotFound: When there is nothing.
        MalformedInput: When it is no log.
        Conflict: When it was changed while it was read at rest.
    """
    if str(log).startswith(POSTGRESQL_SCHEMES):
        from audit.postgresql_log import open_postgresql_source  # its driver is an extra

        with open_postgresql_source(str(log)) as source:
            yield source
        return
    path = Path(log)
    if path.is_dir():
        from audit.file_source import open_file_source

        with open_file_source(path) as source:
            yield source
        return
    if is_bundle(path):
        from audit.bundle import open_bundle_source

        with open_bundle_source(path) as source:
            yield source
        return
    with open_snapshot(path) as connection:
        first = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'log_hashes'"
        ).fetchone()

        def stream(query: str, parameters: tuple[Any, ...]) -> Iterator[Any]:
            try:
                cursor = connection.execute(query, parameters)
                # Not the cursor itself: `yield from` would close it, perhaps after its connection.
                yield from iter(cursor.__next__, None)
            except DatabaseDamage as error:
                raise LogDamaged(f"the database is damaged: {error}") from error

        yield SqlSource(stream, SqlLogStorage(connection), first_format=bool(first[0]))


def is_bundle(path: Path) -> bool:
    """Whether a file begins as a ZIP archive does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
