"""An ingest in the making: rows go in batch by batch, and nobody sees them before `publish`.

Guarantees:

* One ingest at a time: an advisory lock beside the vault, which the system drops with the process.
* After a kill at any point the dataset is as it was before. What the killed ingest left, sealed and
  invisible, is deleted by the next ingest.
* `publish` calls `announce` (the journal entry) first; when that fails, nothing becomes visible.
* A row of an erased subject is left out even when the erasure happens during the ingest.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from audit.errors import Conflict, Refused
from client.vault import sealing
from client.vault.contents import (
    SEARCH_OF_CONTENT,
    Content,
    Dataset,
    Datasheet,
    HeldSubject,
    Provenance,
    Record,
    labels_of,
)
from client.vault.store import Vault
from client.vault.tables import digest_of
from compliance.statements import utc_now


class Staging:
    """A new version of a dataset, invisible until published. Use it as a context manager.

    Leaving the block without `publish` discards what was staged.
    """

    def __init__(
        self, vault: Vault, name: str, *, replace: bool = False, content: Content = "text"
    ) -> None:
        """Prepare; entering the block takes the lock.

        Args:
            vault: Where the dataset goes.
            name: The dataset's name.
            replace: Whether a visible dataset of that name may be replaced.
            content: What its records are.
        """
        self._vault = vault
        self.name = name
        self._replace = replace
        self._content = content
        self._id = secrets.token_hex(16)
        self._version = 1
        self._position = 0
        self._labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._lock = -1
        self._published = False
        self.erased_rows_left_out = 0
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
            if not self._published:
                with self._vault.transaction() as connection:
                    connection.execute("DELETE FROM datasets WHERE id = ?", (self._id,))
        finally:
            os.close(self._lock)

    def add(self, records: Iterable[Record]) -> int:
        """Seal and store a batch, durably; rows of erased subjects are counted and left out.

        Returns:
            How many were stored.
        """
        stored = 0
        keys: dict[str, bytes] = {}  # for one transaction only: an erasure may come after it
        with self._vault.transaction() as connection:
            for record in records:
                subject = record.subject
                erased = connection.execute(
                    "SELECT 1 FROM erased_subjects WHERE subject = ?", (subject,)
                ).fetchone()
                if erased:
                    self.erased_rows_left_out += 1
                    continue
                if subject not in keys:
                    keys[subject] = self._vault.ensure_key(connection, subject)
                sealed = sealing.seal_record(keys[subject], self._id, self._position, record)
                connection.execute(
                    "INSERT INTO records VALUES (?, ?, ?, ?)",
                    (self._id, self._position, subject, sealed),
                )
                self._position += 1
                self._labels[subject].update(labels_of(self._content, record))
                self._groups[subject].update([record.group] if record.group else [])
                stored += 1
        return stored

    def held(self) -> list[HeldSubject]:
        """The subjects whose records are staged, by pseudonym.

        Called while `publish` announces, it tells exactly the subjects of what will show.
        """
        return self._vault.subjects_of(self._id)

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
            rows = connection.execute(
                "SELECT subject, count(*) FROM records WHERE dataset = ? GROUP BY subject",
                (self._id,),
            ).fetchall()
            if not rows:
                raise Refused(
                    f"no record is left for {self.name!r}: {self._reasons(provenance)}",
                    fix="mend the file and add it again; nothing was stored",
                )
            labels: Counter[str] = Counter()
            groups: Counter[str] = Counter()
            for subject, _ in rows:
                labels.update(self._labels[subject])
                groups.update(self._groups[subject])
            sheet = Datasheet(
                created_at=utc_now(),
                purposes=provenance.purposes,
                legal_basis=provenance.legal_basis,
                deidentification_digest=provenance.deidentification_digest,
                content=self._content,
                deidentification=SEARCH_OF_CONTENT[self._content],
                label_counts=dict(labels),
                groups=dict(groups),
                records=sum(count for _, count in rows),
                subjects=len(rows),
                quarantined=dict(provenance.quarantined),
                duplicates_dropped=provenance.duplicates_dropped,
                empty_dropped=provenance.empty_dropped,
                erased_rows_left_out=self.erased_rows_left_out,
                replacements=dict(provenance.replacements),
                digest=digest_of(connection, self._id),
            )
            dataset = Dataset(self.name, self._version, sheet.digest, sheet, self._id)
            sealed = self._vault.sealed_datasheet(self._id, self.name, self._version, sheet)
            announce(dataset)
            connection.execute(
                "DELETE FROM datasets WHERE name = ? AND state = 'ready'", (self.name,)
            )
            connection.execute(
                "UPDATE datasets SET state = 'ready', datasheet = ? WHERE id = ?",
                (sealed, self._id),
            )
        self._published = True
        return dataset

    def _reasons(self, provenance: Provenance) -> str:
        """Why rows were kept out, counted."""
        reasons = [f"{count} {why}" for why, count in sorted(provenance.quarantined.items())]
        if self.erased_rows_left_out:
            reasons.append(f"{self.erased_rows_left_out} of erased subjects")
        return ", ".join(reasons) or "none was given"

    def _begin(self) -> None:
        with self._vault.transaction() as connection:
            gone = connection.execute("DELETE FROM datasets WHERE state = 'building'")
            self.leftovers_removed = gone.rowcount
            row = connection.execute(
                "SELECT version FROM datasets WHERE name = ?", (self.name,)
            ).fetchone()
            if row is not None and not self._replace:
                raise Conflict(
                    f"the vault holds a dataset {self.name!r} already",
                    fix="name another with --dataset, or replace it with --replace",
                )
            self._version = 1 if row is None else int(row[0]) + 1
            connection.execute(
                "INSERT INTO datasets VALUES (?, ?, ?, 'building', NULL)",
                (self._id, self.name, self._version),
            )
