"""Training plans: submission, decision, reports of rounds and sites, outcome; refusals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Final, Literal, cast

from fastapi import APIRouter
from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from audit.keys import VerifyKey
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
from compliance.service.driver import Fixed
from compliance.service.erasure_tables import PlanStartRow
from compliance.service.errors import Denied, enforce
from compliance.service.filing import (
    coordinator_key,
    file_statement,
    find_filed,
    load_rows,
    parse_envelope,
    parse_stored,
    read_statement,
    sign_decision,
    site_standing,
)
from compliance.service.gate import GatedRoute
from compliance.service.log_index import topics_of_clear_fields
from compliance.service.plan_lines import note_model, plan_line, reported_model
from compliance.service.registry import Registry, Transaction
from compliance.service.tables import (
    Base,
    MissedRoundRow,
    PlanRow,
    PlanSiteRow,
    SiteRow,
    StatementRow,
)
from compliance.statements import (
    Decision,
    Refusal,
    RoundReport,
    RunOutcome,
    SiteReport,
    TrainingPlan,
)
from compliance.wire import PlanState, Role

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["plans"])

_TABLES: Final = Base.metadata.tables
_PLAN_SITES: Final = _TABLES[PlanSiteRow.__tablename__].c
_SITES_OF_PLAN: Final = Fixed(
    select(_PLAN_SITES.site).where(_PLAN_SITES.plan_id == bindparam("plan_id"))
)
_MISSED_ROUNDS: Final = _TABLES[MissedRoundRow.__tablename__].c
_MISSED: Final = Fixed(select(func.count()).where(_MISSED_ROUNDS.plan_id == bindparam("plan_id")))
_STATEMENTS: Final = _TABLES[StatementRow.__tablename__].c
_ENVELOPE: Final = Fixed(
    select(_STATEMENTS.envelope).where(_STATEMENTS.digest == bindparam("digest"))
)

READERS: Final[tuple[Role, ...]] = ("coordinator", "site", "officer", "auditor")
EVIDENCE_READERS: Final[tuple[Role, ...]] = ("coordinator", "officer", "auditor")


@router.post("/plans", status_code=201)
@requires("coordinator")
def submit_plan(body: StatementBody, office: Office, caller: Caller) -> SubmittedPlan:
    """Submit a plan, signed by the coordinator's key."""
    with office.writing(caller) as transaction:
        session = transaction.session
        plan_id = body.statement.digest
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            return SubmittedPlan(plan_id=plan_id, position=filed.position)
        plan = read_statement(TrainingPlan, body.statement, coordinator_key(session))
        approved = session.scalars(select(SiteRow.name).where(SiteRow.state == "approved"))
        enforce(rules.may_submit_plan(plan, frozenset(approved)))
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
        return {"plans": _views(session, session.scalars(query).all())}


@router.get("/plans/{plan_id}")
@requires(*READERS, by_site=True)
def show_plan(plan_id: str, office: Office, caller: Caller) -> PlanView:
    """One plan. To whom it concerns not at all it does not exist."""
    with office.reading() as session:
        row = visible_plan(session, plan_id, caller.scope(*READERS))
        return _views(session, [row])[0]


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
        enforce(rules.may_report_round(report, plan, plan_id, _state(row)))
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
        enforce(rules.may_report_site(report, plan, plan_id, _state(row)))

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
        missed = _rounds_missed(transaction.session, plan_id)
        enforce(rules.may_close(outcome, plan, plan_id, _state(row), missed))
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


def plan_row(session: Session, plan_id: str) -> PlanRow:
    """A plan.

    Raises:
        NotFound: When there is none of that id.
    """
    row = session.get(PlanRow, plan_id)
    if row is None:
        raise _no_plan()
    return row


def plans_naming(sites: Collection[str]) -> Select[str]:
    """The ids of all plans that name any of these sites, as a subquery."""
    return select(PlanSiteRow.plan_id).where(PlanSiteRow.site.in_(sorted(sites)))


def sites_of_plan(session: Session, plan_id: str) -> frozenset[str]:
    """The sites that a plan names."""
    rows = _SITES_OF_PLAN.run(session, {"plan_id": plan_id}).fetchall()
    return frozenset(site for (site,) in rows)


def visible_plan(session: Session, plan_id: str, scope: rules.Scope) -> PlanRow:
    """A plan that concerns somebody.

    Raises:
        NotFound: When there is none of that id, or it names no site of theirs.
    """
    row = plan_row(session, plan_id)
    if scope.sites is not None and scope.sites.isdisjoint(sites_of_plan(session, plan_id)):
        raise _no_plan()
    return row


def read_plan(session: Session, plan_id: str) -> TrainingPlan:
    """The document of a plan that was filed."""
    return _plan_in(_ENVELOPE.run(session, {"digest": plan_id}).fetchone()[0])


@lru_cache(maxsize=64)
def _plan_in(envelope: str) -> TrainingPlan:
    return TrainingPlan.from_body(parse_stored(envelope).body)


def site_key(session: Session, caller: rules.Bearer) -> VerifyKey:
    """The identity key of the site that calls, when it takes part.

    Raises:
        Denied: When it is not approved, or is no site.
    """
    if caller.site is None:
        raise Denied(rules.Refused("not-a-site", "a site speaks for itself only"))
    state, identity_key = site_standing(session, caller.site)
    enforce(rules.may_act_as_site(state))
    return VerifyKey.parse(identity_key)


def filed_about(session: Session, plan_id: str, kind: str) -> list[SignedStatement]:
    """Statements of one kind about a plan, oldest first."""
    rows = session.scalars(
        select(StatementRow)
        .where(StatementRow.plan_id == plan_id, StatementRow.kind == kind)
        .order_by(StatementRow.position)
    )
    return [parse_envelope(row) for row in rows]


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
            return _views(session, [row])[0]
        enforce(
            rules.may_decide(
                caller,
                submitted_by=rows[plan_id].filed_by,
                author=read_plan(session, plan_id).author,
                state=_state(row),
                undecided="submitted",
            )
        )
        if verdict == "approved":  # any site's officer may stop it, but bind their own sites only
            enforce(rules.may_commit(scope, sites_of_plan(session, plan_id)))
        signed, _ = sign_decision(transaction, f"plan:{plan_id}", verdict, reason, plan_id=plan_id)
        row.state = verdict
        row.decision = signed.digest
        return _views(session, [row])[0]


def is_repeated(
    rows: dict[str, StatementRow], decision: str | None, caller: rules.Bearer, verdict: str
) -> bool:
    """Whether the caller decided just this before: a repeated call is no second decision."""
    if decision is None:
        return False
    made = Decision.from_body(parse_envelope(rows[decision]).body)
    return (made.decided_by, made.verdict) == (caller.name, verdict)


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


def _rounds_missed(session: Session, plan_id: str) -> int:
    return int(_MISSED.run(session, {"plan_id": plan_id}).fetchone()[0])


def _no_plan() -> NotFound:
    return NotFound("there is no such plan", fix="list the plans: `compliance plans`")


def _state(row: PlanRow) -> PlanState:
    return cast(PlanState, row.state)


def _views(session: Session, plans: Sequence[PlanRow]) -> list[PlanView]:
    digests = [digest for plan in plans for digest in (plan.plan_id, plan.decision, plan.outcome)]
    rows = load_rows(session, digests)
    return [_view(session, plan, rows) for plan in plans]


def _view(session: Session, plan: PlanRow, rows: dict[str, StatementRow]) -> PlanView:
    decision = None if plan.decision is None else rows[plan.decision]
    signed = None if decision is None else parse_envelope(decision)
    rejected = plan.state == "rejected"
    return PlanView(
        plan_id=plan.plan_id,
        state=_state(plan),
        statement=parse_envelope(rows[plan.plan_id]),
        submitted_by=rows[plan.plan_id].filed_by,
        submitted_at=rows[plan.plan_id].filed_at,
        submitted_position=plan.position,
        approval=None if rejected else signed,
        rejection=signed if rejected else None,
        approved_position=None if rejected or decision is None else decision.position,
        rounds_reported=plan.rounds_reported,
        rounds_missed=_rounds_missed(session, plan.plan_id),
        outcome=None if plan.outcome is None else parse_envelope(rows[plan.outcome]),
    )
