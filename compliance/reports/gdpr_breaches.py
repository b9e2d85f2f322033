"""The register of personal data breaches (GDPR Art. 33 and 34)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from compliance.breach_views import BreachView
from compliance.report_views import EvidenceLink
from compliance.reports.drafting import ReportDraft, SectionDraft, link
from compliance.reports.facts import Facts
from compliance.rules.registers import LawBook

_HOUR = Decimal(3600)

_STATUS = {
    "running": "running",
    "due-soon": "running, due soon",
    "overdue": "OVERDUE",
    "in-time": "notified in time",
    "late": "notified late",
    "not-required": "no deadline",
}


def breaches(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """Every breach, as it stands, against the law's clock."""
    _register(draft.section("register"), facts)
    _authority(draft.section("authority"), facts, law)
    draft.section("controller").table(
        "controller",
        "Breaches of data that are processed for another controller",
        ("breach", "aware", "controller told", "hours after awareness"),
        (
            (
                (
                    view.name,
                    view.aware_at,
                    view.controller_at or "not told",
                    _hours_to(view, "controller_at"),
                ),
                _evidence(view),
            )
            for view in facts.breaches
            if view.role == "processor"
        ),
        "None.",
    )
    draft.section("contents").table(
        "contents",
        "People and records concerned",
        ("breach", "people, about", "whose", "records, about", "which"),
        (
            (
                (
                    view.name,
                    _or_blank(view.content.subjects),
                    _or_blank(view.content.categories_of_subjects),
                    _or_blank(view.content.records),
                    _or_blank(view.content.categories_of_data),
                ),
                _evidence(view),
            )
            for view in facts.breaches
        ),
        "No breach is on record.",
    )
    draft.section("subjects").table(
        "subjects",
        "Breaches with a high risk to people",
        ("breach", "people told", "why not"),
        (
            (
                (
                    view.name,
                    view.subjects_at or "not told",
                    view.content.reasons_not_to_tell_subjects,
                ),
                _evidence(view),
            )
            for view in facts.breaches
            if view.risk == "high" or view.subjects_at is not None
        ),
        "None.",
    )


def _register(section: SectionDraft, facts: Facts) -> None:
    views = facts.breaches
    section.figure(
        "breaches", "Breaches on record", len(views), link(view.positions[0] for view in views)
    )
    section.figure(
        "open",
        "Of these open",
        sum(view.state == "open" for view in views),
        link(view.positions[0] for view in views if view.state == "open"),
    )
    section.table(
        "breaches",
        "The register",
        (
            "breach",
            "aware",
            "as",
            "state",
            "facts",
            "effects",
            "remedial action",
            "words as logged",
        ),
        (
            (
                (
                    view.name,
                    view.aware_at,
                    view.role,
                    view.state if view.closed_at is None else f"closed {view.closed_at}",
                    view.content.facts,
                    _or_blank(view.content.effects),
                    _or_blank(view.content.remedial_action),
                    "yes" if facts.commitments.get(view.name) == view.commitment else "NO",
                ),
                _evidence(view),
            )
            for view in views
        ),
        "No breach is on record.",
    )
    section.note(
        "What people wrote is not in the log, which holds a salted digest of it: the last column "
        "says whether these words are the ones that it was made of."
    )


def _authority(section: SectionDraft, facts: Facts, law: LawBook) -> None:
    duty = law.duty_of("notify-authority")
    section.figure("deadline", "Hours from awareness that the law gives", f"{duty.hours}")
    own = [view for view in facts.breaches if view.role == "controller"]
    for status, label in (
        ("overdue", "Breaches whose deadline has passed without notification"),
        ("late", "Breaches notified late"),
        ("in-time", "Breaches notified in time"),
    ):
        found = [view for view in own if view.clock.status == status]
        section.figure(
            status,
            label,
            len(found),
            link(position for view in found for position in view.positions),
        )
    section.table(
        "clock",
        "The clock of each breach",
        (
            "breach",
            "risk to people",
            "notify by",
            "notified",
            "hours after awareness",
            "clock",
            "reasons",
            "authority's reference",
        ),
        (
            (
                (
                    view.name,
                    view.risk,
                    view.clock.due_at or "",
                    view.authority_at or "not notified",
                    _hours_to(view, "authority_at"),
                    _STATUS[view.clock.status],
                    view.content.reasons_for_delay or view.content.risk_reason,
                    view.content.authority_reference,
                ),
                _evidence(view),
            )
            for view in own
        ),
        "No breach is on record.",
    )
    section.chart(
        "clock",
        "Hours from awareness to notification, or until now",
        "hours",
        (
            (view.name, _hours(view.aware_at, view.authority_at or facts.now), duty.hours)
            for view in own
            if view.clock.status != "not-required"
        ),
    )


def _evidence(view: BreachView) -> EvidenceLink:
    return link(view.positions)


def _hours_to(view: BreachView, what: str) -> str:
    at = getattr(view, what)
    return "" if at is None else f"{_hours(view.aware_at, at)}"


def _hours(start: str, end: str | datetime) -> Decimal:
    """Hours between two moments, to a tenth, rounded up: a deadline is not met by rounding.

    >>> _hours("2026-01-01T00:00:00Z", "2026-01-04T00:00:01Z")
    Decimal('72.1')
    """
    until = end if isinstance(end, datetime) else datetime.fromisoformat(end)
    seconds = Decimal(str((until - datetime.fromisoformat(start)).total_seconds()))
    return (seconds / _HOUR).quantize(Decimal("0.1"), "ROUND_CEILING")


def _or_blank(value: object) -> str:
    return "not stated" if value in ("", None) else f"{value}"
