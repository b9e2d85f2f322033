"""Technical documentation (AI Act, Annex IV) and the event log (Art. 12)."""

from __future__ import annotations

from collections.abc import Iterator

from audit.words import count_of
from compliance.report_views import EvidenceLink
from compliance.reports.drafting import ReportDraft, SectionDraft, link, link_of
from compliance.reports.facts import Facts, Filed, PlanFacts, ReleaseFacts
from compliance.reports.measures import audited, privacy_spent, security_measures
from compliance.rules.deidentification import in_words
from compliance.rules.registers import LawBook
from compliance.statements import SiteReport

JURISDICTION = "ai-act"
"""As the retention rules call it."""


def technical_documentation(draft: ReportDraft, facts: Facts, _law: LawBook) -> None:
    """Annex IV. What the log knows of each released model and the plan that made it."""
    plans = {plan.plan_id: plan for plan in facts.plans}
    general = draft.section("general")
    general.table(
        "versions",
        "Versions of the model, oldest first",
        ("release", "state", "plan", "purpose", "base model", "form", "announced"),
        (
            (
                (
                    release.manifest.name,
                    release.state,
                    facts.plan_name(release.manifest.plan_id),
                    plans[release.manifest.plan_id].plan.purpose,
                    release.manifest.base_model.name,
                    ", ".join(sorted(release.manifest.files)),
                    release.announced.time,
                ),
                link(release.positions),
            )
            for release in facts.releases
        ),
        "No model has been announced.",
    )
    _development(draft.section("development"), facts)
    oversight = draft.section("oversight")
    submitted: list[PlanFacts | ReleaseFacts] = [*facts.plans, *facts.releases]
    decided = [item for item in submitted if item.decision is not None]
    oversight.table(
        "decisions",
        "What people decided before anything was trained or handed out",
        ("what", "name", "decision", "by", "when", "reason"),
        (_decision(item) for item in decided),
        "Nobody has decided anything.",
    )
    testing = draft.section("testing")
    testing.table(
        "metrics",
        "What each model reached on held-out people",
        ("release", "measured", "examples"),
        (
            (
                (
                    release.manifest.name,
                    release.manifest.metrics.in_words(),
                    release.manifest.metrics.examples,
                ),
                link((release.announced.position,)),
            )
            for release in facts.releases
        ),
        "No model has been announced.",
    )
    audited(testing, facts)
    testing.note("Each line is signed: the release by the coordinator, the attack by its site.")
    security_measures(draft.section("cybersecurity"), facts)
    functioning = draft.section("functioning")
    functioning.table(
        "groups",
        "Accuracy for groups of people, with 95 % intervals",
        ("release", "group", "accuracy", "at least", "at most", "examples"),
        _groups(facts),
        "No release tells how sure its figures are, for everybody or for groups.",
    )
    privacy_spent(functioning, facts)
    draft.section("risk-management").figure(
        "refusals",
        "Times that a site or the coordinator refused to go on",
        len(facts.refusals),
        link((filed.position for filed in facts.refusals), action="refusal.reported"),
    )
    draft.section("changes").table(
        "runs",
        "Runs, and what came of them",
        ("plan", "state", "rounds", "ended", "reason"),
        (
            (
                (
                    plan.plan.name,
                    plan.state,
                    len(plan.rounds),
                    "" if plan.outcome is None else plan.outcome.time,
                    "" if plan.outcome is None else plan.outcome.statement.reason,
                ),
                link((*plan.positions, *(filed.position for filed in plan.rounds))),
            )
            for plan in facts.plans
            if plan.started
        ),
        "Nothing has been trained.",
    )
    conformity = draft.section("conformity")
    documents = [made for made in facts.reports if made.said("report") == draft.law.name]
    conformity.figure(
        "documentation",
        "Times that this documentation was made before",
        len(documents),
        link(made.position for made in documents),
    )


def event_log(draft: ReportDraft, facts: Facts, _law: LawBook) -> None:
    """Art. 12. What is recorded, for which of the law's ends, and for how long."""
    logging = draft.section("logging")
    logging.figure("entries", "Entries of the log", facts.log_size)
    vouching = [site for site in facts.sites if site.size is not None]
    logging.figure(
        "witnesses",
        "Sites that would notice if it were rewritten",
        len(vouching),
        link(position for site in vouching for position in site.positions),
    )
    logging.note(
        "No entry, no action: what the service changes and its entry are one transaction. Entries "
        "cannot be changed or left out unnoticed: each is a leaf of a Merkle tree (RFC 6962)."
    )
    for identity in ("risk", "post-market", "operation"):
        _events(draft.section(identity), facts)
    _kept(draft.section("retention"), facts)


def _development(section: SectionDraft, facts: Facts) -> None:
    section.table(
        "plans",
        "How each model was trained",
        (
            "plan",
            "task",
            "base model, by digest",
            "adapter",
            "phases",
            "sites",
            "software at the sites",
        ),
        (
            (
                (
                    plan.plan.name,
                    plan.plan.task,
                    f"{plan.plan.base_model.name} {plan.plan.base_model.digest}",
                    f"{plan.plan.adapter.kind} rank {plan.plan.adapter.rank}",
                    _phases(plan),
                    ", ".join(plan.plan.sites),
                    ", ".join(sorted({filed.statement.software for filed in plan.reports}))
                    or "none has reported",
                ),
                link((plan.submitted.position, *(filed.position for filed in plan.reports))),
            )
            for plan in facts.plans
        ),
        "No plan has been submitted.",
    )
    section.table(
        "data",
        "What was trained on, by digest",
        (
            "plan",
            "site",
            "digest of the dataset",
            "digest of its de-identification",
            "recall of that, with 95 % confidence",
        ),
        (
            (
                (
                    plan.plan.name,
                    filed.statement.site,
                    filed.statement.dataset_digest,
                    filed.statement.deidentification_digest,
                    in_words(filed.statement.deidentification),
                ),
                link((filed.position,)),
            )
            for plan in facts.plans
            for filed in _last_reports(plan)
        ),
        "No site has reported a round yet.",
    )
    section.note(
        "Datasheets, with the measured recall of de-identification, are at the sites; the digests "
        "tell which ones they are."
    )


def _groups(facts: Facts) -> Iterator[tuple[tuple[object, ...], EvidenceLink]]:
    for release in facts.releases:
        measured = release.manifest.evaluation
        if measured is None:
            continue
        evidence = link((release.announced.position,))
        name, metrics = release.manifest.name, release.manifest.metrics
        yield (
            (
                name,
                "everybody",
                metrics.accuracy,
                measured.accuracy_low,
                measured.accuracy_high,
                metrics.examples,
            ),
            evidence,
        )
        for one in measured.groups:
            yield (name, one.group, one.accuracy, one.low, one.high, one.examples), evidence


def _last_reports(plan: PlanFacts) -> Iterator[Filed[SiteReport]]:
    last = {filed.statement.site: filed for filed in plan.reports}
    yield from (filed for _, filed in sorted(last.items()))


def _phases(plan: PlanFacts) -> str:
    return "; ".join(
        f"{phase.rounds} {phase.kind} of {count_of(phase.steps_per_round, 'step')}, q"
        f" {phase.sampling_rate}, noise {phase.noise_multiplier}, clip {phase.max_grad_norm}"
        for phase in plan.plan.phases
    )


def _decision(item: PlanFacts | ReleaseFacts) -> tuple[tuple[object, ...], EvidenceLink]:
    if item.decision is None:
        raise ValueError("it was not decided")
    decided = item.decision.statement
    is_plan = isinstance(item, PlanFacts)
    cells = (
        "plan" if is_plan else "release",
        item.plan.name if isinstance(item, PlanFacts) else item.manifest.name,
        decided.verdict,
        decided.decided_by,
        decided.decided_at,
        decided.reason,
    )
    return cells, link((item.decision.position,))


def _events(section: SectionDraft, facts: Facts) -> None:
    found = list(facts.actions_of(*section.law.actions))
    section.figure("count", "Events", sum(action.count for action in found))
    section.table(
        "events",
        "By kind",
        ("event", "how often", "first", "last"),
        (
            ((action.action, action.count, action.first, action.last), link_of(action))
            for action in found
        ),
        "Nothing of this kind has happened.",
    )


def _kept(section: SectionDraft, facts: Facts) -> None:
    retention = facts.retention
    section.figure(
        "jurisdictions",
        "Laws by which payloads of the log are shredded",
        ", ".join(retention.jurisdictions) or "none is named, so nothing is ever shredded",
    )
    section.figure("retention-rules", "Version of the retention rules", retention.book.version)
    shredded = facts.actions.get("retention.shredded")
    section.figure(
        "shredded",
        "Times that payloads were shredded",
        0 if shredded is None else shredded.count,
        None if shredded is None else link_of(shredded),
    )
    section.table(
        "rules",
        "What the rules of this law keep",
        ("rule", "actions", "at least, months", "source", "entries now"),
        (
            (
                (
                    rule.id,
                    ", ".join(rule.actions),
                    rule.minimum_months,
                    rule.source,
                    sum(action.count for action in covered),
                ),
                link(position for action in covered for position in action.positions),
            )
            for rule in retention.book.rule
            if rule.jurisdiction == JURISDICTION
            for covered in [
                [action for action in facts.actions.values() if rule.covers(action.action)]
            ]
        ),
        "The retention rules have none of this law.",
    )
    if retention.problem:
        section.note(f"The retention settings cannot be used: {retention.problem}")
