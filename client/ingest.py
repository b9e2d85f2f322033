"""From a file of people's records to an encrypted, de-identified dataset: all of it, or nothing.

1. The whole file is read and checked (`client.source_file`): what is wrong with it is said before
   anything is stored.
2. Records are de-identified, subject by subject, in memory. Raw content is never written to disk.
3. What came out is sealed into a version of the dataset that nobody sees.
4. The journal says what is about to become visible, also to each subject under the subject's own
   key; then it does, in one transaction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from audit.log import Entry
from client.deidentification.pipeline import (
    Deidentifier,
    Outcome,
    Quarantined,
    Reason,
    SourceRecord,
)
from client.labelled_spans import spans_after, stored_spans
from client.pictures import PictureFolder
from client.source_file import Columns, Intake, LabelledRecord, SourceFile
from client.subject_trail import READMITTED, JournalWriter, record_ingested
from client.table_rows import TableDeidentifier
from client.vault import Content, Dataset, HeldSubject, Provenance, Record, Staging, Vault

BATCH_RECORDS = 64
"""Records de-identified and stored together; whole subjects, so a batch may be larger."""


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did.

    Attributes:
        dataset: As it is now visible.
        subjects_with_several_records: In the file.
        interrupted_ingests_removed: Leftovers of killed ingests that were deleted first.
    """

    dataset: Dataset
    subjects_with_several_records: int = 0
    interrupted_ingests_removed: int = 0


class RecordDeidentifier(Protocol):
    """The part of `client.deidentification.pipeline.Deidentifier` that an ingest uses.

    Tables and pictures have another in its place (`deidentifier_for`).
    """

    @property
    def digest(self) -> str:
        """Names the whole pipeline."""
        ...

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        """One outcome for each record; all records of a subject come in one call."""
        ...


class Recorder:
    """Where an ingest says what it does: the site's journal."""

    def __init__(self, journal: JournalWriter, actor: str) -> None:
        """Name the journal and the actor.

        Args:
            journal: The site's journal; what it records is durable when it returns.
            actor: Who adds the data, such as `site:north`.
        """
        self._journal = journal
        self._actor = actor

    def about_to_show(self, dataset: Dataset, held: Iterable[HeldSubject]) -> None:
        """The entries before a dataset becomes visible: its subjects', then its own."""
        record_ingested(self._journal, self._actor, dataset, held)
        sheet = dataset.datasheet
        self._write(
            "dataset-added",
            dataset.name,
            {
                "version": dataset.version,
                "digest": dataset.digest,
                "records": sheet.records,
                "subjects": sheet.subjects,
                "content": sheet.content,
                "quarantined": dict(sheet.quarantined),
                "purposes": list(sheet.purposes),
                "legal_basis": sheet.legal_basis,
                "deidentification": sheet.deidentification,
                "deidentification_digest": sheet.deidentification_digest,
            },
        )

    def removed(self, dataset: Dataset) -> None:
        """The entry before a dataset is removed."""
        self._write(
            "dataset-removed",
            dataset.name,
            {"version": dataset.version, "digest": dataset.digest},
        )

    def readmitted(self, pseudonym: str, reason: str) -> None:
        """The entry before an erased subject may come back."""
        self._journal.record(
            Entry(
                actor=self._actor,
                action=READMITTED,
                object=f"subject:{pseudonym}",
                subject=pseudonym,
                payload={"reason": reason},
                outlives_subject=True,
            )
        )

    def _write(self, action: str, name: str, payload: dict[str, Any]) -> None:
        self._journal.record(
            Entry(
                actor=self._actor,
                action=action,
                object=f"dataset:{name}",
                subject=None,
                payload=payload,
            )
        )


def deidentifier_for(
    path: Path, columns: Columns, source: SourceFile, secret: bytes
) -> RecordDeidentifier:
    """What de-identifies the records of a checked file.

    Args:
        path: The file.
        columns: As it was read.
        source: What was read.
        secret: 32 bytes of this site; decides the stand-ins.

    Raises:
        VerificationFailed: When the language model's files are not the reviewed ones.
        NotFound: When the model is not installed.
    """
    match columns.content:
        case "image":
            return PictureFolder(path.parent)
        case "table":
            records = (record.source for record in source.records)
            return TableDeidentifier(Deidentifier(secret), columns.categories, records)
        case _:
            return Deidentifier(secret)


def ingest(
    source: SourceFile,
    intake: Intake,
    vault: Vault,
    deidentifier: RecordDeidentifier,
    recorder: Recorder,
    progress: Callable[[int, int], None] | None = None,
) -> IngestResult:
    """De-identify, seal and publish a checked file.

    Args:
        source: What `read_source` read.
        intake: The operator's decisions.
        vault: Where the dataset goes.
        deidentifier: The site's pipeline.
        recorder: The site's journal.
        progress: Told how many records are done, of how many.

    Raises:
        Conflict: When the dataset exists, or another ingest runs.
        Refused: When no record is left.
    """
    quarantined: Counter[str] = Counter()
    replacements: Counter[str] = Counter()
    done = 0
    with Staging(vault, intake.dataset, replace=intake.replace, content=source.content) as staging:
        for batch in _whole_subjects(source.records):
            outcomes = deidentifier.deidentify([record.source for record in batch])
            kept = []
            for record, outcome in zip(batch, outcomes, strict=True):
                stored = _stored(vault, source.content, record, outcome)
                if isinstance(stored, Quarantined):
                    quarantined[stored.counted_as] += 1
                else:
                    kept.append(stored.record)
                    replacements.update(stored.replaced)
            staging.add(kept)
            done += len(batch)
            if progress is not None:
                progress(done, len(source.records))
        provenance = Provenance(
            deidentification_digest=deidentifier.digest,
            purposes=intake.purposes,
            legal_basis=intake.legal_basis,
            quarantined=quarantined,
            duplicates_dropped=source.duplicates_dropped,
            empty_dropped=source.empty_dropped,
            replacements=replacements,
        )
        dataset = staging.publish(
            provenance, lambda dataset: recorder.about_to_show(dataset, staging.held())
        )
    return IngestResult(dataset, source.subjects_with_several_records, staging.leftovers_removed)


class _Stored(NamedTuple):
    """A record for the vault, and how many findings of each kind were replaced in it."""

    record: Record
    replaced: Mapping[str, int]


def _stored(
    vault: Vault, content: Content, record: LabelledRecord, outcome: Outcome
) -> _Stored | Quarantined:
    if isinstance(outcome, Quarantined):
        return outcome
    label = record.label
    if content == "spans":
        spans = spans_after(record.spans, outcome)
        if spans is None:
            return Quarantined(Reason.SPANS_IN_ONE_IDENTIFIER)
        label = stored_spans(spans)
    subject = vault.pseudonym(record.source.subject)
    return _Stored(Record(subject, outcome.text, label, record.group), outcome.replaced)


def _whole_subjects(records: Sequence[LabelledRecord]) -> Iterator[list[LabelledRecord]]:
    """Batches in which every subject has all of its records, in the order of first appearance."""
    by_subject: defaultdict[str, list[LabelledRecord]] = defaultdict(list)
    for record in records:
        by_subject[record.source.subject].append(record)
    batch: list[LabelledRecord] = []
    for group in by_subject.values():
        batch.extend(group)
        if len(batch) >= BATCH_RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch
