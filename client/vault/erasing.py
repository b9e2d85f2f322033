"""What an erasure must know and write besides deleting rows: the datasheets of what is left."""

from __future__ import annotations

import sqlite3
from collections import Counter

from client.vault import sealing
from client.vault.tables import ReadyDataset, digest_of


def labels_by_dataset(
    connection: sqlite3.Connection, subject: str, key: bytes | None
) -> list[tuple[ReadyDataset, list[str]]]:
    """The visible datasets that hold a subject, each with the labels of the subject's rows.

    Args:
        connection: Inside the erasure's transaction.
        subject: The subject's pseudonym.
        key: The subject's data key; labels are "" without it.
    """
    found: list[tuple[ReadyDataset, list[str]]] = []
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
        labels = [
            "" if key is None else sealing.open_record(key, dataset.id, at, subject, blob).label
            for at, blob in sealed_rows
        ]
        found.append((dataset, labels))
    return found


def describe_without(
    connection: sqlite3.Connection, row: ReadyDataset, labels: list[str], datasheet_key: bytes
) -> None:
    """Write a datasheet anew after one subject's rows are gone.

    Args:
        connection: Inside the erasure's transaction, after the rows were deleted.
        row: The dataset.
        labels: Labels of the deleted rows.
        datasheet_key: Seals datasheets.
    """
    sheet = sealing.open_datasheet(datasheet_key, row.id, row.name, row.version, row.datasheet)
    left = Counter(sheet.label_counts)
    left.subtract(label for label in labels if label)
    changed = sheet.model_copy(
        update={
            "label_counts": {label: count for label, count in left.items() if count > 0},
            "records": sheet.records - len(labels),
            "subjects": sheet.subjects - 1,
            "digest": digest_of(connection, row.id),
        }
    )
    sealed = sealing.seal_datasheet(datasheet_key, row.id, row.name, row.version, changed)
    connection.execute("UPDATE datasets SET datasheet = ? WHERE id = ?", (sealed, row.id))
