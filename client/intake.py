"""What the operator says of a source: which columns say what, and what the records are for.

* Decisions are checked when they are made, before anything is read.
* What is wrong is named with its option, never with a value of a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, get_args

from pydantic import TypeAdapter, ValidationError

from audit.errors import MalformedInput
from client.cleaning.settings import NO_CLEANING, Cleaning
from client.deidentification.pipeline import SourceRecord
from client.labelled_spans import LabelledSpan
from client.vault.contents import ANY_USE, Content, Terms
from compliance.statements import MAX_FEATURES, Name, TrainingPlan

LEGAL_BASES: tuple[str, ...] = get_args(TrainingPlan.model_fields["legal_basis"].annotation)

MAX_LABEL_CHARACTERS = 200

MAX_GROUPS = 100
"""As many as a plan can declare."""

MAX_GROUP_CHARACTERS = 100

MAX_COLUMN_CHARACTERS = 100
"""Of a table's column: as much as a plan can name (`compliance.statements.Feature`)."""

COLUMNS_OF_CONTENT: Final[Mapping[Content, tuple[str, ...]]] = {
    "text": ("text", "label"),
    "spans": ("text", "spans"),
    "language": ("text",),
    "table": ("cells", "label"),
    "image": ("image", "label"),
}
"""Which of `Columns` a kind of content has; the subject, and no other."""


@dataclass(frozen=True)
class Columns:
    """Which columns of the file say what.

    Attributes:
        subject: The person's id; kept only as a keyed pseudonym.
        text: Free text; kept de-identified.
        label: The class; kept as it is.
        known: Columns that identify the subject; searched for in the content, never kept.
        content: What the records are.
        group: What evaluation is sliced by; kept as it is.
        spans: Labelled parts of the text (`client.labelled_spans`).
        features: Columns of a table (`client.table_rows`).
        categories: Columns of a table too, of few values that many people share.
        image: Paths of pictures (`client.pictures`).
        suppress_rare: Whether cells of categories that few people share are emptied.
        consent: Whether the row's person consents; a row without consent is left out.
        purposes: What a row may be used for, of the purposes that were stated for all.
        legal_basis: On what legal basis a row is processed, where not all are on the same.
    """

    subject: str
    text: str = ""
    label: str = ""
    known: tuple[str, ...] = ()
    content: Content = "text"
    group: str = ""
    spans: str = ""
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    image: str = ""
    suppress_rare: bool = False
    consent: str = ""
    purposes: str = ""
    legal_basis: str = ""

    def __post_init__(self) -> None:
        if not self.subject:
            raise MalformedInput(
                "no column says whose record it is", fix="name the person's id with --subject"
            )
        needed = COLUMNS_OF_CONTENT[self.content]
        for name in ("text", "label", "spans", "cells", "image"):
            option = "--features or --categories" if name == "cells" else f"--{name}"
            if bool(getattr(self, name)) != (name in needed):
                says = "needs" if name in needed else "has no"
                raise MalformedInput(
                    f"--kind {self.content} {says} {option}",
                    fix="`client data add --help` tells which columns each kind has",
                )
        terms = {self.consent, self.purposes, self.legal_basis} - {""}
        if self.suppress_rare and not self.categories:
            raise MalformedInput(
                "--suppress-rare empties cells of categories, and none are named",
                fix="name them with --categories",
            )
        kept_out = {self.subject, self.label, *self.known, *terms}
        cells = self.cells
        if len(cells) > MAX_FEATURES or any(len(name) > MAX_COLUMN_CHARACTERS for name in cells):
            raise MalformedInput(
                f"a table has at most {MAX_FEATURES} columns with names of at most"
                f" {MAX_COLUMN_CHARACTERS} characters",
                fix="name fewer, or rename them in the file",
            )
        if foreign := sorted(kept_out & set(cells)):
            raise MalformedInput(
                f"column {foreign[0]!r} names the subject or the class, so it is no feature",
                fix="leave it out of --features and --categories",
            )

    @property
    def cells(self) -> tuple[str, ...]:
        """All columns of a table, each once."""
        return tuple(dict.fromkeys((*self.features, *self.categories)))

    @property
    def roles(self) -> dict[str, str]:
        """What each column is read for, by its name in the source: the schema of what is stored."""
        one = ("subject", "text", "label", "group", "spans", "image", "consent", "purposes")
        said = [(str(getattr(self, role)), role) for role in (*one, "legal_basis")]
        said += [(name, "feature") for name in self.features]
        said += [(name, "category") for name in self.categories]
        said += [(name, "known, not stored") for name in self.known]
        roles: dict[str, str] = {}
        for name, role in said:
            if name:
                roles[name] = f"{roles[name]}; {role}" if name in roles else role
        return roles

    @property
    def wanted(self) -> tuple[str, ...]:
        """Everything to read, each once."""
        one = (self.subject, self.text, self.label, self.group, self.spans, self.image)
        terms = (self.consent, self.purposes, self.legal_basis)
        return tuple(
            dict.fromkeys(name for name in (*one, *terms, *self.cells, *self.known) if name)
        )


@dataclass(frozen=True)
class Intake:
    """What the operator decided about a file.

    Attributes:
        dataset: Name of the dataset.
        purposes: What the records may be used for.
        legal_basis: On what legal basis; one of `LEGAL_BASES` or "".
        replace: Whether a dataset of that name may be replaced.
        drop_duplicates: Keep the first of several equal rows instead of refusing the file.
        drop_empty: Leave out rows without subject, content or label instead of refusing the file.
        accept_unsearched_pixels: Store pictures, though nobody searches them for names or faces.
        cleaning: Steps before records are de-identified.
    """

    dataset: str
    purposes: tuple[str, ...] = ()
    legal_basis: str = ""
    replace: bool = False
    drop_duplicates: bool = False
    drop_empty: bool = False
    accept_unsearched_pixels: bool = False
    cleaning: Cleaning = NO_CLEANING

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
    """A row of the source, checked. Never stored.

    Attributes:
        source: Whose it is, and its content: text, a row's cells (`stored_row`), or the path of a
            picture.
        label: The class; empty where the content has none.
        group: What evaluation is sliced by; empty for none.
        spans: Labelled parts of the text, in order.
        terms: What this row alone may be used for.
    """

    source: SourceRecord
    label: str = ""
    group: str = ""
    spans: tuple[LabelledSpan, ...] = ()
    terms: Terms = ANY_USE


def described(columns: Columns, intake: Intake) -> dict[str, Any]:
    """Every decision that changes what an ingest stores, as JSON."""
    decided = {**asdict(intake), "cleaning": intake.cleaning.digest}
    said = {**asdict(columns), **{f"intake.{key}": value for key, value in decided.items()}}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}
