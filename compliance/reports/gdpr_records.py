"""Records of processing activities (GDPR Art. 30), for a controller and for a processor."""

from __future__ import annotations

from collections.abc import Iterator

from compliance.report_views import EvidenceLink
from compliance.reports.drafting import ReportDraft, SectionDraft, link
from compliance.reports.facts import Facts, ReleaseFacts
from compliance.reports.measures import approved_plans, security_measures
from compliance.rules.registers import LawBook


def controller(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """Art. 30(1). A plan that was approved is a processing activity."""
    plans = approved_plans(facts)
    purposes = draft.section("purposes")
    purposes.figure(
        "purposes",
        "Purposes of approved plans",
        ", ".join(sorted({plan.plan.purpose for plan in plans})) or "none: no plan is approved",
        link(position for plan in plans for position in plan.positions),
    )
    purposes.table(
        "activities",
        "Processing activities: one for each approved plan",
        ("plan", "purpose", "legal basis", "what is trained", "federation", "state"),
        (
            (
                (
                    plan.plan.name,
                    plan.plan.purpose,
                    f"{plan.plan.legal_basis}: {law.legal_basis[plan.plan.legal_basis]}",
                    f"{plan.plan.task} on {plan.plan.base_model.name}",
                    plan.plan.federation,
                    plan.state,
                ),
                link(plan.positions),
            )
            for plan in plans
        ),
        "No plan has been approved: this system processes nothing.",
    )
    categories = draft.section("categories")
    categories.table(
        "bounds",
        "Whose data each activity may use",
        ("plan", "sites", "at least so many subjects at each", "at most so many records of each"),
        (
            (
                (
                    plan.plan.name,
                    ", ".join(plan.plan.sites),
                    plan.plan.minimum_subjects,
                    plan.plan.privacy.max_records_per_subject,
                ),
                link((plan.submitted.position,)),
            )
            for plan in plans
        ),
        "No plan has been approved.",
    )
    categories.note(
        "Records and numbers of people stay at the sites; this service never learns them."
    )
    _recipients(draft.section("recipients"), facts)
    draft.section("transfers").note(
        "This service does not know in which countries sites and recipients are."
    )
    _time_limits(draft.section("time-limits"), facts)
    security_measures(draft.section("measures"), facts)


def processor(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """Art. 30(2). Each site is taken as the controller of its own records."""
    rows: list[tuple[tuple[object, ...], EvidenceLink]] = []
    for site in facts.sites:
        for plan in approved_plans(facts):
            if site.name not in plan.plan.sites:
                continue
            took_part = [
                filed.position for filed in plan.rounds if site.name in filed.statement.participants
            ]
            cells = (
                site.name,
                plan.plan.name,
                plan.plan.purpose,
                f"{plan.plan.legal_basis}: {law.legal_basis[plan.plan.legal_basis]}",
                f"{len(took_part)} of {len(plan.rounds)}",
                plan.state,
            )
            rows.append((cells, link((*plan.positions, *took_part))))
    section = draft.section("categories")
    section.table(
        "by-controller",
        "Training on behalf of each site",
        ("site", "plan", "purpose", "legal basis", "rounds with it", "state"),
        rows,
        "No site takes part in an approved plan.",
    )
    section.note(
        "A site is taken as the controller of its own records; who is, is for people to state."
    )
    draft.section("transfers").note(
        "This service does not know in which countries sites and recipients are."
    )
    security_measures(draft.section("measures"), facts)


def _recipients(section: SectionDraft, facts: Facts) -> None:
    granted = [
        (release, event) for release in facts.releases for event in release.of("release.granted")
    ]
    section.figure(
        "recipients",
        "Recipients of released models",
        len({event.said("principal") for _, event in granted}),
        link((event.position for _, event in granted), action="release.granted"),
    )
    section.table(
        "grants",
        "Who was granted a released model, for what",
        ("recipient", "release", "purpose", "granted", "until", "taken", "how often"),
        _grants(facts),
        "No release has been granted to anybody.",
    )
    section.note(
        "What recipients get is a model with a bound on what it tells of any one person, no record."
    )


def _grants(facts: Facts) -> Iterator[tuple[tuple[object, ...], EvidenceLink]]:
    for release in facts.releases:
        for event in release.of("release.granted"):
            recipient = event.said("principal")
            taken = _downloads(release, recipient)
            ended = [
                end.position
                for end in release.events
                if end.position > event.position
                and (
                    end.action == "release.recalled"
                    or (end.action == "grant.revoked" and end.said("principal") == recipient)
                )
            ]
            cells = (
                recipient,
                release.manifest.name,
                event.said("purpose"),
                event.time,
                f"{event.said('expires_at')}{', taken back' if ended else ''}",
                "yes" if taken else "no",
                len(taken),
            )
            yield cells, link((event.position, *ended[:1], *taken))


def _downloads(release: ReleaseFacts, recipient: str) -> list[int]:
    return [
        event.position for event in release.of("release.downloaded") if event.actor == recipient
    ]


def _time_limits(section: SectionDraft, facts: Facts) -> None:
    section.table(
        "plans",
        "How long each activity keeps what it needs",
        ("plan", "days"),
        (
            ((plan.plan.name, plan.plan.retention_days), link((plan.submitted.position,)))
            for plan in approved_plans(facts)
        ),
        "No plan has been approved.",
    )
    retention = facts.retention
    section.figure(
        "jurisdictions",
        "Laws by which payloads of the log are shredded",
        ", ".join(retention.jurisdictions) or "none is named, so nothing is ever shredded",
    )
    section.figure("retention-rules", "Version of the retention rules", retention.book.version)
    if retention.problem:
        section.note(f"The retention settings cannot be used: {retention.problem}")
