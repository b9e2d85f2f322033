"""Accounting of disclosures (45 CFR 164.528).

A model with a bound on what it tells of a person may be no disclosure of health information at all.
That is for the covered entity to say; the report lists every time that somebody took one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from compliance.report_views import EvidenceLink
from compliance.reports.drafting import ReportDraft, link
from compliance.reports.facts import Facts, Logged, ReleaseFacts
from compliance.rules.registers import LawBook


def disclosures(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """Each download within the years that the law looks back, newest last."""
    duty = law.duty_of("account-for-disclosures")
    if duty.years is None:
        raise ValueError("an accounting looks back a number of years")
    since = _years_before(facts.now, duty.years)
    section = draft.section("disclosures")
    found = [
        (release, event)
        for release in facts.releases
        for event in release.of("release.downloaded")
        if datetime.fromisoformat(event.time) >= since
    ]
    section.figure("since", "Looking back to", f"{since:%Y-%m-%d}")
    section.figure(
        "downloads",
        "Times that a released model was taken",
        len(found),
        link((event.position for _, event in found), action="release.downloaded"),
    )
    section.figure(
        "recipients",
        "By so many recipients",
        len({event.actor for _, event in found}),
        link((event.position for _, event in found), action="release.downloaded"),
    )
    section.table(
        "disclosures",
        "Each of them",
        ("date", "recipient", "what", "purpose", "privacy loss ε at most"),
        _rows(found),
        "Nobody has taken a released model.",
    )
    section.note(
        "What was taken is a model trained on records of the sites named by its plan, with a bound "
        "on what it tells of any one person; no record was handed over by this system."
    )
    purposes = sorted({event.said("purpose") for _, event in found})
    draft.section("exceptions").figure(
        "purposes",
        "Purposes for which models were taken",
        ", ".join(purposes) or "none",
        link((event.position for _, event in found), action="release.downloaded"),
    )
    draft.section("answering").figure(
        "reports",
        "Accountings that were made before",
        sum(made.said("report") == draft.law.name for made in facts.reports),
        link(made.position for made in facts.reports if made.said("report") == draft.law.name),
    )


def _rows(
    found: list[tuple[ReleaseFacts, Logged]],
) -> Iterator[tuple[tuple[object, ...], EvidenceLink]]:
    for release, event in sorted(found, key=lambda pair: pair[1].position):
        cells = (
            event.time,
            event.actor,
            f"model {release.manifest.name}",
            event.said("purpose"),
            max(release.manifest.epsilon_told.values(), default=""),
        )
        yield cells, link((release.announced.position, event.position))


def _years_before(now: datetime, years: int) -> datetime:
    """The same day so many years ago; of a 29 February the day before.

    >>> _years_before(datetime(2028, 2, 29), 6)
    datetime.datetime(2022, 2, 28, 0, 0)
    """
    try:
        return now.replace(year=now.year - years)
    except ValueError:
        return now.replace(year=now.year - years, day=28)
