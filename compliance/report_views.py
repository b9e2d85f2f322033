"""Reports as callers see them, for both ends of the wire.

* A report is sections; a section is figures, tables and charts; each figure and each row of a table
  names the positions of the log entries that it comes from, and the report carries their proofs.
* What only people can say stands as they said it in `organisation.toml`, or as a plain blank. No
  figure is ever made up for them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from compliance.statements import Digest, Fraction, Name, Time

REPORT_FORMAT: Final = "fiduciary.report/1"

ReportFormat = Literal["html", "markdown", "json"]
StatedBy = Literal["system", "organisation", "nobody"]

MAX_EVIDENCE_OF_A_FIGURE: Final = 50
"""Entries that one figure links to; `more` says how many others there are, `query` finds all."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EvidenceLink(_Part):
    """Where something comes from.

    Attributes:
        positions: Log entries, oldest first.
        more: How many entries beyond these.
        query: Conditions of `compliance log` that find all of them, where there are more.
    """

    positions: tuple[int, ...] = ()
    more: int = 0
    query: dict[str, str] = Field(default_factory=dict)


class Figure(_Part):
    """One statement of a report.

    Attributes:
        id: Unique in its section.
        label: What is stated.
        value: The statement; None is a blank.
        stated_by: The system from what it did, the organisation in its file, or nobody yet.
        who: Who must state it, where the system cannot.
        key: Its key in `organisation.toml`, where the system cannot.
        evidence: Where it comes from.
    """

    id: Name
    label: str
    value: str | None
    stated_by: StatedBy
    who: str = ""
    key: str = ""
    evidence: EvidenceLink = EvidenceLink()


class Row(_Part):
    """One row of a table."""

    cells: tuple[str, ...]
    evidence: EvidenceLink = EvidenceLink()


class Table(_Part):
    """Rows under heads. `empty` is what it means that there are none."""

    id: Name
    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    empty: str


class Bar(_Part):
    """One bar of a chart, with what it must not pass, where there is such a limit."""

    label: str
    value: Fraction
    limit: Fraction | None = None


class Chart(_Part):
    """Bars that show at a look what a table says exactly."""

    id: Name
    title: str
    unit: str
    bars: tuple[Bar, ...]

    @property
    def scale(self) -> Decimal:
        """The largest value or limit; never zero."""
        values = [bar.value for bar in self.bars]
        limits = [bar.limit for bar in self.bars if bar.limit is not None]
        return max([*values, *limits, Decimal(0)]) or Decimal(1)


class Section(_Part):
    """What one article asks for.

    Attributes:
        id: Unique in the report.
        article: By which article.
        title: In a few words.
        states: What the article asks for.
        figures: Statements.
        tables: Statements of the same kind.
        charts: Pictures of tables.
        notes: What a reader must know to understand them rightly.
    """

    id: Name
    article: str
    title: str
    states: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()


class EvidenceEntry(_Part):
    """A log entry that a report comes from.

    Attributes:
        position: In the log.
        time: When it was recorded.
        actor: Who did it.
        action: What was done.
        object: What it was done to.
        leaf_hash: RFC 6962 hash of the leaf, hexadecimal.
        proof: C2SP tlog-proof with the leaf: `audit verify-proof` checks it. None where a report
            has more entries than it carries proofs for.
    """

    position: int
    time: Time
    actor: str
    action: str
    object: str
    leaf_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    proof: str | None


class ReportDocument(_Part):
    """A whole report.

    Attributes:
        format: Of this document.
        name: Of the report.
        title: For people.
        law: What asks for it.
        as_of: State of the law that it was made by (`registers.toml`).
        retention: How long it must be kept, by which article.
        made_at: When.
        made_by: For whom.
        origin: Name of the log.
        log_size: Entries that the log had: the report is about these.
        organisation: Digest of `organisation.toml`; None where there is none.
        sections: What is asked for, in the law's order.
        evidence: Every entry that is linked to, oldest first.
        blanks: How many statements people still owe.
    """

    format: Literal["fiduciary.report/1"] = REPORT_FORMAT
    name: Name
    title: str
    law: str
    as_of: str
    retention: str
    made_at: Time
    made_by: str
    origin: str
    log_size: int
    organisation: Digest | None
    sections: tuple[Section, ...]
    evidence: tuple[EvidenceEntry, ...]
    blanks: int


class ReportKind(_Part):
    """A report that can be made."""

    name: Name
    title: str
    law: str
    as_of: str


class MadeReport(_Part):
    """A report as it came, and where the log says so.

    Attributes:
        name: Of the report.
        content: The file, byte for byte.
        digest: Of these bytes; the entry's object is `report:` and this.
        position: The entry.
    """

    name: str
    content: bytes
    digest: Digest
    position: int


def report_object(digest: str) -> str:
    """What the log calls a report that was made."""
    return f"report:{digest}"


def plain(value: Any) -> str:
    """A value as a report shows it."""
    return "" if value is None else str(value)
