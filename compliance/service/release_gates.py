"""What the gates of a release look at, gathered from the database in one transaction."""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.errors import MalformedInput
from compliance.gate_views import GatesView, GateView
from compliance.rules.release_gates import (
    SETTINGS_FILE,
    Evidence,
    Gate,
    Logged,
    OpenErasure,
    Thresholds,
    judge,
    may_pass,
    read_thresholds,
)
from compliance.rules.ruling import Allowed
from compliance.service.erasure_cases import owes, present_case
from compliance.service.errors import ServiceUnavailable, enforce
from compliance.service.filing import load_rows, parse_envelope
from compliance.service.registry import Registry
from compliance.service.tables import ReleaseRow, StatementRow
from compliance.statements import (
    ReleaseManifest,
    RoundReport,
    RunOutcome,
    SiteReport,
    Statement,
    TrainingPlan,
)

_Statement = TypeVar("_Statement", bound=Statement)


def open_erasures(session: Session, release: ReleaseRow) -> list[OpenErasure]:
    """The release's erasure case, while it is not closed.

    A request that no site has answered yet is none: whether it concerns the plan is not known, and
    whoever files requests could stop every release.
    """
    if not owes(session, release.release_id):
        return []
    case = present_case(session, release.release_id)
    if case is None:
        return []
    return [OpenErasure(f"case {case.case_id[:12]} is {case.state}", case.position)]


def gates_of(registry: Registry, session: Session, release: ReleaseRow) -> tuple[Gate, ...]:
    """Every gate's verdict on a release, as things stand in this transaction.

    Raises:
        ServiceUnavailable: When the operator's thresholds cannot be read.
    """
    return judge(_evidence(session, release), thresholds_of(registry))


def enforce_gates(registry: Registry, session: Session, release: ReleaseRow) -> None:
    """Go on when every gate is passed or not asked for.

    Raises:
        Denied: When one failed.
    """
    enforce(may_pass(gates_of(registry, session, release)))


def gates_view(registry: Registry, session: Session, release: ReleaseRow) -> GatesView:
    """What is shown of a release's gates."""
    gates = gates_of(registry, session, release)
    return GatesView(
        release_id=release.release_id,
        thresholds_version=thresholds_of(registry).version,
        passes=isinstance(may_pass(gates), Allowed),
        gates=tuple(GateView.of(gate) for gate in gates),
    )


def thresholds_of(registry: Registry) -> Thresholds:
    """The operator's thresholds. What is wrong with the file is the service's fault.

    Raises:
        ServiceUnavailable: When they cannot be read.
    """
    try:
        return read_thresholds(registry.folder)
    except MalformedInput as error:
        raise ServiceUnavailable(
            str(error), fix=f"edit {SETTINGS_FILE} in the compliance folder"
        ) from error


def _evidence(session: Session, release: ReleaseRow) -> Evidence:
    rows = load_rows(session, [release.release_id, release.plan_id])
    plan = _logged(TrainingPlan, rows[release.plan_id])
    outcomes = _about(session, release.plan_id, RunOutcome)
    return Evidence(
        manifest=_logged(ReleaseManifest, rows[release.release_id]),
        plan=plan,
        outcome=outcomes[-1] if outcomes else None,
        rounds=_about(session, release.plan_id, RoundReport),
        reports=_about(session, release.plan_id, SiteReport),
        open_erasures=open_erasures(session, release),
    )


def _about(session: Session, plan_id: str, kind: type[_Statement]) -> list[Logged[_Statement]]:
    rows = session.scalars(
        select(StatementRow)
        .where(StatementRow.plan_id == plan_id, StatementRow.kind == kind.kind)
        .order_by(StatementRow.position)
    )
    return [_logged(kind, row) for row in rows]


def _logged(kind: type[_Statement], row: StatementRow) -> Logged[_Statement]:
    return Logged(kind.from_body(parse_envelope(row).body), row.position)
