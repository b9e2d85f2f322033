"""The site's trainer: exactly the promised steps, over subjects, and nothing else moves."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.errors import MalformedInput
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.data import Example
from client.learning.passes import Passes, Settings
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Adapter, BaseModelReference, Privacy
from tests.client.learning.conftest import (
    LABELS,
    TEXTS,
    MakePlan,
    base_features,
    logits_of,
    people,
    phase,
    read_texts,
    trainable,
    trained_weights,
)

LEARNING_RATE = 0.5
DIVISOR = 10  # sampling rate 1 times 10 nominal subjects


def flat(state: State) -> np.ndarray:
    return np.concatenate([state[name].ravel() for name in sorted(state)]).astype(np.float64)


def naive_gradients(
    model: TextClassifier, examples: Sequence[Example], kind: str, norm: float
) -> list[Tensor]:
    """Clip the gradient of each subject's mean loss, one subject at a time, without Opacus."""
    parameters = trainable(model, kind)
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for subject in sorted({example.subject for example in examples}):
        own = [example for example in examples if example.subject == subject]
        logits = model.network(*model.raw_inputs(model.encode(own)))
        loss = cross_entropy(logits, torch.tensor([e.label for e in own]))
        gradients = torch.autograd.grad(loss, parameters)
        length = float(torch.sqrt(sum(g.double().pow(2).sum() for g in gradients)))  # type: ignore[arg-type]
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient * min(1.0, norm / length)
    return totals


def step_equals_naive(
    model: TextClassifier, make_plan: MakePlan, kind: str, norm: str, **changes: Any
) -> bool:
    """Whether one step moves the weights by the naive sum, to 1e-5 of its length.

    The learning rate is large, so that the step is not lost in the rounding of the weights.
    """
    examples = people([1, 3, 2, 1, 4])
    wanted = naive_gradients(model, examples, kind, float(norm))
    before = trained_weights(model, kind)
    plan = make_plan(phase(kind, max_grad_norm=norm, learning_rate="1000"), **changes)
    SiteTrainer(model, plan, examples).train_round(0, model.get_state())
    after = trained_weights(model, kind)
    got = torch.cat([(old - new).flatten() for old, new in zip(before, after, strict=True)])
    want = torch.cat([g.flatten() for g in wanted]) * 1000 / DIVISOR
    return float((got - want).norm()) <= 1e-5 * float(want.norm())


@pytest.mark.parametrize("kind", ["probe", "adapter"])
@pytest.mark.parametrize("norm", ["0.1", "100"])
def test_a_step_equals_the_naive_computation(
    model: TextClassifier, make_plan: MakePlan, kind: str, norm: str
) -> None:
    assert step_equals_naive(model, make_plan, kind, norm)


@pytest.mark.parametrize("kind", ["probe", "adapter"])
def test_the_real_encoder_equals_the_naive_computation(make_plan: MakePlan, kind: str) -> None:
    base = resolve_base_model(EMBEDDED_MODEL)
    reference = BaseModelReference(name=EMBEDDED_MODEL, digest=base_model_digest(base))
    changes = {"base_model": reference, "adapter": Adapter()}
    model = TextClassifier.build(make_plan(**changes), base)
    assert step_equals_naive(model, make_plan, kind, "0.1", **changes)


@pytest.mark.parametrize("kind", ["probe", "adapter"])
def test_only_the_intended_weights_move_and_they_do_move(
    model: TextClassifier, make_plan: MakePlan, kind: str
) -> None:
    plan = make_plan(phase(kind, steps_per_round=2, learning_rate="5"))
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    update = SiteTrainer(model, plan, people([2] * 4)).train_round(0, model.get_state()).update
    moved = {
        name for name, p in model.network.named_parameters() if not torch.equal(p, before[name])
    }
    intended = {"head.weight"}
    if kind == "adapter":
        intended |= {name for name in before if ".lora_B." in name}
        assert len(intended) == 1 + 4
    assert moved == intended
    for name, array in update.items():
        should_move = name.startswith("head.") or kind == "adapter"
        assert bool(np.abs(array).max() > 0) is should_move, name


def test_the_adapter_phase_starts_exactly_where_the_probe_ends(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    plan = make_plan(phase("probe", steps_per_round=3, learning_rate="20"), phase("adapter"))
    examples = people([1] * 8)
    trainer = SiteTrainer(model, plan, examples)
    start = model.get_state()
    update = trainer.train_round(0, start).update
    probed = {name: start[name] + update[name] for name in start}
    model.set_state(probed)
    texts = [example.text for example in examples]
    as_probe = model.network.head(base_features(model, texts)).detach()
    assert not torch.allclose(as_probe, torch.zeros_like(as_probe))
    torch.testing.assert_close(logits_of(model, texts), as_probe, rtol=1e-4, atol=1e-4)
    told = Passes(model, examples, Settings()).results_of("adapter", range(len(examples)))
    torch.testing.assert_close(torch.tensor(np.stack(told)), as_probe, rtol=1e-4, atol=1e-4)


def test_the_probe_reads_the_frozen_encoder_whatever_the_adapter_holds(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    state = model.get_state()
    adapted = {n: a + 1 if "lora" in n else a for n, a in state.items()}
    trainer = SiteTrainer(model, make_plan(phase()), people([1] * 4))
    one = trainer.train_round(0, adapted).update
    other = SiteTrainer(model, make_plan(phase()), people([1] * 4)).train_round(0, state).update
    np.testing.assert_allclose(one["head.weight"], other["head.weight"], atol=1e-6)


@pytest.mark.parametrize("kind", ["probe", "adapter"])
@pytest.mark.parametrize("tokens", [1, 20, 33, 1000])
def test_micro_batches_change_memory_and_not_results(
    model: TextClassifier, make_plan: MakePlan, kind: str, tokens: int
) -> None:
    plan = make_plan(phase(kind, steps_per_round=2))
    examples = people([1, 4, 2, 3, 1])
    start = model.get_state()
    whole = SiteTrainer(model, plan, examples, seed=1).train_round(0, start).update
    settings = Settings(micro_batch_tokens=tokens)
    pieces = SiteTrainer(model, plan, examples, seed=1, settings=settings)
    np.testing.assert_allclose(
        flat(pieces.train_round(0, start).update), flat(whole), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["probe", "adapter"])
def test_one_subject_more_or_less_moves_a_step_by_at_most_the_clipping_norm(
    model: TextClassifier, make_plan: MakePlan, kind: str
) -> None:
    """Neighbouring data sets: same noise, same divisor, same number of steps."""
    plan = make_plan(phase(kind, noise_multiplier="1"))
    examples = people([1, 3, 2, 1])
    start = trained_weights(model, kind)
    state = model.get_state()

    def after(dataset: Sequence[Example]) -> list[Tensor]:
        result = SiteTrainer(model, plan, dataset, seed=5).train_round(0, state)
        assert result.steps == 1
        return trained_weights(model, kind)

    whole = after(examples)
    assert any(float((new - old).norm()) > 0 for new, old in zip(whole, start, strict=True))
    limit = LEARNING_RATE * 0.1 / DIVISOR
    for gone in sorted({example.subject for example in examples}):
        without = after([example for example in examples if example.subject != gone])
        moved = sum(
            float((a - b).double().pow(2).sum()) for a, b in zip(whole, without, strict=True)
        )
        assert 0 < moved**0.5 <= limit * (1 + 1e-3)


@given(
    rounds=st.integers(1, 3),
    steps=st.integers(1, 5),
    rate=st.sampled_from(["1", "0.5", "0.001"]),
    subjects=st.lists(st.integers(1, 6), max_size=6),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_schedule_is_the_plans_whatever_the_data(
    model: TextClassifier,
    make_plan: MakePlan,
    rounds: int,
    steps: int,
    rate: str,
    subjects: list[int],
) -> None:
    plan = make_plan(phase(rounds=rounds, steps_per_round=steps, sampling_rate=rate))
    trainer = SiteTrainer(model, plan, people(subjects))
    seen: list[tuple[int, int]] = []
    state = model.get_state()
    done = [
        trainer.train_round(number, state, lambda a, b: seen.append((a, b))).steps
        for number in range(rounds)
    ]
    assert sum(done) == rounds * steps
    assert seen == [(step + 1, steps) for step in range(steps)] * rounds


@pytest.mark.parametrize("kind", ["probe", "adapter"])
def test_an_empty_sample_is_a_step_of_noise_of_the_same_scale(
    model: TextClassifier, make_plan: MakePlan, kind: str
) -> None:
    """Nobody sampled, or nobody there at all: the divisor does not change, nor the noise."""
    plan = make_plan(
        phase(kind, sampling_rate="0.0000001", noise_multiplier="2", max_grad_norm="0.1"),
        privacy=Privacy(epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=10**7),
    )
    for examples in (people([1] * 5), []):
        before = trained_weights(model, kind)
        result = SiteTrainer(model, plan, examples).train_round(0, model.get_state())
        assert result.steps == 1
        after = trained_weights(model, kind)
        noise = torch.cat([(a - b).flatten() for a, b in zip(before, after, strict=True)])
        # lr 0.5 * sigma 2 * C 0.1 / (rate * nominal = 1)
        assert float(noise.std()) == pytest.approx(0.1, rel=6 / (2 * noise.numel()) ** 0.5)


@pytest.mark.parametrize("kind", ["probe", "adapter"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_that_poisons_its_gradient_costs_only_its_own_subject(
    model: TextClassifier, make_plan: MakePlan, kind: str, bad: float
) -> None:
    plan = make_plan(phase(kind))
    innocent = people([1, 2, 1])
    poisoned = [
        Example("victim", "sunny", 0),
        Example("victim", "zebra crossing", 1),  # the word is in nobody else's text
    ]
    (token,) = read_texts(model, ["zebra"])[0].content[1:-1]
    with torch.no_grad():
        embeddings = model.network.encoder.get_input_embeddings()  # type: ignore[operator]
        embeddings.weight[token] = bad
    state = model.get_state()
    both = SiteTrainer(model, plan, innocent + poisoned).train_round(0, state).update
    alone = SiteTrainer(model, plan, innocent).train_round(0, state).update
    assert np.isfinite(flat(both)).all()
    assert np.abs(flat(both)).max() > 0
    np.testing.assert_allclose(flat(both), flat(alone), atol=1e-6)


def test_at_most_so_many_records_of_a_subject_and_not_always_the_same(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    privacy = Privacy(
        epsilon=Decimal(8),
        delta=Decimal("0.00001"),
        nominal_subjects=10,
        max_records_per_subject=2,
    )
    plan = make_plan(phase(max_grad_norm="100"), privacy=privacy)
    examples = people([6])
    features = base_features(model, [example.text for example in examples])
    gradients = []
    for row, example in zip(features, examples, strict=True):
        error = torch.softmax(model.network.head(row).detach(), 0)
        error[example.label] -= 1
        gradients.append(torch.outer(error, row))
    pairs = {(a, b): (gradients[a] + gradients[b]) / 2 for a in range(6) for b in range(a + 1, 6)}
    seen = set()
    start = model.get_state()
    for _ in range(25):
        model.set_state(start)
        (before,) = trained_weights(model, "probe")
        SiteTrainer(model, plan, examples).train_round(0, start)
        (after,) = trained_weights(model, "probe")
        step = (before - after) * DIVISOR / LEARNING_RATE
        matches = [pair for pair, g in pairs.items() if torch.allclose(g, step, atol=1e-4)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 3


def test_noise_is_fresh_unless_a_seed_is_given_and_a_seed_is_told(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    plan = make_plan(phase(noise_multiplier="1", sampling_rate="0.5"))
    examples, state = people([1] * 6), model.get_state()

    def run(seed: int | None) -> tuple[np.ndarray, bool]:
        torch.manual_seed(0)
        result = SiteTrainer(model, plan, examples, seed=seed).train_round(0, state)
        return flat(result.update), result.seeded

    fresh, again, seeded, repeated = run(None), run(None), run(3), run(3)
    assert not np.array_equal(fresh[0], again[0])
    assert np.array_equal(seeded[0], repeated[0])
    assert [kind for _, kind in (fresh, again, seeded)] == [False, False, True]


def test_the_update_is_local_minus_global(model: TextClassifier, make_plan: MakePlan) -> None:
    start = {name: array + np.float32(0.01) for name, array in model.get_state().items()}
    plan = make_plan(phase("adapter"))
    update = SiteTrainer(model, plan, people([1] * 4)).train_round(0, start).update
    end = model.get_state()
    for name in start:
        np.testing.assert_allclose(start[name] + update[name], end[name], atol=1e-5)


def test_rounds_follow_the_plans_phases(model: TextClassifier, make_plan: MakePlan) -> None:
    phases = phase(rounds=2, steps_per_round=3), phase("adapter", steps_per_round=2)
    trainer = SiteTrainer(model, make_plan(*phases), people([1] * 4))
    state = model.get_state()
    steps = []
    for number in range(3):
        result = trainer.train_round(number, state)
        adapted = any(np.abs(a).max() > 0 for n, a in result.update.items() if "lora" in n)
        steps.append((result.round, result.steps, adapted))
    assert steps == [(0, 3, False), (1, 3, False), (2, 2, True)]
    for number in (-1, 3):
        with pytest.raises(MalformedInput, match="is not one of the plan's 3 rounds"):
            trainer.train_round(number, state)


def test_training_learns(model: TextClassifier, make_plan: MakePlan) -> None:
    """With little noise the labels of four texts can be learnt."""
    examples = [Example(str(n), text, n % len(LABELS)) for n, text in enumerate(TEXTS)]
    plan = make_plan(phase(rounds=5, steps_per_round=20, learning_rate="10", max_grad_norm="1"))
    trainer = SiteTrainer(model, plan, examples)
    state = model.get_state()
    for number in range(plan.rounds):
        update = trainer.train_round(number, state).update
        state = {name: state[name] + update[name] for name in state}
    confusion = trainer.evaluate(state, examples).everybody.confusion
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


def test_evaluation_counts_every_held_out_record_once(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    trainer = SiteTrainer(model, make_plan(), people([1]))
    examples = people([3, 2, 2])
    confusion = trainer.evaluate(model.get_state(), examples).everybody.confusion
    assert confusion.sum() == 7
    labels = [example.label for example in examples]
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=3).tolist()
    assert trainer.evaluate(model.get_state(), []).everybody.examples == 0


def test_evaluation_follows_state_and_examples_whatever_it_has_cached(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    trainer = SiteTrainer(model, make_plan(), people([1]))
    examples, others = people([3, 2, 2]), people([1, 1])
    rng = np.random.default_rng(0)
    blank = model.get_state()
    headed = {
        name: rng.normal(size=array.shape).astype(np.float32) if "head" in name else array
        for name, array in blank.items()
    }
    adapted = {
        name: rng.normal(size=array.shape).astype(np.float32) for name, array in blank.items()
    }
    for state in (blank, headed, adapted, headed):
        for held_out in (examples, others, examples):
            model.set_state(state)
            direct = logits_of(model, [example.text for example in held_out]).argmax(1)
            expected = np.zeros((3, 3), np.int64)
            for example, predicted in zip(held_out, direct.tolist(), strict=True):
                expected[example.label, predicted] += 1
            counts = trainer.evaluate(state, held_out).everybody
            assert counts.confusion.tolist() == expected.tolist()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_plan_is_refused(
    model: TextClassifier, make_plan: MakePlan, label: int
) -> None:
    foreign = [Example("someone", "text", label)]
    with pytest.raises(MalformedInput, match=f"label {label} is not one of the plan's 3"):
        SiteTrainer(model, make_plan(), foreign)
    with pytest.raises(MalformedInput, match=f"label {label} is not one of the plan's 3"):
        SiteTrainer(model, make_plan(), []).evaluate(model.get_state(), foreign)


@pytest.mark.parametrize("nominal", [1, 4, 1000])
def test_the_nominal_number_of_subjects_scales_a_step_and_does_nothing_else(
    model: TextClassifier, make_plan: MakePlan, nominal: int
) -> None:
    """More than there are, or fewer: the same sum, the same noise, another public divisor."""
    state = model.get_state()

    def update(nominal: int) -> np.ndarray:
        privacy = Privacy(epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=nominal)
        plan = make_plan(phase(noise_multiplier="1", learning_rate=nominal), privacy=privacy)
        result = SiteTrainer(model, plan, people([1, 3, 2, 1]), seed=6).train_round(0, state)
        assert result.steps == 1
        return flat(result.update)

    np.testing.assert_allclose(update(nominal), update(1), atol=1e-5)


def test_a_malformed_global_state_is_refused(model: TextClassifier, make_plan: MakePlan) -> None:
    trainer = SiteTrainer(model, make_plan(), people([1]))
    state = model.get_state()
    state["head.bias"] = np.full(3, np.nan, np.float32)
    with pytest.raises(MalformedInput, match="not finite"):
        trainer.train_round(0, state)
    with pytest.raises(MalformedInput, match="not finite"):
        trainer.evaluate(state, [])


def test_a_failed_round_leaves_no_hooks_behind(model: TextClassifier, make_plan: MakePlan) -> None:
    trainer = SiteTrainer(model, make_plan(phase(steps_per_round=3)), people([1] * 4))
    state = model.get_state()

    def stop(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train_round(0, state, stop)
    assert trainer.train_round(0, state).steps == 3


def test_fresh_noise_never_becomes_repeatable(model: TextClassifier, make_plan: MakePlan) -> None:
    trainer = SiteTrainer(model, make_plan(phase()), people([1] * 4))
    with pytest.raises(ValueError, match="keeps it fresh"):
        trainer.reseed(1)


def test_a_step_takes_no_record_over_the_cap(model: TextClassifier, make_plan: MakePlan) -> None:
    plan = make_plan(phase())
    cap = plan.privacy.max_records_per_subject
    trainer = SiteTrainer(model, plan, people([cap + 1, cap, 1]))
    trainer.train_round(0, model.get_state())
    assert trainer.observed.records == 2 * cap + 1
