"""Training plans: submission, decision, reports of rounds and sites, outcome; refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.statement import SignedStatement
from compliance import rules
from compliance.resources import (
    DecisionBody,
    PlanEvidence,
    PlanView,
    Recorded,
    ReportsBody,
    StatementBody,
    SubmittedPlan,
)
from compliance.rules.starts import may_start
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.erasure_tables import PlanStartRow
from compliance.service.errors import enforce
from compliance.service.filing import (
    coordinator_key,
    file_statement,
    find_filed,
    is_repeated,
    load_rows,
    read_statement,
    sign_decision,
    site_key,
)
from compliance.service.gate import GatedRoute
from compliance.service.log_index import topics_of_clear_fields
from compliance.service.plan_lines import note_model, plan_line, reported_model
from compliance.service.plans import (
    filed_about,
    plan_named,
    plan_row,
    plan_views,
    plans_naming,
    read_plan,
    rounds_missed,
    sites_of_plan,
    state_of_plan,
    visible_plan,
)
from compliance.service.registry import Registry, Transaction
from compliance.service.tables import (
    MissedRoundRow,
    PlanRow,
    PlanSiteRow,
    SiteRow,
)
from compliance.statements import (
    Refusal,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
)
from compliance.wire import PlanState, Role

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["plans"])

READERS: Final[tuple[Role, ...]] = ("coordinator", "site", "officer", "auditor")
EVIDENCE_READERS: Final[tuple[Role, ...]] = ("coordinator", "officer", "auditor")


@router.post("/plans", status_code=201)
@requires("coordinator")
def submit_plan(body: StatementBody, office: Office, caller: Caller) -> SubmittedPlan:
    """Submit a plan, signed by the coordinator's key, under a name that no other plan has.

    The very same statement again is no second plan. A rejected plan's name is free again.
    """
    with office.writing(caller) as transaction:
        session = transaction.session
        plan_id = body.statement.digest
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            return SubmittedPlan(plan_id=plan_id, position=filed.position)
        plan = read_statement(TrainingPlan, body.statement, coordinator_key(session))
        approved = session.scalars(select(SiteRow.name).where(SiteRow.state == "approved"))
        named = plan_named(session, plan.name)
        enforce(rules.may_submit_plan(plan, frozenset(approved), named))
        start = plan.starts_from
        if start is not None:
            reported = reported_model(session, start.plan, start.rounds)
            enforce(may_start(plan, plan_line(session, start.plan), reported))
        position = file_statement(transaction, body.statement, "plan.submitted", plan_id=plan_id)
        session.add(PlanRow(plan_id=plan_id, state="submitted", position=position))
        session.flush()
        session.add_all(PlanSiteRow(plan_id=plan_id, site=site) for site in plan.sites)
        if start is not None:
            session.add(PlanStartRow(plan_id=plan_id, starts_from=start.plan, rounds=start.rounds))
        return SubmittedPlan(plan_id=plan_id, position=position)


@router.get("/plans")
@requires(*READERS, by_site=True)
def list_plans(
    office: Office, caller: Caller, state: PlanState | None = None
) -> dict[str, list[PlanView]]:
    """Plans, oldest first. A site, and a role that is limited to sites, sees those that name it."""
    with office.reading() as session:
        query = select(PlanRow).order_by(PlanRow.position)
        if state is not None:
            query = query.where(PlanRow.state == state)
        sites = caller.scope(*READERS).sites
        if sites is not None:
            query = query.where(PlanRow.plan_id.in_(plans_naming(sites)))
        return {"plans": plan_views(session, session.scalars(query).all())}


@router.get("/plans/{plan_id}")
@requires(*READERS, by_site=True)
def show_plan(plan_id: str, office: Office, caller: Caller) -> PlanView:
    """One plan. To whom it concerns not at all it does not exist."""
    with office.reading() as session:
        row = visible_plan(session, plan_id, caller.scope(*READERS))
        return plan_views(session, [row])[0]


@router.get("/plans/{plan_id}/reports")
@requires(*EVIDENCE_READERS, by_site=True)
def show_evidence(plan_id: str, office: Office, caller: Caller) -> PlanEvidence:
    """What was reported of a plan's rounds, oldest first; of sites, the caller's."""
    scope = caller.scope(*EVIDENCE_READERS)
    with office.reading() as session:
        visible_plan(session, plan_id, scope)
        reports = filed_about(session, plan_id, SiteReport.kind)
        return PlanEvidence(
            rounds=tuple(filed_about(session, plan_id, RoundReport.kind)),
            reports=tuple(signed for signed in reports if scope.includes(str(signed.body["site"]))),
        )


@router.post("/plans/{plan_id}/approval")
@requires("officer", by_site=True)
def approve(plan_id: str, body: DecisionBody, office: Office, caller: Caller) -> PlanView:
    """Approve a plan that somebody else submitted."""
    return _decide(plan_id, body.reason, office, caller, "approved")


@router.post("/plans/{plan_id}/rejection")
@requires("officer", by_site=True)
def reject(plan_id: str, body: DecisionBody, office: Office, caller: Caller) -> PlanView:
    """Reject a plan."""
    return _decide(plan_id, body.reason, office, caller, "rejected")


@router.post("/plans/{plan_id}/rounds", status_code=201)
@requires("coordinator")
def report_round(plan_id: str, body: StatementBody, office: Office, caller: Caller) -> Recorded:
    """Record one round, as the coordinator saw it. A round that was run again is recorded again."""

    def check(
        transaction: Transaction, row: PlanRow, plan: TrainingPlan, statement: SignedStatement
    ) -> None:
        report = read_statement(RoundReport, statement, coordinator_key(transaction.session))
        enforce(rules.may_report_round(report, plan, plan_id, state_of_plan(row)))
        row.rounds_reported = max(row.rounds_reported, report.round + 1)
        _note_missed(transaction.session, plan_id, report)
        note_model(transaction.session, report)

    return _file_about(plan_id, (body.statement,), office, caller, "round.reported", check)


@router.post("/plans/{plan_id}/reports", status_code=201)
@requires("site")
def report_site(plan_id: str, body: ReportsBody, office: Office, caller: Caller) -> Recorded:
    """Record what a site did in rounds of one plan, signed by its identity key: all or nothing.

    The answer is the position of the first report's entry.
    """

    def check(
        transaction: Transaction, row: PlanRow, plan: TrainingPlan, statement: SignedStatement
    ) -> None:
        report = read_statement(SiteReport, statement, site_key(transaction.session, caller))
        enforce(rules.may_speak_for(caller, report.site))
        enforce(rules.may_report_site(report, plan, plan_id, state_of_plan(row)))

    statements = (body.statement, *body.more)
    return _file_about(plan_id, statements, office, caller, "site.reported", check)


@router.post("/plans/{plan_id}/outcome", status_code=201)
@requires("coordinator")
def report_outcome(plan_id: str, body: StatementBody, office: Office, caller: Caller) -> Recorded:
    """Record how the run ended, once."""

    def check(
        transaction: Transaction, row: PlanRow, plan: TrainingPlan, statement: SignedStatement
    ) -> None:
        outcome = read_statement(RunOutcome, statement, coordinator_key(transaction.session))
        missed = rounds_missed(transaction.session, plan_id)
        enforce(rules.may_close(outcome, plan, plan_id, state_of_plan(row), missed))
        row.state = outcome.verdict

    statements = (body.statement,)
    return _file_about(plan_id, statements, office, caller, "run.ended", check, ends_run=True)


@router.post("/refusals", status_code=201)
@requires("site", "coordinator")
def report_refusal(body: StatementBody, office: Office, caller: Caller) -> Recorded:
    """Record that a site or the coordinator said no, and why."""
    with office.writing(caller) as transaction:
        session = transaction.session
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            return Recorded(position=filed.position)
        if caller.site is None:
            refusal = read_statement(Refusal, body.statement, coordinator_key(session))
        else:
            refusal = read_statement(Refusal, body.statement, site_key(session, caller))
            enforce(rules.may_speak_for(caller, refusal.refused_by.removeprefix("site:")))
        about = topics_of_clear_fields(refusal.refused_by, refusal.object)
        position = file_statement(
            transaction,
            body.statement,
            "refusal.reported",
            site=about.site,
            plan_id=about.plan,
            release_id=about.release,
        )
        return Recorded(position=position)


def _decide(
    plan_id: str,
    reason: str,
    office: Registry,
    caller: rules.Bearer,
    verdict: Literal["approved", "rejected"],
) -> PlanView:
    with office.writing(caller) as transaction:
        session = transaction.session
        scope = caller.scope("officer")
        row = visible_plan(session, plan_id, scope)
        rows = load_rows(session, [plan_id, row.decision])
        if is_repeated(rows, row.decision, caller, verdict):
            return plan_views(session, [row])[0]
        enforce(
            rules.may_decide(
                caller,
                submitted_by=rows[plan_id].filed_by,
                author=read_plan(session, plan_id).author,
                state=state_of_plan(row),
                undecided="submitted",
            )
        )
        if verdict == "approved":  # any site's officer may stop it, but bind their own sites only
            enforce(rules.may_commit(scope, sites_of_plan(session, plan_id)))
        signed, _ = sign_decision(transaction, f"plan:{plan_id}", verdict, reason, plan_id=plan_id)
        row.state = verdict
        row.decision = signed.digest
        return plan_views(session, [row])[0]


_Check = Callable[[Transaction, PlanRow, TrainingPlan, SignedStatement], None]
"""Lets a statement pass, and moves the plan's state."""


def _file_about(
    plan_id: str,
    statements: Sequence[SignedStatement],
    office: Registry,
    caller: rules.Bearer,
    action: str,
    check: _Check,
    *,
    ends_run: bool = False,
) -> Recorded:
    """File statements about a plan, all or none, each once `check` has let it pass."""
    positions = []
    with office.writing(caller) as transaction:
        session = transaction.session
        row = plan_row(session, plan_id)
        for statement in statements:
            filed = find_filed(session, statement, caller.name)
            if filed is not None:
                positions.append(filed.position)
                continue
            check(transaction, row, read_plan(session, plan_id), statement)
            positions.append(file_statement(transaction, statement, action, plan_id=plan_id))
            if ends_run:
                row.outcome = statement.digest
    return Recorded(position=positions[0])


def _note_missed(session: Session, plan_id: str, report: RoundReport) -> None:
    """The last report of a round says whether it was missed."""
    row = session.get(MissedRoundRow, (plan_id, report.round))
    if report.participants and row is not None:
        session.delete(row)
    elif not report.participants and row is None:
        session.add(MissedRoundRow(plan_id=plan_id, round=report.round))
