"""Resolving a row that an ingest kept out: it is found in its source, mended, and asked for again.

* A row is released only as what the pipeline makes of it: what the operator cut out of it is gone,
  the rest is de-identified with all that is known of its subject, and whatever may not be stored
  then stays out.
* The dataset changes in one step, after the journal's entries: the subject's own, and which row was
  released. Discarding is journalled too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import TypeAdapter

from audit.errors import MalformedInput, NotFound, Refused
from audit.log import Entry
from client.cleaning.settings import NO_CLEANING, Cleaning
from client.deidentification.pipeline import Outcome, Quarantined, Reason
from client.deidentification.policy import Reveal
from client.ingest import RecordDeidentifier, stored_form
from client.intake import Columns, Intake, LabelledRecord
from client.recall.review import Marks, Row
from client.source_file import read_source
from client.sources.source import Source
from client.subject_trail import JournalWriter, record_ingested
from client.vault import Dataset, HeldSubject, Vault
from client.vault.quarantine import KeptOut, row_digest
from client.vault.resolving import discard_row, no_such_row, release_row

RELEASED: Final = "dataset-row-released"
DISCARDED: Final = "dataset-row-discarded"

RELEASABLE: Final = ("text", "language")

ADVICE: Final[Mapping[str, str]] = {
    Reason.TOO_LONG: "split the text in the source, then add the dataset again",
    Reason.NOT_TEXT: "mend the text's characters in the source, then add the dataset again",
    Reason.ANALYSIS_FAILED: "release it with less text, or mend the source",
    Reason.NO_SURROGATE: "release it with what could not be replaced cut out",
    Reason.IDENTIFIER_LEFT: "release it with what is left cut out",
    Reason.IDENTIFIER_IN_CELL: "remove the identifier from the cell, then add the dataset again",
    Reason.SPANS_IN_ONE_IDENTIFIER: "mend the labelled spans, then add the dataset again",
}


def advice(entry: KeptOut) -> str:
    """What to do about a row."""
    return ADVICE.get(entry.reason.partition(" ")[0], "mend the source, then add the dataset again")


def cleaning_of(dataset: Dataset) -> Cleaning:
    """How a dataset's source was cleaned."""
    declared = dataset.datasheet.cleaning
    return Cleaning.model_validate_json(declared) if declared else NO_CLEANING


def waiting(vault: Vault, name: str, number: int) -> KeptOut:
    """A row that nobody resolved.

    Raises:
        NotFound: When there is none.
    """
    for entry in vault.kept_out(name):
        if entry.number == number:
            return entry
    raise no_such_row(name, number)


@dataclass(frozen=True)
class Found:
    """A row in its source, in memory only.

    Attributes:
        records: All records of its subject.
        at: Which of them it is.
    """

    records: tuple[LabelledRecord, ...]
    at: int

    @property
    def record(self) -> LabelledRecord:
        """The row itself."""
        return self.records[self.at]

    def row(self) -> Row:
        """The row, to be looked at; nothing of it is marked."""
        return Row("", self.record.source.text, (), "")

    def without(self, marks: Marks) -> Found:
        """The same with what was marked cut out."""
        text = self.record.source.text
        for start, end in sorted(marks.missed, reverse=True):
            text = text[:start] + text[end:]
        record = replace(self.record, source=replace(self.record.source, text=text))
        records = (*self.records[: self.at], record, *self.records[self.at + 1 :])
        return Found(records, self.at)

    def outcome(self, deidentifier: RecordDeidentifier) -> Outcome:
        """What the pipeline makes of it, with all that is known of its subject."""
        return deidentifier.deidentify([one.source for one in self.records])[self.at]


def find(vault: Vault, dataset: Dataset, entry: KeptOut, source: Source) -> Found:
    """The row that an entry is about.

    Raises:
        NotFound: When the source holds no such row any more.
        FiduciaryError: When the source cannot be read; see `client.source_file.read_source`.
    """
    columns = _columns(entry.columns)
    intake = Intake(
        dataset.name,
        drop_duplicates=True,
        drop_empty=True,
        accept_unsearched_pixels=True,
        cleaning=cleaning_of(dataset),
    )
    records: dict[str, LabelledRecord] = {}
    for record, content in read_source(source, columns, intake).read():
        if vault.pseudonym(record.source.subject) == entry.subject:
            records.setdefault(content, record)
    kept = tuple(records.values())
    for at, record in enumerate(kept):
        if row_digest(record.source.text) == entry.row:
            return Found(kept, at)
    raise NotFound(
        f"{source.name} does not hold row {entry.number}, or not as it was",
        fix="name the source that the dataset was added from; once it is mended, add it again",
    )


def release(
    vault: Vault,
    journal: JournalWriter,
    actor: str,
    dataset: Dataset,
    entry: KeptOut,
    found: Found,
    outcome: Outcome,
    reveal: Reveal | None = None,
) -> Dataset:
    """Add what became of a row to its dataset.

    Args:
        vault: The site's.
        journal: The site's.
        actor: Who releases it.
        dataset: Whose row it is.
        entry: Which row.
        found: The row, with what was cut out of it.
        outcome: What the pipeline made of that.
        reveal: To whom originals are sealed; None: they are forgotten.

    Raises:
        Refused: When the pipeline keeps it out again, or rows of this kind cannot be released.
        NotFound: When somebody resolved it meanwhile.
    """
    if dataset.datasheet.content not in RELEASABLE:
        raise Refused(
            f"a row of {dataset.datasheet.content} cannot be released",
            fix="mend the source, and add the dataset again with --replace",
        )
    stored = stored_form(vault, dataset.datasheet.content, found.record, outcome, reveal)
    if isinstance(stored, Quarantined):
        raise Refused(
            f"the row is kept out again: {stored.counted_as}",
            fix="cut out more of it, discard it, or mend the source",
        )

    def announce(changed: Dataset, held: HeldSubject) -> None:
        record_ingested(journal, actor, changed, [held])
        journal.record(_entry(actor, RELEASED, changed, entry, {"digest": changed.digest}))

    return release_row(vault, dataset.name, entry.number, stored.record, stored.replaced, announce)


def discard(
    vault: Vault, journal: JournalWriter, actor: str, dataset: Dataset, entry: KeptOut, why: str
) -> None:
    """Leave a row out for good.

    Raises:
        MalformedInput: When no reason is given.
    """
    if not why.strip():
        raise MalformedInput("no reason given", fix="say why with --reason")
    journal.record(_entry(actor, DISCARDED, dataset, entry, {"why": why.strip()}))
    discard_row(vault, dataset.name, entry.number)


def _columns(said: Mapping[str, Any]) -> Columns:
    if not said:
        raise MalformedInput(
            "it is not known how the source's columns were read",
            fix="add the dataset again with --replace",
        )
    return TypeAdapter(Columns).validate_python(said)


def _entry(
    actor: str, action: str, dataset: Dataset, entry: KeptOut, more: Mapping[str, Any]
) -> Entry:
    return Entry(
        actor=actor,
        action=action,
        object=f"dataset:{dataset.name}",
        subject=None,
        payload={"version": dataset.version, "row": entry.number, "reason": entry.reason, **more},
    )
