"""Shares of the noise: each site's is small, their sum is the promised one, rounding is free."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr

from client.learning.base_model import resolve_base_model
from client.learning.data import Example
from client.learning.distributed_noise import MINIMUM_UNITS, noise_share, units_of_noise
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model
from client.secure_aggregation.fixed_point import FixedPoint
from compliance.statements import Feature, Phase, TrainingPlan
from tests.client.learning.tasks_records.plans import table_plan

LINEAR = "tabular:linear"
SHARES = 4


def sharing(plan: TrainingPlan, shares: int | None = SHARES) -> TrainingPlan:
    """The plan with one step a round and its noise shared."""
    phases = tuple(phase.model_copy(update={"steps_per_round": 1}) for phase in plan.phases)
    privacy = plan.privacy.model_copy(update={"noise_sites": shares})
    return plan.model_copy(update={"phases": phases, "privacy": privacy})


def wide_plan() -> TrainingPlan:
    """Enough weights that the deviation of one step's noise is known to a percent."""
    names = tuple(f"value-{number}" for number in range(700))
    features = tuple(
        Feature(name=name, kind="number", low=Decimal(0), high=Decimal(1)) for name in names
    )
    phase = Phase(
        kind="full",
        rounds=2,
        steps_per_round=1,
        sampling_rate=Decimal("0.000001"),
        learning_rate=Decimal("0.5"),
        max_grad_norm=Decimal("0.5"),
        noise_multiplier=Decimal(2),
    )
    return sharing(table_plan(LINEAR, phase, features=features))


def noise_of(
    update: dict[str, npt.NDArray[np.float32]], plan: TrainingPlan
) -> npt.NDArray[np.float64]:
    """The update of a step that sampled nobody, as multiples of the promised deviation."""
    phase = plan.phases[0]
    scale = float(phase.learning_rate * phase.max_grad_norm * phase.noise_multiplier)
    scale /= float(phase.sampling_rate) * plan.privacy.nominal_subjects
    flat = np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)
    return flat / scale


def test_each_site_adds_its_share_and_the_sum_is_the_promised_noise() -> None:
    plan = wide_plan()
    model = build_model(plan, resolve_base_model(LINEAR), seed=0)
    state = model.get_state()
    examples: list[Example] = []
    updates = [
        SiteTrainer(model, plan, examples, seed, noise_share=noise_share(plan))
        .train_round(0, state)
        .update
        for seed in range(SHARES)
    ]
    shares = [noise_of(update, plan) for update in updates]
    count = len(shares[0])
    assert count > 1000
    tolerance = 5 / math.sqrt(2 * count)  # five deviations of a sample deviation
    for share in shares:
        assert share.std() == pytest.approx(1 / math.sqrt(SHARES), rel=tolerance)
    assert np.sum(shares, axis=0).std() == pytest.approx(1, rel=tolerance)
    whole = SiteTrainer(model, plan, examples, 9).train_round(0, state).update
    assert noise_of(whole, plan).std() == pytest.approx(1, rel=tolerance), "all of it by default"


def test_without_a_word_of_the_plan_a_site_adds_all_of_it() -> None:
    plan = table_plan(LINEAR)
    assert noise_share(plan) == 1.0
    assert noise_share(sharing(plan, 9)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, math.nan])
def test_no_other_share_is_possible(share: float) -> None:
    plan = table_plan(LINEAR)
    model = build_model(plan, resolve_base_model(LINEAR), seed=0)
    with pytest.raises(ValueError, match="noise_share must be above 0"):
        SiteTrainer(model, plan, [], noise_share=share)


def test_units_are_far_finer_than_a_share() -> None:
    plan = wide_plan()
    form = FixedPoint.of(plan, 0)
    phase = plan.phases[0]
    divisor = float(phase.sampling_rate) * plan.privacy.nominal_subjects
    expected = 0.5 * 0.5 * 2 / math.sqrt(SHARES) / divisor / form.unit
    assert units_of_noise(plan, 0, form.unit) == pytest.approx(expected)
    ordinary = plan.model_copy(
        update={"phases": (phase.model_copy(update={"sampling_rate": Decimal(1)}),)}
    )
    form = FixedPoint.of(ordinary, 0)
    assert units_of_noise(ordinary, 0, form.unit) > 1000 * MINIMUM_UNITS


@pytest.mark.parametrize("deviation", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("places", [(0.0, 0.0, 0.0), (0.3, -0.41, 0.17), (0.5, 0.5, 0.25)])
def test_a_sum_of_rounded_gaussians_is_the_rounding_of_a_gaussian(
    deviation: float, places: tuple[float, ...]
) -> None:
    """The lemma of the module, in numbers: with the exact probabilities of both.

    Deviations are in units; the error that the lemma allows falls as `exp(-(pi * deviation)**2)`.
    """
    points = np.arange(-64, 65)
    each = [
        ndtr((points + 0.5 - place) / deviation) - ndtr((points - 0.5 - place) / deviation)
        for place in places
    ]
    of_sum = each[0]
    for one in each[1:]:
        of_sum = np.convolve(of_sum, one)
    lattice = np.arange(len(of_sum)) - len(of_sum) // 2

    # round(S + N + U'), by inverting its characteristic function: n boxes in all.
    omega = np.linspace(-60, 60, 240_001)
    transform = np.exp(-len(places) * (deviation * omega) ** 2 / 2)
    transform *= np.sinc(omega / (2 * math.pi)) ** len(places)
    step = omega[1] - omega[0]
    near = np.abs(lattice) <= 12
    exact = np.array(
        [
            float(np.sum(transform * np.cos(omega * (k - sum(places))))) * step / (2 * math.pi)
            for k in lattice[near]
        ]
    )
    error = np.abs(of_sum[near] - exact).sum()
    assert error <= 3 * len(places) * math.exp(-((math.pi * deviation) ** 2)) + 1e-10
