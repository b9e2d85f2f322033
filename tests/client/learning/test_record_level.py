"""Plans that protect single records: what the trainer does, and what the subject's ledger says."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from client.budget import Reservation, RoundEvent
from client.learning import clipped_sums
from client.learning.accounting import (
    BatchCap,
    Event,
    epsilon_of,
    event_of_subject,
    events_of,
)
from client.learning.data import Example
from client.learning.one_backward import OneBackwardModule
from client.learning.passes import Settings
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import BatchLimit, Privacy, TrainingPlan
from tests.client.learning.conftest import MakePlan, people, phase

DELTA = 1e-5


def flat(state: State) -> np.ndarray:
    return np.concatenate([state[name].ravel() for name in sorted(state)]).astype(np.float64)


def record_level(make_plan: MakePlan, most: int) -> TrainingPlan:
    plan = make_plan(phase(max_grad_norm=Decimal("0.01")))
    privacy = plan.privacy.model_copy(update={"unit": "record", "max_records_per_subject": most})
    return TrainingPlan.model_validate({**plan.model_dump(), "privacy": privacy.model_dump()})


def update(model: TextClassifier, plan: TrainingPlan, examples: list[Example]) -> np.ndarray:
    return flat(SiteTrainer(model, plan, examples).train_round(0, model.get_state()).update)


# --- the trainer ----------------------------------------------------------------------------------


def test_each_record_is_clipped_by_itself(model: TextClassifier, make_plan: MakePlan) -> None:
    """So records of one subject move the model as those of as many subjects do."""
    plan = record_level(make_plan, most=3)
    together = [Example("one", example.text, example.label) for example in people([1] * 3)]
    apart = [
        Example(f"subject {n}", example.text, example.label) for n, example in enumerate(together)
    ]
    np.testing.assert_allclose(update(model, plan, together), update(model, plan, apart), atol=2e-6)
    as_subject = make_plan(phase(max_grad_norm=Decimal("0.01")))
    longer = np.linalg.norm(update(model, plan, together))
    assert longer > 1.2 * np.linalg.norm(update(model, as_subject, together))


def test_of_a_subject_no_more_records_train_than_the_ledger_thinks(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    plan = record_level(make_plan, most=2)
    many = people([5, 1])
    few = [many[0], many[1], many[5]]
    assert [example.subject for example in few] == [many[0].subject] * 2 + [many[5].subject]
    np.testing.assert_allclose(update(model, plan, many), update(model, plan, few), atol=2e-6)


# --- the bound for a subject ----------------------------------------------------------------------


def test_one_record_a_subject_is_the_subject() -> None:
    event = Event(1.5, 0.3, 7)
    assert event_of_subject(event, "record", 1) is event
    assert event_of_subject(event, "subject", 5) is event


def test_a_capped_batch_of_records_has_no_bound() -> None:
    with pytest.raises(ValueError, match="capped batch"):
        event_of_subject(Event(1.0, 0.5, 1, BatchCap(2, 5)), "record", 2)


@settings(deadline=None, max_examples=15)
@given(
    noise=st.floats(1.0, 20.0),
    rate=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    steps=st.integers(1, 50),
    records=st.integers(2, 4),
)
def test_a_subject_never_bears_less_than_a_record(
    noise: float, rate: float, steps: int, records: int
) -> None:
    event = Event(noise * records, rate, steps)
    alone = epsilon_of([event], DELTA)
    previous = alone
    for count in range(2, records + 1):
        subject = epsilon_of([event_of_subject(event, "record", count)], DELTA)
        assert subject >= previous - 1e-3
        previous = subject


def _divergences(noise: float, rate: float, shift: list[float], epsilon: float) -> list[float]:
    """Hockey-stick divergences, both ways, of a step with and without a subject's records.

    Each record is sampled by itself and moves the sum by its shift along one axis; integrated.
    """
    grid = np.linspace(-60 * noise, 60 * noise, 60_001)
    step = grid[1] - grid[0]
    without = norm.pdf(grid, 0, noise)
    with_them = np.zeros_like(grid)
    for taken in product((0, 1), repeat=len(shift)):
        chance = math.prod(rate if one else 1 - rate for one in taken)
        moved = sum(s for s, one in zip(shift, taken, strict=True) if one)
        with_them += chance * norm.pdf(grid, moved, noise)
    return [
        float(np.maximum(a - math.exp(epsilon) * b, 0).sum() * step)
        for a, b in ((with_them, without), (without, with_them))
    ]


@pytest.mark.parametrize("rate", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("shift", [[1.0], [1.0, 1.0], [1.0, -1.0], [1.0, 0.4, 1.0], [0.0, 1.0]])
@pytest.mark.parametrize("noise", [0.8, 2.5])
def test_the_bound_holds_where_it_can_be_computed(
    noise: float, shift: list[float], rate: float
) -> None:
    """The exact divergence is at most that of the event, at every epsilon: it is integrated."""
    records = 3
    event = event_of_subject(Event(noise, rate, 1), "record", records)
    for epsilon in (0.0, 0.5, 2.0, 5.0):
        bound = _divergences(
            event.noise_multiplier, event.sampling_rate, [1.0], epsilon
        )  # in units of k norms
        for exact, most in zip(_divergences(noise, rate, shift, epsilon), bound, strict=True):
            assert exact <= most + 1e-9


def test_without_the_factor_the_bound_would_not_hold() -> None:
    exact = _divergences(2.5, 0.6, [1.0] * 3, 0.5)[0]
    assert exact > _divergences(2.5, 1 - 0.4**3, [1.0], 0.5)[0]
    assert exact > _divergences(2.5 / 3, 0.1, [1.0], 0.5)[0]


def test_a_reservation_spends_the_subjects_budget() -> None:
    reservation = Reservation(
        plan_id="",
        plan_name="",
        purpose="",
        datasets=(),
        unit="record",
        adjacency="add-remove-one",
        max_records_per_subject=3,
        epsilon=Decimal(1),
        delta=Decimal("0.00001"),
        rounds=(RoundEvent(Decimal(6), Decimal("0.5"), 2),) * 2,
    )
    assert reservation.events == (Event(6.0, 0.5, 4),)
    (subject,) = reservation.subject_events
    assert (subject.noise_multiplier, subject.steps) == (2.0, 4)
    assert subject.sampling_rate == pytest.approx(0.875)


# --- batch limits ---------------------------------------------------------------------------------


def test_a_plans_batch_limit_reaches_the_accountant() -> None:
    limited = phase(batch_limit=BatchLimit(subjects=20, max_population=100))
    (event,) = events_of([limited])
    assert event.cap == BatchCap(20, 100)
    assert events_of([phase()])[0].cap is None


@settings(deadline=None, max_examples=25)
@given(
    noise=st.floats(0.6, 8.0),
    rate=st.sampled_from([0.01, 0.2, 0.5, 1.0]),
    steps=st.integers(1, 40),
    subjects=st.integers(1, 400),
    more=st.integers(0, 2000),
)
@example(noise=8.0, rate=0.01, steps=1, subjects=164, more=40)  # it fills as good as never
@example(noise=8.0, rate=0.01, steps=5000, subjects=164, more=40)
def test_a_batch_limit_never_lowers_epsilon(
    noise: float, rate: float, steps: int, subjects: int, more: int
) -> None:
    plain = epsilon_of([Event(noise, rate, steps)], DELTA)
    limited = epsilon_of([Event(noise, rate, steps, BatchCap(subjects, subjects + more))], DELTA)
    assert limited >= plain - 1e-6


def test_the_first_format_protects_subjects_only(make_plan: MakePlan) -> None:
    plan = record_level(make_plan, most=2)
    with pytest.raises(ValueError, match=r"privacy\.unit: fiduciary\.plan/1 protects subjects"):
        TrainingPlan.model_validate({**plan.model_dump(), "format": "fiduciary.plan/1"})


def test_a_plan_that_protects_records_has_no_batch_limit(make_plan: MakePlan) -> None:
    limited = phase(batch_limit=BatchLimit(subjects=2, max_population=5))
    privacy = Privacy(
        unit="record", epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=10
    )
    with pytest.raises(ValueError, match="no batch_limit"):
        make_plan(limited, privacy=privacy)


# --- what the operator may know -------------------------------------------------------------------


class _Poisoned(OneBackwardModule):
    """Makes gradients that are not finite."""

    def backward(self, loss: torch.Tensor) -> None:
        super().backward(loss * torch.tensor(float("nan")))


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {**clipped_sums.ENGINES, "one_backward": _Poisoned}
    monkeypatch.setattr(clipped_sums, "ENGINES", engines)


def test_subjects_that_count_as_zero_are_counted(
    model: TextClassifier, make_plan: MakePlan, poisoned: None
) -> None:
    trainer = SiteTrainer(model, make_plan(phase(steps_per_round=2)), people([1, 3, 2]))
    trainer.train_round(0, model.get_state())
    assert trainer.observed.unusable_subjects == 2 * 3
    assert trainer.observed.records == 2 * 6


def test_a_micro_batch_that_had_to_shrink_is_told(
    model: TextClassifier, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(micro_batch_tokens=200)
    trainer = SiteTrainer(model, make_plan(phase("adapter")), people([1] * 6), settings=settings)
    state = model.get_state()
    trainer.train_round(0, state)
    assert trainer.observed.micro_batch_limit is None
    failed = [False]

    def once(_layer: nn.Module, _inputs: object) -> None:
        if torch.is_grad_enabled() and not failed[0]:
            failed[0] = True
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.network.register_forward_pre_hook(once)
    trainer.train_round(0, state)
    hook.remove()
    assert trainer.observed.micro_batch_limit is not None
    assert 1 <= trainer.observed.micro_batch_limit < 200
