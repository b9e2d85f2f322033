"""What the law asks of registers and reports, as data (`registers.toml`).

* Every article, deadline and period that a register or a report shows comes from that file, with
  the version that the log names. None is in code.
* A duty that the code asks for and the file lacks is an error at the first use, never a silent no.

Decision record: docs/adr/0037-registers.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from audit.errors import MalformedInput
from compliance.rules.retention import ActionPattern
from compliance.statements import Document, Name
from compliance.toml_file import parse_toml

MAX_HOURS: Final = 24 * 366
"""A longer clock is a mistake in the file: no register counts a year in hours."""

MAX_YEARS: Final = 100

Sentence = Annotated[str, Field(min_length=1, max_length=600)]
Article = Annotated[str, Field(min_length=1, max_length=200)]
StatementKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,39}\.[a-z][a-z0-9_]{1,59}$")]
"""Where people state something in `organisation.toml`: table and key."""


class Duty(Document):
    """Something that must be done; `registers.toml` explains the fields."""

    id: Name
    article: Article
    says: Sentence
    hours: Annotated[int, Field(strict=True, ge=1, le=MAX_HOURS)] | None = None
    warn_hours: Annotated[int, Field(strict=True, ge=0, le=MAX_HOURS)] | None = None
    years: Annotated[int, Field(strict=True, ge=1, le=MAX_YEARS)] | None = None

    @model_validator(mode="after")
    def _warns_before_the_end(self) -> Self:
        if self.hours is None and self.warn_hours is not None:
            raise ValueError(f"{self.id}: warn_hours without hours")
        if self.hours is not None and (self.warn_hours or 0) >= self.hours:
            raise ValueError(f"{self.id}: warns before the clock starts")
        return self


class PeopleState(Document):
    """What only people can state, and where they do."""

    key: StatementKey
    label: Sentence
    who: Sentence


class Metric(Document):
    """A kind of request that a law counts, and the rights that are of that kind."""

    id: Name
    rights: Annotated[tuple[Name, ...], Field(min_length=1)]
    article: Article
    label: Sentence


class SectionLaw(Document):
    """What one article asks a report to state."""

    id: Name
    article: Article
    title: Sentence
    states: Sentence
    people: tuple[PeopleState, ...] = ()
    actions: tuple[ActionPattern, ...] = ()


class ReportLaw(Document):
    """What a report must state, section by section, in the law's order."""

    name: Name
    title: Sentence
    law: Sentence
    retention: Sentence
    section: Annotated[tuple[SectionLaw, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({section.id for section in self.section}) != len(self.section):
            raise ValueError(f"{self.name}: each section id may appear once")
        return self


class LawBook(Document):
    """All of `registers.toml`."""

    format: Literal["fiduciary.registers/1"]
    version: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    duty: tuple[Duty, ...]
    legal_basis: dict[Name, Article] = Field(default_factory=dict)
    metric: tuple[Metric, ...] = ()
    report: tuple[ReportLaw, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({duty.id for duty in self.duty}) != len(self.duty):
            raise ValueError("duty: each id may appear once")
        if len({report.name for report in self.report}) != len(self.report):
            raise ValueError("report: each name may appear once")
        return self

    def duty_of(self, identity: str) -> Duty:
        """A duty by its id.

        Raises:
            MalformedInput: When the file has none of that id.
        """
        for duty in self.duty:
            if duty.id == identity:
                return duty
        raise MalformedInput(f"malformed registers: no duty {identity}")

    def report_of(self, name: str) -> ReportLaw | None:
        """A report by its name; None when there is none of that name."""
        return next((report for report in self.report if report.name == name), None)

    def people_state(self) -> Iterator[tuple[SectionLaw, PeopleState]]:
        """Everything that people can state, the first time that a report asks for it."""
        seen: set[str] = set()
        for report in self.report:
            for section in report.section:
                for asked in section.people:
                    if asked.key not in seen:
                        seen.add(asked.key)
                        yield section, asked


@cache
def default_law() -> LawBook:
    """The law of this version of the product."""
    return parse_law(files("compliance.rules").joinpath("registers.toml").read_bytes())


def parse_law(data: bytes) -> LawBook:
    """Read a law book.

    Raises:
        MalformedInput: With the line or key that is wrong.
    """
    return parse_toml(data, LawBook, "registers.toml")
