"""The vault: a site's de-identified records, encrypted under one data key for each subject.

Guarantees:

* On disk, only keyed pseudonyms, dataset names and sizes are in clear (`client.vault.sealing`).
* A dataset is visible complete or not at all (`client.vault.staging`).
* `erase` is final: rows are deleted (`secure_delete`) and the subject's pseudonym is marked erased
  in one transaction, then the data key is destroyed. When a crash falls between, the next `open`
  destroys the key. A copy of the file made earlier holds rows that nobody can open any more.
* An erased subject's rows are left out of every later ingest until `readmit`.
* Writes are durable when a call returns (`synchronous=FULL`).

Options weighed and consequences: docs/adr/0007-vault.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.log import subject_key_name
from client.vault import quarantine, sealing
from client.vault.contents import (
    ANY_USE,
    Content,
    Counts,
    Dataset,
    DatasetCheck,
    Datasheet,
    Done,
    ErasureResult,
    HeldSubject,
    KeyStore,
    Record,
    SubjectHoldings,
    VaultPaths,
    labels_of,
)
from client.vault.erasing import describe_without, rows_of
from client.vault.excluding import Exclusion, exclusions
from client.vault.quarantine import KeptOut
from client.vault.tables import ReadyDataset, configure, digest_of
from compliance.statements import utc_now

BUSY_TIMEOUT_SECONDS = 30
"""A batch of an ingest takes a fraction of a second; longer means that something hangs."""


class Vault:
    """One site's vault. Not safe for use from several threads; several processes may share it."""

    def __init__(self, connection: sqlite3.Connection, keys: KeyStore, path: Path) -> None:
        self._connection = connection
        self._keys = keys
        self.path = path
        self._pseudonym_secret = keys.secret("subject-pseudonym")

    @classmethod
    def open(cls, paths: VaultPaths, keys: KeyStore) -> Self:
        """Open a site's vault, making an empty one where there is none.

        Completes an erasure that a crash interrupted.

        Raises:
            VerificationFailed: When the file is no vault, or one of another format.
            Conflict: When another process keeps it locked.
        """
        path = paths.vault
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        try:
            configure(connection)
            vault = cls(connection, keys, path)
            vault._finish_erasures()
        except sqlite3.OperationalError as error:
            connection.close()
            raise _busy(error) from error
        except sqlite3.DatabaseError as error:
            connection.close()
            raise VerificationFailed(
                f"the vault {path.name} cannot be read: {error}",
                fix="restore the site folder from its last backup",
            ) from error
        except FiduciaryError:
            connection.close()
            raise
        return vault

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- reading ------------------------------------------------------------------------------

    def pseudonym(self, subject_id: str) -> str:
        """The keyed pseudonym of a subject: HMAC-SHA256 under a secret of this site, in hex.

        Surrounding space and Unicode form do not matter; case does. Two sites give one person
        unrelated pseudonyms.

        Raises:
            MalformedInput: When the id is empty.
        """
        normal = unicodedata.normalize("NFC", subject_id).strip()
        if not normal:
            raise MalformedInput("the subject id is empty", fix="give the id used in the file")
        message = b"fiduciary.subject/1\x00" + normal.encode()
        return hmac.new(self._pseudonym_secret, message, hashlib.sha256).hexdigest()

    def datasets(self) -> tuple[Dataset, ...]:
        """Every visible dataset, by name."""
        rows = self._connection.execute(
            "SELECT id, name, version, datasheet FROM datasets WHERE state = 'ready' ORDER BY name"
        ).fetchall()
        return tuple(self._dataset_of(ReadyDataset(*row)) for row in rows)

    def dataset(self, name: str) -> Dataset:
        """The visible dataset of that name.

        Raises:
            NotFound: When there is none.
        """
        return self._dataset_of(self._ready(name))

    def examples(self, name: str) -> list[Record]:
        """Every record of a dataset, in the order in which they were stored.

        A record whose key was destroyed (a vault restored from before an erasure) is left out;
        `verify` reports it.

        Raises:
            NotFound: When there is no such dataset.
            VerificationFailed: When a row does not open: it was altered or moved.
        """
        return list(self.each_example(name))

    def each_example(self, name: str) -> Iterator[Record]:
        """The same, one by one."""
        for _, record in self._opened(self._ready(name).id):
            if record is not None:
                yield record

    def is_erased(self, subject_id: str) -> bool:
        """Whether the subject was erased, and not readmitted since."""
        return self._erasure_of(self.pseudonym(subject_id)) is not None

    def erased(self) -> frozenset[str]:
        """The pseudonyms of all who are erased and were not readmitted."""
        rows = self._connection.execute("SELECT subject FROM erased_subjects").fetchall()
        return frozenset(str(subject) for (subject,) in rows)

    def about(self, subject_id: str) -> SubjectHoldings:
        """What is here of a subject, or was before an erasure.

        Raises:
            NotFound: When the vault has never held a record of the subject.
        """
        subject = self.pseudonym(subject_id)
        if subject not in self.generations():
            raise _unknown_subject()
        counts = self._connection.execute(
            "SELECT name, count(*) FROM records JOIN datasets ON datasets.id = records.dataset"
            " WHERE subject = ? AND state = 'ready' GROUP BY name ORDER BY name",
            (subject,),
        ).fetchall()
        held = tuple((self.dataset(name), int(count)) for name, count in counts)
        return SubjectHoldings(subject, held, self._erasure_of(subject))

    def exclusions(self) -> list[Exclusion]:
        """Subjects whose records are kept and not used."""
        return exclusions(self._connection)

    def generations(self) -> dict[str, int]:
        """The generation of every known subject's key, by pseudonym; erased ones included."""
        rows = self._connection.execute("SELECT subject, generation FROM subject_keys")
        return {subject: int(generation) for subject, generation in rows}

    def subjects_of(self, dataset_id: str) -> list[HeldSubject]:
        """The subjects of a dataset, visible or not, by pseudonym."""
        return list(self.each_subject_of(dataset_id))

    def each_subject_of(self, dataset_id: str) -> Iterator[HeldSubject]:
        """The same, one by one: the index gives them in order, and nothing is sorted in memory."""
        rows = self._connection.execute(
            "SELECT subject, generation, count(*) FROM records INDEXED BY records_of_subject"
            " CROSS JOIN subject_keys USING (subject)"
            " WHERE dataset = ? GROUP BY subject ORDER BY subject",
            (dataset_id,),
        )
        for subject, key, count in rows:
            yield HeldSubject(subject, int(key), int(count))

    def count(self, dataset_id: str, content: Content) -> Counts:
        """What the rows of a dataset hold, visible or not; rows that open no more count too."""
        labels: Counter[str] = Counter()
        groups: Counter[str] = Counter()
        bases: set[str] = set()
        row_terms = False
        for _, record in self._opened(dataset_id):
            if record is not None:
                labels.update(labels_of(content, record))
                groups.update([record.group] if record.group else [])
                bases.update([record.terms.legal_basis] if record.terms.legal_basis else [])
                row_terms = row_terms or record.terms != ANY_USE
        (records,) = self._connection.execute(
            "SELECT count(*) FROM records WHERE dataset = ?", (dataset_id,)
        ).fetchone()
        subjects = sum(1 for _ in self.each_subject_of(dataset_id))
        return Counts(int(records), subjects, labels, groups, frozenset(bases), row_terms)

    def progress_of(self, dataset_id: str) -> tuple[str, Done] | None:
        """Which work makes a version that nobody sees yet, and how far it came, if that is known.

        Raises:
            VerificationFailed: When it was altered.
        """
        row = self._connection.execute(
            "SELECT sealed FROM ingest_progress WHERE dataset = ?", (dataset_id,)
        ).fetchone()
        return row and sealing.open_progress(self._datasheet_key(), dataset_id, row[0])

    def store_progress(
        self, connection: sqlite3.Connection, dataset_id: str, work: str, done: Done
    ) -> None:
        """Note how far an ingest came. Call it inside the transaction of its rows."""
        sealed = sealing.seal_progress(self._datasheet_key(), dataset_id, work, done)
        connection.execute(
            "INSERT OR REPLACE INTO ingest_progress VALUES (?, ?)", (dataset_id, sealed)
        )

    def kept_out(self, name: str) -> list[KeptOut]:
        """What an ingest kept out of a dataset and nobody resolved, by number.

        Raises:
            NotFound: When there is no such dataset.
            VerificationFailed: When an entry was altered.
        """
        dataset_id = self._ready(name).id
        return [
            quarantine.opened(key, dataset_id, number, subject, sealed)
            for number, subject, sealed in quarantine.rows(self._connection, dataset_id)
            if (key := self._existing_key(subject)) is not None
        ]

    def discard_kept_out(self, name: str, number: int) -> None:
        """Forget a row that was kept out; the datasheet goes on counting it.

        Raises:
            NotFound: When there is no such dataset or row.
        """
        dataset_id = self._ready(name).id
        with self.transaction() as connection:
            if not quarantine.delete(connection, dataset_id, number):
                raise no_such_row(name, number)

    def release_kept_out(
        self,
        name: str,
        number: int,
        record: Record,
        replaced: Mapping[str, int],
        announce: Callable[[Dataset, HeldSubject], None],
    ) -> Dataset:
        """Add a record to a dataset in place of a row that was kept out of it.

        Args:
            name: The dataset.
            number: The row.
            record: What it became; of the row's own subject.
            replaced: Identifiers replaced in it, by kind.
            announce: Writes the journal's entries before anything is visible; when it raises, the
                dataset stays as it was.

        Raises:
            NotFound: When there is no such dataset or row.
            Refused: When the subject was erased meanwhile.
        """
        row = self._ready(name)
        with self.transaction() as connection:
            entry = next((one for one in self.kept_out(name) if one.number == number), None)
            if entry is None or entry.subject != record.subject:
                raise no_such_row(name, number)
            quarantine.delete(connection, row.id, number)
            (last,) = connection.execute(
                "SELECT max(position) FROM records WHERE dataset = ?", (row.id,)
            ).fetchone()
            position = 0 if last is None else int(last) + 1
            key = self.ensure_key(connection, record.subject)
            connection.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?)",
                (
                    row.id,
                    position,
                    record.subject,
                    sealing.seal_record(key, row.id, position, record),
                ),
            )
            sheet = self._dataset_of(row).datasheet
            counts = self.count(row.id, sheet.content)
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
                    "digest": digest_of(connection, row.id),
                }
            )
            dataset = Dataset(row.name, row.version, sheet.digest, sheet, row.id)
            generation = self.generations()[record.subject]
            announce(dataset, HeldSubject(record.subject, generation, 1))
            sealed = self.sealed_datasheet(row.id, row.name, row.version, sheet)
            connection.execute("UPDATE datasets SET datasheet = ? WHERE id = ?", (sealed, row.id))
        return dataset

    def split_secret(self) -> bytes:
        """The site's secret for the held-out split by subject (`client.learning.data`)."""
        return self._keys.secret("held-out-split")

    def verify(self, name: str) -> DatasetCheck:
        """Open every row of a dataset and compare digest and counts with its datasheet.

        Raises:
            NotFound: When there is no such dataset.
        """
        row = self._ready(name)
        opened = lost = 0
        problems: list[str] = []
        try:
            dataset = self._dataset_of(row)
            for _, record in self._opened(row.id):
                opened += record is not None
                lost += record is None
        except VerificationFailed as error:
            return DatasetCheck(name, opened, (str(error),))
        if lost:
            problems.append(f"{lost} records can no longer be opened: their keys were destroyed")
        if opened + lost != dataset.records:
            problems.append(f"expected {dataset.records} records, got {opened + lost}")
        digest = digest_of(self._connection, row.id)
        if digest != dataset.digest:
            problems.append(f"expected digest {dataset.digest}, got {digest}")
        return DatasetCheck(name, opened, tuple(problems))

    # --- writing ------------------------------------------------------------------------------

    def erase(self, subject_id: str) -> ErasureResult:
        """Delete a subject's rows from every dataset, destroy the key, and mark the pseudonym.

        Repeating it is harmless and returns what the first erasure did.

        Raises:
            NotFound: When the vault has never held a record of the subject.
        """
        subject = self.pseudonym(subject_id)
        if self._erasure_of(subject) is None:
            self._delete_rows_of(subject)
        self._finish_erasures()
        self._truncate_write_ahead_log()
        result = self._erasure_of(subject)
        if result is None:  # another process readmitted the subject in between
            raise Conflict("the subject was readmitted during the erasure", fix="erase again")
        return result

    def readmit(self, subject_id: str) -> None:
        """Let an erased subject's records in again, under a new key.

        The caller records in the journal that this was asked for, and why.

        Raises:
            NotFound: When the subject is not erased.
        """
        subject = self.pseudonym(subject_id)
        self._finish_erasures()  # the old key goes before a new one may come
        with self.transaction() as connection:
            done = connection.execute("DELETE FROM erased_subjects WHERE subject = ?", (subject,))
            if done.rowcount == 0:
                raise NotFound("this subject is not erased", fix="check the id's spelling")
            connection.execute(
                "UPDATE subject_keys SET generation = generation + 1 WHERE subject = ?", (subject,)
            )
            # An ingest that was killed has passed the subject by: it must begin anew.
            connection.execute("DELETE FROM ingest_progress")

    def remove(self, name: str) -> Dataset:
        """Delete a dataset's rows. Keys stay: this erases nobody from other datasets.

        Raises:
            NotFound: When there is no such dataset.
        """
        row = self._ready(name)
        dataset = self._dataset_of(row)
        with self.transaction() as connection:
            connection.execute("DELETE FROM datasets WHERE id = ?", (row.id,))
        self._truncate_write_ahead_log()
        return dataset

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable write transaction; an exception rolls it back.

        Raises:
            Conflict: When another process keeps the vault locked, or the disk is full.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise _busy(error) from error
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def ensure_key(self, connection: sqlite3.Connection, subject: str) -> bytes:
        """A subject's data key, made when there is none. Call it inside a transaction."""
        connection.execute("INSERT OR IGNORE INTO subject_keys VALUES (?, 1)", (subject,))
        return self._keys.generate_data_key(self._key_name_of(subject))

    def sealed_datasheet(self, dataset_id: str, name: str, version: int, sheet: Datasheet) -> bytes:
        """A datasheet as it is stored."""
        return sealing.seal_datasheet(self._datasheet_key(), dataset_id, name, version, sheet)

    # --- inside -------------------------------------------------------------------------------

    def _ready(self, name: str) -> ReadyDataset:
        row = self._connection.execute(
            "SELECT id, name, version, datasheet FROM datasets WHERE state = 'ready' AND name = ?",
            (name,),
        ).fetchone()
        if row is None:
            raise NotFound(
                f"there is no dataset {name!r} in the vault",
                fix="`client data list` shows what there is; `client data add` adds one",
            )
        return ReadyDataset(*row)

    def _dataset_of(self, row: ReadyDataset) -> Dataset:
        key = self._datasheet_key()
        sheet = sealing.open_datasheet(key, row.id, row.name, row.version, row.datasheet)
        return Dataset(row.name, row.version, sheet.digest, sheet, row.id)

    def _opened(self, dataset_id: str) -> Iterator[tuple[str, Record | None]]:
        """Each row's subject and record; no record where the key was destroyed."""
        rows = self._connection.execute(
            "SELECT position, subject, sealed FROM records WHERE dataset = ? ORDER BY position",
            (dataset_id,),
        )
        last, key = "", None  # an ingest stores whole subjects one after the other
        for position, subject, sealed in rows:
            if subject != last:
                last, key = subject, self._existing_key(subject)
            if key is None:
                yield subject, None
            else:
                yield subject, sealing.open_record(key, dataset_id, position, subject, sealed)

    def _key_name_of(self, subject: str) -> str:
        row = self._connection.execute(
            "SELECT generation FROM subject_keys WHERE subject = ?", (subject,)
        ).fetchone()
        return subject_key_name(subject, 1 if row is None else int(row[0]))

    def _existing_key(self, subject: str) -> bytes | None:
        try:
            return self._keys.data_key(self._key_name_of(subject))
        except NotFound:
            return None

    def _datasheet_key(self) -> bytes:
        return self._keys.generate_data_key(sealing.DATASHEET_KEY)

    def _erasure_of(self, subject: str) -> ErasureResult | None:
        row = self._connection.execute(
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

    def _delete_rows_of(self, subject: str) -> None:
        """Delete the rows, write new datasheets, and mark the pseudonym: one transaction."""
        with self.transaction() as connection:
            known = connection.execute("SELECT 1 FROM subject_keys WHERE subject = ?", (subject,))
            if known.fetchone() is None:
                raise _unknown_subject()
            touched = rows_of(connection, subject, self._existing_key(subject))
            connection.execute("DELETE FROM records WHERE subject = ?", (subject,))
            connection.execute("DELETE FROM kept_out WHERE subject = ?", (subject,))
            for going in touched:
                describe_without(connection, going, self._datasheet_key())
            connection.execute(
                "INSERT INTO erased_subjects VALUES (?, ?, ?, 0, ?)",
                (
                    subject,
                    json.dumps([going.dataset.name for going in touched]),
                    sum(going.rows for going in touched),
                    utc_now(),
                ),
            )

    def _finish_erasures(self) -> None:
        """Destroy the keys of subjects who are marked erased and whose keys may still exist."""
        pending = self._connection.execute(
            "SELECT subject FROM erased_subjects WHERE key_destroyed = 0"
        ).fetchall()
        for (subject,) in pending:
            self._keys.destroy(self._key_name_of(subject))
            with self.transaction() as connection:
                connection.execute(
                    "UPDATE erased_subjects SET key_destroyed = 1 WHERE subject = ?", (subject,)
                )

    def _truncate_write_ahead_log(self) -> None:
        """Empty the -wal file, so that deleted rows do not linger in it as ciphertext."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def no_such_row(name: str, number: int) -> NotFound:
    """Of a dataset, no such row waits."""
    return NotFound(
        f"no row {number} of {name!r} waits: it was resolved, or its subject erased",
        fix="`client data quarantine list` shows what waits",
    )


def _unknown_subject() -> NotFound:
    return NotFound(
        "the vault holds no record of this subject",
        fix="give the id as it stands in the file's subject column",
    )


def _busy(error: sqlite3.OperationalError) -> Conflict:
    return Conflict(
        f"the vault cannot be used now: {error}",
        fix="wait for other commands of this site to end, and check the disk's free space",
    )
