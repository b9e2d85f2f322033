"""Calls about erasures that reach models; `ComplianceClient.erasures` makes them."""

from __future__ import annotations

from collections.abc import Sequence

from audit.receipt import Receipt
from audit.statement import SignedStatement
from compliance.erasure_views import (
    CaseConclusionBody,
    CaseDecisionBody,
    ErasureCaseView,
    ErasureReceiptView,
)
from compliance.resources import Recorded, StatementBody
from compliance.rules.erasure_cases import CaseState
from compliance.rules.kept_models import KeptModels
from compliance.session import ComplianceSession, make_body, path_segment
from compliance.statements import CaseChoice, Evidence


class ErasureCalls:
    """What becomes of releases that erased subjects took part in."""

    def __init__(self, session: ComplianceSession) -> None:
        self._session = session

    def cases(self, state: CaseState | None = None) -> tuple[ErasureCaseView, ...]:
        """Cases, oldest first (officer, auditor)."""
        return self._session.fetch_list("/v1/erasure-cases", "cases", ErasureCaseView, state=state)

    def case(self, case_id: str) -> ErasureCaseView:
        """One case (officer, auditor)."""
        return self._session.fetch(f"/v1/erasure-cases/{path_segment(case_id)}", ErasureCaseView)

    def decide(
        self,
        case_id: str,
        choice: CaseChoice,
        *,
        reason: str,
        retraining_plan: str | None = None,
        evidence: Sequence[Evidence] = (),
    ) -> ErasureCaseView:
        """Decide a case (officer, not about what they submitted).

        Args:
            case_id: The case.
            choice: `retrain`, `rely` or `withdraw`.
            reason: Told to everybody who holds the release. Never a person's data.
            retraining_plan: With `retrain`: the approved plan whose model takes its place.
            evidence: With `rely`: what was measured.
        """
        body = make_body(
            CaseDecisionBody,
            choice=choice,
            reason=reason,
            retraining_plan=retraining_plan,
            evidence=tuple(evidence),
        )
        path = f"/v1/erasure-cases/{path_segment(case_id)}/decision"
        return self._session.send("POST", path, body, ErasureCaseView)

    def conclude(self, case_id: str, release_id: str) -> ErasureCaseView:
        """Let the retrained release take the place of the case's, which is recalled (officer)."""
        path = f"/v1/erasure-cases/{path_segment(case_id)}/conclusion"
        body = make_body(CaseConclusionBody, release_id=release_id)
        return self._session.send("POST", path, body, ErasureCaseView)

    def kept_models(self, plan_id: str) -> KeptModels:
        """Which kept models of a plan hold somebody who was erased (coordinator)."""
        return self._session.fetch(f"/v1/plans/{path_segment(plan_id)}/kept-models", KeptModels)

    def report_removal(self, plan_id: str, removal: SignedStatement) -> Recorded:
        """Record a KeptModelRemoval, before it is done (coordinator)."""
        path = f"/v1/plans/{path_segment(plan_id)}/kept-models/removal"
        return self._session.send("POST", path, StatementBody(statement=removal), Recorded)

    def receipt(self, erasure: str) -> Receipt:
        """An erasure's receipt with all that followed (officer, auditor, the site itself).

        Args:
            erasure: Digest of the site's statement.
        """
        path = f"/v1/erasures/{path_segment(erasure)}/receipt"
        return Receipt.from_json(self._session.fetch(path, ErasureReceiptView).receipt)
