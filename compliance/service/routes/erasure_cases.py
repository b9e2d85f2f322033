"""Erasure cases: what is to become of releases that erased subjects took part in."""

from __future__ import annotations

from typing import Final, cast

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from audit.errors import NotFound
from audit.statement import SignedStatement, sign_statement
from compliance import rules
from compliance.erasure_views import (
    CaseConclusionBody,
    CaseDecisionBody,
    DebtView,
    ErasureCaseView,
    ErasureReceiptView,
)
from compliance.resources import Recorded, StatementBody
from compliance.rules.erasure_cases import (
    CaseFacts,
    CaseState,
    may_conclude,
    may_decide_case,
    may_rely,
    may_retrain,
)
from compliance.rules.kept_models import KeptModels, may_remove
from compliance.rules.ruling import contradiction
from compliance.rules.starts import may_start_without
from compliance.rules.unlearning import Debt
from compliance.service.access import requires
from compliance.service.call import Caller, Office
from compliance.service.erasure_cases import (
    Stage,
    case_row,
    case_views,
    debt_of,
    erasures_of,
    follow_up,
    no_case,
    owes,
    receipt_of,
)
from compliance.service.erasure_tables import ErasureCaseRow
from compliance.service.errors import enforce
from compliance.service.filing import (
    coordinator_key,
    file_statement,
    find_filed,
    load_rows,
    parse_envelope,
    read_statement,
    sign_decision,
)
from compliance.service.gate import GatedRoute
from compliance.service.kept_models import kept_models
from compliance.service.plan_lines import erased_of, first_rounds, plan_line
from compliance.service.plans import filed_about, plan_row, read_plan, sites_of_plan
from compliance.service.recalls import notify_grantees, recall_release
from compliance.service.registry import Transaction
from compliance.service.release_views import release_row, state_of
from compliance.service.routes.releases import releases_concerning
from compliance.service.tables import ReleaseRow, SiteRow
from compliance.statements import (
    ErasureDecision,
    ErasureReceipt,
    KeptModelRemoval,
    ReleaseManifest,
    SiteReport,
)
from compliance.wire import PlanState

router: Final = APIRouter(route_class=GatedRoute, prefix="/v1", tags=["erasures"])

_UNTOUCHED: Final = ("announced", "candidate")
"""States of a release that nobody has: it is rejected where another is recalled."""

_RETRAINED: Final = "a data subject was erased, and a retrained model takes the place of this one"


@router.get("/erasure-cases")
@requires("officer", "auditor", by_site=True)
def list_cases(
    office: Office, caller: Caller, state: CaseState | None = None
) -> dict[str, list[ErasureCaseView]]:
    """Cases, oldest first. A limited role sees those of releases that concern its sites."""
    query = select(ErasureCaseRow).order_by(ErasureCaseRow.position)
    scope = _reading(caller)
    if scope.sites is not None:
        query = query.where(ErasureCaseRow.release_id.in_(releases_concerning(scope.sites)))
    if state is not None:
        query = query.where(ErasureCaseRow.state == state)
    with office.reading() as session:
        return {"cases": case_views(session, session.scalars(query).all(), scope)}


@router.get("/erasure-cases/{case_id}")
@requires("officer", "auditor", by_site=True)
def show_case(case_id: str, office: Office, caller: Caller) -> ErasureCaseView:
    """One case."""
    scope = _reading(caller)
    with office.reading() as session:
        case = case_row(session, case_id)
        if not scope.meets(sites_of_plan(session, release_row(session, case.release_id).plan_id)):
            raise no_case()
        return case_views(session, [case], scope)[0]


@router.post("/erasure-cases/{case_id}/decision")
@requires("officer")
def decide(case_id: str, body: CaseDecisionBody, office: Office, caller: Caller) -> ErasureCaseView:
    """Decide what becomes of a release; with its recall and every notice in one change."""
    with office.writing(caller) as transaction:
        session = transaction.session
        case = case_row(session, case_id)
        if _is_repeated(session, case, body, caller):
            return case_views(session, [case])[0]
        release = release_row(session, case.release_id)
        enforce(may_decide_case(caller, _facts(session, case, release)))
        debt = debt_of(session, release)
        _check_choice(session, case, release, body, debt)
        signed = _sign(transaction, case, release, body, DebtView.of(debt))
        file_statement(
            transaction,
            signed,
            "erasure.decided",
            plan_id=release.plan_id,
            release_id=release.release_id,
        )
        case.decision = signed.digest
        case.choice = body.choice
        case.retraining_plan = body.retraining_plan
        match body.choice:
            case "withdraw":
                _withdraw(transaction, release, body.reason)
                _close(transaction, case)
            case "rely":
                notify_grantees(transaction, release.release_id, "subject-erased", body.reason)
                _close(transaction, case)
            case "retrain":
                notify_grantees(transaction, release.release_id, "subject-erased", body.reason)
                case.state = "retraining"
        _tell(transaction, case, release)
        return case_views(session, [case])[0]


@router.post("/erasure-cases/{case_id}/conclusion")
@requires("officer")
def conclude(
    case_id: str, body: CaseConclusionBody, office: Office, caller: Caller
) -> ErasureCaseView:
    """Let the retrained release take the place of the other, which is recalled with it."""
    with office.writing(caller) as transaction:
        session = transaction.session
        case = case_row(session, case_id)
        if case.replaced_by == body.release_id:
            return case_views(session, [case])[0]
        release = release_row(session, case.release_id)
        enforce(may_decide_case(caller, _facts(session, case, release)))
        replacement = release_row(session, body.release_id)
        enforce(
            may_conclude(
                state=cast(CaseState, case.state),
                retraining_plan=case.retraining_plan,
                replacement_plan=replacement.plan_id,
                replacement=state_of(replacement),
                run=cast(PlanState, plan_row(session, replacement.plan_id).state),
                replacement_owes=owes(session, body.release_id),
            )
        )
        transaction.record(
            "erasure.concluded",
            f"release:{release.release_id}",
            {"case": case_id, "replaced_by": body.release_id},
        )
        _withdraw(transaction, release, _RETRAINED)
        case.replaced_by = body.release_id
        _close(transaction, case)
        _tell(transaction, case, release)
        return case_views(session, [case])[0]


@router.get("/erasures/{erasure}/receipt")
@requires("site", "officer", "auditor", by_site=True)
def erasure_receipt(erasure: str, office: Office, caller: Caller) -> ErasureReceiptView:
    """A recorded erasure's receipt, with all that followed. A site gets those of its own.

    So does a limited role for its sites.
    """
    scope = caller.scope("site", "officer", "auditor")
    with office.reading() as session:
        receipt = receipt_of(office, session, erasure)
        stated = ErasureReceipt.from_body(receipt.statement.body)
        if not scope.includes(stated.site):
            raise NotFound("there is no such erasure", fix="give the digest of your own statement")
        return ErasureReceiptView(receipt=receipt.to_json())


@router.get("/plans/{plan_id}/kept-models")
@requires("coordinator")
def show_kept_models(plan_id: str, office: Office) -> KeptModels:
    """Which models that the coordinator kept of a plan hold somebody who was erased."""
    with office.reading() as session:
        return kept_models(session, plan_id)


@router.post("/plans/{plan_id}/kept-models/removal", status_code=201)
@requires("coordinator")
def report_removal(plan_id: str, body: StatementBody, office: Office, caller: Caller) -> Recorded:
    """Record that the coordinator removes kept models which hold somebody who was erased."""
    with office.writing(caller) as transaction:
        session = transaction.session
        filed = find_filed(session, body.statement, caller.name)
        if filed is not None:
            return Recorded(position=filed.position)
        removal = read_statement(KeptModelRemoval, body.statement, coordinator_key(session))
        enforce(may_remove(removal, kept_models(session, plan_id)))
        position = file_statement(
            transaction, body.statement, "erasure.models-removed", plan_id=plan_id
        )
        return Recorded(position=position)


def _reading(caller: rules.Bearer) -> rules.Scope:
    return caller.scope("officer", "auditor")


def _facts(session: Session, case: ErasureCaseRow, release: ReleaseRow) -> CaseFacts:
    filed = load_rows(session, [release.release_id])[release.release_id]
    return CaseFacts(
        state=cast(CaseState, case.state),
        release=state_of(release),
        submitted_by=filed.filed_by,
        author=read_plan(session, release.plan_id).author,
    )


def _check_choice(
    session: Session, case: ErasureCaseRow, release: ReleaseRow, body: CaseDecisionBody, debt: Debt
) -> None:
    if (body.retraining_plan is not None) != (body.choice == "retrain"):
        enforce(
            contradiction(
                "retraining-plan", "a retraining plan goes with retrain, and with nothing else"
            )
        )
    if body.evidence and body.choice != "rely":
        enforce(contradiction("evidence-unasked", "evidence goes with rely, and nothing else"))
    if body.choice == "rely":
        manifest = ReleaseManifest.from_body(
            parse_envelope(load_rows(session, [release.release_id])[release.release_id]).body
        )
        reports = (
            SiteReport.from_body(signed.body)
            for signed in filed_about(session, release.plan_id, SiteReport.kind)
        )
        audited = {report.site for report in reports if report.audited_epsilon is not None}
        enforce(may_rely(body.evidence, files=manifest.files, audited=audited, debt=debt))
    if body.retraining_plan is not None:
        new = plan_row(session, body.retraining_plan)
        line = plan_line(session, new.plan_id) or ()
        enforce(
            may_retrain(
                read_plan(session, new.plan_id),
                read_plan(session, release.plan_id),
                state=cast(PlanState, new.state),
                submitted_position=new.position,
                last_erasure_position=erasures_of(session, case.case_id)[-1].position,
                approved_sites=frozenset(
                    session.scalars(select(SiteRow.name).where(SiteRow.state == "approved"))
                ),
                starts_without_them=may_start_without(
                    line, first_rounds(erased_of(session, line[:-1]))
                ),
            )
        )


def _sign(
    transaction: Transaction,
    case: ErasureCaseRow,
    release: ReleaseRow,
    body: CaseDecisionBody,
    debt: DebtView,
) -> SignedStatement:
    decision = ErasureDecision(
        object=f"release:{release.release_id}",
        plan_id=release.plan_id,
        case=case.case_id,
        choice=body.choice,
        subjects=debt.subjects,
        epsilon=debt.epsilon,
        epsilon_together=debt.epsilon_together,
        delta=debt.delta,
        first_round=debt.first_round,
        retraining_plan=body.retraining_plan,
        evidence=body.evidence,
        decided_by=transaction.actor,
        decided_at=transaction.time,
        reason=body.reason,
    )
    return sign_statement(decision.body(), transaction.registry.signer)


def _withdraw(transaction: Transaction, release: ReleaseRow, reason: str) -> None:
    """Take a release away from everybody, or see to it that nobody gets it."""
    if release.state in _UNTOUCHED:
        signed, _ = sign_decision(
            transaction,
            f"release:{release.release_id}",
            "rejected",
            reason,
            plan_id=release.plan_id,
            release_id=release.release_id,
        )
        release.state = "rejected"
        release.decision = signed.digest
    elif release.state != "rejected":
        recall_release(transaction, release, reason)


def _close(transaction: Transaction, case: ErasureCaseRow) -> None:
    case.state = "closed"
    case.closed_at = transaction.time


def _tell(transaction: Transaction, case: ErasureCaseRow, release: ReleaseRow) -> None:
    erasures = [row.digest for row in erasures_of(transaction.session, case.case_id)]
    stage: Stage = "closed" if case.state == "closed" else "decided"
    follow_up(transaction, erasures, stage, [release])


def _is_repeated(
    session: Session, case: ErasureCaseRow, body: CaseDecisionBody, caller: rules.Bearer
) -> bool:
    """Whether the caller decided just this before: a repeated call is no second decision."""
    if case.decision is None:
        return False
    row = load_rows(session, [case.decision])[case.decision]
    made = ErasureDecision.from_body(parse_envelope(row).body)
    return (made.decided_by, made.choice, made.retraining_plan, made.evidence) == (
        caller.name,
        body.choice,
        body.retraining_plan,
        body.evidence,
    )
