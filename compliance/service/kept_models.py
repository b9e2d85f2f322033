"""What the service knows of the models that a coordinator kept of a plan."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from compliance.rules.kept_models import KeptModels
from compliance.service.erasure_cases import present_case
from compliance.service.erasure_tables import PlanStartRow
from compliance.service.plan_lines import erased_of, first_rounds, plan_line, plans_holding
from compliance.service.tables import PlanRow, ReleaseRow


def kept_models(session: Session, plan_id: str) -> KeptModels:
    """What is known of a plan's models.

    Raises:
        NotFound: When there is no such plan.
    """
    plan, line = session.get(PlanRow, plan_id), plan_line(session, plan_id)
    if plan is None or line is None:
        raise NotFound("there is no such plan", fix="list the plans: `compliance plans`")
    first = first_rounds(erased_of(session, line))
    if not first:
        return KeptModels(plan_id=plan_id, holds_from=None, undecided=False, needed=())
    holds_from = first[plan_id] if set(first) == {plan_id} else 0
    holding = {plan_id, *plans_holding(session, plan_id, holds_from)}
    releases = session.scalars(
        select(ReleaseRow).where(ReleaseRow.plan_id.in_(sorted(holding)))
    ).all()
    cases = [present_case(session, release.release_id) for release in releases]
    may_be_released = plan.state != "failed" and all(
        release.plan_id != plan_id for release in releases
    )
    starts = (
        select(PlanStartRow.rounds)
        .join(PlanRow, PlanRow.plan_id == PlanStartRow.plan_id)
        .where(
            PlanStartRow.starts_from == plan_id,
            PlanRow.state.in_(("submitted", "approved")),
        )
    )
    return KeptModels(
        plan_id=plan_id,
        holds_from=holds_from,
        undecided=may_be_released
        or any(case is not None and case.state == "open" for case in cases),
        needed=tuple(sorted(set(session.scalars(starts)))),
    )
