"""Calls about training plans and what is reported of them; `ComplianceClient` makes them."""

from __future__ import annotations

from audit.statement import SignedStatement
from compliance.resources import (
    PlanEvidence,
    PlanView,
    Recorded,
    ReportsBody,
    StatementBody,
    SubmittedPlan,
)
from compliance.session import (
    SessionCalls,
    path_segment,
)
from compliance.wire import PlanState


class PlanCalls(SessionCalls):
    """Training plans."""

    def submit_plan(self, plan: SignedStatement) -> SubmittedPlan:
        """Submit a TrainingPlan (coordinator)."""
        return self._session.send("POST", "/v1/plans", StatementBody(statement=plan), SubmittedPlan)

    def plans(self, state: PlanState | None = None) -> tuple[PlanView, ...]:
        """All plans that the caller may see, oldest first; a site sees those that name it."""
        return self._session.fetch_list("/v1/plans", "plans", PlanView, state=state)

    def plan(self, plan_id: str) -> PlanView:
        """One plan."""
        return self._session.fetch(f"/v1/plans/{path_segment(plan_id)}", PlanView)

    def plan_evidence(self, plan_id: str) -> PlanEvidence:
        """Round reports and site reports of a plan (coordinator, officer, auditor)."""
        return self._session.fetch(f"/v1/plans/{path_segment(plan_id)}/reports", PlanEvidence)

    def approve_plan(self, plan_id: str, *, reason: str = "") -> PlanView:
        """Approve a plan that somebody else submitted (officer)."""
        return self._decide(f"/v1/plans/{path_segment(plan_id)}/approval", reason, PlanView)

    def reject_plan(self, plan_id: str, *, reason: str = "") -> PlanView:
        """Reject a plan (officer)."""
        return self._decide(f"/v1/plans/{path_segment(plan_id)}/rejection", reason, PlanView)

    def report_round(self, plan_id: str, report: SignedStatement) -> Recorded:
        """Record a RoundReport (coordinator)."""
        return self._state(f"/v1/plans/{path_segment(plan_id)}/rounds", report)

    def report_site(
        self, plan_id: str, report: SignedStatement, *more: SignedStatement
    ) -> Recorded:
        """Record SiteReports about one plan, all or none (the site itself).

        Args:
            plan_id: The plan.
            report: The first, whose position is answered.
            more: What followed it: at most `MAX_REPORTS_AT_ONCE` together.
        """
        path = f"/v1/plans/{path_segment(plan_id)}/reports"
        body = ReportsBody(statement=report, more=more)
        return self._session.send("POST", path, body, Recorded, names_itself=True)

    def report_outcome(self, plan_id: str, outcome: SignedStatement) -> Recorded:
        """Record a RunOutcome, once (coordinator)."""
        return self._state(f"/v1/plans/{path_segment(plan_id)}/outcome", outcome)

    def report_refusal(self, refusal: SignedStatement) -> Recorded:
        """Record that a site or the coordinator said no."""
        return self._state("/v1/refusals", refusal)
