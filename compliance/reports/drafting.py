"""How a report is put together: section by section as the law lists them, figure by figure.

* A section that the law does not list, or that nobody drafted, is an error: a report is whole.
* What people must state is added to each section by itself, from `organisation.toml` or as a blank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain

from compliance.report_views import (
    MAX_EVIDENCE_OF_A_FIGURE,
    Bar,
    Chart,
    EvidenceLink,
    Figure,
    Row,
    Section,
    Table,
)
from compliance.reports.facts import ActionFacts
from compliance.reports.organisation import Organisation
from compliance.rules.registers import ReportLaw, SectionLaw


def link(positions: Iterable[int], **query: str) -> EvidenceLink:
    """A link to entries; of very many the newest, and how to find all.

    Args:
        positions: In any order, each as often as it likes.
        query: Conditions of `compliance log` that find them all.
    """
    ordered = sorted(set(positions))
    shown = ordered[-MAX_EVIDENCE_OF_A_FIGURE:]
    more = len(ordered) - len(shown)
    return EvidenceLink(positions=tuple(shown), more=more, query=query if more else {})


def link_of(action: ActionFacts) -> EvidenceLink:
    """A link to all entries of one action."""
    more = action.count - len(action.positions)
    query = {"action": action.action} if more else {}
    return EvidenceLink(positions=action.positions, more=more, query=query)


class SectionDraft:
    """One section in the making."""

    def __init__(self, law: SectionLaw, organisation: Organisation) -> None:
        self._law = law
        self._organisation = organisation
        self._figures: list[Figure] = []
        self._tables: list[Table] = []
        self._charts: list[Chart] = []
        self._notes: list[str] = []

    @property
    def law(self) -> SectionLaw:
        """What the section must state."""
        return self._law

    def figure(
        self, identity: str, label: str, value: object, evidence: EvidenceLink | None = None
    ) -> None:
        """State what the system did."""
        self._figures.append(
            Figure(
                id=identity,
                label=label,
                value=f"{value}",
                stated_by="system",
                evidence=evidence or EvidenceLink(),
            )
        )

    def count(self, identity: str, label: str, positions: Sequence[int], **query: str) -> None:
        """State how many entries there are; each position counts once."""
        self.figure(identity, label, len(set(positions)), link(positions, **query))

    def table(
        self,
        identity: str,
        title: str,
        heads: Sequence[str],
        rows: Iterable[tuple[Sequence[object], EvidenceLink]],
        empty: str,
    ) -> None:
        """State things of one kind."""
        made = tuple(
            Row(cells=tuple("" if cell is None else f"{cell}" for cell in cells), evidence=evidence)
            for cells, evidence in rows
        )
        self._tables.append(
            Table(id=identity, title=title, heads=tuple(heads), rows=made, empty=empty)
        )

    def chart(
        self,
        identity: str,
        title: str,
        unit: str,
        bars: Iterable[tuple[str, Decimal | int, Decimal | int | None]],
    ) -> None:
        """Show what a table says; nothing to show is no chart."""
        made = tuple(
            Bar(
                label=label,
                value=Decimal(value),
                limit=None if limit is None else Decimal(limit),
            )
            for label, value, limit in bars
        )
        if made:
            self._charts.append(Chart(id=identity, title=title, unit=unit, bars=made))

    def note(self, text: str) -> None:
        """Say what a reader must know."""
        self._notes.append(text)

    def finished(self) -> Section:
        """The section, with what people state."""
        people = (self._people(index) for index in range(len(self._law.people)))
        return Section(
            id=self._law.id,
            article=self._law.article,
            title=self._law.title,
            states=self._law.states,
            figures=tuple(chain(self._figures, people)),
            tables=tuple(self._tables),
            charts=tuple(self._charts),
            notes=tuple(self._notes),
        )

    def _people(self, index: int) -> Figure:
        asked = self._law.people[index]
        value = self._organisation.stated.get(asked.key)
        return Figure(
            id=asked.key.replace("_", "-"),
            label=asked.label,
            value=value,
            stated_by="nobody" if value is None else "organisation",
            who=asked.who,
            key=asked.key,
        )


class ReportDraft:
    """A report in the making.

    Args:
        law: What it must state.
        organisation: What people stated.
    """

    def __init__(self, law: ReportLaw, organisation: Organisation) -> None:
        self.law = law
        self._drafts = {section.id: SectionDraft(section, organisation) for section in law.section}

    def section(self, identity: str) -> SectionDraft:
        """A section that the law lists.

        Raises:
            KeyError: When it lists none of that id.
        """
        return self._drafts[identity]

    def finished(self) -> tuple[Section, ...]:
        """All sections, in the law's order."""
        return tuple(draft.finished() for draft in self._drafts.values())


def positions_of(sections: Iterable[Section]) -> tuple[int, ...]:
    """Every entry that sections link to, oldest first."""
    found: set[int] = set()
    for section in sections:
        for figure in section.figures:
            found.update(figure.evidence.positions)
        for table in section.tables:
            for row in table.rows:
                found.update(row.evidence.positions)
    return tuple(sorted(found))


def blanks_of(sections: Iterable[Section]) -> int:
    """How many statements people still owe."""
    return sum(figure.value is None for section in sections for figure in section.figures)
