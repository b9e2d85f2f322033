"""From a file of people's records to an encrypted, de-identified dataset: all of it, or nothing.

1. The whole file is read and checked; what is wrong with it is said before anything is stored.
2. Records are de-identified, subject by subject, in memory. Raw text is never written to disk.
3. What came out is sealed into a version of the dataset that nobody sees.
4. The journal says what is about to become visible, also to each subject under the subject's own
   key; then it does, in one transaction.

Several rows of one subject are that person's records and stay together. The same text twice for one
subject is a mistake in the file, refused unless the operator says otherwise.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from pydantic import TypeAdapter, ValidationError

from audit.errors import MalformedInput
from audit.log import Entry
from client.deidentification.pipeline import Deidentified, Outcome, Quarantined, SourceRecord
from client.subject_trail import READMITTED, JournalWriter, record_ingested
from client.tables import read_rows
from client.vault import Dataset, HeldSubject, Provenance, Record, Staging, Vault
from compliance.statements import MAX_LABELS, Name, TrainingPlan

BATCH_RECORDS = 64
"""Records de-identified and stored together; whole subjects, so a batch may be larger."""

LEGAL_BASES: tuple[str, ...] = get_args(TrainingPlan.model_fields["legal_basis"].annotation)

MAX_LABEL_CHARACTERS = 200


class UnfitRows(MalformedInput):
    """Rows without subject, text or label."""

    code = "unfit-rows"


class DuplicateRows(MalformedInput):
    """The same text twice for one subject."""

    code = "duplicate-rows"


@dataclass(frozen=True)
class Columns:
    """Which columns of the file say what.

    Attributes:
        subject: The person's id; kept only as a keyed pseudonym.
        text: Free text; kept de-identified.
        label: The class; kept as it is.
        known: Columns that identify the subject; searched for in the text, never kept.
    """

    subject: str
    text: str
    label: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Intake:
    """What the operator decided about a file.

    Attributes:
        dataset: Name of the dataset.
        purposes: What the records may be used for.
        legal_basis: On what legal basis; one of `LEGAL_BASES` or "".
        replace: Whether a dataset of that name may be replaced.
        drop_duplicates: Keep the first of several equal rows instead of refusing the file.
        drop_empty: Leave out rows without subject, text or label instead of refusing the file.
    """

    dataset: str
    purposes: tuple[str, ...] = ()
    legal_basis: str = ""
    replace: bool = False
    drop_duplicates: bool = False
    drop_empty: bool = False

    def __post_init__(self) -> None:
        for what, name in (("dataset", self.dataset), *(("purpose", p) for p in self.purposes)):
            try:
                TypeAdapter(Name).validate_python(name)
            except ValidationError as error:
                raise MalformedInput(
                    f"malformed {what} name {name!r}",
                    fix="use 1 to 64 lower-case letters, digits, '.', '_' and '-'",
                ) from error
        if self.legal_basis and self.legal_basis not in LEGAL_BASES:
            raise MalformedInput(
                f"unknown legal basis {self.legal_basis!r}", fix=f"one of {', '.join(LEGAL_BASES)}"
            )


@dataclass(frozen=True)
class LabelledRecord:
    """A row of the source, checked. Never stored."""

    source: SourceRecord
    label: str


@dataclass(frozen=True)
class SourceFile:
    """A checked file.

    Attributes:
        records: In the order of the file.
        duplicates_dropped: Rows left out because they repeat another.
        empty_dropped: Rows left out because something is missing.
    """

    records: tuple[LabelledRecord, ...]
    duplicates_dropped: int = 0
    empty_dropped: int = 0

    @property
    def subjects_with_several_records(self) -> int:
        """How many subjects have more than one record."""
        counts = Counter(record.source.subject for record in self.records)
        return sum(count > 1 for count in counts.values())


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
    """The part of `client.deidentification.pipeline.Deidentifier` that an ingest uses."""

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
                "quarantined": dict(sheet.quarantined),
                "purposes": list(sheet.purposes),
                "legal_basis": sheet.legal_basis,
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


def read_source(path: Path, columns: Columns, intake: Intake) -> SourceFile:
    """Read and check a whole file.

    Raises:
        MalformedTable, MissingColumns, NotFound: See `client.tables.read_rows`.
        UnfitRows: When a row lacks subject, text or label, and they are not to be dropped.
        DuplicateRows: When a subject has the same text twice, and they are not to be dropped.
        MalformedInput: When the labels cannot be classes.
    """
    wanted = (columns.subject, columns.text, columns.label, *columns.known)
    records: list[LabelledRecord] = []
    seen: set[tuple[str, str]] = set()
    unfit: list[str] = []
    repeated: list[str] = []
    for row in read_rows(path, wanted):
        subject, text, label, *known = (value.strip() for value in row.values)
        lacking = [
            what
            for what, value in (("subject", subject), ("text", text), ("label", label))
            if not value
        ]
        if lacking:
            unfit.append(f"{row.place} has no {lacking[0]}")
            continue
        subject = unicodedata.normalize("NFC", subject)
        if (subject, text) in seen:
            repeated.append(row.place)
            continue
        seen.add((subject, text))
        source = SourceRecord(subject, text, tuple(value for value in known if value))
        records.append(LabelledRecord(source, label))
    if unfit and not intake.drop_empty:
        raise UnfitRows(
            f"{path.name}: {unfit[0]}{_and_more(unfit)}",
            fix="fill or remove the rows, or leave them out with --drop-empty",
        )
    if repeated and not intake.drop_duplicates:
        raise DuplicateRows(
            f"{path.name}: {repeated[0]} repeats the text of an earlier row of the same subject"
            f"{_and_more(repeated)}",
            fix="remove the repeated rows, or keep the first of each with --allow-duplicates",
        )
    if not records:
        raise UnfitRows(f"{path.name} has no record", fix="add rows below the header")
    _check_labels(path, columns, records)
    return SourceFile(tuple(records), len(repeated), len(unfit))


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
    with Staging(vault, intake.dataset, replace=intake.replace) as staging:
        for batch in _whole_subjects(source.records):
            outcomes = deidentifier.deidentify([record.source for record in batch])
            kept = []
            for record, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Quarantined):
                    quarantined[outcome.reason.value] += 1
                else:
                    replacements.update(outcome.replaced)
                    kept.append(_stored(vault, record, outcome))
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


def _stored(vault: Vault, record: LabelledRecord, outcome: Deidentified) -> Record:
    return Record(vault.pseudonym(record.source.subject), outcome.text, record.label)


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


def _check_labels(path: Path, columns: Columns, records: Iterable[LabelledRecord]) -> None:
    labels = {record.label for record in records}
    if len(labels) > MAX_LABELS or any(len(label) > MAX_LABEL_CHARACTERS for label in labels):
        raise MalformedInput(
            f"{path.name}: column {columns.label!r} does not look like classes"
            f" ({len(labels)} different values)",
            fix="name the column of the classes with --label",
        )


def _and_more(places: Sequence[str]) -> str:
    more = len(places) - 1
    return f" (and {more} more such rows)" if more else ""
