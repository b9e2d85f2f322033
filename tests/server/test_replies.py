"""What counts as an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from audit.keys import SigningKey
from audit.statement import sign_statement
from client.arrays import Arrays, arrays_digest
from client.learning.randomness import Keystream
from client.learning.subject_optimizer import ROUNDING_ALLOWANCE
from client.transport import decode, encode
from compliance.statements import BatchLimit, SiteReport, TrainingPlan, Transport, utc_now
from server.errors import MalformedReply
from server.replies import (
    MAX_SUBJECTS_OVER_NOMINAL,
    ROUNDING,
    Expected,
    accept_evaluation,
    accept_update,
    check_mean,
    mean_norm,
    norm_bound,
    norm_of,
)
from tests.server.conftest import plan_of
from tests.server.scripted import counts_of

PLAN = plan_of()
PLAN_ID = f"sha256:{'a' * 64}"
LIKE = {
    "head.bias": np.zeros(3, dtype=np.float32),
    "head.weight": np.zeros((3, 4), dtype=np.float32),
}
SITE = SigningKey.generate("st-elm/identity")
OTHER = SigningKey.generate("other/identity")
UPDATE = {name: array + np.float32(0.5) for name, array in LIKE.items()}
CONFUSION = [[5, 1, 0], [0, 7, 0], [2, 0, 4]]
COUNTS = counts_of(CONFUSION)


def expected(**changes: Any) -> Expected:
    fields = {
        "plan_id": PLAN_ID,
        "plan": PLAN,
        "round": 1,
        "site": "st-elm",
        "identity": SITE.public,
        "activity": "train",
    }
    return Expected(**{**fields, **changes})


def report(
    arrays: Arrays, *, key: SigningKey = SITE, envelope: dict[str, Any] | None = None, **claims: Any
) -> dict[str, Any]:
    body = SiteReport(
        plan_id=PLAN_ID,
        site="st-elm",
        round=1,
        activity="train",
        steps=1,
        epsilon_spent=Decimal("0.5"),
        update_digest=arrays_digest(arrays),
        dataset_digest=PLAN_ID,
        base_model_digest=PLAN.base_model.digest,
        deidentification_digest=PLAN_ID,
        software="test",
        reported_at=utc_now(),
    ).body()
    statement = sign_statement({**body, **claims}, key)
    given = {
        "plan_id": PLAN_ID,
        "round": 1,
        "site": "st-elm",
        "statement": json.dumps(statement.to_json()),
    }
    return {**given, **(envelope or {})}


def test_an_honest_update_is_accepted() -> None:
    accepted = accept_update(expected(), UPDATE, report(UPDATE), LIKE)
    assert arrays_digest(accepted.arrays) == arrays_digest(UPDATE)
    assert accepted.report.epsilon_spent == Decimal("0.5")
    whole = report(UPDATE, epsilon_spent=str(PLAN.privacy.epsilon))
    assert accept_update(expected(), UPDATE, whole, LIKE).report.epsilon_spent == (
        PLAN.privacy.epsilon
    )


def test_honest_counts_are_accepted() -> None:
    wanted = expected(activity="evaluate")
    counts, stated = accept_evaluation(wanted, COUNTS, report(COUNTS, activity="evaluate"))
    assert counts.everybody.confusion.tolist() == CONFUSION
    assert stated.activity == "evaluate"


def test_slices_are_accepted_of_the_groups_that_the_plan_declares() -> None:
    arrays = {**COUNTS, **{f"f/{name}": array for name, array in COUNTS.items()}}
    answer = report(arrays, activity="evaluate")
    plan = plan_of(format="fiduciary.plan/2", groups=["f", "m"])
    counts, _ = accept_evaluation(expected(activity="evaluate", plan=plan), arrays, answer)
    assert list(counts.slices) == ["f"]
    plan = plan_of(format="fiduciary.plan/2", groups=["m"])
    with pytest.raises(MalformedReply, match="nothing else"):
        accept_evaluation(expected(activity="evaluate", plan=plan), arrays, answer)


def _changed(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> dict[str, Any]:
    return {**UPDATE, name: change(UPDATE[name].copy())}


def _with(value: float) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array.flat[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "missing"),
        ({"head.bias": UPDATE["head.bias"]}, "'head.weight' is missing"),
        ({**UPDATE, "extra": UPDATE["head.bias"]}, "'extra' is unknown"),
        (_changed("head.weight", lambda array: array.T.copy()), "expected shape"),
        (_changed("head.weight", lambda array: array[:2]), "expected shape"),
        (_changed("head.bias", lambda array: array.astype(np.float64)), "expected float32"),
        (_changed("head.bias", _with(np.nan)), "not finite"),
        (_changed("head.bias", _with(np.inf)), "not finite"),
        (_changed("head.bias", _with(-np.inf)), "not finite"),
        (_changed("head.weight", _with(1e5)), "and at most"),
        (_changed("head.weight", _with(-1e5)), "and at most"),
    ],
)
def test_a_malformed_update_is_refused(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedReply, match=said):
        accept_update(expected(), arrays, report(arrays), LIKE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"envelope": {"plan_id": f"sha256:{'b' * 64}"}}, "another plan"),
        ({"envelope": {"round": 0}}, "another round"),
        ({"envelope": {"round": True}}, "another round"),
        ({"envelope": {"round": "1"}}, "another round"),
        ({"envelope": {"site": "lakeside"}}, "another site"),
        ({"envelope": {"more": "x"}}, "exactly"),
        ({"envelope": {"statement": "{}"}}, "does not verify"),
        ({"envelope": {"statement": "[" * 50_000}}, "does not verify"),
        ({"envelope": {"statement": "no JSON"}}, "does not verify"),
        ({"key": OTHER}, "does not verify"),
        ({"plan_id": f"sha256:{'b' * 64}"}, "for another plan"),
        ({"site": "lakeside"}, "for another site"),
        ({"round": 0}, "for another round"),
        ({"activity": "evaluate"}, "for another activity"),
        ({"base_model_digest": f"sha256:{'c' * 64}"}, "for another base model"),
        ({"update_digest": f"sha256:{'d' * 64}"}, "of other arrays"),
        ({"epsilon_spent": "8.0001"}, "the plan allows"),
        ({"epsilon_spent": "NaN"}, "does not verify"),
        ({"surprise": 1}, "unknown field"),
    ],
)
def test_a_report_that_says_something_else_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedReply, match=said):
        accept_update(expected(), UPDATE, report(UPDATE, **changes), LIKE)


AUDITED = PLAN.model_copy(update={"privacy_audit": True})


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (None, "does not state the audit"),
        (str(PLAN.privacy.epsilon + Decimal("0.0001")), "its own audit measured epsilon"),
    ],
)
def test_an_audit_that_the_plan_asks_for_is_stated_and_passed(
    stated: str | None, said: str
) -> None:
    claims: dict[str, Any] = {} if stated is None else {"audited_epsilon": stated}
    with pytest.raises(MalformedReply, match=said):
        accept_update(expected(plan=AUDITED), UPDATE, report(UPDATE, **claims), LIKE)
    with pytest.raises(MalformedReply, match=said):
        accept_evaluation(
            expected(plan=AUDITED, activity="evaluate"),
            COUNTS,
            report(COUNTS, activity="evaluate", **claims),
        )


def test_a_stated_audit_below_the_promise_is_accepted() -> None:
    for epsilon in ("0", "0.5", str(PLAN.privacy.epsilon)):
        accepted = accept_update(
            expected(plan=AUDITED), UPDATE, report(UPDATE, audited_epsilon=epsilon), LIKE
        )
        assert accepted.report.audited_epsilon == Decimal(epsilon)


def test_a_missing_part_of_the_report_is_refused() -> None:
    for name in ("plan_id", "round", "site", "statement"):
        given = report(UPDATE)
        del given[name]
        with pytest.raises(MalformedReply):
            accept_update(expected(), UPDATE, given, LIKE)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "expected the arrays calibration, confusion, scores"),
        ({"confusion": COUNTS["confusion"]}, "got confusion$"),
        ({**COUNTS, "confusion": COUNTS["confusion"].astype(np.float32)}, "expected int64"),
        ({**COUNTS, "confusion": COUNTS["confusion"][:2]}, "of shape"),
        ({**COUNTS, "confusion": COUNTS["confusion"] - 3}, "cannot be counts"),
        ({**COUNTS, "confusion": COUNTS["confusion"] + 2**40}, "cannot be counts"),
        ({**COUNTS, "confusion": COUNTS["confusion"] + 1}, "other examples"),
        ({**COUNTS, "more": COUNTS["confusion"]}, "nothing else"),
        ({**COUNTS, **{f"f/{name}": array for name, array in COUNTS.items()}}, "nothing else"),
    ],
)
def test_malformed_counts_are_refused(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedReply, match=said):
        accept_evaluation(
            expected(activity="evaluate"), arrays, report(arrays, activity="evaluate")
        )


def test_the_norm_bound_lets_honest_training_through() -> None:
    """Ten times the nominal subjects, all pulling one way, and noise of twice its expectation."""
    phase = PLAN.phase_of(1)
    weights = sum(array.size for array in LIKE.values())
    divisor = float(phase.sampling_rate) * PLAN.privacy.nominal_subjects
    clipped = 10 * PLAN.privacy.nominal_subjects * float(phase.max_grad_norm)
    noise = 2 * float(phase.noise_multiplier) * float(phase.max_grad_norm) * weights**0.5
    honest = phase.steps_per_round * float(phase.learning_rate) * (clipped + noise) / divisor
    assert honest < norm_bound(PLAN, 1, LIKE) < 1e6


def test_the_norm_bound_follows_what_the_plan_states() -> None:
    """A sum of all that may be sampled, all pulling one way; noise far below it."""
    privacy = PLAN.privacy.model_copy(update={"nominal_subjects": 10_000})
    first = PLAN.phases[0].model_copy(update={"noise_multiplier": Decimal("0.000001")})

    def bound(stretch: float = 1.0, **changes: Any) -> float:
        phases = (first.model_copy(update=changes),)
        plan = PLAN.model_copy(update={"privacy": privacy, "phases": phases})
        return norm_bound(plan, 0, LIKE, stretch)

    slightly_more = 1.003
    assert MAX_SUBJECTS_OVER_NOMINAL <= bound() < MAX_SUBJECTS_OVER_NOMINAL * slightly_more
    assert bound(steps_per_round=4) == pytest.approx(4 * bound())
    assert bound(stretch=2.5) == pytest.approx(2.5 * bound())
    assert bound(stretch=0.5) == bound()
    # A tenth is sampled of a hundred times as many, and a tenth of the nominal number divides.
    rate = Decimal("0.1")
    assert bound() < bound(sampling_rate=rate) < 1.05 * bound()
    limit = BatchLimit(subjects=12_000, max_population=12_000)
    assert bound(batch_limit=limit) == pytest.approx(1.2, rel=0.003)
    limit = BatchLimit(subjects=1_500, max_population=12_000)
    assert bound(batch_limit=limit, sampling_rate=rate) == pytest.approx(1.5, rel=0.003)
    limit = BatchLimit(subjects=12_000, max_population=12_000)
    assert 1.2 < bound(batch_limit=limit, sampling_rate=rate) < 1.7


def test_weights_that_the_phase_does_not_train_allow_no_longer_update() -> None:
    more = {**LIKE, "lora": np.zeros(10_000, np.float32)}
    assert PLAN.phases[0].kind == "probe"
    assert norm_bound(PLAN, 0, more) == norm_bound(PLAN, 0, LIKE)


def test_a_mean_that_honest_sites_cannot_have_is_refused() -> None:
    check_mean(PLAN, 0, LIKE)
    longest = norm_bound(PLAN, 0, LIKE)
    for share, refused in ((0.99, False), (1.01, True)):
        mean = {**LIKE, "head.bias": np.array([share * longest, 0, 0], np.float32)}
        with pytest.raises(MalformedReply, match="the mean is") if refused else nullcontext():
            check_mean(PLAN, 0, mean)


def test_the_noise_of_several_steps_adds_up_as_noise_does() -> None:
    noisy = PLAN.phases[0].model_copy(update={"noise_multiplier": Decimal(10_000)})
    bounds = []
    for steps in (1, 100):
        phases = (noisy.model_copy(update={"steps_per_round": steps}),)
        bounds.append(norm_bound(PLAN.model_copy(update={"phases": phases}), 0, LIKE))
    clipped = MAX_SUBJECTS_OVER_NOMINAL * (1 + 2**-9)
    assert bounds[1] - 100 * clipped == pytest.approx(10 * (bounds[0] - clipped), rel=1e-6)


def test_the_bound_has_room_for_the_rounding_that_noise_allows_for() -> None:
    assert ROUNDING > ROUNDING_ALLOWANCE


@pytest.mark.parametrize("kind", ["probe", "adapter", "histogram"])
def test_an_update_holds_exactly_what_the_phase_trains(kind: str) -> None:
    like = {
        **LIKE,
        "label_histogram": np.zeros(3, np.float32),
        "lora": np.full(4, 100, np.float32),
    }
    trained = {
        "probe": {"head.bias", "head.weight"},
        "adapter": {"head.bias", "head.weight", "lora"},
        "histogram": {"label_histogram"},
    }[kind]
    phases = (PLAN.phases[0].model_copy(update={"kind": kind}),)
    wanted = expected(plan=PLAN.model_copy(update={"phases": phases}), round=0)

    def accepted(arrays: Arrays) -> Arrays:
        given = report(arrays, round=0, envelope={"round": 0})
        return accept_update(wanted, arrays, given, like).arrays

    moved = {name: np.full_like(like[name], 0.01) for name in sorted(trained)}
    assert set(accepted(moved)) == trained
    for name in set(like) - trained:
        with pytest.raises(MalformedReply, match=f"'{name}' is unknown"):
            accepted({**moved, name: np.zeros_like(like[name])})
    for name in trained:
        with pytest.raises(MalformedReply, match=f"'{name}' is missing"):
            accepted({other: moved[other] for other in trained - {name}})


def _precise(precision: str) -> TrainingPlan:
    return PLAN.model_copy(update={"transport": Transport(precision=precision)})


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_an_update_is_judged_as_it_travelled_and_added_as_it_is_read(precision: Any) -> None:
    wanted = expected(plan=_precise(precision))
    sent = encode(UPDATE, precision, Keystream(b"seed"))
    accepted = accept_update(wanted, sent, report(sent), LIKE)
    for name, array in UPDATE.items():
        assert accepted.arrays[name].dtype == np.float32
        np.testing.assert_allclose(accepted.arrays[name], array, rtol=2**-11)
    with pytest.raises(MalformedReply, match="of other arrays than it sent"):
        accept_update(wanted, sent, report(UPDATE), LIKE)
    with pytest.raises(MalformedReply, match="malformed update"):
        accept_update(wanted, UPDATE, report(UPDATE), LIKE)
    with pytest.raises(MalformedReply, match="malformed update"):
        accept_update(expected(), sent, report(sent), LIKE)


def test_the_norm_bound_lets_honest_rounding_through_and_little_more() -> None:
    """The longest update that is possible, of one number and of many, after its way."""
    like = {"head.weight": np.zeros(200_000, np.float32)}
    for precision, most in (("float16", 1.001), ("int8", 4.0)):
        plan = _precise(precision)
        exact, bound = norm_bound(PLAN, 1, like), norm_bound(plan, 1, like)
        assert exact < bound < most * exact
        steep = np.zeros(200_000, np.float32)
        steep[0] = exact
        flat = np.full(200_000, exact / 200_000**0.5 * 0.999, np.float32)
        uneven = flat / 1.5
        uneven[0] = exact / 2
        for numbers in (steep, flat, uneven):
            update = {"head.weight": numbers}
            sent = encode(update, plan.transport.precision, Keystream(b"seed"))
            assert norm_of(decode(sent, plan.transport.precision, like)) <= bound


def test_norms_are_those_of_all_arrays_together() -> None:
    assert norm_of({"a": np.array([3.0]), "b": np.array([[4.0]])}) == pytest.approx(5.0)
    assert norm_of({}) == 0.0
    assert mean_norm(1 / 3) == Decimal("0.333333")
