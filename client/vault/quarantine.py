"""Rows that an ingest kept out: which they are and why, so that somebody can resolve them.

Formal guarantees:

* No text is kept: an entry holds the digest of a row's content, the reason, and how the source's
  columns were read. The row itself stays in the source, where the operator has it.
* An entry is sealed under its subject's key, bound to its dataset, number and subject. An erasure
  deletes it and destroys the key.
* Entries belong to one version of a dataset and go with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.canonical import canonical_bytes, digest, parse_canonical_object
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import MalformedInput, VerificationFailed

TABLE = """
CREATE TABLE IF NOT EXISTS kept_out (
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    subject TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (dataset, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class KeptOut:
    """A row that was kept out.

    Attributes:
        subject: Keyed pseudonym.
        reason: Why, as a datasheet counts it.
        row: Digest of the row's content (`row_digest`).
        columns: How the source's columns were read (`client.intake.Columns`).
        number: Its number in the dataset's version; 0 until it is stored.
    """

    subject: str
    reason: str
    row: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0


def row_digest(text: str) -> str:
    """Digest of a row's content, by which it is found in the source again."""
    return digest(canonical_bytes(text))


def next_number(connection: sqlite3.Connection, dataset_id: str) -> int:
    """Number of the next entry of a dataset's version, from 1."""
    (last,) = connection.execute(
        "SELECT max(number) FROM kept_out WHERE dataset = ?", (dataset_id,)
    ).fetchone()
    return 1 if last is None else int(last) + 1


def insert(
    connection: sqlite3.Connection, dataset_id: str, key: bytes, number: int, entry: KeptOut
) -> None:
    """Store an entry, inside a transaction."""
    said = {"reason": entry.reason, "row": entry.row, "columns": dict(entry.columns)}
    sealed = seal(key, canonical_bytes(said), _bound_to(dataset_id, number, entry.subject))
    connection.execute(
        "INSERT INTO kept_out VALUES (?, ?, ?, ?)",
        (dataset_id, number, entry.subject, sealed.nonce + sealed.ciphertext),
    )


def rows(connection: sqlite3.Connection, dataset_id: str) -> Iterable[tuple[int, str, bytes]]:
    """Number, subject and sealed entry of each row that a dataset's version keeps out."""
    found: list[tuple[int, str, bytes]] = connection.execute(
        "SELECT number, subject, sealed FROM kept_out WHERE dataset = ? ORDER BY number",
        (dataset_id,),
    ).fetchall()
    return found


def opened(key: bytes, dataset_id: str, number: int, subject: str, sealed: bytes) -> KeptOut:
    """An entry.

    Raises:
        VerificationFailed: When it was altered or moved.
    """
    try:
        envelope = Envelope(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:])
        said = parse_canonical_object(unseal(key, envelope, _bound_to(dataset_id, number, subject)))
    except (VerificationFailed, MalformedInput) as error:
        raise VerificationFailed(
            f"entry {number} of what was kept out does not open: it was altered or moved",
            fix="restore the vault from a backup, or add the dataset again",
        ) from error
    columns = said["columns"]
    return KeptOut(
        subject,
        str(said["reason"]),
        str(said["row"]),
        columns if isinstance(columns, dict) else {},
        number,
    )


def delete(connection: sqlite3.Connection, dataset_id: str, number: int) -> bool:
    """Delete an entry, inside a transaction; whether there was one."""
    gone = connection.execute(
        "DELETE FROM kept_out WHERE dataset = ? AND number = ?", (dataset_id, number)
    )
    return gone.rowcount == 1


def _bound_to(dataset_id: str, number: int, subject: str) -> bytes:
    return canonical_bytes(
        {
            "format": "fiduciary.kept-out/1",
            "dataset": dataset_id,
            "number": number,
            "subject": subject,
        }
    )
