"""Erasures that reach models: which releases, what is owed, what was told to the subject.

* A site's receipt, the cases that it opens and what the subject is told of them are one
  transaction: no crash lies between them. So are a decision, the recall that it may bring, the
  notices to who holds the release (GDPR Art. 19) and the follow-ups to the subjects.
* A plan counts only where it names the site that states the erasure.
* A release that is announced after the erasure of somebody whom its plan may have sampled gets its
  case then.
* A plan that starts from another's model holds its rounds (`compliance.rules.starts`): whoever they
  may have sampled is concerned by its releases too, however long the line is.
* What is owed is computed when it changes, kept with the case, and written into the log.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.canonical import canonical_bytes
from audit.errors import NotFound
from audit.receipt import Receipt
from audit.statement import sign_statement
from compliance.erasure_views import DebtView, ErasureCaseView, LatestStartView
from compliance.rules.access import EVERYWHERE, Scope
from compliance.rules.erasure_cases import REACHABLE, CaseState
from compliance.rules.starts import Part, latest_start
from compliance.rules.unlearning import Debt, ErasedAt, Held, unlearning_debt
from compliance.service.erasure_tables import (
    CaseErasureRow,
    ErasedPlanRow,
    ErasureCaseRow,
    FollowUpRow,
)
from compliance.service.filing import file_statement, load_rows, parse_envelope
from compliance.service.plan_lines import (
    erased_of,
    first_rounds,
    plan_line,
    plans_holding,
    reported_model,
)
from compliance.service.registry import Registry, Transaction
from compliance.service.release_views import state_of
from compliance.service.tables import PlanSiteRow, ReleaseRow, StatementRow
from compliance.statements import (
    AffectedRelease,
    CaseChoice,
    ErasureFollowUp,
    ErasureReceipt,
    ReleaseManifest,
    TrainingPlan,
)

_CASE_DIGITS = 32

Stage = Literal["found", "decided", "closed"]


def reach_releases(transaction: Transaction, digest: str, erasure: ErasureReceipt) -> None:
    """Find the releases that an erased subject took part in, open their cases, tell the subject.

    Args:
        transaction: The change that records the erasure, whose statement is filed.
        digest: The statement's.
        erasure: What it says.
    """
    session = transaction.session
    named = session.scalars(
        select(PlanSiteRow.plan_id).where(
            PlanSiteRow.site == erasure.site, PlanSiteRow.plan_id.in_(erasure.plans)
        )
    ).all()
    session.add_all(
        ErasedPlanRow(
            erasure=digest,
            plan_id=plan_id,
            site=erasure.site,
            subject=erasure.subject,
            first_round=erasure.first_rounds.get(plan_id, 0),
        )
        for plan_id in named
    )
    session.flush()
    reached = set(named)
    for plan_id in named:
        reached |= plans_holding(session, plan_id, erasure.first_rounds.get(plan_id, 0))
    query = select(ReleaseRow).where(ReleaseRow.plan_id.in_(sorted(reached)))
    found = [
        release
        for release in session.scalars(query.order_by(ReleaseRow.position))
        if digest in {row.erasure for row in _erased_of_release(session, release)}
    ]
    for release in found:
        if state_of(release) in REACHABLE:
            open_case(transaction, release, [digest])
    if found:
        follow_up(transaction, [digest], "found", found)


def reach_release(transaction: Transaction, release: ReleaseRow) -> None:
    """Open the case of a release that is announced after subjects of its plan were erased."""
    session = transaction.session
    session.flush()
    erasures = sorted({row.erasure for row in _erased_of_release(session, release)})
    if erasures:
        open_case(transaction, release, erasures)
        follow_up(transaction, erasures, "found", [release])


def open_case(transaction: Transaction, release: ReleaseRow, erasures: Sequence[str]) -> None:
    """Open a release's case for erasures, or have them join the one that is open.

    A new case is about whoever was erased before, too: they are owed as well, and are told.
    """
    session = transaction.session
    row = present_case(session, release.release_id)
    debt = DebtView.of(debt_of(session, release))
    joins = row is not None and row.state != "closed"
    payload: dict[str, Any] = {
        "erasures": sorted(erasures),
        "debt": debt.model_dump(mode="json"),
        "voided": row.decision if row is not None and joins else None,
    }
    if row is None or not joins:
        about = {row.erasure for row in _erased_of_release(session, release)}
        first = f"{release.release_id} {erasures[0]}".encode("ascii")
        case_id = hashlib.sha256(first).hexdigest()[:_CASE_DIGITS]
        position = transaction.record(
            "erasure.opened", f"release:{release.release_id}", {"case": case_id, **payload}
        )
        row = ErasureCaseRow(
            case_id=case_id,
            release_id=release.release_id,
            opened_at=transaction.time,
            position=position,
        )
        session.add(row)
    else:
        about = set(erasures)
        transaction.record(
            "erasure.joined", f"release:{release.release_id}", {"case": row.case_id, **payload}
        )
    row.state = "open"
    row.decision = row.choice = row.retraining_plan = None
    row.debt = canonical_bytes(debt.model_dump(mode="json")).decode("ascii")
    session.flush()
    session.add_all(CaseErasureRow(case_id=row.case_id, erasure=digest) for digest in sorted(about))
    session.flush()


def present_case(session: Session, release_id: str) -> ErasureCaseRow | None:
    """The newest case of a release, if it ever had one."""
    query = select(ErasureCaseRow).where(ErasureCaseRow.release_id == release_id)
    return session.scalars(query.order_by(ErasureCaseRow.position.desc()).limit(1)).first()


def owes(session: Session, release_id: str) -> bool:
    """Whether a release has an erasure case that is not closed ("open erasure debt")."""
    row = present_case(session, release_id)
    return row is not None and row.state != "closed"


def debt_of(session: Session, release: ReleaseRow) -> Debt:
    """The unlearning debt of a release: of all who were erased after its plan may have drawn them.

    A subject counts once, however often the site stated the erasure, and also when an earlier case
    was closed: what a model may tell of them is still owed.
    """
    rows = load_rows(session, [release.release_id])
    manifest = ReleaseManifest.from_body(parse_envelope(rows[release.release_id]).body)
    line = _line_of_release(session, release)
    erased = erased_of(session, line)
    *before, own = (
        Held(
            part.plan,
            part.rounds,
            _by_site([row for row in erased if row.plan_id == part.plan_id], part.plan),
        )
        for part in line
    )
    spent = {
        site: replace(group, epsilon=manifest.epsilon_by_site.get(site, own.plan.privacy.epsilon))
        for site, group in own.erased.items()
    }
    subjects = defaultdict(set)
    for row in erased:
        subjects[row.site].add(row.subject)
    counts = {site: len(different) for site, different in subjects.items()}
    return unlearning_debt(own.plan, spent, before, counts)


def start_without_them(session: Session, release: ReleaseRow) -> LatestStartView | None:
    """The latest reported model of a release's line that holds nobody who was erased.

    None for the base model.
    """
    line = _line_of_release(session, release)
    found = latest_start(line, first_rounds(erased_of(session, line)))
    if found is None:
        return None
    part, rounds = found
    return LatestStartView(
        plan_id=part.plan_id,
        plan_name=part.plan.name,
        rounds=rounds,
        model=reported_model(session, part.plan_id, rounds),
    )


def _line_of_release(session: Session, release: ReleaseRow) -> tuple[Part, ...]:
    line = plan_line(session, release.plan_id)
    if line is None:
        raise NotFound(f"there is no plan of release {release.release_id}")
    return line


def _erased_of_release(session: Session, release: ReleaseRow) -> list[ErasedPlanRow]:
    return erased_of(session, _line_of_release(session, release))


def _by_site(rows: Sequence[ErasedPlanRow], plan: TrainingPlan) -> dict[str, ErasedAt]:
    """The erased of one plan; each subject from the earliest round that is stated of them."""
    rounds: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        known = rounds[row.site].get(row.subject, row.first_round)
        rounds[row.site][row.subject] = min(known, row.first_round)
    return {
        site: ErasedAt(len(first), min(first.values()), plan.privacy.epsilon)
        for site, first in rounds.items()
    }


def erasures_of(session: Session, case_id: str) -> list[StatementRow]:
    """The erasures that a case is about, oldest first."""
    query = (
        select(StatementRow)
        .join(CaseErasureRow, CaseErasureRow.erasure == StatementRow.digest)
        .where(CaseErasureRow.case_id == case_id)
        .order_by(StatementRow.position)
    )
    return list(session.scalars(query))


def follow_up(
    transaction: Transaction, erasures: Iterable[str], stage: Stage, releases: Sequence[ReleaseRow]
) -> None:
    """State to each erased subject, for itself, what was found or done about releases."""
    session = transaction.session
    session.flush()
    cases = {row.release_id: present_case(session, row.release_id) for row in releases}
    for digest, filed in sorted(load_rows(session, erasures).items()):
        erasure = ErasureReceipt.from_body(parse_envelope(filed).body)
        statement = ErasureFollowUp(
            follows=digest,
            site=erasure.site,
            subject=erasure.subject,
            stage=stage,
            releases=tuple(
                _affected(row, cases[row.release_id], _first_round(session, digest, row))
                for row in releases
            ),
            stated_at=transaction.time,
        )
        signed = sign_statement(statement.body(), transaction.registry.signer)
        position = file_statement(
            transaction, signed, "erasure.told", site=erasure.site, subject=erasure.subject
        )
        session.add(FollowUpRow(position=position, statement=signed.digest, erasure=digest))
    session.flush()


def _first_round(session: Session, erasure: str, release: ReleaseRow) -> int:
    """The first round of a release's plan whose model may hold the subject of an erasure."""
    first = first_rounds(
        row for row in _erased_of_release(session, release) if row.erasure == erasure
    )
    return first.get(release.plan_id, 0) if set(first) == {release.plan_id} else 0


def _affected(release: ReleaseRow, case: ErasureCaseRow | None, first: int) -> AffectedRelease:
    return AffectedRelease(
        release_id=release.release_id,
        plan_id=release.plan_id,
        state=release.state,
        first_round=first,
        case=None if case is None else case.case_id,
        choice=None if case is None else cast("CaseChoice | None", case.choice),
        decision=None if case is None else case.decision,
        retraining_plan=None if case is None else case.retraining_plan,
    )


def receipt_of(office: Registry, session: Session, digest: str) -> Receipt:
    """An erasure's receipt with what followed it.

    Raises:
        NotFound: When no such erasure was recorded.
    """
    filed = session.get(StatementRow, digest)
    if filed is None or filed.kind != ErasureReceipt.kind:
        raise NotFound("there is no such erasure", fix="give the digest of the site's statement")
    query = select(FollowUpRow).where(FollowUpRow.erasure == digest)
    told = session.scalars(query.order_by(FollowUpRow.position)).all()
    rows = load_rows(session, [row.statement for row in told])
    return Receipt(
        *_proven(office, session, filed),
        follow_ups=tuple(Receipt(*_proven(office, session, rows[row.statement])) for row in told),
    )


def _proven(office: Registry, session: Session, filed: StatementRow) -> tuple[Any, bytes, str]:
    storage = office.storage(session)
    leaf = storage.read_leaf(filed.position)
    if leaf is None:
        raise NotFound(f"the log has no entry {filed.position}")
    return parse_envelope(filed), leaf, office.log.prove(storage, filed.position)


def case_row(session: Session, case_id: str) -> ErasureCaseRow:
    """A case.

    Raises:
        NotFound: When there is none of that id.
    """
    row = session.get(ErasureCaseRow, case_id)
    if row is None:
        raise no_case()
    return row


def no_case() -> NotFound:
    """What is said of a case that does not exist, or not for the caller."""
    return NotFound("there is no such case", fix="list the cases: `compliance erasures list`")


def case_views(
    session: Session, cases: Sequence[ErasureCaseRow], scope: Scope = EVERYWHERE
) -> list[ErasureCaseView]:
    """What is shown of cases. Erasures, and what is owed to each site's, are of sites in scope."""
    rows = load_rows(
        session, [digest for case in cases for digest in (case.release_id, case.decision)]
    )
    return [_view(session, case, rows, scope) for case in cases]


def _view(
    session: Session, case: ErasureCaseRow, rows: dict[str, StatementRow], scope: Scope
) -> ErasureCaseView:
    release = session.get_one(ReleaseRow, case.release_id)
    manifest = ReleaseManifest.from_body(parse_envelope(rows[case.release_id]).body)
    debt = DebtView.model_validate(json.loads(case.debt))
    return ErasureCaseView(
        case_id=case.case_id,
        state=cast(CaseState, case.state),
        release_id=case.release_id,
        release_name=manifest.name,
        release_state=state_of(release),
        plan_id=release.plan_id,
        opened_at=case.opened_at,
        position=case.position,
        erasures=tuple(
            row.digest
            for row in erasures_of(session, case.case_id)
            if scope.includes(row.filed_by.removeprefix("site:"))
        ),
        debt=debt.model_copy(
            update={"sites": {s: owed for s, owed in debt.sites.items() if scope.includes(s)}}
        ),
        start_from=start_without_them(session, release),
        choice=cast("CaseChoice | None", case.choice),
        decision=None if case.decision is None else parse_envelope(rows[case.decision]),
        retraining_plan=case.retraining_plan,
        replaced_by=case.replaced_by,
        closed_at=case.closed_at,
    )
