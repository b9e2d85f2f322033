"""The vault: a site's de-identified records, encrypted under one data key for each subject.

Guarantees:

* On disk, only keyed pseudonyms, dataset names and sizes are in clear (`client.vault.sealing`).
* A dataset is visible complete or not at all (`client.vault.staging`).
* `erase` is final, and a crash does not undo it (`client.vault.erasing`). A copy of the file made
  earlier holds rows that nobody can open any more.
* An erased subject's rows are left out of every later ingest until `readmit`.
* Writes are durable when a call returns (`client.vault.file`).

Options weighed and consequences: docs/adr/0007-vault.md.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from audit.errors import NotFound, VerificationFailed
from audit.words import count_of
from client.vault import erasing, quarantine, sealing
from client.vault.contents import (
    ANY_USE,
    Content,
    Counts,
    Dataset,
    DatasetCheck,
    ErasureResult,
    HeldSubject,
    KeyStore,
    Record,
    SubjectHoldings,
    VaultPaths,
    labels_of,
)
from client.vault.excluding import Exclusion, exclusions
from client.vault.file import VaultFile
from client.vault.keys import VaultKeys
from client.vault.quarantine import KeptOut
from client.vault.tables import ReadyDataset, digest_of


class Vault:
    """One site's vault. Not safe for use from several threads; several processes may share it."""

    def __init__(self, file: VaultFile, keys: VaultKeys) -> None:
        self._file = file
        self._connection = file.connection
        self.keys = keys
        self.path = file.path

    @classmethod
    def open(cls, paths: VaultPaths, keys: KeyStore) -> Self:
        """Open a site's vault, making an empty one where there is none.

        Completes an erasure that a crash interrupted.

        Raises:
            VerificationFailed: When the file is no vault, or one of another format.
            Conflict: When another process keeps it locked.
        """
        file = VaultFile.open(paths.vault)
        with file.closed_on_failure():
            vault = cls(file, VaultKeys(file.connection, keys))
            erasing.finish(file, vault.keys)
        return vault

    def close(self) -> None:
        """Close the file."""
        self._file.close()

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
        """The keyed pseudonym of a subject (`VaultKeys.pseudonym`).

        Raises:
            MalformedInput: When the id is empty.
        """
        return self.keys.pseudonym(subject_id)

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
        for record in self._opened(self._ready(name).id):
            if record is not None:
                yield record

    def is_erased(self, subject_id: str) -> bool:
        """Whether the subject was erased, and not readmitted since."""
        return erasing.erasure_of(self._connection, self.pseudonym(subject_id)) is not None

    def erased(self) -> frozenset[str]:
        """The pseudonyms of all who are erased and were not readmitted."""
        return erasing.erased(self._connection)

    def about(self, subject_id: str) -> SubjectHoldings:
        """What is here of a subject, or was before an erasure.

        Raises:
            NotFound: When the vault has never held a record of the subject.
        """
        subject = self.pseudonym(subject_id)
        if subject not in self.generations():
            raise erasing.unknown_subject()
        counts = self._connection.execute(
            "SELECT name, count(*) FROM records JOIN datasets ON datasets.id = records.dataset"
            " WHERE subject = ? AND state = 'ready' GROUP BY name ORDER BY name",
            (subject,),
        ).fetchall()
        held = tuple((self.dataset(name), int(count)) for name, count in counts)
        return SubjectHoldings(subject, held, erasing.erasure_of(self._connection, subject))

    def exclusions(self) -> list[Exclusion]:
        """Subjects whose records are kept and not used."""
        return exclusions(self._connection)

    def generations(self) -> dict[str, int]:
        """The generation of every known subject's key, by pseudonym; erased ones included."""
        return self.keys.generations()

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
        for record in self._opened(dataset_id):
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
            if (key := self.keys.of_subject(subject)) is not None
        ]

    def split_secret(self) -> bytes:
        """The site's secret for the held-out split by subject (`client.learning.data`)."""
        return self.keys.split_secret()

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
            for record in self._opened(row.id):
                opened += record is not None
                lost += record is None
        except VerificationFailed as error:
            return DatasetCheck(name, opened, (str(error),))
        if lost:
            gone = count_of(lost, "record")
            problems.append(f"{gone} can no longer be opened: the keys were destroyed")
        if opened + lost != dataset.records:
            problems.append(f"expected {count_of(dataset.records, 'record')}, got {opened + lost}")
        digest = digest_of(self._connection, row.id)
        if digest != dataset.digest:
            problems.append(f"expected digest {dataset.digest}, got {digest}")
        return DatasetCheck(name, opened, tuple(problems))

    # --- writing ------------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """One durable write transaction (`VaultFile.transaction`)."""
        return self._file.transaction()

    def erase(self, subject_id: str) -> ErasureResult:
        """Delete a subject's rows from every dataset, destroy the key, and mark the pseudonym.

        Repeating it is harmless and returns what the first erasure did.

        Raises:
            NotFound: When the vault has never held a record of the subject.
        """
        return erasing.erase(self._file, self.keys, self.pseudonym(subject_id))

    def readmit(self, subject_id: str) -> None:
        """Let an erased subject's records in again, under a new key.

        The caller records in the journal that this was asked for, and why.

        Raises:
            NotFound: When the subject is not erased.
        """
        erasing.readmit(self._file, self.keys, self.pseudonym(subject_id))

    def remove(self, name: str) -> Dataset:
        """Delete a dataset's rows. Keys stay: this erases nobody from other datasets.

        Raises:
            NotFound: When there is no such dataset.
        """
        with self.transaction() as connection:
            dataset = self.dataset(name)
            connection.execute("DELETE FROM datasets WHERE id = ?", (dataset.id,))
        self._file.truncate_write_ahead_log()
        return dataset

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
        key = self.keys.of_datasheets()
        sheet = sealing.open_datasheet(key, row.id, row.name, row.version, row.datasheet)
        return Dataset(row.name, row.version, sheet.digest, sheet, row.id)

    def _opened(self, dataset_id: str) -> Iterator[Record | None]:
        """Each row's record; None where its key was destroyed."""
        rows = self._connection.execute(
            "SELECT position, subject, sealed FROM records WHERE dataset = ? ORDER BY position",
            (dataset_id,),
        )
        last, key = "", None  # an ingest stores whole subjects one after the other
        for position, subject, sealed in rows:
            if subject != last:
                last, key = subject, self.keys.of_subject(subject)
            if key is None:
                yield None
            else:
                yield sealing.open_record(key, dataset_id, position, subject, sealed)
