"""What the coordinator believes before it trains."""

from __future__ import annotations

from typing import Any

import pytest

from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement
from compliance.resources import PlanView
from compliance.statements import Decision, utc_now
from server.coordinator import verify_plan
from server.errors import PlanRefused
from tests.server.conftest import plan_of

COORDINATOR = SigningKey.generate("demo/coordinator")
LOG = SigningKey.generate("log")
FORGER = SigningKey.generate("forger")


def decision(plan_id: str, key: SigningKey = LOG, **changes: Any) -> SignedStatement:
    fields: dict[str, Any] = {
        "object": f"plan:{plan_id}",
        "verdict": "approved",
        "decided_by": "officer",
        "decided_at": utc_now(),
    }
    return sign_statement(Decision.model_validate({**fields, **changes}).body(), key)


def view(
    statement: SignedStatement, approval: SignedStatement | None, plan_id: str | None = None
) -> PlanView:
    return PlanView(
        plan_id=plan_id or statement.digest,
        state="approved",
        statement=statement,
        submitted_by="coordinator",
        submitted_at=utc_now(),
        submitted_position=1,
        approval=approval,
        rejection=None,
        approved_position=2,
        rounds_reported=0,
        outcome=None,
    )


def verified(found: PlanView) -> str:
    plan = verify_plan(found, federation="demo", coordinator=COORDINATOR.public, log_key=LOG.public)
    return plan.name


PLAN = sign_statement(plan_of().body(), COORDINATOR)
OTHER = sign_statement(plan_of(name="other").body(), COORDINATOR)


def test_our_own_approved_plan_is_believed() -> None:
    assert verified(view(PLAN, decision(PLAN.digest))) == "routing"


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        (view(PLAN, None), PlanRefused, "carries no approval"),
        (view(PLAN, decision(OTHER.digest)), PlanRefused, "for something else"),
        (
            view(PLAN, decision(PLAN.digest, object=f"release:{PLAN.digest}")),
            PlanRefused,
            "for something else",
        ),
        (view(PLAN, decision(PLAN.digest, verdict="rejected")), PlanRefused, "something else"),
        (
            view(PLAN, decision(PLAN.digest, decided_by="coordinator")),
            PlanRefused,
            "by its own author",
        ),
        (view(PLAN, decision(PLAN.digest, FORGER)), VerificationFailed, "signed by"),
        (view(PLAN, decision(PLAN.digest, COORDINATOR)), VerificationFailed, "signed by"),
        (view(PLAN, PLAN), VerificationFailed, "signed by"),
        (
            view(PLAN, sign_statement(plan_of().body(), LOG)),
            MalformedInput,
            "malformed decision",
        ),
        (
            view(OTHER, decision(PLAN.digest), plan_id=PLAN.digest),
            VerificationFailed,
            "another plan's id",
        ),
    ],
)
def test_an_approval_that_is_none_starts_nothing(
    found: PlanView, error: type[FiduciaryError], said: str
) -> None:
    with pytest.raises(error, match=said):
        verified(found)


def test_a_plan_that_we_did_not_sign_starts_nothing() -> None:
    forged = sign_statement(plan_of().body(), FORGER)
    with pytest.raises(VerificationFailed):
        verified(view(forged, decision(forged.digest)))


def test_a_plan_of_another_federation_starts_nothing() -> None:
    foreign = sign_statement(plan_of(federation="other").body(), COORDINATOR)
    with pytest.raises(PlanRefused, match="for federation other"):
        verified(view(foreign, decision(foreign.digest)))
