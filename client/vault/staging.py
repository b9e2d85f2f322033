"""An ingest in the making: rows go in batch by batch, and nobody sees them before `publish`.

Guarantees:

* One ingest at a time: an advisory lock beside the vault, which the system drops with the process.
* After a kill at any point the dataset is as it was before. The same work goes on where the killed
  one stopped, by what was stored in the same transaction as the last batch; what other work had
  left, sealed and invisible, is deleted by the next ingest.
* What comes from outside and may pass (`CutOff`, a database or a disk that does not answer, Ctrl-C)
  leaves as much as a kill; after a fault that would come again nothing is left.
* `publish` calls `announce` (the journal entry) first; when that fails, nothing becomes visible.
* A row of an erased subject is left out even when the erasure happens during the ingest.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

from audit.errors import (
    Conflict,
    FiduciaryError,
    MalformedInput,
    Refused,
    Unreachable,
    VerificationFailed,
)
from client.vault import quarantine, sealing
from client.vault.contents import (
    SEARCH_OF_CONTENT,
    Content,
    Dataset,
    Datasheet,
    Done,
    HeldSubject,
    Provenance,
    Record,
)
from client.vault.quarantine import KeptOut
from client.vault.store import Vault
from client.vault.tables import digest_of
from compliance.statements import utc_now


class CutOff(FiduciaryError):
    """Something from outside ended the work, which goes on when it is asked for again."""

    code = "cut-off"


_PASSES = (CutOff, OSError, Unreachable)


class Staging:
    """A new version of a dataset, invisible until published. Use it as a context manager.

    Leaving the block without `publish` discards what was staged, unless the work can go on.
    """

    def __init__(
        self,
        vault: Vault,
        name: str,
        *,
        replace: bool = False,
        content: Content = "text",
        work: str = "",
    ) -> None:
        """Prepare; entering the block takes the lock.

        Args:
            vault: Where the dataset goes.
            name: The dataset's name.
            replace: Whether a visible dataset of that name may be replaced.
            content: What its records are.
            work: Names what is being done, to the byte: a killed ingest of the same work goes on.
                Empty for work that always begins anew.
        """
        self._work = work
        self.done = Done()
        self._vault = vault
        self.name = name
        self._replace = replace
        self._content = content
        self._id = secrets.token_hex(16)
        self._version = 1
        self._position = 0
        self._lock = -1
        self._published = False
        self.leftovers_removed = 0

    def __enter__(self) -> Self:
        """Take the lock, delete what a killed ingest left, and begin.

        Raises:
            Conflict: When another ingest runs, or the dataset exists and may not be replaced.
        """
        path = self._vault.path.with_name(self._vault.path.name + ".ingest-lock")
        self._lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Conflict(
                "another ingest is running at this site", fix="wait until it is done"
            ) from error
        try:
            self._begin()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A fault would come again; who was interrupted, as by Ctrl-C, wants to go on later.
            passes = not isinstance(error, Exception | None) or isinstance(error, _PASSES)
            goes_on = bool(self._work) and passes
            if not self._published and not goes_on:
                with self._vault.transaction() as connection:
                    connection.execute("DELETE FROM datasets WHERE id = ?", (self._id,))
        finally:
            os.close(self._lock)

    def add(
        self,
        records: Iterable[Record],
        more: Done | None = None,
        kept_out: Iterable[KeptOut] = (),
    ) -> int:
        """Seal and store a batch, durably; rows of erased subjects are counted and left out.

        Args:
            records: The batch.
            more: What was done for it, and how far the work has come with it; stored with it.
            kept_out: Rows of it that may not be stored.

        Returns:
            How many were stored.
        """
        stored = erased_rows = 0
        position = self._position
        records, kept_out = list(records), list(kept_out)
        subjects = dict.fromkeys([row.subject for row in records] + [e.subject for e in kept_out])
        with self._vault.transaction() as connection:
            # For this transaction only: an erasure may come after it.
            keys = self._vault.keys.ensure_all(
                [
                    subject
                    for subject in subjects
                    if not connection.execute(
                        "SELECT 1 FROM erased_subjects WHERE subject = ?", (subject,)
                    ).fetchone()
                ]
            )
            for record in records:
                subject = record.subject
                if subject not in keys:
                    erased_rows += 1
                    continue
                sealed = sealing.seal_record(keys[subject], self._id, position, record)
                connection.execute(
                    "INSERT INTO records VALUES (?, ?, ?, ?)",
                    (self._id, position, subject, sealed),
                )
                position += 1
                stored += 1
            number = quarantine.next_number(connection, self._id)
            for entry in kept_out:
                if entry.subject in keys:
                    key = keys[entry.subject]
                    quarantine.insert(connection, self._id, key, number, entry)
                    number += 1
            done = self.done.plus(replace(more or Done(), erased_rows=erased_rows))
            if self._work:
                self._store_progress(connection, done)
        self._position, self.done = position, done
        return stored

    def held(self) -> Iterator[HeldSubject]:
        """The subjects whose records are staged, by pseudonym.

        Called while `publish` announces, it tells exactly the subjects of what will show.
        """
        return self._vault.each_subject_of(self._id)

    def publish(self, provenance: Provenance, announce: Callable[[Dataset], None]) -> Dataset:
        """Make the dataset visible, in place of the version before.

        Args:
            provenance: What the ingest knows of the dataset.
            announce: Writes the journal entry. It is called while the vault is locked, before
                anything is visible; when it raises, the dataset stays invisible.

        Raises:
            Refused: When no record is left to publish.
        """
        with self._vault.transaction() as connection:
            # An erasure during the ingest may have taken rows: count what is there now.
            counts = self._vault.count(self._id, self._content)
            if not counts.records:
                raise Refused(
                    f"no record is left for {self.name!r}: {self._reasons(provenance)}",
                    fix="mend the source and add it again; nothing was stored",
                )
            sheet = Datasheet(
                created_at=utc_now(),
                purposes=provenance.purposes,
                legal_basis=provenance.legal_basis,
                deidentification_digest=provenance.deidentification_digest,
                content=self._content,
                deidentification=SEARCH_OF_CONTENT[self._content],
                label_counts=dict(counts.labels),
                groups=dict(counts.groups),
                records=counts.records,
                subjects=counts.subjects,
                quarantined=dict(provenance.quarantined),
                duplicates_dropped=provenance.duplicates_dropped,
                empty_dropped=provenance.empty_dropped,
                erased_rows_left_out=self.done.erased_rows,
                replacements=dict(provenance.replacements),
                row_terms=counts.row_terms,
                legal_bases=tuple(sorted(counts.legal_bases)),
                cleaned=dict(provenance.cleaned),
                cleaning=provenance.cleaning,
                columns=dict(provenance.columns),
                digest=digest_of(connection, self._id),
            )
            dataset = Dataset(self.name, self._version, sheet.digest, sheet, self._id)
            key = self._vault.keys.of_datasheets()
            sealed = sealing.seal_datasheet(key, self._id, self.name, self._version, sheet)
            announce(dataset)
            connection.execute(
                "DELETE FROM datasets WHERE name = ? AND state = 'ready'", (self.name,)
            )
            connection.execute(
                "UPDATE datasets SET state = 'ready', datasheet = ? WHERE id = ?",
                (sealed, self._id),
            )
            connection.execute("DELETE FROM ingest_progress WHERE dataset = ?", (self._id,))
        self._published = True
        return dataset

    def _reasons(self, provenance: Provenance) -> str:
        """Why rows were kept out, counted."""
        reasons = [f"{count} {why}" for why, count in sorted(provenance.quarantined.items())]
        if self.done.erased_rows:
            reasons.append(f"{self.done.erased_rows} of erased subjects")
        return ", ".join(reasons) or "none was given"

    def _begin(self) -> None:
        with self._vault.transaction() as connection:
            row = connection.execute(
                "SELECT version FROM datasets WHERE name = ? AND state = 'ready'", (self.name,)
            ).fetchone()
            if row is not None and not self._replace:
                raise Conflict(
                    f"the vault holds a dataset {self.name!r} already",
                    fix="name another with --dataset, or replace it with --replace",
                )
            self._version = 1 if row is None else int(row[0]) + 1
            goes_on = self._goes_on(connection)
            gone = connection.execute(
                "DELETE FROM datasets WHERE state = 'building' AND id <> ?", (self._id,)
            )
            self.leftovers_removed = gone.rowcount
            if not goes_on:
                connection.execute(
                    "INSERT INTO datasets VALUES (?, ?, ?, 'building', NULL)",
                    (self._id, self.name, self._version),
                )

    def _goes_on(self, connection: sqlite3.Connection) -> bool:
        """Take over what a killed ingest of the same work left, if there is such a thing."""
        left = connection.execute(
            "SELECT id FROM datasets WHERE state = 'building' AND name = ? AND version = ?",
            (self.name, self._version),
        ).fetchall()
        for (dataset_id,) in left if self._work else ():
            try:
                progress = self._progress_of(connection, dataset_id)
            except (VerificationFailed, MalformedInput):
                continue  # altered, or written by another version: nothing to go on from
            if progress is None or progress[0] != self._work:
                continue
            self._id, self.done = dataset_id, progress[1]
            (last,) = connection.execute(
                "SELECT max(position) FROM records WHERE dataset = ?", (dataset_id,)
            ).fetchone()
            self._position = 0 if last is None else int(last) + 1
            return True
        return False

    def _progress_of(
        self, connection: sqlite3.Connection, dataset_id: str
    ) -> tuple[str, Done] | None:
        """Which work makes a version that nobody sees yet, and how far it came, if it says so."""
        row = connection.execute(
            "SELECT sealed FROM ingest_progress WHERE dataset = ?", (dataset_id,)
        ).fetchone()
        return row and sealing.open_progress(self._vault.keys.of_datasheets(), dataset_id, row[0])

    def _store_progress(self, connection: sqlite3.Connection, done: Done) -> None:
        key = self._vault.keys.of_datasheets()
        sealed = sealing.seal_progress(key, self._id, self._work, done)
        connection.execute(
            "INSERT OR REPLACE INTO ingest_progress VALUES (?, ?)", (self._id, sealed)
        )
