"""What a release's ε means, by unit, with batch limits and the sites' audits."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from client.learning.accounting import epsilon_of, event_of_subject, events_of
from compliance.statements import BatchLimit, TrainingPlan
from server.model_card import model_card
from server.privacy_statement import privacy_statement
from server.runs import RunState
from tests.server.conftest import plan_of

PLAN_ID = f"sha256:{'a' * 64}"
SPENT = {"lakeside": Decimal("2.5"), "st-elm": Decimal("3.1")}


def stated(plan: TrainingPlan, **audited: str) -> dict[str, Any]:
    found = {site.replace("_", "-"): Decimal(value) for site, value in audited.items()}
    document: dict[str, Any] = json.loads(
        json.dumps(privacy_statement(plan, PLAN_ID, SPENT, found))
    )
    return document


def record_level(**changes: Any) -> TrainingPlan:
    plan = plan_of()
    privacy = plan.privacy.model_copy(update={"unit": "record", **changes})
    return plan.model_copy(update={"privacy": privacy})


def card(plan: TrainingPlan, audited: dict[str, Decimal] | None = None) -> str:
    state = RunState(
        plan_id=PLAN_ID,
        name=plan.name,
        rounds=plan.rounds,
        started_at="2026-01-31T12:00:00Z",
        updated_at="2026-01-31T12:00:00Z",
    )
    return model_card(plan, PLAN_ID, state, SPENT, audited).decode()


def test_a_subjects_promise_is_what_it_was() -> None:
    found = stated(plan_of())
    assert "all records of one data subject" in found["meaning"]
    assert (found["unit"], found["epsilon_by_site"]["st-elm"]) == ("subject", "3.1")
    promised = epsilon_of(events_of(plan_of().phases), plan_of().privacy.delta)
    assert 0 <= float(found["epsilon_of_subject"]) - promised <= 1e-4
    assert found["audit"]["epsilon_at_least_by_site"] == {}
    assert found["batch_limits"] == []
    assert "for each data subject of a site (adding or removing one subject)" in card(plan_of())


def test_a_records_promise_says_what_it_is_to_a_subject() -> None:
    plan = record_level(max_records_per_subject=2)
    found = stated(plan)
    assert "adding or removing one record" in found["meaning"]
    assert "per-record clipped" in found["mechanism"]
    events = [event_of_subject(event, "record", 2) for event in events_of(plan.phases)]
    expected = epsilon_of(events, plan.privacy.delta)
    assert 0 <= float(found["epsilon_of_subject"]) - expected <= 1e-4
    assert expected > epsilon_of(events_of(plan.phases), plan.privacy.delta)
    assert any("Data subjects" in text for text in found["does_not_cover"])
    assert "for each single record of a site (adding or removing one record)" in card(plan)
    assert stated(record_level(max_records_per_subject=1000))["epsilon_of_subject"] is None


def test_a_batch_limit_says_for_which_sites_the_promise_holds() -> None:
    plan = plan_of()
    limited = plan.phases[0].model_copy(
        update={"batch_limit": BatchLimit(subjects=30, max_population=900)}
    )
    (told,) = stated(plan.model_copy(update={"phases": (limited,)}))["batch_limits"]
    assert "of more than 30 sampled subjects" in told
    assert "at most 900 subjects" in told


def test_the_sites_audits_are_told_beside_what_they_spent() -> None:
    plan = plan_of().model_copy(update={"privacy_audit": True})
    found = stated(plan, st_elm="1.25")
    assert found["audit"]["asked"] is True
    assert found["audit"]["epsilon_at_least_by_site"] == {"st-elm": "1.25"}
    assert found["audit"]["confidence"] == "0.99"
    shown = card(plan, {"st-elm": Decimal("1.25")})
    assert "| st-elm | 3.1 | 1.25 |" in shown
    assert "| lakeside | 2.5 | not told |" in shown
    assert "| st-elm | 3.1 |\n" in card(plan)
