"""The audit: the right trainer passes, every broken one is caught.

All seeds are fixed, so nothing here can flake. How far the verdicts are from chance was measured
once, with exactly these audits (a promise of 8, 2,000 canaries), over seeds 0 to 199:

| promise | trainer | caught | Gaussian bound |
|---|---|---|---|
| full batches | right | 0 of 200 | 6.35 to 7.71 |
| full batches | noise x 0.8 | 200 of 200 | 8.58 to 10.26 |
| sampled | right | 0 of 200 | 5.06 to 8.00 |
| sampled | norm of one weight | 200 of 200 | 8.55 to 12.22 |
"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from audit.canonical import canonical_bytes
from client.learning import canaries
from client.learning.accounting import (
    Event,
    epsilon_of,
    events_of,
    reported_epsilon,
    solve_noise_multipliers,
)
from client.learning.canaries import neighbours_noise, run_canaries, site_trainer
from client.learning.clipped_sums import ENGINES
from client.learning.privacy_audit import AuditResult, audit_mechanism, epsilon_with_noise
from client.learning.randomness import Keystream
from compliance.statements import Phase, Privacy
from tests.client.learning.broken_trainers import (
    FAULTS,
    RIGHT,
    SAMPLED_FAULTS,
    Fault,
    SeededTrainers,
)
from tests.client.learning.conftest import phase

PRIVACY = Privacy(
    epsilon=Decimal(8),
    delta=Decimal("0.00001"),
    nominal_subjects=1000,
    max_records_per_subject=5,
)


def promised(*phases: Phase) -> tuple[Phase, ...]:
    """Phases with just the noise that the promise needs."""
    return solve_noise_multipliers(phases, PRIVACY.epsilon, PRIVACY.delta)


PROMISES = {
    "full batches": promised(
        phase(rounds=2, steps_per_round=1, max_grad_norm="0.3", noise_multiplier="1")
    ),
    "sampled": promised(
        phase(rounds=1, steps_per_round=1, sampling_rate="0.5", noise_multiplier="1"),
        phase("adapter", rounds=2, steps_per_round=2, sampling_rate="0.5", noise_multiplier="1"),
    ),
}


def audit(promise: str, fault: Fault, engine: str, seed: int) -> AuditResult:
    return audit_mechanism(
        PROMISES[promise],
        PRIVACY,
        engine=engine,
        canaries=2000,
        make_trainer=SeededTrainers(fault, engine, seed),
        coins=Keystream(f"coins {seed}".encode()),
    )


def bounds_of(result: AuditResult) -> dict[str, float]:
    return {bound.method: float(bound.epsilon) for bound in result.bounds}


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_right_trainer_passes_and_the_bound_is_near_the_promise(
    promise: str, engine: str
) -> None:
    result = audit(promise, RIGHT, engine, seed=1)
    assert result.passes
    found = bounds_of(result)
    assert 5.5 < found["gaussian"] <= 8
    assert 1 < found["one-run"] <= found["gaussian"]
    assert found["scale"] == 0
    assert result.noise_at_most is not None
    assert 1 <= result.noise_at_most < Decimal("1.3")


CAUGHT = [
    *(("full batches", name, "one_backward") for name in FAULTS),
    *(("sampled", name, "one_backward") for name in SAMPLED_FAULTS),
    # What engines differ in is gradients, not noise or plans.
    ("full batches", "no clipping", "hooks"),
    ("full batches", "clipped by row", "hooks"),
    ("sampled", "norm of one weight", "hooks"),
]


@pytest.mark.parametrize(("promise", "name", "engine"), CAUGHT)
def test_every_broken_trainer_is_caught(promise: str, name: str, engine: str) -> None:
    result = audit(promise, {**FAULTS, **SAMPLED_FAULTS}[name], engine, seed=1)
    assert not result.passes
    caught_by = {method for method, epsilon in bounds_of(result).items() if epsilon > 8}
    assert caught_by == {"scale" if name == "divisor from N" else "gaussian"}


def test_a_cap_below_a_subjects_records_changes_nothing() -> None:
    capped = PRIVACY.model_copy(update={"max_records_per_subject": 2})
    result = audit_mechanism(
        PROMISES["full batches"],
        capped,
        canaries=1000,
        make_trainer=SeededTrainers(RIGHT, "one_backward", 3),
        coins=Keystream(b"coins 3"),
    )
    assert result.passes
    assert bounds_of(result)["gaussian"] > 5


@pytest.mark.parametrize("promise", PROMISES)
def test_neighbours_noise_has_the_same_scale_to_the_last_bit(promise: str) -> None:
    """One subject and two, with one keystream: what nobody touches must not differ at all."""

    def noise(fault: Fault) -> tuple[np.ndarray, np.ndarray]:
        trainers = SeededTrainers(fault, "one_backward", 7, same_noise=True)
        return neighbours_noise(PROMISES[promise], PRIVACY, trainers)

    full = noise(RIGHT)
    if promise == "full batches":  # else the two data sets draw different samples
        np.testing.assert_array_equal(*full)
    assert [array.std() for array in full] == pytest.approx([1, 1], rel=0.1)
    one, other = noise(FAULTS["divisor from N"])
    assert other.std() / one.std() == pytest.approx(0.5, rel=0.1)


def test_what_runs_is_the_plans_own_mechanism() -> None:
    """Cap, steps, rounds and rates reach the trainer as they are; learning rates do not matter."""
    seen = []

    def make(model: object, plan: object, examples: object) -> object:
        seen.append((plan, examples))
        return site_trainer("one_backward")(model, plan, examples)  # type: ignore[arg-type]

    phases = PROMISES["sampled"]
    found = run_canaries(phases, PRIVACY, 600, make, Keystream(b"x"))  # type: ignore[arg-type]
    assert len(seen) == 2, "600 canaries are two passes"
    for plan, examples in seen:
        assert plan.privacy == PRIVACY  # type: ignore[attr-defined]
        changed = [
            mine.model_copy(update={"learning_rate": theirs.learning_rate})
            for mine, theirs in zip(plan.phases, phases, strict=True)  # type: ignore[attr-defined]
        ]
        assert changed == list(phases)
        subjects = [e.subject for e in examples]  # type: ignore[attr-defined]
        assert {subjects.count(s) for s in subjects} == {5}
    assert (len(found.scores), found.steps) == (600, 5)
    assert 240 < found.included.sum() < 360


def test_a_long_plan_is_audited_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "MAX_STEPS", 60)
    long = (
        phase(rounds=1000, steps_per_round=10, noise_multiplier="60"),
        phase("adapter", rounds=1000, sampling_rate="0.5", noise_multiplier="60"),
    )
    shown: list[tuple[int, int]] = []
    result = audit_mechanism(
        long, PRIVACY, canaries=20, progress=lambda done, total: shown.append((done, total))
    )
    assert 40 <= result.canaries.steps <= 60
    assert shown[-1][0] == shown[-1][1] == len(shown)
    assert result.passes


def test_few_canaries_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        audit_mechanism(PROMISES["sampled"], PRIVACY, canaries=19)


def test_less_noise_is_the_epsilon_of_less_noise() -> None:
    events = events_of(PROMISES["sampled"])
    less = [Event(0.9 * e.noise_multiplier, e.sampling_rate, e.steps) for e in events]
    assert epsilon_with_noise(events, 0.9, 1e-5) == pytest.approx(epsilon_of(less, 1e-5), abs=0.002)
    assert epsilon_with_noise(events, 1.0, 1e-5) < reported_epsilon(events, 1e-5)
    assert epsilon_with_noise(events, float("inf"), 1e-5) == 0
    assert epsilon_with_noise(events, 0.0, 1e-5) == 100
    falling = [epsilon_with_noise(events, factor, 1e-5) for factor in (0.05, 0.1, 0.2, 0.4, 0.8)]
    assert falling == sorted(falling, reverse=True)


def test_the_result_as_canonical_json() -> None:
    result = audit("full batches", RIGHT, "one_backward", seed=2)
    text = json.loads(canonical_bytes(result.to_json()))
    assert text["passes"] is True
    assert Decimal(text["lower_bound"]) == result.lower_bound
    assert (text["claimed"], text["delta"], text["confidence"]) == ("8", "0.00001", "0.99")
    assert [bound["confidence"] for bound in text["bounds"]] == ["0.998"] * 3
    broken = replace(result, claimed=result.lower_bound - Decimal("0.0001"))
    assert not broken.passes
