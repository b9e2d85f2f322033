"""Erasures that reach models, as callers see them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from compliance.resources import Answer, Recorded, RequestBody
from compliance.rules.erasure_cases import CaseState
from compliance.rules.unlearning import Debt, stated
from compliance.statements import (
    CaseChoice,
    CaseId,
    Count,
    Digest,
    ErasureDecision,
    Evidence,
    Name,
    Time,
)
from compliance.wire import Envelope, ReleaseState, RequestId

MAX_EVIDENCE = 20

CaseReason = Annotated[str, Field(min_length=1, max_length=2000)]
"""Told to everybody who holds the release. Never a person's data."""


class CaseDecisionBody(RequestBody):
    """What an officer decides: `retraining_plan` goes with retrain, `evidence` with rely."""

    choice: CaseChoice
    reason: CaseReason
    retraining_plan: Digest | None = None
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=MAX_EVIDENCE)] = ()


class CaseConclusionBody(RequestBody):
    """The release that takes the place of the one that is retrained."""

    release_id: Digest


class SiteDebtView(Answer):
    """What a release owes the erased subjects of one site.

    `epsilon` holds at the debt's δ, from the plan's mechanism; the lemma is an independent, weaker
    bound at a δ of its own.
    """

    subjects: Count
    first_round: Count
    epsilon: str
    lemma_epsilon: str
    lemma_delta: str


class DebtView(Answer):
    """The unlearning debt of a release (`compliance.rules.unlearning`).

    Attributes:
        subjects: Erased subjects in all.
        first_round: The first round of the release's plan whose model may hold any of them; 0 also
            where what the plan starts from does.
        delta: The plan's δ.
        epsilon: The largest of any one site's erased subjects.
        epsilon_together: Of all erased subjects of all sites as one group.
        sites: Of each site's erased subjects.
    """

    subjects: Count
    first_round: Count
    delta: str
    epsilon: str
    epsilon_together: str
    sites: dict[Name, SiteDebtView]

    @classmethod
    def of(cls, debt: Debt) -> DebtView:
        """The view of a debt that is not nothing."""
        return cls(
            subjects=debt.subjects,
            first_round=min(site.first_round for site in debt.by_site.values()),
            delta=stated(debt.largest.delta),
            epsilon=stated(debt.largest.epsilon),
            epsilon_together=stated(debt.together.epsilon),
            sites={
                name: SiteDebtView(
                    subjects=site.subjects,
                    first_round=site.first_round,
                    epsilon=stated(site.bound.epsilon),
                    lemma_epsilon=stated(site.lemma.epsilon),
                    lemma_delta=stated(site.lemma.delta),
                )
                for name, site in debt.by_site.items()
            },
        )


class LatestStartView(Answer):
    """The latest model that a retraining may start from.

    Attributes:
        plan_id: The plan that had it.
        plan_name: Its name.
        rounds: After so many rounds; after fewer will do as well.
        model: Its digest; None where no report names it.
    """

    plan_id: Digest
    plan_name: Name
    rounds: Count
    model: Digest | None


class ErasureCaseView(Answer):
    """What is to become of one release.

    Attributes:
        case_id: Names the case.
        state: Where it stands.
        release_id: The release.
        release_name: Its name.
        release_state: Where it stands.
        plan_id: The run that it came from.
        opened_at: When the first erasure of the case was recorded.
        position: The log's entry of that.
        erasures: The erasures that it is about: digests of sites' statements.
        debt: What is owed.
        start_from: The latest model that a retraining may start from; None for the base model.
        choice: What was decided; None while nothing is.
        decision: The signed decision.
        retraining_plan: The plan whose model takes its place.
        replaced_by: The release that took it.
        closed_at: When the case was closed.
    """

    case_id: CaseId
    state: CaseState
    release_id: Digest
    release_name: Name
    release_state: ReleaseState
    plan_id: Digest
    opened_at: Time
    position: int
    erasures: tuple[Digest, ...]
    debt: DebtView
    start_from: LatestStartView | None
    choice: CaseChoice | None
    decision: Envelope | None
    retraining_plan: Digest | None
    replaced_by: Digest | None
    closed_at: Time | None

    @property
    def decided(self) -> ErasureDecision | None:
        """The decision itself. Its signature is the caller's to verify."""
        return None if self.decision is None else ErasureDecision.from_body(self.decision.body)


class ErasureReceiptView(Answer):
    """An erasure's receipt with all that followed, as `audit verify-receipt` checks it offline."""

    receipt: dict[str, Any]


class ErasureBody(RequestBody):
    """A site's erasure receipt.

    `request_id` comes from sites of before, where `client erase` could name a request. It says
    nothing any more: requests are answered by `/v1/subject-requests/{request_id}/answer`.
    """

    statement: Envelope
    request_id: RequestId | None = None


class ErasureRecorded(Recorded):
    """An erasure was recorded. `receipt` is the file that `audit verify-receipt` checks offline.

    `follow_ups` are receipts, likewise, of what was found and decided of releases since.
    """

    receipt: dict[str, Any]
    follow_ups: tuple[dict[str, Any], ...] = ()
