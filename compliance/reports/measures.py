"""What several reports state alike: how people are protected, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from compliance.report_views import EvidenceLink
from compliance.reports.drafting import SectionDraft, link, link_of
from compliance.reports.facts import Facts, PlanFacts, by_site

TRAINED = ("approved", "completed", "failed")
"""States of plans that were let through."""


def approved_plans(facts: Facts) -> tuple[PlanFacts, ...]:
    """Plans that an officer let through."""
    return tuple(plan for plan in facts.plans if plan.state in TRAINED)


def security_measures(section: SectionDraft, facts: Facts) -> None:
    """Technical and organisational measures, as far as the log shows that they were taken."""
    plans = approved_plans(facts)
    promised = [plan.submitted.position for plan in plans]
    section.figure(
        "differential-privacy",
        "Approved plans; each trains with differential privacy, no other plan can be written",
        len(plans),
        link(promised, action="plan.submitted"),
    )
    masked = [plan.submitted.position for plan in plans if plan.plan.secure_aggregation]
    section.figure(
        "secure-aggregation",
        "Approved plans whose updates the coordinator sees only as a sum",
        f"{len(masked)} of {len(plans)}",
        link(masked, action="plan.submitted"),
    )
    decided = list(_decisions(facts))
    by_another = [position for position, another in decided if another]
    section.figure(
        "two-people",
        "Decisions about plans and releases by somebody else than who submitted",
        f"{len(by_another)} of {len(decided)}",
        link(by_another),
    )
    encrypted = [
        event.position for release in facts.releases for event in release.of("release.uploaded")
    ]
    section.count("encrypted-releases", "Releases stored encrypted", encrypted)
    refused = facts.actions.get("request.refused")
    section.figure(
        "refused-calls",
        "Calls to this service that were refused and recorded",
        refused.count if refused else 0,
        link_of(refused) if refused else None,
    )
    vouching = [site for site in facts.sites if site.size is not None]
    section.table(
        "witnesses",
        "Sites that vouch for the log",
        ("site", "vouches for the first", "of entries", "since"),
        (
            ((site.name, site.size, facts.log_size, site.cosigned_at), link(site.positions))
            for site in vouching
        ),
        "No site has vouched for this log yet: nobody else would notice if it were rewritten.",
    )


def privacy_spent(section: SectionDraft, facts: Facts) -> None:
    """What each site reports to have spent, against what its plan allows."""
    rows: list[tuple[tuple[object, ...], EvidenceLink]] = []
    bars: list[tuple[str, Decimal, Decimal]] = []
    for plan in facts.plans:
        for site, filed in by_site(plan.reports, lambda report: report.epsilon_spent).items():
            spent, allowed = filed.statement.epsilon_spent, plan.plan.privacy.epsilon
            cells = (
                plan.plan.name,
                site,
                spent,
                allowed,
                plan.plan.privacy.delta,
                plan.plan.privacy.unit,
            )
            rows.append((cells, link((plan.submitted.position, filed.position))))
            bars.append((f"{plan.plan.name} · {site}", spent, allowed))
    section.table(
        "epsilon",
        "Privacy loss ε by plan and site",
        ("plan", "site", "ε spent", "ε allowed", "δ", "protects one"),
        rows,
        "No site has reported a round yet.",
    )
    section.chart("epsilon", "Privacy loss ε spent, and what the plan allows", "ε", bars)


def audited(section: SectionDraft, facts: Facts) -> None:
    """What the sites' own attacks found."""
    rows = [
        (
            (plan.plan.name, site, filed.statement.audited_epsilon, plan.plan.privacy.epsilon),
            link((filed.position,)),
        )
        for plan in facts.plans
        for site, filed in by_site(plan.reports, lambda report: report.audited_epsilon).items()
    ]
    section.table(
        "audited",
        "Lower bounds on ε that sites measured with canaries of their own",
        ("plan", "site", "ε at least", "ε allowed"),
        rows,
        "No plan asked its sites to attack it, or none has reported.",
    )


def _decisions(facts: Facts) -> Iterator[tuple[int, bool]]:
    """Position of each decision, and whether somebody else made it."""
    for plan in facts.plans:
        if plan.decision is not None:
            yield (
                plan.decision.position,
                plan.decision.statement.decided_by not in (plan.submitted.by, plan.plan.author),
            )
    for release in facts.releases:
        if release.decision is not None:
            yield (
                release.decision.position,
                release.decision.statement.decided_by != release.announced.by,
            )
