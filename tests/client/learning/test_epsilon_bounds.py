"""Lower bounds are below the truth as often as they say, and not far below."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from client.learning.epsilon_bounds import (
    MAX_EPSILON,
    chance_of_guesses,
    clopper_pearson_bound,
    noise_factor_bound,
    one_run_bound,
    scale_bound,
)

ALPHA = 0.05


def gaussian_scores(effect: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    included = rng.random(count) < 0.5
    return effect * included + rng.normal(size=count), included


def gaussian_epsilon(effect: float, delta: float) -> float:
    """Balle & Wang 2018 (arXiv 1805.06530), Theorem 8, solved for ε."""
    low, high = 0.0, 100.0
    for _ in range(60):
        e = (low + high) / 2
        lost = norm.cdf(effect / 2 - e / effect) - math.exp(e) * norm.cdf(-effect / 2 - e / effect)
        low, high = (e, high) if lost > delta else (low, e)
    return low


def test_the_noise_is_underestimated_as_seldom_as_stated() -> None:
    """1,000 audits of just the promised noise, at 95 %: about 50 say that there is less."""
    wrong = sum(
        noise_factor_bound(*gaussian_scores(1.0, 400, seed), 1.0, ALPHA) < 1 for seed in range(1000)
    )
    assert 30 <= wrong <= 70


def test_eight_tenths_of_the_noise_are_noticed() -> None:
    found = [
        noise_factor_bound(*gaussian_scores(1.25, 4000, seed), 1.0, 0.002) for seed in range(100)
    ]
    assert max(found) < 1
    assert min(found) > 0.75


def test_unequal_spread_does_not_mislead_the_noise_bound() -> None:
    """Scores that are in vary more when not every step samples them: 500 audits at 95 %."""
    wrong = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        included = rng.random(600) < 0.5
        scores = rng.normal(size=600) + included * rng.binomial(4, 0.25, 600)
        wrong += noise_factor_bound(scores, included, 1.0, ALPHA) < 1
    assert wrong <= 40


@pytest.mark.parametrize(
    ("scores", "included", "factor"),
    [
        ([], [], math.inf),
        ([1.0, 2.0, 3.0], [True, True, True], math.inf),
        ([1.0, 0.0, 2.0], [True, False, True], math.inf),
        ([1.0, 1.0, 1.0, 1.0], [True, True, False, False], math.inf),
        ([5.0, 5.0, 1.0, 1.0], [True, True, False, False], 0.0),
        ([0.0, 0.1, 5.0, 5.1], [True, True, False, False], math.inf),
    ],
)
def test_edge_cases_of_the_noise_bound(
    scores: list[float], included: list[bool], factor: float
) -> None:
    assert noise_factor_bound(np.array(scores), np.array(included, bool), 1.0, ALPHA) == factor


def randomised_response(epsilon: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    included = rng.random(count) < 0.5
    truth = rng.random(count) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return np.where(truth, included, ~included) + 1e-9 * rng.random(count), included


def test_the_one_run_bound_is_tight_on_randomised_response_and_seldom_above() -> None:
    found = [one_run_bound(*randomised_response(2.0, 2000, s), 0.0, ALPHA) for s in range(60)]
    assert sum(epsilon > 2 for epsilon in found) <= 6
    assert np.median(found) > 1.6


@given(
    right=st.integers(0, 60),
    missed=st.integers(0, 40),
    epsilon=st.floats(0, 6),
    delta=st.sampled_from([0.0, 1e-6, 1e-3]),
)
@settings(max_examples=60, deadline=None)
def test_the_chance_of_guesses_against_the_paper_term_by_term(
    right: int, missed: int, epsilon: float, delta: float
) -> None:
    """Appendix D of arXiv 2305.08846 adds P[W >= v] and 2 m δ max_i P[v > W >= v - i] / i."""
    guesses, canaries = right + missed, right + missed + 17
    accuracy = 1 / (1 + math.exp(-epsilon))
    mass = [float(binom.pmf(k, guesses, accuracy)) for k in range(guesses + 1)]
    wanted = sum(mass[right:])
    wanted += (
        2
        * canaries
        * delta
        * max((sum(mass[right - i : right]) / i for i in range(1, right + 1)), default=0.0)
    )
    got = chance_of_guesses(canaries, guesses, right, epsilon, delta)
    assert got == pytest.approx(min(1.0, wanted), rel=1e-6, abs=1e-12)


def test_more_delta_or_less_alpha_bounds_less() -> None:
    scores, included = gaussian_scores(3.0, 2000, 1)
    bounds = [
        one_run_bound(scores, included, *asked)
        for asked in ((0.0, 0.05), (0.0, 1e-6), (1e-4, 1e-6))
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[2]


@pytest.mark.parametrize("bound", [one_run_bound, clopper_pearson_bound])
def test_no_bound_of_nothing(bound: object) -> None:
    for scores, included in (
        (np.zeros(0), np.zeros(0, bool)),
        (np.zeros(100), np.arange(100) < 50),
        (np.arange(100.0), np.ones(100, bool)),
        (np.arange(100.0) % 7, np.arange(100) % 2 == 0),
    ):
        if included.all() and len(included):
            continue  # all in, by fair coins: the one-run bound rightly disbelieves it
        assert bound(scores, included, 1e-5, ALPHA) == 0  # type: ignore[operator]


def test_clopper_pearson_is_below_the_truth_and_not_far() -> None:
    truth = gaussian_epsilon(2.0, 1e-5)
    found = [
        clopper_pearson_bound(*gaussian_scores(2.0, 4000, seed), 1e-5, ALPHA) for seed in range(30)
    ]
    assert max(found) < truth
    assert min(found) > 1.5


def test_equal_scales_bound_nothing_and_another_scale_a_lot() -> None:
    wrong = 0
    for seed in range(500):
        one, other = np.random.default_rng(seed).normal(size=(2, 300))
        wrong += scale_bound(one, other, 256, 1e-5, ALPHA) > 0
        assert scale_bound(one, 2 * other, 256, 1e-5, ALPHA) > 20
    assert wrong <= 40


def test_the_scale_bound_is_what_the_likelihood_ratio_says() -> None:
    """With very many samples it nears the ε of two normals, integrated here on a grid."""
    rng = np.random.default_rng(1)
    one, other = 1.5 * rng.normal(size=400_000), rng.normal(size=400_000)
    grid = np.linspace(-30, 30, 600_001)
    wide, narrow = norm.pdf(grid, 0, 1.5), norm.pdf(grid, 0, 1)
    found = scale_bound(one, other, 1, 1e-3, 1e-3)
    lost = np.maximum(wide - math.exp(found) * narrow, 0).sum() * (grid[1] - grid[0])
    assert lost == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize(
    ("one", "other", "epsilon"),
    [
        ([], [], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [1.0, 2.0], MAX_EPSILON),
        ([1.0], [1.0, 2.0], 0.0),
    ],
)
def test_edge_cases_of_the_scale_bound(
    one: list[float], other: list[float], epsilon: float
) -> None:
    assert scale_bound(np.array(one), np.array(other), 256, 1e-5, ALPHA) == epsilon
