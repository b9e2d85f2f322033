"""The vault's SQLite tables, and the settings that its guarantees rest on."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from audit.errors import VerificationFailed
from client.vault import quarantine, sealing

FORMAT = "fiduciary.vault/1"

SCHEMA = """
CREATE TABLE IF NOT EXISTS vault_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS datasets (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('building', 'ready')),
    datasheet BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS one_ready_version ON datasets (name) WHERE state = 'ready';
CREATE TABLE IF NOT EXISTS records (
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    subject TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (dataset, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_of_subject ON records (subject);
CREATE TABLE IF NOT EXISTS subject_keys (subject TEXT PRIMARY KEY, generation INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS erased_subjects (
    subject TEXT PRIMARY KEY,
    datasets TEXT NOT NULL,
    records_removed INTEGER NOT NULL,
    key_destroyed INTEGER NOT NULL,
    erased_at TEXT NOT NULL
);
"""

LATER_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS excluded_subjects (
    subject TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    excluded_at TEXT NOT NULL,
    journalled INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS ingest_progress (
    dataset TEXT PRIMARY KEY REFERENCES datasets (id) ON DELETE CASCADE,
    sealed BLOB NOT NULL
);
"""
    + quarantine.TABLE
)
"""Tables that an earlier vault lacks; they are made when it is opened, and change nothing else."""


class ReadyDataset(NamedTuple):
    """A row of `datasets` that is visible."""

    id: str
    name: str
    version: int
    datasheet: bytes


def digest_of(connection: sqlite3.Connection, dataset_id: str) -> str:
    """The digest of a dataset's rows as they are stored now."""
    digest = sealing.DatasetDigest(dataset_id)
    for position, subject, sealed in connection.execute(
        "SELECT position, subject, sealed FROM records WHERE dataset = ? ORDER BY position",
        (dataset_id,),
    ):
        digest.add(position, subject, sealed)
    return digest.digest()


def configure(connection: sqlite3.Connection) -> None:
    """Set what the guarantees rest on, and make the tables.

    Raises:
        VerificationFailed: When the file holds another format.
    """
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = ON",
        "foreign_keys = ON",
        "temp_store = MEMORY",  # sorting must not write rows to a temporary file
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    found = _format_of(connection)
    if found is None:  # opening an existing vault must not wait for a writer
        connection.executescript(SCHEMA)
        connection.execute("INSERT OR IGNORE INTO vault_meta VALUES ('format', ?)", (FORMAT,))
        found = _format_of(connection)
    if found == FORMAT and not _has_later_tables(connection):
        connection.executescript(LATER_SCHEMA)
    if found != FORMAT:
        raise VerificationFailed(
            f"the vault has format {found}, expected {FORMAT}",
            fix="open it with the version that wrote it",
        )


def _has_later_tables(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE name = 'kept_out'"
    return connection.execute(query).fetchone() is not None


def _format_of(connection: sqlite3.Connection) -> str | None:
    made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'vault_meta'").fetchone()
    row = (
        made and connection.execute("SELECT value FROM vault_meta WHERE name = 'format'").fetchone()
    )
    return None if not row else str(row[0])
