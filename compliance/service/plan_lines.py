"""Plans that start from another plan's model: what they hold, and who of it was erased."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from compliance.rules.starts import Part, line_of
from compliance.service.erasure_tables import ErasedPlanRow, PlanStartRow, ReportedModelRow
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.tables import PlanRow
from compliance.statements import RoundReport, TrainingPlan


def plan_line(session: Session, plan_id: str) -> tuple[Part, ...] | None:
    """The line of a plan, oldest first, itself the last part; None when there is no such plan."""

    def read(wanted: str) -> TrainingPlan:
        return TrainingPlan.from_body(parse_envelope(load_rows(session, [wanted])[wanted]).body)

    if session.get(PlanRow, plan_id) is None:
        return None
    return line_of(plan_id, read(plan_id), read)


def reported_model(session: Session, plan_id: str, rounds: int) -> str | None:
    """What the last report of a plan's round says of the model after so many rounds."""
    row = session.get(ReportedModelRow, (plan_id, rounds))
    return None if row is None else row.model


def note_model(session: Session, report: RoundReport) -> None:
    """Remember which model a round's report names; the last report of a round counts."""
    rounds = report.round + 1
    row = session.get(ReportedModelRow, (report.plan_id, rounds))
    if report.model_digest is None:
        if row is not None:
            session.delete(row)
    elif row is None:
        session.add(
            ReportedModelRow(plan_id=report.plan_id, rounds=rounds, model=report.model_digest)
        )
    else:
        row.model = report.model_digest


def plans_holding(session: Session, plan_id: str, first_round: int) -> set[str]:
    """Plans that start, directly or through others, from more than so many rounds of a plan.

    Whoever was sampled in the plan's round `first_round` is in all of their models.
    """
    holding: set[str] = set()
    query = select(PlanStartRow.plan_id)
    new: Collection[str] = session.scalars(
        query.where(PlanStartRow.starts_from == plan_id, PlanStartRow.rounds > first_round)
    ).all()
    while new:
        holding |= set(new)
        later = session.scalars(query.where(PlanStartRow.starts_from.in_(sorted(new))))
        new = set(later) - holding
    return holding


def erased_of(session: Session, line: Sequence[Part]) -> list[ErasedPlanRow]:
    """What is recorded of erased subjects whom the rounds of a line may have sampled."""
    rounds = {part.plan_id: part.rounds for part in line}
    query = select(ErasedPlanRow).where(ErasedPlanRow.plan_id.in_(sorted(rounds)))
    return [row for row in session.scalars(query) if row.first_round < rounds[row.plan_id]]


def first_rounds(rows: Iterable[ErasedPlanRow]) -> dict[str, int]:
    """Of each plan, the first round in which any of them may have been sampled."""
    first: dict[str, int] = {}
    for row in rows:
        first[row.plan_id] = min(first.get(row.plan_id, row.first_round), row.first_round)
    return first
