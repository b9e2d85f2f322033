"""What the vault holds and hands out: records, datasets, and what an erasure did.

* A `Record` is de-identified text. Nothing here ever carries an original identifier.
* `VaultPaths` and `KeyStore` say what the vault needs of its site, and nothing more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

from pydantic import Field

from compliance.statements import Digest, Document, Name, Text, Time

Content = Literal["text", "spans", "language", "table", "image"]
"""What the records of a dataset are (docs/adr/0021): texts with a class each, texts with labelled
parts, texts alone, rows of a table, pictures."""

Search = Literal["identifiers-replaced", "rows-kept-out", "pixels-not-searched"]
"""What was done about identifiers: stand-ins for them in text; rows kept out whose cells hold any;
nothing but metadata removed from pictures."""

SEARCH_OF_CONTENT: Final[Mapping[Content, Search]] = {
    "text": "identifiers-replaced",
    "spans": "identifiers-replaced",
    "language": "identifiers-replaced",
    "table": "rows-kept-out",
    "image": "pixels-not-searched",
}


class VaultPaths(Protocol):
    """Where a site keeps its vault."""

    @property
    def vault(self) -> Path:
        """The SQLite file. Its folder exists; the file may not."""
        ...


class KeyStore(Protocol):
    """The part of `audit.key_manager.DataKeys` that the vault uses."""

    def generate_data_key(self, name: str, /) -> bytes:
        """The 32-byte key of that name, made durably if there was none.

        Raises:
            KeyDestroyed: When it was destroyed.
        """
        ...

    def make_data_keys(self, names: Collection[str], /) -> None:
        """Make those of the keys that there never were, durably, in one write."""
        ...

    def data_key(self, name: str, /) -> bytes:
        """The key of that name.

        Raises:
            NotFound: When there is none (KeyDestroyed: not any more).
        """
        ...

    def destroy(self, name: str, /) -> bool:
        """Destroy the key durably and for ever. True when there was one."""
        ...

    def secret(self, name: str, /) -> bytes:
        """A 32-byte secret of this site, made on first use and the same ever after."""
        ...


@dataclass(frozen=True)
class Terms:
    """What one record may be used for, where it is less than its dataset.

    Attributes:
        purposes: Of the dataset's purposes; None for all of them.
        legal_basis: Instead of the dataset's; empty for the same.
    """

    purposes: tuple[str, ...] | None = None
    legal_basis: str = ""

    def allow(self, purpose: str, legal_basis: str, of_dataset: str) -> bool:
        """Whether a plan may use the record, whose dataset is for the plan's purpose.

        Args:
            purpose: The plan's.
            legal_basis: The plan's.
            of_dataset: The dataset's legal basis.
        """
        for_purpose = self.purposes is None or purpose in self.purposes
        return for_purpose and (self.legal_basis or of_dataset) == legal_basis


ANY_USE: Final = Terms()
"""Of a record that says nothing of its own."""


@dataclass(frozen=True)
class Record:
    """One de-identified record of one data subject.

    Attributes:
        subject: Keyed pseudonym of the subject, 64 hexadecimal digits.
        text: De-identified content: text, a row's cells as a canonical JSON object of strings, or a
            PNG in base64.
        label: The class, as the source file spelt it; of labelled spans, canonical JSON
            `[[start, end, "LABEL"], …]` over `text`; empty where there is none.
        group: What evaluation is sliced by; empty for none.
        terms: What this record alone may be used for.
        originals: What was replaced, sealed to a key that the site does not have
            (`client.originals`), in base64; empty when it cannot be revealed.
    """

    subject: str
    text: str
    label: str
    group: str = ""
    terms: Terms = ANY_USE
    originals: str = ""


def labels_of(content: Content, record: Record) -> list[str]:
    """The labels that a record carries: one class, one for each of its spans, or none.

    >>> labels_of("spans", Record("p", "ache and rash", '[[0,4,"SIGN"],[9,13,"SIGN"]]'))
    ['SIGN', 'SIGN']
    """
    if content == "spans":
        return [str(label) for _, _, label in json.loads(record.label)]
    return [record.label] if record.label else []


class Datasheet(Document):
    """What is known of a dataset. Sealed at rest: counts and labels are private too."""

    later: ClassVar[Mapping[str, int]] = {
        "content": 2,
        "groups": 2,
        "deidentification": 2,
        "row_terms": 3,
        "legal_bases": 3,
        "cleaned": 3,
        "columns": 3,
        "cleaning": 3,
    }

    format: Literal["fiduciary.datasheet/1"] = "fiduciary.datasheet/1"
    created_at: Time
    purposes: tuple[Name, ...] = ()
    """Purposes that the site's operator stated; empty means none was stated."""
    legal_basis: str = ""
    content: Content = "text"
    deidentification: Search = "identifiers-replaced"
    deidentification_digest: Digest
    label_counts: dict[Text, Annotated[int, Field(ge=1)]]
    """Records of each class, or spans of each label."""
    groups: dict[Text, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Records of each group."""
    records: Annotated[int, Field(ge=0)]
    subjects: Annotated[int, Field(ge=0)]
    quarantined: dict[str, int] = Field(default_factory=dict)
    """Rows that were kept out, by reason."""
    duplicates_dropped: int = 0
    empty_dropped: int = 0
    erased_rows_left_out: int = 0
    replacements: dict[str, int] = Field(default_factory=dict)
    """Identifiers replaced, by kind."""
    row_terms: bool = False
    """Whether some records may be used for less than the dataset as a whole (`Terms`)."""
    legal_bases: tuple[Name, ...] = ()
    """Legal bases of single records, beside the dataset's own."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What each column of the source was read for (`client.intake.Columns.roles`)."""
    cleaned: dict[str, int] = Field(default_factory=dict)
    """Rows that a step of cleaning changed or left out, by step (`client.cleaning.steps`)."""
    cleaning: str = ""
    """The steps that were declared, as JSON (`client.cleaning.settings`)."""
    digest: Digest


def uses_of(record: Record, sheet: Datasheet) -> dict[str, Any]:
    """For what one record may be used, and on what basis, as JSON."""
    purposes = sheet.purposes if record.terms.purposes is None else record.terms.purposes
    return {
        "purposes": list(purposes),
        "legal_basis": record.terms.legal_basis or sheet.legal_basis,
    }


@dataclass(frozen=True)
class Provenance:
    """What an ingest says of the dataset it made; the vault adds what it counts itself.

    Attributes:
        deidentification_digest: Names the whole de-identification pipeline.
        purposes: Purposes that the operator stated.
        legal_basis: Legal basis that the operator stated.
        quarantined: Rows kept out, by reason.
        duplicates_dropped: Exact duplicates of another row of the file.
        empty_dropped: Rows that lacked subject, content or label.
        replacements: Identifiers replaced, by kind.
        cleaned: Rows that cleaning changed or left out, by step.
        cleaning: The steps that were declared, as JSON.
        columns: What each column of the source was read for.
    """

    deidentification_digest: str
    purposes: tuple[str, ...] = ()
    legal_basis: str = ""
    quarantined: Mapping[str, int] = field(default_factory=dict)
    duplicates_dropped: int = 0
    empty_dropped: int = 0
    replacements: Mapping[str, int] = field(default_factory=dict)
    cleaned: Mapping[str, int] = field(default_factory=dict)
    cleaning: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """How far an ingest has come: what its staged rows do not tell.

    Attributes:
        reached: Pseudonym of the last subject whose records are done; those of lower ones are too.
        rows: Records done, kept out ones among them.
        repeated: Rows left out because they repeat another.
        erased_rows: Rows of erased subjects, left out.
        quarantined: Rows kept out, by reason.
        replacements: Identifiers replaced, by kind.
        cleaned: Rows that cleaning changed or left out, by step.
    """

    reached: str = ""
    rows: int = 0
    repeated: int = 0
    erased_rows: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    replacements: Mapping[str, int] = field(default_factory=dict)
    cleaned: Mapping[str, int] = field(default_factory=dict)

    def plus(self, other: Done) -> Done:
        """Both together; the other is the later one."""
        return Done(
            other.reached,
            self.rows + other.rows,
            self.repeated + other.repeated,
            self.erased_rows + other.erased_rows,
            dict(Counter(self.quarantined) + Counter(other.quarantined)),
            dict(Counter(self.replacements) + Counter(other.replacements)),
            dict(Counter(self.cleaned) + Counter(other.cleaned)),
        )


@dataclass(frozen=True)
class Counts:
    """What the rows of a dataset hold, counted."""

    records: int
    subjects: int
    labels: Mapping[str, int]
    groups: Mapping[str, int]
    legal_bases: frozenset[str]
    row_terms: bool


@dataclass(frozen=True)
class Dataset:
    """A visible dataset: complete, committed, and named in the site's journal.

    Attributes:
        name: The operator's name for it.
        version: 1, then one more for each replacement.
        digest: Digest over the sealed rows (`Vault.dataset_digest`); an erasure changes it.
        datasheet: What is known of it.
        id: Random; no other version has it, also when a removed name is used again.
    """

    name: str
    version: int
    digest: str
    datasheet: Datasheet
    id: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that occur, sorted."""
        return tuple(sorted(self.datasheet.label_counts))

    @property
    def subjects(self) -> int:
        """Number of subjects that remain."""
        return self.datasheet.subjects

    @property
    def records(self) -> int:
        """Number of records that remain."""
        return self.datasheet.records


@dataclass(frozen=True)
class ErasureResult:
    """What erasing one subject did. Repeating an erasure returns the first one's result.

    Attributes:
        pseudonym: The subject's keyed pseudonym.
        datasets: Names of the datasets that held records of the subject, sorted.
        records_removed: Records deleted from them.
        key_destroyed: Whether the subject's data key is gone beyond recovery.
        erased_at: RFC 3339 time of the first erasure.
    """

    pseudonym: str
    datasets: tuple[str, ...]
    records_removed: int
    key_destroyed: bool
    erased_at: str


@dataclass(frozen=True)
class HeldSubject:
    """A subject of a dataset.

    Attributes:
        pseudonym: The subject's keyed pseudonym.
        generation: Which of the subject's keys seals the records (`audit.log.subject_key_name`).
        records: How many records.
    """

    pseudonym: str
    generation: int
    records: int


@dataclass(frozen=True)
class SubjectHoldings:
    """What the vault knows of one subject.

    Attributes:
        pseudonym: The subject's keyed pseudonym.
        datasets: Visible datasets with records of the subject, each with how many; by name.
        erasure: What the erasure did, when the subject is erased and not readmitted.
    """

    pseudonym: str
    datasets: tuple[tuple[Dataset, int], ...]
    erasure: ErasureResult | None


@dataclass(frozen=True)
class DatasetCheck:
    """What `Vault.verify` found.

    Attributes:
        name: The dataset.
        records: Records that were opened and read.
        problems: One sentence for each thing that is wrong; empty when all is well.
    """

    name: str
    records: int
    problems: tuple[str, ...] = field(default=())
