"""Records for tests, and a cheap stand-in for the language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from audit.canonical import canonical_bytes, digest
from client.deidentification.pipeline import (
    Deidentified,
    Outcome,
    Quarantined,
    Reason,
    SourceRecord,
)
from client.ingest import Recorder, ingest
from client.intake import Intake, LabelledRecord
from client.site import Site
from client.source_file import SourceFile
from client.vault import Dataset, Provenance, Record, Staging, Vault

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))

PIPELINE = "sha256:" + "ab" * 32


class WordForWord:
    """A `RecordDeidentifier` that replaces nothing and quarantines texts that say "unfit".

    For tests of what happens around de-identification. It counts its calls, and calls `interrupt`
    before the Nth, where a test wants something to happen in mid-ingest.
    """

    digest = PIPELINE

    def __init__(self) -> None:
        self.batches: list[int] = []

    def deidentify(self, records: Sequence[SourceRecord]) -> list[Outcome]:
        self.batches.append(len(records))
        return [
            Quarantined(Reason.ANALYSIS_FAILED)
            if "unfit" in record.text
            else Deidentified(record.text, {"PERSON": 1})
            for record in records
        ]


def source_file(*rows: tuple[str, str, str]) -> SourceFile:
    """A checked file of `(subject, text, label)` rows."""
    records = [LabelledRecord(SourceRecord(who, text), label) for who, text, label in rows]
    return SourceFile(
        name="notes.csv",
        digest=digest(canonical_bytes(list(map(list, rows)))),
        rows=len(rows),
        characters=sum(len(text) for _, text, _ in rows),
        subjects_with_several_records=sum(n > 1 for n in Counter(r[0] for r in rows).values()),
        again=lambda: iter([(record, record.source.text) for record in records]),
    )


ROWS = tuple(
    (f"P-{n // 2}", f"text number {n}", "even" if n % 2 == 0 else "odd") for n in range(10)
)
"""Five subjects with two records each."""


def add(
    site: Site, vault: Vault, *rows: tuple[str, str, str], intake: Intake | None = None
) -> Dataset:
    """Ingest rows word for word."""
    recorder = Recorder(site.journal, site.principal)
    wanted = Intake(dataset="notes") if intake is None else intake
    return ingest(source_file(*rows), wanted, vault, WordForWord(), recorder).dataset


def stage(vault: Vault, *rows: tuple[str, str, str], name: str = "notes") -> Dataset:
    """Put rows into the vault without an ingest."""
    with Staging(vault, name, replace=True) as staging:
        staging.add(Record(vault.pseudonym(who), text, label) for who, text, label in rows)
        return staging.publish(Provenance(PIPELINE), lambda _dataset: None)


def journalled(site: Site) -> list[str]:
    """The actions in the site's journal, in order."""
    return [leaf.action for leaf in site.journal.leaves()]
