"""Resolving a row that was kept out of a dataset: forget it, or add a record in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from audit.errors import NotFound
from client.vault import quarantine, sealing
from client.vault.contents import Dataset, HeldSubject, Record
from client.vault.store import Vault
from client.vault.tables import digest_of


def discard_row(vault: Vault, name: str, number: int) -> None:
    """Forget a row that was kept out; the datasheet goes on counting it.

    Raises:
        NotFound: When there is no such dataset or row.
    """
    with vault.transaction() as connection:
        if not quarantine.delete(connection, vault.dataset(name).id, number):
            raise no_such_row(name, number)


def release_row(
    vault: Vault,
    name: str,
    number: int,
    record: Record,
    replaced: Mapping[str, int],
    announce: Callable[[Dataset, HeldSubject], None],
) -> Dataset:
    """Add a record to a dataset in place of a row that was kept out of it.

    Args:
        vault: The site's.
        name: The dataset.
        number: The row.
        record: What it became; of the row's own subject.
        replaced: Identifiers replaced in it, by kind.
        announce: Writes the journal's entries before anything is visible; when it raises, the
            dataset stays as it was.

    Raises:
        NotFound: When there is no such dataset or row, or the subject was erased meanwhile.
    """
    with vault.transaction() as connection:
        before = vault.dataset(name)
        entry = next((one for one in vault.kept_out(name) if one.number == number), None)
        if entry is None or entry.subject != record.subject:
            raise no_such_row(name, number)
        quarantine.delete(connection, before.id, number)
        (last,) = connection.execute(
            "SELECT max(position) FROM records WHERE dataset = ?", (before.id,)
        ).fetchone()
        position = 0 if last is None else int(last) + 1
        sealed = sealing.seal_record(vault.keys.ensure(record.subject), before.id, position, record)
        connection.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?)",
            (before.id, position, record.subject, sealed),
        )
        sheet = before.datasheet
        counts = vault.count(before.id, sheet.content)
        left = Counter(sheet.quarantined)
        left.subtract([entry.reason])
        sheet = sheet.model_copy(
            update={
                "label_counts": dict(counts.labels),
                "groups": dict(counts.groups),
                "records": counts.records,
                "subjects": counts.subjects,
                "row_terms": counts.row_terms,
                "legal_bases": tuple(sorted(counts.legal_bases)),
                "quarantined": {why: count for why, count in left.items() if count > 0},
                "replacements": dict(Counter(sheet.replacements) + Counter(replaced)),
                "digest": digest_of(connection, before.id),
            }
        )
        after = Dataset(name, before.version, sheet.digest, sheet, before.id)
        announce(after, HeldSubject(record.subject, vault.generations()[record.subject], 1))
        datasheet = sealing.seal_datasheet(
            vault.keys.of_datasheets(), after.id, name, after.version, sheet
        )
        connection.execute("UPDATE datasets SET datasheet = ? WHERE id = ?", (datasheet, after.id))
    return after


def no_such_row(name: str, number: int) -> NotFound:
    """Of a dataset, no such row waits."""
    return NotFound(
        f"no row {number} of {name!r} waits: it was resolved, or its subject erased",
        fix="`client data quarantine list` shows what waits",
    )
