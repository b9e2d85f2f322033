"""Erasing a subject, and letting one in again. A crash leaves an erasure undone, or begun for good.

1. One transaction deletes the subject's rows and what was kept out, writes the datasheets anew, and
   marks the pseudonym. After a crash before its end nothing happened; after it, nothing of the
   subject is read any more.
2. In one transaction, the mark says that the key is gone and the data key is destroyed, last:
   the mark never says so of a key that is there, and doing it again is harmless.
3. Nobody is let in again before that.
4. The write-ahead log is emptied: what lingered there was ciphertext without a key.

* `finish` does step 2 for every mark that lacks them: when the vault is opened, and before
  anybody is let in again, so that an old key never meets a new row.
* The mark stays. A row of a marked subject is left out of every ingest until `readmit`, which gives
  the subject a key of a later generation.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from audit.errors import Conflict, NotFound
from client.vault import sealing
from client.vault.contents import ErasureResult, Record, labels_of
from client.vault.file import VaultFile
from client.vault.keys import VaultKeys
from client.vault.tables import ReadyDataset, digest_of
from compliance.statements import utc_now


def erase(file: VaultFile, keys: VaultKeys, subject: str) -> ErasureResult:
    """Erase a pseudonym's subject. Repeating it is harmless and returns what the first one did.

    Raises:
        NotFound: When the vault has never held a record of the subject.
    """
    with file.transaction() as connection:
        if erasure_of(connection, subject) is None:
            _delete_and_mark(connection, keys, subject)
    finish(file, keys)
    file.truncate_write_ahead_log()
    result = erasure_of(file.connection, subject)
    if result is None:  # another process readmitted the subject in between
        raise Conflict("the subject was readmitted during the erasure", fix="erase again")
    return result


def finish(file: VaultFile, keys: VaultKeys) -> None:
    """Destroy the keys of subjects who are marked erased and whose keys may still exist."""
    pending = file.connection.execute(
        "SELECT subject FROM erased_subjects WHERE key_destroyed = 0"
    ).fetchall()
    for (subject,) in pending:
        with file.transaction() as connection:
            # Another process may have done it and let the subject in again, under a new key.
            marked = connection.execute(
                "UPDATE erased_subjects SET key_destroyed = 1 "
                "WHERE subject = ? AND key_destroyed = 0",
                (subject,),
            )
            if marked.rowcount:
                keys.destroy(subject)


def readmit(file: VaultFile, keys: VaultKeys, subject: str) -> None:
    """Let an erased subject's records in again, under a new key.

    Raises:
        NotFound: When the subject is not erased.
        Conflict: When another process is erasing the subject just now.
    """
    finish(file, keys)  # the old key goes before a new one may come
    with file.transaction() as connection:
        found = erasure_of(connection, subject)
        if found is None:
            raise NotFound("this subject is not erased", fix="check the id's spelling")
        if not found.key_destroyed:
            raise Conflict("the subject is being erased", fix="repeat it when that is done")
        connection.execute("DELETE FROM erased_subjects WHERE subject = ?", (subject,))
        connection.execute(
            "UPDATE subject_keys SET generation = generation + 1 WHERE subject = ?", (subject,)
        )
        # An ingest that was killed has passed the subject by: it must begin anew.
        connection.execute("DELETE FROM ingest_progress")


def erased(connection: sqlite3.Connection) -> frozenset[str]:
    """The pseudonyms of all who are erased and were not readmitted."""
    rows = connection.execute("SELECT subject FROM erased_subjects").fetchall()
    return frozenset(str(subject) for (subject,) in rows)


def erasure_of(connection: sqlite3.Connection, subject: str) -> ErasureResult | None:
    """What erasing a pseudonym did; None when it is not erased."""
    row = connection.execute(
        "SELECT datasets, records_removed, key_destroyed, erased_at FROM erased_subjects "
        "WHERE subject = ?",
        (subject,),
    ).fetchone()
    if row is None:
        return None
    datasets, removed, destroyed, erased_at = row
    return ErasureResult(
        subject, tuple(json.loads(datasets)), int(removed), bool(destroyed), str(erased_at)
    )


def unknown_subject() -> NotFound:
    """The vault has never held a record of a subject."""
    return NotFound(
        "the vault holds no record of this subject",
        fix="give the id as it stands in the file's subject column",
    )


def _delete_and_mark(connection: sqlite3.Connection, keys: VaultKeys, subject: str) -> None:
    known = connection.execute("SELECT 1 FROM subject_keys WHERE subject = ?", (subject,))
    if known.fetchone() is None:
        raise unknown_subject()
    touched = _rows_of(connection, subject, keys.of_subject(subject))
    connection.execute("DELETE FROM records WHERE subject = ?", (subject,))
    connection.execute("DELETE FROM kept_out WHERE subject = ?", (subject,))
    for going in touched:
        _describe_without(connection, going, keys.of_datasheets())
    connection.execute(
        "INSERT INTO erased_subjects VALUES (?, ?, ?, 0, ?)",
        (
            subject,
            json.dumps([going.dataset.name for going in touched]),
            sum(going.rows for going in touched),
            utc_now(),
        ),
    )


@dataclass(frozen=True)
class _Going:
    """The rows of a dataset that an erasure deletes.

    Attributes:
        dataset: The dataset.
        rows: How many.
        records: What they hold; none where the subject's key is gone.
    """

    dataset: ReadyDataset
    rows: int
    records: tuple[Record, ...]


def _rows_of(connection: sqlite3.Connection, subject: str, key: bytes | None) -> list[_Going]:
    """The visible datasets that hold a subject, by name, each with the subject's rows.

    Args:
        connection: Inside the erasure's transaction.
        subject: The subject's pseudonym.
        key: The subject's data key.
    """
    found: list[_Going] = []
    for row in connection.execute(
        "SELECT id, name, version, datasheet FROM datasets WHERE state = 'ready' AND id IN "
        "(SELECT dataset FROM records WHERE subject = ?) ORDER BY name",
        (subject,),
    ).fetchall():
        dataset = ReadyDataset(*row)
        sealed_rows = connection.execute(
            "SELECT position, sealed FROM records WHERE dataset = ? AND subject = ?",
            (dataset.id, subject),
        ).fetchall()
        records = [
            sealing.open_record(key, dataset.id, position, subject, sealed)
            for position, sealed in sealed_rows
            if key is not None
        ]
        found.append(_Going(dataset, len(sealed_rows), tuple(records)))
    return found


def _describe_without(connection: sqlite3.Connection, going: _Going, datasheet_key: bytes) -> None:
    """Write a datasheet anew after one subject's rows are gone.

    Args:
        connection: Inside the erasure's transaction, after the rows were deleted.
        going: What was deleted.
        datasheet_key: Seals datasheets.
    """
    row = going.dataset
    sheet = sealing.open_datasheet(datasheet_key, row.id, row.name, row.version, row.datasheet)
    labels = [label for record in going.records for label in labels_of(sheet.content, record)]
    groups = [record.group for record in going.records if record.group]
    changed = sheet.model_copy(
        update={
            "label_counts": _without(sheet.label_counts, labels),
            "groups": _without(sheet.groups, groups),
            "records": sheet.records - going.rows,
            "subjects": sheet.subjects - 1,
            "digest": digest_of(connection, row.id),
        }
    )
    sealed = sealing.seal_datasheet(datasheet_key, row.id, row.name, row.version, changed)
    connection.execute("UPDATE datasets SET datasheet = ? WHERE id = ?", (sealed, row.id))


def _without(counts: Mapping[str, int], gone: Iterable[str]) -> dict[str, int]:
    left = Counter(counts)
    left.subtract(gone)
    return {value: count for value, count in left.items() if count > 0}
