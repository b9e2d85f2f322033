"""Requests of data subjects, as California counts them (11 CCR 7102)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median

from compliance.report_views import EvidenceLink
from compliance.reports.drafting import ReportDraft, SectionDraft, link
from compliance.reports.facts import Facts, RequestFacts
from compliance.rules.registers import LawBook

CALIFORNIA = "ccpa"
"""The jurisdiction that officers file such requests under (`deadlines.toml`)."""

RESULTS = ("in whole", "in part", "denied", "nothing found", "expired", "open")


def request_metrics(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """Counts by kind and calendar year of receipt, and how long answers took."""
    asked = [item for item in facts.requests if item.jurisdiction == CALIFORNIA]
    section = draft.section("metrics")
    section.figure(
        "requests",
        "Requests by consumers in California, all years",
        len(asked),
        link(item.positions[0] for item in asked),
    )
    section.table(
        "metrics",
        "By calendar year of receipt (UTC)",
        (
            "year",
            "kind",
            "article",
            "received",
            "complied in whole",
            "complied in part",
            "denied",
            "nothing found",
            "expired",
            "open",
            "median days",
        ),
        _metrics(asked, law),
        "Nobody has asked under Californian law.",
    )
    section.note(
        "Nothing found: no site knew the person, so there was nothing to comply with or to deny. "
        "Expired: nobody proved who asked. Days count from receipt, whatever verification took."
    )
    section.chart(
        "days",
        "Days to answer, median of each kind over all years",
        "days",
        (
            (metric.label, middle, None)
            for metric in law.metric
            if (middle := _median([item for item in asked if item.right in metric.rights]))
            is not None
        ),
    )
    _deadlines(draft.section("deadlines"), asked, facts.now)
    denied = [item for item in asked if item.result == "denied"]
    grounds = sorted({item.ground or "a site refused" for item in denied})
    denials = draft.section("denials")
    denials.figure(
        "denied",
        "Requests denied, all years",
        len(denied),
        link(position for item in denied for position in item.positions),
    )
    denials.table(
        "grounds",
        "By ground",
        ("ground", "requests"),
        (
            (
                (ground, len(found)),
                link(position for item in found for position in item.positions),
            )
            for ground in grounds
            for found in [[item for item in denied if (item.ground or "a site refused") == ground]]
        ),
        "No request was denied.",
    )


def is_late(item: RequestFacts, now: datetime) -> bool:
    """Whether a request was answered after its deadline, or waits beyond it."""
    end = now if item.finished_at is None else datetime.fromisoformat(item.finished_at)
    return end > datetime.fromisoformat(item.due_at)


def _metrics(
    asked: Sequence[RequestFacts], law: LawBook
) -> Iterator[tuple[tuple[object, ...], EvidenceLink]]:
    for year in sorted({_year(item) for item in asked}):
        for metric in law.metric:
            found = [item for item in asked if _year(item) == year and item.right in metric.rights]
            if not found:
                continue
            results = [sum(item.result == result for item in found) for result in RESULTS]
            middle = _median(found)
            cells = (
                year,
                metric.label,
                metric.article,
                len(found),
                *results,
                "none answered" if middle is None else middle,
            )
            yield cells, link(position for item in found for position in item.positions)


def _deadlines(section: SectionDraft, asked: Sequence[RequestFacts], now: datetime) -> None:
    late = [item for item in asked if is_late(item, now)]
    section.figure(
        "late",
        "Requests answered late, or late and open",
        len(late),
        link(position for item in late for position in item.positions),
    )
    extended = [item for item in asked if item.extended_at is not None]
    section.figure(
        "extended",
        "Requests for which the longer period was taken",
        len(extended),
        link(position for item in extended for position in item.positions),
    )
    confirmable = [item for item in asked if item.confirm_by is not None]
    unconfirmed = [
        item
        for item in confirmable
        if _passed(item.confirm_by, item.confirmed_at or item.finished_at, now)
    ]
    section.figure(
        "unconfirmed",
        "Requests whose receipt was confirmed late, or not yet and late",
        len(unconfirmed),
        link(position for item in unconfirmed for position in item.positions),
    )


def _passed(by: str | None, done: str | None, now: datetime) -> bool:
    if by is None:
        return False
    end = now if done is None else datetime.fromisoformat(done)
    return end > datetime.fromisoformat(by)


def _year(item: RequestFacts) -> int:
    return datetime.fromisoformat(item.received_at).astimezone(UTC).year


def _median(items: Sequence[RequestFacts]) -> Decimal | None:
    taken = [days for item in items if (days := item.days()) is not None]
    return median(taken) if taken else None
