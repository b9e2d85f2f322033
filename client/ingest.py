"""From a source of people's records to an encrypted, de-identified dataset: all of it, or nothing.

1. The whole source is read and checked (`client.source_file`): what is wrong with it is said before
   anything is stored.
2. It is read again, part by part: each time, the records of those subjects are kept whose
   pseudonyms lie in the part's range. Raw content is in memory only, one part at a time, and is
   never written to disk.
3. A part's records are de-identified, whole subjects in the order of their pseudonyms, and sealed
   into a version of the dataset that nobody sees. How far this came is stored in the same
   transaction, so that after a kill the same command goes on with the next subject.
4. The journal says what is about to become visible, also to each subject under the subject's own
   key; then it does, in one transaction.

Options weighed: docs/adr/0042-sources.md.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from audit.canonical import canonical_bytes, digest
from audit.log import Entry
from client.cleaning.settings import Cleaning
from client.cleaning.steps import clean_subject
from client.deidentification.pipeline import (
    Deidentifier,
    Outcome,
    Quarantined,
    Reason,
    SourceRecord,
)
from client.deidentification.policy import STAND_INS, ReplacementPolicy, Reveal
from client.deidentifier_pool import DeidentifierPool
from client.intake import Columns, Intake, LabelledRecord
from client.labelled_spans import spans_after, stored_spans
from client.originals import seal_originals
from client.pictures import PictureFolder
from client.source_file import NO_FOLDER, SourceFile
from client.source_parts import PART_CHARACTERS, SubjectRecords, batches
from client.subject_trail import READMITTED, JournalWriter, record_ingested
from client.table_rows import TableDeidentifier
from client.vault import Content, Dataset, Done, HeldSubject, Provenance, Record, Staging, Vault
from client.vault.quarantine import KeptOut, row_digest

BATCHES_AHEAD = 2
"""What a pool of processes is given before the batch that is waited for is done."""


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did.

    Attributes:
        dataset: As it is now visible.
        subjects_with_several_records: In the file.
        interrupted_ingests_removed: Leftovers of killed ingests that were deleted first.
        resumed: Whether it went on where a killed one had stopped.
    """

    dataset: Dataset
    subjects_with_several_records: int = 0
    interrupted_ingests_removed: int = 0
    resumed: bool = False


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
    folder: Path | None,
    columns: Columns,
    source: SourceFile,
    secret: bytes,
    policy: ReplacementPolicy = STAND_INS,
    workers: int = 1,
) -> RecordDeidentifier:
    """What de-identifies the records of a checked source.

    Args:
        folder: Where pictures are that the source names.
        columns: As it was read.
        source: What was read.
        secret: 32 bytes of this site; decides the stand-ins.
        policy: What replaces each kind of identifier.
        workers: Of text, how many processes; more than one are a pool, to be used as a context.

    Raises:
        VerificationFailed: When the language model's files are not the reviewed ones.
        NotFound: When the model is not installed.
    """
    match columns.content:
        case "image":
            return PictureFolder(folder or NO_FOLDER)
        case "table":
            records = (record.source for record, _ in source.read())
            pipeline = Deidentifier(secret, policy=policy)
            return TableDeidentifier(pipeline, columns.categories, records, columns.suppress_rare)
        case _ if workers > 1:
            return DeidentifierPool(secret, workers, partial(Deidentifier, policy=policy))
        case _:
            return Deidentifier(secret, policy=policy)


def ingest(
    source: SourceFile,
    intake: Intake,
    vault: Vault,
    deidentifier: RecordDeidentifier,
    recorder: Recorder,
    progress: Callable[[int, int], None] | None = None,
    part_characters: int = PART_CHARACTERS,
    reveal: Reveal | None = None,
    columns: Columns | None = None,
) -> IngestResult:
    """De-identify, seal and publish a checked source.

    Args:
        source: What `read_source` read.
        intake: The operator's decisions.
        vault: Where the dataset goes.
        deidentifier: The site's pipeline.
        recorder: The site's journal.
        progress: Told how many records are done, of how many.
        part_characters: How much of the source may be in memory at once.
        reveal: To whom originals are sealed; None: they are forgotten.
        columns: As the source was read; remembered of rows that are kept out.

    Raises:
        Conflict: When the dataset exists, another ingest runs, or the source changed meanwhile.
        Refused: When no record is left.
    """
    work = digest(canonical_bytes([source.digest, deidentifier.digest]))
    with Staging(
        vault, intake.dataset, replace=intake.replace, content=source.content, work=work
    ) as staging:
        done = staging.done
        resumed = bool(done.reached)
        cleaned = map(
            partial(_cleaned, intake.cleaning),
            batches(source, vault.pseudonym, done.reached, part_characters),
        )
        for batch, outcomes in _with_outcomes(cleaned, deidentifier):
            kept: list[Record] = []
            kept_out: list[KeptOut] = []
            replaced: Counter[str] = Counter()
            for record, outcome in zip(batch.records, outcomes, strict=True):
                stored = stored_form(vault, source.content, record, outcome, reveal)
                if isinstance(stored, Quarantined):
                    kept_out.append(_kept_out(vault, record, stored, columns))
                else:
                    kept.append(stored.record)
                    replaced.update(stored.replaced)
            staging.add(
                kept,
                Done(
                    reached=batch.subjects[-1].pseudonym,
                    rows=sum(len(one.records) for one in batch.subjects),
                    repeated=sum(one.repeated for one in batch.subjects),
                    quarantined=Counter(entry.reason for entry in kept_out),
                    replacements=replaced,
                    cleaned=batch.steps,
                ),
                kept_out,
            )
            done = staging.done
            if progress is not None:
                progress(done.rows + done.repeated, source.rows)
        dataset = staging.publish(
            Provenance(
                deidentification_digest=deidentifier.digest,
                purposes=intake.purposes,
                legal_basis=intake.legal_basis,
                quarantined=Counter(source.left_out) + Counter(done.quarantined),
                duplicates_dropped=done.repeated,
                empty_dropped=source.empty_dropped,
                replacements=done.replacements,
                cleaned=Counter(source.cleaned) + Counter(done.cleaned),
                cleaning=intake.cleaning.declared,
                columns=source.columns,
            ),
            lambda dataset: recorder.about_to_show(dataset, staging.held()),
        )
    return IngestResult(
        dataset,
        source.subjects_with_several_records,
        staging.leftovers_removed,
        resumed=resumed,
    )


class _Batch(NamedTuple):
    """Whole subjects, their records after cleaning, and how often each step of it applied."""

    subjects: list[SubjectRecords]
    records: list[LabelledRecord]
    steps: Counter[str]


def _cleaned(cleaning: Cleaning, subjects: list[SubjectRecords]) -> _Batch:
    batch = _Batch(subjects, [], Counter())
    for one in subjects:
        fit, steps = clean_subject(cleaning, one.records)
        batch.records.extend(fit)
        batch.steps.update(steps)
    return batch


def _with_outcomes(
    cleaned: Iterable[_Batch], deidentifier: RecordDeidentifier
) -> Iterator[tuple[_Batch, list[Outcome]]]:
    """Each batch with its outcomes, in order; a pool works on the next ones meanwhile."""
    ahead: deque[tuple[_Batch, Callable[[], list[Outcome]]]] = deque()
    for batch in cleaned:
        sources = [record.source for record in batch.records]
        if not isinstance(deidentifier, DeidentifierPool):
            yield batch, deidentifier.deidentify(sources)
            continue
        ahead.append((batch, deidentifier.start(sources)))
        if len(ahead) > BATCHES_AHEAD:
            first, outcomes = ahead.popleft()
            yield first, outcomes()
    for batch, outcomes in ahead:
        yield batch, outcomes()


def _kept_out(
    vault: Vault, record: LabelledRecord, why: Quarantined, columns: Columns | None
) -> KeptOut:
    return KeptOut(
        vault.pseudonym(record.source.subject),
        why.counted_as,
        row_digest(record.source.text),
        {} if columns is None else json.loads(json.dumps(asdict(columns))),
    )


class Stored(NamedTuple):
    """A record for the vault, and how many findings of each kind were replaced in it."""

    record: Record
    replaced: Mapping[str, int]


def stored_form(
    vault: Vault,
    content: Content,
    record: LabelledRecord,
    outcome: Outcome,
    reveal: Reveal | None,
) -> Stored | Quarantined:
    """What the vault holds of a record, or why it may not.

    Args:
        vault: Makes the subject's pseudonym.
        content: What the records are.
        record: The record.
        outcome: What the pipeline made of it.
        reveal: To whom originals are sealed; None: they are forgotten.
    """
    if isinstance(outcome, Quarantined):
        return outcome
    label = record.label
    if content == "spans":
        spans = spans_after(record.spans, outcome)
        if spans is None:
            return Quarantined(Reason.SPANS_IN_ONE_IDENTIFIER)
        label = stored_spans(spans)
    subject = vault.pseudonym(record.source.subject)
    originals = "" if reveal is None else seal_originals(outcome.originals, reveal.key, subject)
    sealed = Record(subject, outcome.text, label, record.group, record.terms, originals)
    return Stored(sealed, outcome.replaced)
