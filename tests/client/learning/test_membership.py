"""The membership-inference attack guesses where nothing leaks, and sees where something does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput
from client.learning.data import Example
from client.learning.membership import (
    LEAST_SUBJECTS,
    area_under_curve,
    attack,
    attack_scores,
    subject_scores,
)
from client.learning.randomness import Keystream
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import LABELS, base_features, people

DELTA = 1e-5


def split(subjects: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(subjects) >= share


def test_scores_that_tell_nothing_bound_nothing() -> None:
    """50 seeds: no bound above zero, and the intervals hold one half about as often as they say."""
    held = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        result = attack_scores(
            rng.normal(size=600),
            split(600, 0.2, seed),
            held_out_share=0.2,
            delta=DELTA,
            coins=Keystream(f"{seed}".encode()),
        )
        assert [float(bound.epsilon) for bound in result.bounds] == [0, 0]
        held += result.area.low <= 0.5 <= result.area.high
    assert held >= 45


def test_scores_that_tell_everything_bound_as_much_as_so_many_subjects_can() -> None:
    included = split(4000, 0.5, 1)
    result = attack_scores(
        included.astype(float), included, held_out_share=0.5, delta=DELTA, coins=Keystream(b"1")
    )
    assert result.area.value == 1
    assert 0.99 < result.area.low < 1
    assert result.caught_at_low_rate.value == 1
    one_run, clopper_pearson = (float(bound.epsilon) for bound in result.bounds)
    assert one_run > 3
    assert clopper_pearson > 4


def test_a_leak_about_a_few_people_shows_at_the_low_rate_and_hardly_in_the_average() -> None:
    rng = np.random.default_rng(3)
    included = split(2000, 0.5, 3)
    scores = rng.normal(size=2000)
    members = np.flatnonzero(included)
    scores[members[: len(members) // 10]] += 10
    result = attack_scores(scores, included, held_out_share=0.5, delta=DELTA, coins=Keystream(b"3"))
    assert result.area.value < 0.58
    assert result.caught_at_low_rate.low > 0.05


def test_the_one_run_bound_holds_where_most_subjects_trained() -> None:
    """Randomised response of ε = 1 on 2,000 subjects, four in five of them members: 40 seeds."""
    truth = np.exp(1) / (1 + np.exp(1))
    best = 0.0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        included = split(2000, 0.2, 100 + seed)
        told = np.where(rng.random(2000) < truth, included, ~included)
        scores = told + 1e-6 * rng.random(2000)
        result = attack_scores(
            scores, included, held_out_share=0.2, delta=0.0, coins=Keystream(f"{seed}".encode())
        )
        best = max(best, float(result.bounds[0].epsilon))
        assert float(result.bounds[0].epsilon) <= 1
    assert best > 0.4


def test_a_model_that_learned_its_members_by_heart_is_seen_through(
    model: TextClassifier,
) -> None:
    """A head fitted to members' labels, which are random, against others with random labels."""
    examples = people([1] * 240)
    rng = np.random.default_rng(0)
    examples = [Example(e.subject, e.text, int(rng.integers(len(LABELS)))) for e in examples]
    members, others = examples[:30], examples[30:60]
    blind = attack(model, members, others, held_out_share=0.5, delta=DELTA, coins=Keystream(b"4"))
    assert blind.area.low < 0.5 < blind.area.high

    features = base_features(model, [e.text for e in members]).double().numpy()
    wanted = np.eye(len(LABELS))[[e.label for e in members]]
    fitted = np.linalg.lstsq(features, 50 * wanted, rcond=None)[0].T
    head = model.network.head.weight
    head.data.copy_(head.data.new_tensor(fitted))
    leaky = attack(model, members, others, held_out_share=0.5, delta=DELTA, coins=Keystream(b"4"))
    assert leaky.area.low > 0.6
    assert json.loads(canonical_bytes(leaky.to_json()))["members"] == 30


def test_a_subject_counts_once_with_the_mean_of_its_records(model: TextClassifier) -> None:
    examples = people([1, 4, 2])
    scores = subject_scores(model, examples)
    each = [-subject_scores(model, [e])[0] for e in examples]
    np.testing.assert_allclose(
        scores, [-each[0], -np.mean(each[1:5]), -np.mean(each[5:])], rtol=1e-5
    )


def test_too_few_subjects_are_refused(model: TextClassifier) -> None:
    enough, few = people([1] * LEAST_SUBJECTS), people([2] * (LEAST_SUBJECTS - 1))
    for members, others in ((enough, few), (few, enough)):
        with pytest.raises(MalformedInput, match="needs 20 subjects"):
            attack(model, members, others, held_out_share=0.5, delta=DELTA)


def test_a_loss_that_is_not_finite_is_refused(model: TextClassifier) -> None:
    model.network.head.weight.data.fill_(float("nan"))
    with pytest.raises(MalformedInput, match="not finite"):
        subject_scores(model, people([1]))


def test_the_interval_of_the_area_covers() -> None:
    """Normals one deviation apart (area 0.7602), 30 against 12: 400 draws, 95 % nominal."""
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(400):
        estimate = area_under_curve(rng.normal(1, 1, 30), rng.normal(0, 1, 12))
        covered += estimate.low <= 0.7602 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98
