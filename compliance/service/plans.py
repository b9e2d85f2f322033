"""Plans as they are filed: which there are, whom they concern, what was reported of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final, cast

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from audit.statement import SignedStatement
from compliance import rules
from compliance.resources import PlanView
from compliance.service.driver import Fixed
from compliance.service.filing import load_rows, parse_envelope, parse_stored
from compliance.service.tables import Base, MissedRoundRow, PlanRow, PlanSiteRow, StatementRow
from compliance.statements import TrainingPlan
from compliance.wire import PlanState

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


def plan_row(session: Session, plan_id: str) -> PlanRow:
    """A plan.

    Raises:
        NotFound: When there is none of that id.
    """
    row = session.get(PlanRow, plan_id)
    if row is None:
        raise _no_plan()
    return row


def plan_named(session: Session, name: str) -> tuple[str, PlanState] | None:
    """Id and state of the plan that has a name, if any; a rejected one has none."""
    query = (
        select(PlanRow.plan_id, PlanRow.state, StatementRow.envelope)
        .join(StatementRow, StatementRow.digest == PlanRow.plan_id)
        .order_by(PlanRow.position.desc())
    )
    for plan_id, written, envelope in session.execute(query):
        state = cast(PlanState, written)
        if rules.keeps_name(state) and parse_stored(envelope).body["name"] == name:
            return plan_id, state
    return None


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


def filed_about(session: Session, plan_id: str, kind: str) -> list[SignedStatement]:
    """Statements of one kind about a plan, oldest first."""
    rows = session.scalars(
        select(StatementRow)
        .where(StatementRow.plan_id == plan_id, StatementRow.kind == kind)
        .order_by(StatementRow.position)
    )
    return [parse_envelope(row) for row in rows]


def rounds_missed(session: Session, plan_id: str) -> int:
    """How many rounds were reported without a quorum."""
    return int(_MISSED.run(session, {"plan_id": plan_id}).fetchone()[0])


def _no_plan() -> NotFound:
    return NotFound("there is no such plan", fix="list the plans: `compliance plans`")


def state_of_plan(row: PlanRow) -> PlanState:
    """Where a plan stands."""
    return cast(PlanState, row.state)


def plan_views(session: Session, plans: Sequence[PlanRow]) -> list[PlanView]:
    """What is shown of plans."""
    digests = [digest for plan in plans for digest in (plan.plan_id, plan.decision, plan.outcome)]
    rows = load_rows(session, digests)
    return [_view(session, plan, rows) for plan in plans]


def _view(session: Session, plan: PlanRow, rows: dict[str, StatementRow]) -> PlanView:
    decision = None if plan.decision is None else rows[plan.decision]
    signed = None if decision is None else parse_envelope(decision)
    rejected = plan.state == "rejected"
    return PlanView(
        plan_id=plan.plan_id,
        state=state_of_plan(plan),
        statement=parse_envelope(rows[plan.plan_id]),
        submitted_by=rows[plan.plan_id].filed_by,
        submitted_at=rows[plan.plan_id].filed_at,
        submitted_position=plan.position,
        approval=None if rejected else signed,
        rejection=signed if rejected else None,
        approved_position=None if rejected or decision is None else decision.position,
        rounds_reported=plan.rounds_reported,
        rounds_missed=rounds_missed(session, plan.plan_id),
        outcome=None if plan.outcome is None else parse_envelope(rows[plan.outcome]),
    )
