"""Records for a simulation: a file as `client data add` reads it, or synthetic messages.

Nothing is de-identified, so only public or synthetic data belongs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.errors import MalformedInput
from audit.words import count_of
from client.dataset_rules import CONTENT_OF_TASK
from client.deidentification.pipeline import Deidentified
from client.demo_notes import LABELS, Profile, write_notes
from client.intake import Columns, Intake
from client.labelled_spans import stored_spans
from client.learning.data import StoredRecord
from client.pictures import PictureFolder
from client.source_file import read_source
from compliance.statements import TaskName

SYNTHETIC_LABELS: Final = LABELS
"""What the synthetic messages are about; a plan for them names these labels."""


@dataclass(frozen=True)
class ColumnNames:
    """Which columns of a file say what; empty for none. As the options of `client data add`."""

    subject: str = ""
    text: str = ""
    label: str = ""
    spans: str = ""
    features: tuple[str, ...] = ()
    image: str = ""
    group: str = ""
    site: str = ""


@dataclass(frozen=True)
class Collected:
    """What a simulation trains on.

    Attributes:
        records: As a site would keep them, but for their identifiers.
        sites: Of each record, what the site column says; empty without one.
        repeated: Rows left out because they repeat another.
        incomplete: Rows left out because something is missing.
    """

    records: tuple[StoredRecord, ...]
    sites: tuple[str, ...] = ()
    repeated: int = 0
    incomplete: int = 0


def read_file(path: Path, task: TaskName, names: ColumnNames) -> Collected:
    """Read a file of public or synthetic records.

    Rows that repeat another or lack something are left out and counted.

    Args:
        path: CSV, JSON lines or Parquet.
        task: Decides what a record is.
        names: Columns.

    Raises:
        MalformedInput: As `client.source_file.read_source`, or when a row names no site.
        NotFound: When there is no such file.
    """
    columns = Columns(
        subject=names.subject,
        text=names.text,
        label=names.label,
        # `known` values are read beside the content and never kept: what a site column needs.
        known=(names.site,) if names.site else (),
        content=CONTENT_OF_TASK[task],
        group=names.group,
        spans=names.spans,
        features=names.features,
        image=names.image,
    )
    intake = Intake(
        "simulated", drop_duplicates=True, drop_empty=True, accept_unsearched_pixels=True
    )
    source = read_source(path, columns, intake)
    found = source.records
    texts = [record.source.text for record in found]
    if columns.content == "image":
        outcomes = PictureFolder(path.parent).deidentify([item.source for item in found])
        texts = [item.text for item in outcomes if isinstance(item, Deidentified)]
    records = tuple(
        StoredRecord(
            record.source.subject,
            text,
            stored_spans(record.spans) if columns.content == "spans" else record.label,
            record.group,
        )
        for record, text in zip(found, texts, strict=True)
    )
    told: Sequence[str] = ()
    if names.site:
        told = [next(iter(record.source.known), "") for record in found]
        if "" in told:
            raise MalformedInput(
                f"{path.name}: {count_of(told.count(''), 'row')} without a site in column"
                f" {names.site!r}",
                fix="fill the column, or leave --site-column out",
            )
    return Collected(records, tuple(told), source.duplicates_dropped, source.empty_dropped)


def synthetic(folder: Path, subjects: int, seed: int) -> Collected:
    """Synthetic messages to a hospital, those of `client data demo`.

    Args:
        folder: Where they are written; an empty one, or none yet.
        subjects: How many people write.
        seed: The same seed gives the same messages.
    """
    written = write_notes(folder, Profile.HOSPITAL, site="simulation", subjects=subjects, seed=seed)
    names = ColumnNames(subject="subject_id", text="text", label="label")
    return read_file(written.notes, "text-classification", names)
