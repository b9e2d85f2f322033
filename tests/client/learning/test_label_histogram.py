"""Labels are counted once a subject, with noise, and rare ones then weigh more in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from client.learning.clipped_sums import ENGINES
from client.learning.data import Example
from client.learning.label_histogram import SMALLEST_WEIGHT, LabelHistogram
from client.learning.passes import Passes, Settings
from client.learning.plan_model import HISTOGRAM
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Phase, TrainingPlan
from tests.client.learning.conftest import LABELS, TEXTS, MakePlan, phase, trainable

NOMINAL = 10
engines = pytest.mark.parametrize("engine", sorted(ENGINES))


def histogram(**changes: object) -> Phase:
    return phase("histogram", learning_rate="1", max_grad_norm="1", **changes)


@pytest.fixture
def plan(make_plan: MakePlan) -> TrainingPlan:
    return make_plan(histogram(), phase("probe"), class_weights="histogram")


@pytest.fixture
def counting(plan: TrainingPlan, tiny_base: Path) -> TextClassifier:
    return TextClassifier.build(plan, tiny_base)


def labelled(labels_of: Sequence[Sequence[int]]) -> list[Example]:
    """Subjects with these labels of their records."""
    return [
        Example(f"subject-{subject}", f"{TEXTS[record % len(TEXTS)]} {subject}", label)
        for subject, labels in enumerate(labels_of)
        for record, label in enumerate(labels)
    ]


@engines
def test_the_state_holds_the_mean_shares_over_nominal_subjects(
    counting: TextClassifier, plan: TrainingPlan, engine: str
) -> None:
    labels_of = [[0], [0, 0, 0], [0, 1], [2, 2, 0, 1]]
    trainer = SiteTrainer(counting, plan, labelled(labels_of), settings=Settings(engine=engine))
    start = counting.get_state()
    assert not start[HISTOGRAM].any()
    update = trainer.train_round(0, start).update
    shares = np.array([np.bincount(labels, minlength=3) / len(labels) for labels in labels_of])
    mean = shares.sum(0) / NOMINAL
    np.testing.assert_allclose(update[HISTOGRAM], mean, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(counting.get_state()[HISTOGRAM], update[HISTOGRAM])


def test_a_histogram_changes_nothing_else(counting: TextClassifier, plan: TrainingPlan) -> None:
    before = {name: w.detach().clone() for name, w in counting.network.named_parameters()}
    examples = labelled([[0], [1], [2]])
    update = SiteTrainer(counting, plan, examples).train_round(0, counting.get_state()).update
    assert update.pop(HISTOGRAM).any()
    assert not any(array.any() for array in update.values())
    for name, new in counting.network.named_parameters():
        if name == "head.weight":  # its two forms differ by a rounding
            torch.testing.assert_close(new, before[name], rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(new, before[name]), name
    later = SiteTrainer(counting, plan, examples).train_round(1, counting.get_state()).update
    assert not later[HISTOGRAM].any(), "and other phases leave it alone"
    assert later["head.weight"].any()


def test_only_a_plan_with_a_histogram_has_one(model: TextClassifier) -> None:
    assert HISTOGRAM not in model.get_state()


@pytest.mark.parametrize("records", [1, 4, 40])
def test_a_subject_with_many_records_counts_once(
    counting: TextClassifier, plan: TrainingPlan, records: int
) -> None:
    """Also beyond the plan's cap of four: never more than the clipping norm."""
    examples = labelled([[1] * records, [0]])
    update = SiteTrainer(counting, plan, examples).train_round(0, counting.get_state()).update
    counted = np.array([1, 1, 0]) / NOMINAL
    np.testing.assert_allclose(update[HISTOGRAM], counted, rtol=1e-5, atol=1e-9)


def test_a_clipping_norm_below_1_shrinks_what_a_subject_counts(
    make_plan: MakePlan, tiny_base: Path
) -> None:
    narrow = phase("histogram", learning_rate="1", max_grad_norm="0.25")
    plan = make_plan(narrow, phase("probe"), class_weights="histogram")
    model = TextClassifier.build(plan, tiny_base)
    examples = labelled([[0], [0, 1]])
    update = SiteTrainer(model, plan, examples).train_round(0, model.get_state()).update
    mixed = np.array([1, 1, 0]) / np.sqrt(2)
    expected = 0.25 * (np.array([1, 0, 0]) + mixed) / NOMINAL
    np.testing.assert_allclose(update[HISTOGRAM], expected, rtol=1e-5, atol=1e-9)


def test_noise_has_the_plans_scale(make_plan: MakePlan, tiny_base: Path) -> None:
    labels = tuple(f"label {number}" for number in range(1000))
    plan = make_plan(
        histogram(noise_multiplier="2"), phase("probe"), labels=labels, class_weights="histogram"
    )
    model = TextClassifier.build(plan, tiny_base)
    update = SiteTrainer(model, plan, []).train_round(0, model.get_state()).update
    assert float(update[HISTOGRAM].std()) == pytest.approx(2 / NOMINAL, rel=6 / 2000**0.5)


def weights_of(counts: Sequence[float]) -> Tensor:
    made = LabelHistogram(len(counts))
    with torch.no_grad():
        made.counts.weight.copy_(torch.tensor([counts]))
    return made.class_weights()


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_weights_are_in_0_to_1_and_the_rarest_has_1(counts: list[float]) -> None:
    weights = weights_of(counts)
    assert weights.isfinite().all()
    assert float(weights.min()) >= SMALLEST_WEIGHT * 0.999
    assert float(weights.max()) == 1
    assert float(weights[int(np.argmin(counts))]) == 1
    for one, other in zip(np.argsort(counts), np.argsort(counts)[1:], strict=False):
        assert weights[one] >= weights[other], "the commoner, the less"


def test_weights_are_inverse_to_how_common_a_label_is() -> None:
    torch.testing.assert_close(weights_of([0.1, 0.4, 0.2]), torch.tensor([1, 0.25, 0.5]))
    # Noise can show a label as absent, or less than that.
    torch.testing.assert_close(weights_of([-0.3, 0.4, 0.2]), torch.tensor([1, 0.05, 0.1]))
    assert weights_of([0, 0, 0]).tolist() == [1, 1, 1]
    assert weights_of([-1, -2, -0.5]).tolist() == [1, 1, 1]


def test_losses_and_steps_are_weighted_by_what_the_state_says(
    counting: TextClassifier, plan: TrainingPlan
) -> None:
    examples = labelled([[0], [1], [2], [0]])
    state = counting.get_state()
    state[HISTOGRAM] = np.array([0.4, 0.1, 0.2], np.float32)
    weights = torch.tensor([0.25, 1.0, 0.5])
    counting.set_state(state)
    records = counting.encode(examples)
    targets = torch.tensor([example.label for example in examples])
    (head,) = trainable(counting, "probe")
    logits = counting.network.head(counting.features(records).detach())
    plain = cross_entropy(logits, targets, reduction="none")
    told = Passes(counting, examples, Settings()).losses()
    np.testing.assert_allclose(told, (plain * weights[targets]).detach(), rtol=1e-4)

    wanted = torch.zeros_like(head)
    for row, label in enumerate(targets.tolist()):
        (gradient,) = torch.autograd.grad(plain[row] * weights[label], head, retain_graph=True)
        wanted += gradient * min(1.0, 0.1 / float(gradient.norm()))
    before = head.detach().clone()
    SiteTrainer(counting, plan, examples).train_round(1, state)
    step = (before - head.detach()) * NOMINAL / 0.5
    torch.testing.assert_close(step, wanted, rtol=1e-3, atol=1e-5)


def test_a_state_without_its_histogram_is_refused(counting: TextClassifier) -> None:
    from audit.errors import MalformedInput

    state = counting.get_state()
    del state[HISTOGRAM]
    with pytest.raises(MalformedInput, match=f"'{HISTOGRAM}' is missing"):
        counting.set_state(state)
    assert len(LABELS) == len(counting.get_state()[HISTOGRAM])
