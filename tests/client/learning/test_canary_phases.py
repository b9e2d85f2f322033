"""Audits of every kind of phase, of batch limits, and of plans that protect single records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from client.learning import private_sgd
from client.learning.accounting import solve_noise_multipliers
from client.learning.canaries import run_canaries, site_trainer
from client.learning.data import Example
from client.learning.plan_model import PlanModel
from client.learning.privacy_audit import audit_mechanism
from client.learning.private_sgd import SiteTrainer
from client.learning.randomness import Keystream
from compliance.statements import BatchLimit, Phase, Privacy, TrainingPlan

PROMISE = Privacy(epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=100)


def phase(kind: str, **changes: Any) -> Phase:
    return Phase.model_validate(
        {
            "kind": kind,
            "rounds": 2,
            "steps_per_round": 2,
            "sampling_rate": "1",
            "learning_rate": "1",
            "max_grad_norm": "0.5",
            "noise_multiplier": "1",
            **changes,
        }
    )


PLANS = {
    "histogram and probe": (phase("histogram", rounds=1, steps_per_round=1), phase("probe")),
    "histogram, probe and adapter": (
        phase("histogram", rounds=1, steps_per_round=1),
        phase("probe"),
        phase("adapter", sampling_rate="0.5"),
    ),
    "full": (phase("full"),),
    "histogram and full": (phase("histogram"), phase("full", sampling_rate="0.5")),
    "adapter with a batch limit": (
        phase(
            "adapter",
            sampling_rate="0.5",
            batch_limit=BatchLimit(subjects=40, max_population=60),
        ),
    ),
}


def coins(seed: int) -> Keystream:
    return Keystream(f"canary phases {seed}".encode())


def seeded(settings_seed: int) -> Callable[..., SiteTrainer]:
    made = [0]

    def make(model: PlanModel, plan: TrainingPlan, examples: Sequence[Example]) -> SiteTrainer:
        made[0] += 1
        return SiteTrainer(model, plan, examples, seed=1000 * settings_seed + made[0])

    return make


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_kind_of_phase_keeps_the_promise(name: str) -> None:
    phases = solve_noise_multipliers(PLANS[name], PROMISE.epsilon, PROMISE.delta)
    found = audit_mechanism(phases, PROMISE, canaries=200, make_trainer=seeded(1), coins=coins(1))
    assert found.passes
    assert found.claimed == 8


@pytest.mark.parametrize("name", ["histogram and probe", "full"])
def test_a_histogram_and_full_training_without_noise_are_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.client.learning.broken_trainers import NoNoise

    monkeypatch.setattr(private_sgd, "SubjectOptimizer", NoNoise)
    phases = solve_noise_multipliers(PLANS[name], PROMISE.epsilon, PROMISE.delta)
    found = audit_mechanism(phases, PROMISE, canaries=100, make_trainer=seeded(2), coins=coins(2))
    assert not found.passes


def test_no_more_canaries_train_together_than_a_batch_limit_is_for() -> None:
    seen: list[int] = []

    def make(model: PlanModel, plan: TrainingPlan, examples: Sequence[Example]) -> SiteTrainer:
        seen.append(len({example.subject for example in examples}))
        return SiteTrainer(model, plan, examples, seed=len(seen))

    found = run_canaries(PLANS["adapter with a batch limit"], PROMISE, 200, make, coins(3))
    assert len(found.scores) == 200
    assert len(seen) == 4
    assert max(seen) <= 60
    tiny = phase("full", batch_limit=BatchLimit(subjects=1, max_population=1))
    assert len(run_canaries([tiny], PROMISE, 4000, make, coins(4)).scores) == 40


def test_a_canary_of_a_record_level_plan_is_one_record() -> None:
    """Its five records would each be clipped alone, and look like a broken promise."""
    promise = PROMISE.model_copy(update={"unit": "record"})
    phases = solve_noise_multipliers([phase("probe")], promise.epsilon, promise.delta)
    found = audit_mechanism(phases, promise, canaries=200, make_trainer=seeded(5), coins=coins(5))
    assert found.passes
    assert found.lower_bound > Decimal("0.5"), "and the audit still sees the canaries"
    as_subjects = run_canaries(phases, PROMISE, 200, lambda *given: _by_record(*given), coins(5))
    honest = run_canaries(phases, PROMISE, 200, site_trainer("one_backward"), coins(5))
    assert _shift(as_subjects.scores, as_subjects.included) > 3 * _shift(
        honest.scores, honest.included
    )


def _by_record(model: PlanModel, plan: TrainingPlan, examples: Sequence[Example]) -> SiteTrainer:
    """A trainer that clips records while the plan speaks of subjects."""
    privacy = plan.privacy.model_copy(update={"unit": "record"})
    return SiteTrainer(model, plan.model_copy(update={"privacy": privacy}), examples, seed=6)


def _shift(scores: Any, included: Any) -> float:
    return float(np.mean(scores[included]) - np.mean(scores[~included]))
