"""A log in SQL tables, of SQLite and of PostgreSQL.

* `SqlLogStorage` is `audit.storage.LogStorage` over a connection whose transaction the caller owns.
* `PostgresLogStorage` says what PostgreSQL spells differently; how its driver spells a parameter,
  the connection's adapter translates from `?`.
* What one append writes to a table is one statement: each is a wait for the database.
* Primary keys refuse a position, a node or a fact that is there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from audit.merkle import HASH_BYTES, Node
from audit.node_order import node_place
from audit.storage import (
    FIRST_LOG_FORMAT,
    LOG_FORMAT,
    META_FORMAT,
    Append,
    LogTampered,
    StoredCosignature,
    write_parts,
)

SQLITE_LOCK: Final = "DELETE FROM log_checkpoints WHERE size < 0"
"""Matches no row and writes no page, but is a write: SQLite takes the write lock for it."""

POSTGRESQL_LOCK: Final = f"SELECT pg_advisory_xact_lock({0x6669_6475_6369_6172})"
"""A lock that ends with the transaction; its number is the bytes "fiduciar"."""

TABLES: Final = ("log_checkpoints", "log_cosignatures", "log_entries", "log_meta", "log_nodes")


_SIZE: Final = "SELECT coalesce(max(position), -1) + 1 FROM log_entries"
_HEAD: Final = f"SELECT (SELECT note FROM log_checkpoints ORDER BY size DESC LIMIT 1), ({_SIZE})"  # noqa: S608

_WRITE_CHECKPOINT: Final = (
    "INSERT INTO log_checkpoints (size, note) VALUES (?, ?)"
    " ON CONFLICT (size) DO UPDATE SET note = excluded.note"
)
# Of PostgreSQL:
_INSERT_LEAVES: Final = (
    "INSERT INTO log_entries (position, leaf) SELECT ?::bigint + number - 1, leaf"
    " FROM unnest(?::bytea[]) WITH ORDINALITY AS leaves (leaf, number)"
)
_INSERT_HASHES: Final = (
    "INSERT INTO log_nodes (place, hash) SELECT * FROM unnest(?::bigint[], ?::bytea[])"
)
_WRITE_APPEND: Final = (
    f"WITH entries AS ({_INSERT_LEAVES}), nodes AS ({_INSERT_HASHES}),"  # noqa: S608
    f" superseded AS (DELETE FROM log_checkpoints WHERE size = ?) {_WRITE_CHECKPOINT}"
)

_PAGE_ROWS: Final = 10_000
"""Rows that are moved at a time when tables are brought up to date."""

_MOST_BYTES: Final = 64 * 1024 * 1024
"""Entries of one statement; a database takes a parameter of 1 GB at most."""


class SqlCursor(Protocol):
    """What a statement answers (PEP 249)."""

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchall(self) -> Sequence[Any]:
        """All rows that are left."""
        ...


class SqlConnection(Protocol):
    """What `SqlLogStorage` needs of a driver; `sqlite3.Connection` has it."""

    def execute(self, query: str, parameters: Sequence[Any] = ..., /) -> SqlCursor:
        """Run one statement with `?` parameters."""
        ...


class SqlLogStorage:
    """`LogStorage` over a connection. The caller begins and ends the transaction.

    Args:
        connection: Inside a transaction.
        lock: Statement that keeps other appenders out until the transaction ends; None when the
            transaction began with that.
    """

    def __init__(self, connection: SqlConnection, lock: str | None = SQLITE_LOCK) -> None:
        self._connection = connection
        self._lock = lock

    def lock(self) -> None:
        """Keep other appenders out; harmless when the caller's transaction does already."""
        if self._lock is not None:
            self._connection.execute(self._lock)

    def size(self) -> int:
        """Number of entries."""
        return int(self._one(_SIZE))

    def read_leaf(self, position: int) -> bytes | None:
        """The entry at `position`."""
        return _entry(
            position, self._one("SELECT leaf FROM log_entries WHERE position = ?", position)
        )

    def read_leaves(self, positions: Sequence[int]) -> list[bytes | None]:
        """The entries at some positions, in their order."""
        if not positions:
            return []
        among, parameters = self._among(positions)
        query = f"SELECT position, leaf FROM log_entries WHERE position {among}"  # noqa: S608
        found = dict(self._rows(query, parameters))
        return [_entry(position, found.get(position)) for position in positions]

    def write_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        """Insert entries; the primary key refuses a position that is taken."""
        start = size = 0
        for end, leaf in enumerate(leaves):  # most often one part
            if size + len(leaf) > _MOST_BYTES and end > start:
                self._insert_leaves(first + start, leaves[start:end])
                start, size = end, 0
            size += len(leaf)
        self._insert_leaves(first + start, leaves[start:])

    def read_hashes(self, nodes: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The hashes of nodes, in their order."""
        if not nodes:
            return []
        places = [node_place(level, index) for level, index in nodes]
        among, parameters = self._among(places)
        query = f"SELECT place, hash FROM log_nodes WHERE place {among}"  # noqa: S608
        return _in_order(places, dict(self._rows(query, parameters)))

    def read_proof(
        self, position: int, nodes: Sequence[tuple[int, int]]
    ) -> tuple[bytes | None, list[bytes | None]]:
        """`read_leaf` and `read_hashes` in one question."""
        places = [node_place(level, index) for level, index in nodes]
        among, parameters = self._among(places)
        query = (
            "SELECT -1 AS place, leaf FROM log_entries WHERE position = ?"  # noqa: S608
            f" UNION ALL SELECT place, hash FROM log_nodes WHERE place {among}"
        )
        found = dict(self._rows(query, [position, *parameters]))
        return _entry(position, found.get(-1)), _in_order(places, found)

    def write_hashes(self, nodes: Sequence[Node]) -> None:
        """Insert nodes; the primary key refuses one that exists.

        Their places are consecutive (`audit.node_order`): every append writes to the end of the
        table, whatever levels it completes.
        """
        if nodes:
            level, index, _ = nodes[0]
            first = node_place(level, index)
            self.insert_hashes(range(first, first + len(nodes)), [value for _, _, value in nodes])

    def head(self) -> tuple[str | None, int]:
        """The checkpoint note of the largest size, and the number of entries."""
        note, size = self._connection.execute(_HEAD).fetchone()
        return (note if isinstance(note, str) else None), int(size)

    def write_checkpoint(self, size: int, note: str) -> None:
        """Insert or replace the checkpoint of that size."""
        self._connection.execute(_WRITE_CHECKPOINT, (size, note))

    def delete_checkpoint(self, size: int) -> None:
        """Remove the checkpoint of that size."""
        self._connection.execute("DELETE FROM log_checkpoints WHERE size = ?", (size,))

    def cosignatures(self) -> list[StoredCosignature]:
        """What witnesses have signed, smallest size first."""
        rows = self._connection.execute(
            "SELECT witness, size, note FROM log_cosignatures ORDER BY size, witness"
        ).fetchall()
        return [StoredCosignature(*row) for row in rows]

    def write_append(self, append: Append) -> None:
        """All of an append; in an SQLite file a statement costs little more than its work."""
        write_parts(self, append)

    def write_cosignature(self, witness: str, size: int, note: str) -> None:
        """Insert or replace what a witness signed at that size."""
        self._connection.execute(
            "INSERT INTO log_cosignatures (witness, size, note) VALUES (?, ?, ?)"
            " ON CONFLICT (witness, size) DO UPDATE SET note = excluded.note",
            (witness, size, note),
        )

    def delete_cosignature(self, witness: str, size: int) -> None:
        """Remove what a witness signed at that size."""
        self._connection.execute(
            "DELETE FROM log_cosignatures WHERE witness = ? AND size = ?", (witness, size)
        )

    def read_meta(self, name: str) -> str | None:
        """A fact about the log."""
        return self._text("SELECT value FROM log_meta WHERE name = ?", name)

    def write_meta(self, name: str, value: str) -> None:
        """Insert a fact about the log."""
        self._connection.execute("INSERT INTO log_meta (name, value) VALUES (?, ?)", (name, value))

    def insert_hashes(self, places: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Insert hashes of 32 bytes at their places (`audit.node_order`), in one statement."""
        self._connection.execute(
            "INSERT INTO log_nodes (place, hash)"
            " SELECT value, substr(?, 32 * key + 1, 32) FROM json_each(?)",
            (b"".join(hashes), str(list(places))),
        )

    def _insert_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        """Insert entries of less than 2 GiB altogether, in one statement."""
        spans, start = [], 0
        for leaf in leaves:
            spans.append(start << 32 | len(leaf))
            start += len(leaf)
        self._connection.execute(
            "INSERT INTO log_entries (position, leaf)"
            " SELECT ? + key, substr(?, (value >> 32) + 1, value & 0xffffffff) FROM json_each(?)",
            (first, b"".join(leaves), str(spans)),
        )

    def _among(self, places: Sequence[int]) -> tuple[str, Sequence[Any]]:
        """SQL that is true for a column with one of these values, and its parameters."""
        return f"IN ({', '.join('?' * len(places))})", places

    def _one(self, query: str, *parameters: object) -> Any:
        row = self._connection.execute(query, parameters).fetchone()
        return None if row is None else row[0]

    def _rows(self, query: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        return map(tuple, self._connection.execute(query, parameters).fetchall())

    def _text(self, query: str, *parameters: object) -> str | None:
        value = self._one(query, *parameters)
        return value if isinstance(value, str) else None


class PostgresLogStorage(SqlLogStorage):
    """The same over a connection to PostgreSQL, which takes a batch as an array."""

    def __init__(self, connection: SqlConnection, lock: str | None = POSTGRESQL_LOCK) -> None:
        super().__init__(connection, lock)

    def insert_hashes(self, places: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Insert hashes at their places, in one statement."""
        self._connection.execute(_INSERT_HASHES, (list(places), list(hashes)))

    def write_append(self, append: Append) -> None:
        """All of an append in one statement, unless it is larger than one may be."""
        if sum(map(len, append.leaves)) > _MOST_BYTES or not append.nodes:
            write_parts(self, append)
            return
        level, index, _ = append.nodes[0]
        first = node_place(level, index)
        self._connection.execute(
            _WRITE_APPEND,
            (
                append.first,
                list(append.leaves),
                list(range(first, first + len(append.nodes))),
                [value for _, _, value in append.nodes],
                -1 if append.superseded is None else append.superseded,
                append.size,
                append.note,
            ),
        )

    def _insert_leaves(self, first: int, leaves: Sequence[bytes]) -> None:
        self._connection.execute(_INSERT_LEAVES, (first, list(leaves)))

    def _among(self, places: Sequence[int]) -> tuple[str, Sequence[Any]]:
        """One array, so that one prepared statement serves proofs of every length."""
        return "= ANY(?::bigint[])", (list(places),)


def _entry(position: int, value: object) -> bytes | None:
    if value is not None and not isinstance(value, bytes):
        raise LogTampered(f"entry {position} is not stored as bytes", fix="run: audit verify")
    return value


def _in_order(places: Sequence[int], found: dict[int, object]) -> list[bytes | None]:
    """The hashes at `places`, None where there is none."""
    values = (found.get(place) for place in places)
    return [value if isinstance(value, bytes) else None for value in values]


def bring_up_to_date(
    storage: SqlLogStorage, connection: SqlConnection, schema: Sequence[str]
) -> bool:
    """Give a log's tables the present format, in the caller's transaction.

    `fiduciary.log/1` kept hashes by level and index, and had no cosignatures. Entries, checkpoints
    and hashes themselves are the same in both formats.

    A hash of a wrong length is left out: the verifier says that it is missing.

    Args:
        storage: The log.
        connection: The same connection, inside a writing transaction.
        schema: Statements that make the tables of the present format.

    Returns:
        Whether anything was changed.
    """
    if storage.read_meta(META_FORMAT) != FIRST_LOG_FORMAT:
        return False
    for statement in schema:
        connection.execute(statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1))
    level = 0
    while rows := _hashes_of_first_format(connection, level, 0):
        while rows:
            whole = {index: value for index, value in rows if len(value) == HASH_BYTES}
            storage.insert_hashes(
                [node_place(level, index) for index in whole], list(whole.values())
            )
            rows = _hashes_of_first_format(connection, level, rows[-1][0] + 1)
        level += 1
    connection.execute("DROP TABLE log_hashes")
    connection.execute("UPDATE log_meta SET value = ? WHERE name = ?", (LOG_FORMAT, META_FORMAT))
    return True


def _hashes_of_first_format(
    connection: SqlConnection, level: int, first: int
) -> list[tuple[int, bytes]]:
    rows = connection.execute(
        "SELECT position, hash FROM log_hashes WHERE level = ? AND position >= ?"
        " ORDER BY position LIMIT ?",
        (level, first, _PAGE_ROWS),
    ).fetchall()
    return [(int(index), bytes(value)) for index, value in rows]
