"""What an erasure must know and write besides deleting rows: the datasheets of what is left."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from client.vault import sealing
from client.vault.contents import Record, labels_of
from client.vault.tables import ReadyDataset, digest_of


@dataclass(frozen=True)
class Going:
    """The rows of a dataset that an erasure deletes.

    Attributes:
        dataset: The dataset.
        rows: How many.
        records: What they hold; none where the subject's key is gone.
    """

    dataset: ReadyDataset
    rows: int
    records: tuple[Record, ...]


def rows_of(connection: sqlite3.Connection, subject: str, key: bytes | None) -> list[Going]:
    """The visible datasets that hold a subject, by name, each with the subject's rows.

    Args:
        connection: Inside the erasure's transaction.
        subject: The subject's pseudonym.
        key: The subject's data key.
    """
    found: list[Going] = []
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
        found.append(Going(dataset, len(sealed_rows), tuple(records)))
    return found


def describe_without(connection: sqlite3.Connection, going: Going, datasheet_key: bytes) -> None:
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
