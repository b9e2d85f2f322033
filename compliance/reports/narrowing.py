"""Reports for somebody whose role holds for some sites alone.

* Only reports that are made of things which each concern certain sites can be narrowed. What states
  something of the whole log, of its retention, of the service's security or of a system as a whole
  is not cut to pieces: it is refused.
* What a plan of several sites says in common stays; what it says of another site alone goes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from compliance.reports.facts import Facts, PlanFacts, RequestFacts
from compliance.rules.access import Scope
from compliance.rules.ruling import ALLOWED, Refused, Ruling

NARROWABLE: Final = frozenset({"gdpr-33", "legal-bases", "ccpa-7102", "hipaa-164-528"})
"""Made of breaches, plans, requests of data subjects, and releases."""


def may_report(name: str, scope: Scope) -> Ruling:
    """Whether a report can be made for somebody's sites."""
    if scope.sites is None or name in NARROWABLE:
        return ALLOWED
    return Refused(
        "report-of-all-sites",
        "this report states what concerns all sites, and the role is limited to some",
        f"ask an officer whose role is not limited, or make {', '.join(sorted(NARROWABLE))}",
        "forbidden",
    )


def narrowed(facts: Facts, scope: Scope) -> Facts:
    """What concerns the sites in scope, for a report that can be narrowed.

    What no such report is made of (`actions`, `retention`, `sites`) is left as it is.
    """
    if scope.sites is None:
        return facts
    plans = tuple(_plan(plan, scope) for plan in facts.plans if scope.meets(plan.plan.sites))
    theirs = {plan.plan_id for plan in plans}
    releases = tuple(item for item in facts.releases if item.manifest.plan_id in theirs)
    breaches = tuple(view for view in facts.breaches if scope.meets(view.sites))
    speakers = {f"site:{site}" for site in scope.sites}
    return replace(
        facts,
        plans=plans,
        releases=releases,
        breaches=breaches,
        commitments={
            view.name: facts.commitments[view.name]
            for view in breaches
            if view.name in facts.commitments
        },
        refusals=tuple(filed for filed in facts.refusals if filed.by in speakers),
        requests=tuple(_request(item, scope) for item in facts.requests if scope.meets(item.parts)),
        cases=tuple(case for case in facts.cases if case.view.plan_id in theirs),
        reports=tuple(
            made
            for made in facts.reports
            if made.payload is not None
            and (sites := made.payload.get("sites"))
            and scope.covers(set(sites))
        ),
    )


def _plan(plan: PlanFacts, scope: Scope) -> PlanFacts:
    return replace(
        plan,
        reports=tuple(filed for filed in plan.reports if scope.includes(filed.statement.site)),
    )


def _request(item: RequestFacts, scope: Scope) -> RequestFacts:
    own = {site: part for site, part in item.parts.items() if scope.includes(site)}
    foreign = {
        position
        for site, part in item.parts.items()
        if site not in own
        for position in part.positions
    }
    return replace(
        item,
        parts=own,
        outcomes=tuple(part.outcome for part in own.values() if part.outcome),
        positions=tuple(position for position in item.positions if position not in foreign),
    )
