"""The draft of an impact assessment (GDPR Art. 35), and legal bases (Art. 6, 7, 9, 21)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from compliance.report_views import EvidenceLink
from compliance.reports.drafting import ReportDraft, SectionDraft, link
from compliance.reports.facts import Facts, PlanFacts
from compliance.reports.measures import (
    approved_plans,
    audited,
    privacy_spent,
    security_measures,
)
from compliance.rules.deidentification import in_words
from compliance.rules.registers import LawBook


def impact(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """Art. 35(7). What the system can say; the assessment is people's."""
    description = draft.section("description")
    description.table(
        "operations",
        "Each plan",
        ("plan", "purpose", "legal basis", "what is trained", "sites", "rounds", "state"),
        (
            (
                (
                    plan.plan.name,
                    plan.plan.purpose,
                    f"{plan.plan.legal_basis}: {law.legal_basis[plan.plan.legal_basis]}",
                    f"{plan.plan.task} on {plan.plan.base_model.name}",
                    ", ".join(plan.plan.sites),
                    f"{len(plan.rounds)} of {plan.plan.rounds}",
                    plan.state,
                ),
                link(plan.positions),
            )
            for plan in facts.plans
        ),
        "No plan has been submitted.",
    )
    description.note(
        "Records stay at the sites. A round sends model updates, which are clipped and to which "
        "noise is added before they leave."
    )
    draft.section("necessity").table(
        "limits",
        "What each plan limits itself to",
        (
            "plan",
            "at most so many records of a subject",
            "sites with at least so many subjects",
            "kept, days",
            "held back to measure with",
        ),
        (
            (
                (
                    plan.plan.name,
                    plan.plan.privacy.max_records_per_subject,
                    plan.plan.minimum_subjects,
                    plan.plan.retention_days,
                    plan.plan.held_out_share,
                ),
                link((plan.submitted.position,)),
            )
            for plan in facts.plans
        ),
        "No plan has been submitted.",
    )
    _risks(draft.section("risks"), facts)
    security_measures(draft.section("measures"), facts)
    _erasures(draft.section("measures"), facts)
    decided = [plan for plan in facts.plans if plan.decision is not None]
    draft.section("advice").table(
        "decisions",
        "Who decided about plans, and why",
        ("plan", "decision", "by", "when", "reason"),
        (_decision(plan) for plan in decided),
        "No plan has been decided.",
    )


def legal_bases(draft: ReportDraft, facts: Facts, law: LawBook) -> None:
    """On which basis what was done, and who said no."""
    bases = draft.section("bases")
    counted: Counter[str] = Counter(plan.plan.legal_basis for plan in facts.plans)
    for basis, article in law.legal_basis.items():
        if counted[basis]:
            bases.figure(
                basis,
                f"Plans on {basis} ({article})",
                counted[basis],
                link(
                    plan.submitted.position
                    for plan in facts.plans
                    if plan.plan.legal_basis == basis
                ),
            )
    bases.table(
        "plans",
        "Each plan",
        ("plan", "purpose", "legal basis", "article", "state"),
        (
            (
                (
                    plan.plan.name,
                    plan.plan.purpose,
                    plan.plan.legal_basis,
                    law.legal_basis[plan.plan.legal_basis],
                    plan.state,
                ),
                link(plan.positions),
            )
            for plan in facts.plans
        ),
        "No plan has been submitted.",
    )
    consent = draft.section("consent")
    on_consent = [plan for plan in approved_plans(facts) if plan.plan.legal_basis == "consent"]
    consent.figure(
        "on-consent",
        "Approved plans that rest on consent",
        len(on_consent),
        link(position for plan in on_consent for position in plan.positions),
    )
    consent.note(
        "Who consented is known at the sites alone: each checks its own records of consent before "
        "it trains, and its journal says with which dataset it did."
    )
    special = draft.section("special")
    special.figure("plans", "Plans to which this may apply", len(facts.plans))
    _purposes(draft.section("purpose"), facts)
    _objections(draft.section("objections"), facts)


def _risks(section: SectionDraft, facts: Facts) -> None:
    privacy_spent(section, facts)
    audited(section, facts)
    section.figure(
        "breaches",
        "Breaches on record",
        len(facts.breaches),
        link(view.positions[0] for view in facts.breaches),
    )
    recalled = [
        event.position for release in facts.releases for event in release.of("release.recalled")
    ]
    section.count("recalls", "Releases that were recalled", recalled)
    section.table(
        "de-identification",
        "How records were de-identified, by what each site reported last",
        (
            "plan",
            "site",
            "recall, with 95 % confidence",
            "digest of the settings",
            "digest of the dataset",
        ),
        _deidentification(facts),
        "No site has reported a round yet.",
    )
    section.note(
        "ε bounds what anybody can learn about one person: with that person's records among the "
        "site's, any conclusion from its updates is likelier by the factor e^ε at most, but for a "
        "probability δ. A lower bound from an attack shows what was measured, and proves no "
        "absence of risk."
    )
    section.note(
        "Recall is the share of a text's identifying characters that is found, measured by the "
        "site on labelled texts (evaluation) or by a person on its own rows (review). The "
        "datasheet, at the site, has every figure; digests tell that it is the one that was used."
    )


def _erasures(section: SectionDraft, facts: Facts) -> None:
    section.table(
        "erasures",
        "Releases that erased people took part in, and what was decided",
        (
            "release",
            "erased people",
            "ε of a site's at most",
            "ε of all together",
            "decision",
            "state",
        ),
        (
            (
                (
                    case.view.release_name,
                    case.view.debt.subjects,
                    case.view.debt.epsilon,
                    case.view.debt.epsilon_together,
                    case.view.choice or "none yet",
                    case.view.state,
                ),
                link(case.positions),
            )
            for case in facts.cases
        ),
        "No erased person took part in a release.",
    )


def _deidentification(facts: Facts) -> Iterator[tuple[tuple[object, ...], EvidenceLink]]:
    for plan in facts.plans:
        last = {filed.statement.site: filed for filed in plan.reports}
        for site, filed in sorted(last.items()):
            cells = (
                plan.plan.name,
                site,
                in_words(filed.statement.deidentification),
                filed.statement.deidentification_digest,
                filed.statement.dataset_digest,
            )
            yield cells, link((filed.position,))


def _decision(plan: PlanFacts) -> tuple[tuple[object, ...], EvidenceLink]:
    if plan.decision is None:
        raise ValueError("the plan was not decided")
    decided = plan.decision.statement
    cells = (
        plan.plan.name,
        decided.verdict,
        decided.decided_by,
        decided.decided_at,
        decided.reason,
    )
    return cells, link((plan.decision.position,))


def _purposes(section: SectionDraft, facts: Facts) -> None:
    rows: list[tuple[tuple[object, ...], EvidenceLink]] = []
    other = []
    plans = {plan.plan_id: plan for plan in facts.plans}
    for release in facts.releases:
        plan = plans[release.manifest.plan_id]
        for event in release.of("release.granted"):
            granted = event.said("purpose")
            same = granted == plan.plan.purpose
            cells = (
                release.manifest.name,
                event.said("principal"),
                plan.plan.purpose,
                granted,
                "yes" if same else "NO",
            )
            rows.append((cells, link((plan.submitted.position, event.position))))
            if not same:
                other.append(event.position)
    section.count("other-purposes", "Grants for another purpose than the plan's", other)
    section.table(
        "grants",
        "Each grant",
        ("release", "to", "purpose of the plan", "purpose of the grant", "the same"),
        rows,
        "No release has been granted to anybody.",
    )
    section.note(
        "Whether another purpose is compatible is for people to assess (GDPR Art. 6(4))."
        if other
        else "Every purpose is compared by its name."
    )


def _objections(section: SectionDraft, facts: Facts) -> None:
    section.table(
        "refusals",
        "What sites and coordinator refused to do",
        ("by", "about", "code", "reason", "when"),
        (
            (
                (
                    filed.statement.refused_by,
                    filed.statement.object,
                    filed.statement.code,
                    filed.statement.reason,
                    filed.statement.refused_at,
                ),
                link((filed.position,)),
            )
            for filed in facts.refusals
        ),
        "Nobody has refused anything.",
    )
    objections = [item for item in facts.requests if item.right in ("objection", "restriction")]
    section.figure(
        "objections",
        "Objections and restrictions that people asked for",
        len(objections),
        link(position for item in objections for position in item.positions),
    )
