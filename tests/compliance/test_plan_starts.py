"""Plans that start from another's model: what may, what it holds, and whom an erasure concerns."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit.errors import Conflict, MalformedInput
from audit.receipt import Receipt
from compliance.rules.months import Month
from compliance.rules.retention import ActionKey
from compliance.rules.ruling import ALLOWED, Refused
from compliance.rules.starts import (
    MAX_LINE,
    Part,
    latest_start,
    line_of,
    may_start,
    may_start_without,
)
from compliance.rules.unlearning import (
    ErasedAt,
    Held,
    group_by_lemma,
    group_by_mechanism,
    stated,
    unlearning_debt,
)
from compliance.service.retention import ServiceLog
from compliance.statements import ErasureFollowUp, StartsFrom, TrainingPlan
from tests.compliance.erasing import Ground
from tests.compliance.federation import DIGEST, Coordinator, Site, plan_body
from tests.compliance.running import RunningService

MODELS = tuple(f"sha256:{digit * 64}" for digit in "123")
FOURTH: dict[str, Any] = {"format": "fiduciary.plan/4"}
OTHER = "ef" * 32
WITH_START: dict[str, Any] = {"epsilon_with_start": {"north": "2.5"}}


def plan(name: str = "triage", rounds: int = 3, **changes: Any) -> TrainingPlan:
    body = plan_body(("north", "south"), name=name, **FOURTH)
    body["phases"][0]["rounds"] = rounds
    return TrainingPlan.from_body({**body, **changes})


def after(plan_id: str, earlier: TrainingPlan, rounds: int, model: str = DIGEST) -> dict[str, Any]:
    start = StartsFrom.after(plan_id, earlier, rounds, model)
    return {"starts_from": start.model_dump(mode="json")}


FIRST = plan("first")
SECOND = plan("second", **after(MODELS[0], FIRST, 2))
THIRD = plan("third", **after(MODELS[1], SECOND, 1))
LINE = line_of(MODELS[2], THIRD, {MODELS[0]: FIRST, MODELS[1]: SECOND}.__getitem__)


# --- rules ----------------------------------------------------------------------------------------


def test_a_line_holds_each_plan_with_the_rounds_that_the_next_one_started_from() -> None:
    assert (
        Part(MODELS[0], FIRST, 2),
        Part(MODELS[1], SECOND, 1),
        Part(MODELS[2], THIRD, 3),
    ) == LINE
    assert FIRST.seed == SECOND.seed == THIRD.seed != plan("another").seed


def test_a_line_without_end_is_no_line() -> None:
    with pytest.raises(ValueError, match="longer than"):
        line_of(MODELS[1], SECOND, lambda _: SECOND)


def line_before(rounds: int = 2) -> tuple[Part, ...]:
    return (Part(MODELS[0], FIRST, rounds),)


@pytest.mark.parametrize(
    ("new", "line", "reported", "code"),
    [
        (SECOND, None, DIGEST, "start-unknown"),
        (SECOND, line_before(), None, "start-unreported"),
        (plan(**after(MODELS[0], FIRST, 4)), line_before(), DIGEST, "start-unreported"),
        (SECOND, line_before(), MODELS[0], "start-mismatch"),
        (SECOND, line_before() * MAX_LINE, DIGEST, "start-too-far"),
        *(
            (
                plan(**after(MODELS[0], FIRST, 2), **changes),
                line_before(),
                DIGEST,
                "start-of-something-else",
            )
            for changes in (
                {"labels": ["urgent", "other"]},
                {"purpose": "research"},
                {"adapter": {"rank": 4}},
                {"class_weights": "histogram"},
                {"base_model": {"name": "another", "digest": DIGEST}},
                {"phases": [{**FIRST.body()["phases"][0], "kind": "full"}]},
            )
        ),
        (plan(**after(MODELS[0], plan("another"), 2)), line_before(), DIGEST, "start-of-something"),
    ],
)
def test_a_start_that_is_none_is_refused(
    new: TrainingPlan, line: tuple[Part, ...] | None, reported: str | None, code: str
) -> None:
    refused = may_start(new, line, reported)
    assert isinstance(refused, Refused)
    assert refused.code.startswith(code)


def test_a_start_that_was_reported_is_allowed_and_counts_no_labels_again() -> None:
    assert may_start(SECOND, line_before(), DIGEST) == ALLOWED
    assert may_start(FIRST, None, None) == ALLOWED
    phases = [{**FIRST.body()["phases"][0], "kind": "histogram"}, *FIRST.body()["phases"]]
    with pytest.raises(MalformedInput, match="has its histogram"):
        plan(**after(MODELS[0], FIRST, 2), class_weights="histogram", phases=phases)
    plan(**after(MODELS[0], FIRST, 2), class_weights="histogram")


@pytest.mark.parametrize(
    ("first_rounds", "latest"),
    [
        ({}, (MODELS[2], 3)),
        ({MODELS[2]: 1}, (MODELS[2], 1)),
        ({MODELS[2]: 0}, (MODELS[1], 1)),
        ({MODELS[1]: 0, MODELS[2]: 2}, (MODELS[0], 2)),
        ({MODELS[0]: 2, MODELS[2]: 2}, (MODELS[2], 2)),  # its third round is in no later model
        ({MODELS[0]: 1}, (MODELS[0], 1)),
        ({MODELS[0]: 0}, None),
    ],
)
def test_the_latest_model_without_somebody(
    first_rounds: dict[str, int], latest: tuple[str, int] | None
) -> None:
    found = latest_start(LINE, first_rounds)
    assert (found and (found[0].plan_id, found[1])) == latest


def test_a_start_lies_at_or_before_everybodys_first_round() -> None:
    assert may_start_without(LINE, {MODELS[0]: 2, MODELS[1]: 1, MODELS[2]: 0}) == ALLOWED
    refused = may_start_without(LINE, {MODELS[0]: 1})
    assert isinstance(refused, Refused)
    assert refused.code == "start-too-late"
    assert "at most 1 round " in refused.fix
    assert may_start_without(LINE[:1], {MODELS[0]: 0}) == ALLOWED, "the base model has nobody"


def test_debts_compose_over_a_line() -> None:
    """Two rounds of one plan and three of the next are five rounds of the same mechanism."""
    two = {"north": ErasedAt(2, 0, Decimal(8))}
    held = Held(FIRST, 2, two)
    debt = unlearning_debt(SECOND, two, [held], {"north": 2})
    whole = group_by_mechanism(plan(rounds=5), 2)
    assert debt.largest.epsilon == pytest.approx(whole.epsilon)
    assert (debt.subjects, debt.by_site["north"].first_round) == (2, 0)
    once = group_by_lemma(8, 1e-5, 2)
    lemma = debt.by_site["north"].lemma
    assert (lemma.epsilon, lemma.delta) == (2 * once.epsilon, 2 * once.delta)
    earlier = unlearning_debt(SECOND, {}, [held], {"north": 2})
    assert earlier.largest == group_by_mechanism(plan(rounds=2), 2), "its own rounds had nobody"
    later = Held(FIRST, 2, {"north": ErasedAt(2, 1, Decimal(8))})
    assert unlearning_debt(SECOND, {}, [later], {"north": 2}).largest == group_by_mechanism(
        plan(rounds=1), 2
    )
    apart = {**two, "south": ErasedAt(1, 0, Decimal(8))}
    both = unlearning_debt(SECOND, two, [Held(FIRST, 2, apart)], {"north": 2, "south": 1})
    assert debt.largest.epsilon < both.together.epsilon
    assert both.largest.epsilon == debt.largest.epsilon


# --- at the service -------------------------------------------------------------------------------


@pytest.fixture
def ground(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> Ground:
    return Ground(service, coordinator, north, tmp_path)


def finished(ground: Ground, **changes: Any) -> tuple[str, TrainingPlan]:
    """A plan of two rounds that has run, each report naming its model."""
    plan_id = ground.coordinator.approved_plan(("north",), **FOURTH, **changes)
    north = ground.north.client(ground.service)
    for index in range(2):
        north.report_site(plan_id, ground.north.report(plan_id, index))
        report = ground.coordinator.round_report(plan_id, index, model_digest=MODELS[index])
        ground.coordinator.api.report_round(plan_id, report)
    ground.coordinator.api.report_outcome(plan_id, ground.coordinator.outcome(plan_id))
    return plan_id, ground.coordinator.api.plan(plan_id).plan


def test_the_service_verifies_a_start_against_the_recorded_report(ground: Ground) -> None:
    plan_id, earlier = finished(ground, name="a")
    api, make = ground.coordinator.api, ground.coordinator.plan
    for start, said in (
        (after(plan_id, earlier, 1, MODELS[1]), "another model after 1 round"),
        (after(plan_id, earlier, 3, MODELS[1]), "which model a had after 3 rounds"),
        (after(DIGEST, earlier, 1, MODELS[0]), "one that is not known"),
    ):
        with pytest.raises(MalformedInput, match=said):
            api.submit_plan(make(name="b", **FOURTH, **start))
        assert ground.service.last_entry()[3]["reason"].startswith("start-")
    api.submit_plan(make(name="b", **FOURTH, **after(plan_id, earlier, 1, MODELS[0])))
    going_on = ground.coordinator.approved_plan(("north",), name="going-on", **FOURTH)
    for model in MODELS[:2]:  # a round that was run again is reported again
        report = ground.coordinator.round_report(going_on, 0, model_digest=model)
        api.report_round(going_on, report)
    document = api.plan(going_on).plan
    with pytest.raises(MalformedInput, match="another model after 1 round"):
        api.submit_plan(make(name="d", **FOURTH, **after(going_on, document, 1, MODELS[0])))
    api.submit_plan(make(name="d", **FOURTH, **after(going_on, document, 1, MODELS[1])))
    old = ground.plan()  # its reports name no model
    start = after(old, api.plan(old).plan, 1, MODELS[0])
    with pytest.raises(MalformedInput, match="no report says"):
        api.submit_plan(make(name="c", **FOURTH, **start))


def test_an_erasure_reaches_what_was_made_of_the_rounds_it_concerns(ground: Ground) -> None:
    """a: round 1 sampled them. b started before that; c after it, and d from c."""
    a, of_a = finished(ground, name="a")
    b, _ = finished(ground, name="b", **after(a, of_a, 1, MODELS[0]))
    c, of_c = finished(ground, name="c", **after(a, of_a, 2, MODELS[1]))
    d, _ = finished(ground, name="d", **after(c, of_c, 1, MODELS[0]))
    plans = {"a": a, "b": b, "c": c, "d": d}
    releases = {
        name: ground.release(each, name, **({} if name == "a" else WITH_START)).release_id
        for name, each in plans.items()
    }
    recorded = ground.erase(a, first_rounds={a: 1})
    cases = {case.release_name: case for case in ground.officer.erasures.cases()}
    assert set(cases) == {"a", "c", "d"}
    for name, rounds in (("a", 1), ("c", 1), ("d", 1)):
        start = cases[name].start_from
        assert start is not None
        assert (start.plan_id, start.rounds, start.model) == (a, rounds, MODELS[0])
    # Of one erased subject: one round of a, whose mechanism is the same in all plans.
    one_round = group_by_mechanism(plan(rounds=1), 1)
    assert cases["c"].debt.epsilon == cases["d"].debt.epsilon == stated(one_round.epsilon)
    assert [cases[name].debt.first_round for name in "acd"] == [1, 0, 0]
    body = Receipt.from_json(recorded.follow_ups[0]).statement.body
    told = {each.release_id: each.first_round for each in ErasureFollowUp.from_body(body).releases}
    assert told == {releases["a"]: 1, releases["c"]: 0, releases["d"]: 0}

    # Whoever is erased from c's own rounds on owes of these too; a has nobody new.
    ground.erase(c, d, subject=OTHER, first_rounds={c: 0, d: 0})
    cases = {case.release_name: case for case in ground.officer.erasures.cases()}
    assert [cases[name].debt.subjects for name in "acd"] == [1, 2, 2]
    assert cases["d"].start_from == cases["c"].start_from == cases["a"].start_from

    # What is announced later gets its case then, through any number of plans.
    ground.candidate(d, "late", **WITH_START)
    assert [case.state for case in ground.officer.erasures.cases() if case.release_name == "late"]
    assert len(ground.officer.erasures.cases()) == 4


def test_a_retraining_starts_before_the_rounds_of_whoever_was_erased(ground: Ground) -> None:
    a, of_a = finished(ground, name="a")
    release = ground.release(a)
    ground.erase(a, first_rounds={a: 1})
    case = ground.case(release).case_id
    late = ground.coordinator.approved_plan(name="late", **FOURTH, **after(a, of_a, 2, MODELS[1]))
    decide = ground.officer.erasures.decide
    with pytest.raises(Conflict, match=r"starts from 2 rounds of a, .* its round 1 on"):
        decide(case, "retrain", reason="anew", retraining_plan=late)
    assert ground.service.last_entry()[3]["reason"] == "start-too-late"
    again, _ = finished(ground, name="again", **after(a, of_a, 1, MODELS[0]))
    view = decide(case, "retrain", reason="anew", retraining_plan=again)
    assert view.state == "retraining"
    retrained = ground.release(again, **WITH_START)
    done = ground.officer.erasures.conclude(case, retrained.release_id)
    assert (done.state, done.replaced_by) == ("closed", retrained.release_id)
    assert {view.release_id for view in ground.officer.erasures.cases()} == {release.release_id}


def test_evidence_of_a_plan_is_in_effect_while_a_model_that_holds_it_may_be(
    ground: Ground,
) -> None:
    a, of_a = finished(ground, name="a")
    clock, log = ground.service.clock, ServiceLog(ground.service.registry, None)
    key = ActionKey("plan.approved", Month.of(clock()))
    assert log.last_in_effect(key) == key.month
    clock.advance(days=400)
    b = ground.coordinator.approved_plan(name="b", **FOURTH, **after(a, of_a, 1, MODELS[0]))
    assert log.last_in_effect(key) is None
    for index in range(2):
        ground.coordinator.api.report_round(b, ground.coordinator.round_report(b, index))
    ground.coordinator.api.report_outcome(b, ground.coordinator.outcome(b))
    assert log.last_in_effect(key) == Month.of(clock())


def test_a_release_states_what_its_start_tells(ground: Ground) -> None:
    a, of_a = finished(ground, name="a")
    b, _ = finished(ground, name="b", **after(a, of_a, 1, MODELS[0]))
    less: dict[str, Any] = {"epsilon_with_start": {"north": "1.4"}}
    for plan_id, changes in ((a, WITH_START), (b, {}), (b, less)):
        with pytest.raises(MalformedInput, match="epsilon_with_start"):
            ground.candidate(plan_id, **changes)


def test_who_came_after_the_last_round_is_in_no_model(ground: Ground) -> None:
    a, _ = finished(ground, name="a")
    ground.release(a)
    ground.erase(a, first_rounds={a: 2})
    assert ground.officer.erasures.cases() == ()
