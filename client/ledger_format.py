"""The ledger's file: its tables, and how a file of an earlier format becomes one of this format.

* `fiduciary.ledger/1` has no batch limits and no audits; everything else is the same. Such a file
  is brought up to date when it is opened, in one transaction with the entry that says so in the
  journal: it is of one format or of the other, also after a crash, and its rounds are untouched.
* An earlier version of this software refuses a file of a later format, by name; a process of such
  a version that has the file open fails when it reserves (the rows have more columns), and still
  starts and settles what it reserved (docs/adr/0020).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from audit.errors import VerificationFailed
from client import ledger_journal

FORMAT: Final = "fiduciary.ledger/2"
FIRST_FORMAT: Final = "fiduciary.ledger/1"

BUSY_TIMEOUT_SECONDS = 60
"""Longer than composing the largest budget, during which the write lock is held."""

_CAP_COLUMNS: Final = (
    "batch_subjects INTEGER",
    "max_population INTEGER CHECK ((max_population IS NULL) = (batch_subjects IS NULL))",
)

_AUDITS: Final = """
CREATE TABLE audits (
    plan_id TEXT NOT NULL,
    installation TEXT NOT NULL,
    epsilon TEXT NOT NULL,
    passes INTEGER NOT NULL CHECK (passes IN (0, 1)),
    audited_at TEXT NOT NULL,
    PRIMARY KEY (plan_id, installation)
) WITHOUT ROWID
"""

SCHEMA: Final = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plans (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id TEXT NOT NULL UNIQUE,
    plan_name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    datasets TEXT NOT NULL,
    unit TEXT NOT NULL,
    adjacency TEXT NOT NULL,
    max_records_per_subject INTEGER NOT NULL,
    epsilon TEXT NOT NULL,
    delta TEXT NOT NULL,
    reserved_at TEXT NOT NULL,
    settled_at TEXT
);
CREATE TABLE rounds (
    plan_id TEXT NOT NULL REFERENCES plans (plan_id),
    round INTEGER NOT NULL,
    noise_multiplier TEXT NOT NULL,
    sampling_rate TEXT NOT NULL,
    steps INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'started', 'released')),
    started_at TEXT,
    {_CAP_COLUMNS[0]},
    {_CAP_COLUMNS[1]},
    PRIMARY KEY (plan_id, round)
) WITHOUT ROWID;
CREATE TABLE evaluations (
    plan_id TEXT NOT NULL REFERENCES plans (plan_id),
    round INTEGER NOT NULL,
    state_digest TEXT NOT NULL,
    PRIMARY KEY (plan_id, round)
) WITHOUT ROWID;
{_AUDITS};
CREATE TABLE journal_outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    payload TEXT NOT NULL
);
"""

_MIGRATION: Final = (
    *(f"ALTER TABLE rounds ADD COLUMN {column}" for column in _CAP_COLUMNS),
    _AUDITS,
    "UPDATE meta SET value = 'fiduciary.ledger/2' WHERE name = 'format'",
)
"""From the first format to this one."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; the caller begins and ends each transaction."""
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)


def configure(connection: sqlite3.Connection) -> None:
    """Make a commit mean that the change is on the disk."""
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty file, in one transaction."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('format', ?)", (FORMAT,))
    connection.execute("COMMIT")


def bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that the file is a ledger of this format; migrate one of the first.

    Raises:
        VerificationFailed: With what was expected and what was found.
    """
    if _format(connection) == FIRST_FORMAT:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have done it while this one waited for the lock.
            if _format(connection) == FIRST_FORMAT:
                for statement in _MIGRATION:
                    connection.execute(statement)
                details = {"from": FIRST_FORMAT, "to": FORMAT}
                ledger_journal.note_about(connection, "migrated", "ledger", details)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    found = _format(connection)
    if found != FORMAT:
        later = found is not None and found.startswith("fiduciary.ledger/")
        raise VerificationFailed(
            f"{path.name} is not a ledger that this version reads: expected {FORMAT}, got {found}",
            fix="install the version of fiduciary that wrote it, or a later one"
            if later
            else "restore the ledger from a backup",
        )


def _format(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    return None if row is None else str(row[0])
