"""Reports for a regulator, assembled from facts: pure, without database, clock or network.

* `registers.toml` says what each must state; the functions here fill in what the system did, and
  what it cannot know stays for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from compliance.report_views import Section
from compliance.reports.ai_act import event_log, technical_documentation
from compliance.reports.disclosures import disclosures
from compliance.reports.drafting import ReportDraft
from compliance.reports.facts import Facts
from compliance.reports.gdpr_assessment import impact, legal_bases
from compliance.reports.gdpr_breaches import breaches
from compliance.reports.gdpr_records import controller, processor
from compliance.reports.organisation import Organisation
from compliance.reports.overview import overview
from compliance.reports.requests import request_metrics
from compliance.rules.registers import LawBook, ReportLaw

Author = Callable[[ReportDraft, Facts, LawBook], None]

AUTHORS: Final[Mapping[str, Author]] = {
    "overview": overview,
    "gdpr-30-controller": controller,
    "gdpr-30-processor": processor,
    "gdpr-33": breaches,
    "gdpr-35": impact,
    "legal-bases": legal_bases,
    "ai-act-annex-iv": technical_documentation,
    "ai-act-12": event_log,
    "ccpa-7102": request_metrics,
    "hipaa-164-528": disclosures,
}
"""Who fills in which report of `registers.toml`."""


def assemble(
    report: ReportLaw, facts: Facts, law: LawBook, organisation: Organisation
) -> tuple[Section, ...]:
    """The sections of a report.

    Args:
        report: Which.
        facts: What is known at one moment.
        law: All of the law.
        organisation: What people state.
    """
    draft = ReportDraft(report, organisation)
    AUTHORS[report.name](draft, facts, law)
    return draft.finished()
