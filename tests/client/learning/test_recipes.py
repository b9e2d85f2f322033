"""What a user gets who states ε only, and the prior from label names."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from decimal import Decimal

import pytest
import torch

import client.learning
from audit.errors import MalformedInput
from client.learning.accounting import events_of, reported_epsilon
from client.learning.public_prior import (
    INITIAL_LOGIT,
    TEMPLATES,
    label_sentences,
    prior_from_features,
)
from client.learning.recipes import MAX_GRAD_NORM, MAX_STEP_PER_LABEL, recommended_phases
from compliance.statements import Phase

DELTA = Decimal("0.00001")


@pytest.mark.parametrize("epsilon", ["0.5", "3", "8"])
@pytest.mark.parametrize(("asked", "adapting"), [(None, 2), (0, 0), (5, 5)])
def test_recommended_phases_cost_what_was_asked(
    epsilon: str, asked: int | None, adapting: int
) -> None:
    phases = recommended_phases(
        Decimal(epsilon), DELTA, label_count=5, nominal_subjects=500, adapter_rounds=asked
    )
    spent = reported_epsilon(events_of(phases), DELTA)
    assert Decimal("0.97") * Decimal(epsilon) < spent <= Decimal(epsilon)
    rounds = {phase.kind: phase.rounds for phase in phases}
    assert rounds == {"probe": 40} | ({"adapter": adapting} if adapting else {})
    for phase in phases:  # each survives the statement's own checks
        Phase.model_validate(phase.model_dump())


@pytest.mark.parametrize("epsilon", ["0.5", "8"])
def test_nearly_all_of_the_budget_goes_to_the_probe(epsilon: str) -> None:
    phases = recommended_phases(Decimal(epsilon), DELTA)
    probe = reported_epsilon(events_of(phases[:1]), DELTA)
    assert probe > Decimal("0.97") * Decimal(epsilon)


@pytest.mark.parametrize(("rounds", "adapting"), [(1, 0), (4, 0), (7, 1), (20, 2), (200, 2)])
def test_a_number_of_rounds_is_kept(rounds: int, adapting: int) -> None:
    phases = recommended_phases(Decimal(8), DELTA, rounds=rounds)
    assert sum(phase.rounds for phase in phases) == rounds
    assert sum(phase.rounds for phase in phases[1:]) == adapting
    assert phases[0].rounds * phases[0].steps_per_round >= 40


def test_small_sites_adapt_less_so_that_noise_stays_without_effect() -> None:
    rates = [
        recommended_phases(Decimal(1), DELTA, nominal_subjects=subjects)[1].learning_rate
        for subjects in (10, 100, 100_000)
    ]
    assert 0 < rates[0] < rates[1] < rates[2] == 1


def test_the_learning_rate_follows_public_numbers_and_stays_in_bounds() -> None:
    def rate(**numbers: int) -> float:
        return float(recommended_phases(Decimal(1), DELTA, **numbers)[0].learning_rate)

    assert rate(label_count=50, nominal_subjects=200) == pytest.approx(
        rate(label_count=50, nominal_subjects=100) * 2, rel=0.01
    )
    assert rate(label_count=50, nominal_subjects=100, site_count=4) == pytest.approx(
        rate(label_count=50, nominal_subjects=100) * 2, rel=0.01
    )
    longest = rate(label_count=2, nominal_subjects=10**8) * float(MAX_GRAD_NORM)
    assert longest == pytest.approx(2 * MAX_STEP_PER_LABEL, rel=1e-3)
    assert rate(label_count=1000, nominal_subjects=10**9) == 1000


@pytest.mark.parametrize(
    "numbers",
    [
        {"label_count": 1},
        {"nominal_subjects": 0},
        {"site_count": 0},
        {"rounds": 0},
        {"rounds": 2, "adapter_rounds": 2},
        {"adapter_rounds": -1},
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(MalformedInput, match="must be at least"):
        recommended_phases(Decimal(8), DELTA, **numbers)


def test_label_sentences_come_template_by_template() -> None:
    sentences = label_sentences(["card_lost", "HTTPError", "a/b-c", "__"])
    assert len(sentences) == 4 * len(TEMPLATES)
    assert sentences[:4] == ["card lost", "HTTPError", "a b c", "__"]


def sentences_of(names: torch.Tensor) -> torch.Tensor:
    return torch.cat([names + 0.1 * number for number in range(len(TEMPLATES))]) + 7


def test_the_prior_centres_scales_and_points_at_the_labels() -> None:
    features = sentences_of(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    prior = prior_from_features(features, 3)
    assert prior.centre.tolist() == pytest.approx(features.mean(0).tolist())
    standardised = (features - prior.centre) @ prior.transform
    assert float(standardised.norm(dim=1).mean()) == pytest.approx(1, rel=1e-5)
    logits = features @ prior.head_weight.T + prior.head_bias
    assert logits.argmax(1).tolist() == [0, 1, 2] * len(TEMPLATES)
    assert logits.abs().max() < 2 * INITIAL_LOGIT


def test_what_many_labels_share_is_shortened_and_what_tells_one_apart_is_not() -> None:
    names = torch.eye(20, 24)
    names[:10, 20] = 5  # two topics
    names[10:, 20] = -5
    transform = prior_from_features(sentences_of(names), 20).transform
    topic, label = torch.eye(24)[20], torch.eye(24)[0]
    shortened = float((topic @ transform).norm() / (label @ transform).norm())
    assert 0.2 < shortened < 0.6
    few = prior_from_features(sentences_of(names[[0, 10]]), 2).transform
    assert float((topic @ few).norm() / (label @ few).norm()) > 0.75


def test_labels_that_all_sound_the_same_give_a_head_of_zeros() -> None:
    prior = prior_from_features(torch.ones(8, 4), 2)
    assert torch.equal(prior.transform, torch.eye(4))
    assert not prior.head_weight.any()
    assert not prior.head_bias.any()


def test_examples_in_docstrings_are_true() -> None:
    tried = 0
    for module in pkgutil.iter_modules(client.learning.__path__, "client.learning."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0
        tried += result.attempted
    assert tried >= 5
