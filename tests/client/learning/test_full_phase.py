"""Full fine-tuning: every weight of the encoder trains, privately, and the release is plain."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.errors import MalformedInput
from client.learning.clipped_sums import ENGINES
from client.learning.data import Example
from client.learning.passes import Settings
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import TrainingPlan
from tests.client.learning.conftest import (
    LABELS,
    TEXTS,
    MakePlan,
    logits_of,
    people,
    phase,
    trainable,
    trained_weights,
)
from tests.client.learning.test_private_sgd import DIVISOR, flat

EXAMPLES = people([1, 3, 2, 1])

LOAD_PLAINLY = """
import json, sys
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

release, base = sys.argv[1:]
model = AutoModelForTokenClassification.from_pretrained(release).eval()
tokens = AutoTokenizer.from_pretrained(base)(
    json.load(sys.stdin), padding=True, truncation=True, max_length=32, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**tokens).logits
mask = tokens["attention_mask"].unsqueeze(-1)
foreign = [n for n in sys.modules if n.split(".")[0] in ("client", "audit", "compliance", "peft")]
print(json.dumps({"logits": ((logits * mask).sum(1) / mask.sum(1)).tolist(), "foreign": foreign}))
"""


@pytest.fixture
def plan(make_plan: MakePlan) -> TrainingPlan:
    return make_plan(phase("full", learning_rate="1000"))


@pytest.fixture
def full(plan: TrainingPlan, tiny_base: Path) -> TextClassifier:
    return TextClassifier.build(plan, tiny_base)


def headed(model: TextClassifier) -> State:
    """A state with a head, without which the encoder would have no gradient."""
    rng = np.random.default_rng(1)
    state = model.get_state()
    state["head.weight"] = rng.normal(size=state["head.weight"].shape).astype(np.float32)
    return state


def naive_step(model: TextClassifier, examples: Sequence[Example], norm: float) -> Tensor:
    weights = trainable(model, "full")
    total = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64)
    for subject in sorted({example.subject for example in examples}):
        own = [example for example in examples if example.subject == subject]
        logits = model.network(*model.raw_inputs(model.encode(own)))
        loss = cross_entropy(logits, torch.tensor([example.label for example in own]))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]).double()
        total += gradient * min(1.0, norm / float(gradient.norm()))
    return total


def step_of(model: TextClassifier, plan: TrainingPlan, state: State, settings: Settings) -> Tensor:
    """What one step subtracts, over learning rate and divisor."""
    phase = plan.phases[0]
    model.set_state(state)
    before = torch.cat([weight.flatten() for weight in trained_weights(model, "full")]).double()
    SiteTrainer(model, plan, EXAMPLES, settings=settings).train_round(0, state)
    after = torch.cat([weight.flatten() for weight in trained_weights(model, "full")]).double()
    return (before - after) * DIVISOR / float(phase.learning_rate)


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("norm", ["0.1", "1000"])
@pytest.mark.parametrize("tokens", [20, 4096])
def test_a_step_equals_the_naive_computation(
    make_plan: MakePlan, tiny_base: Path, engine: str, norm: str, tokens: int
) -> None:
    """So both engines are equal, too: Opacus' hooks are no part of the naive computation."""
    plan = make_plan(phase("full", learning_rate="1000", max_grad_norm=norm))
    model = TextClassifier.build(plan, tiny_base)
    state = headed(model)
    model.set_state(state)
    wanted = naive_step(model, EXAMPLES, float(norm))
    settings = Settings(engine=engine, micro_batch_tokens=tokens)
    got = step_of(model, plan, state, settings)
    assert float((got - wanted).norm()) <= 1e-5 * float(wanted.norm())


def test_every_weight_of_the_encoder_moves(full: TextClassifier, plan: TrainingPlan) -> None:
    """All that texts touch: of key biases nothing depends, as softmax does not see them."""
    update = SiteTrainer(full, plan, EXAMPLES).train_round(0, headed(full)).update
    encoder = {f"encoder.{name}" for name, _ in full.network.encoder.named_parameters()}
    assert set(update) == encoder | {"head.weight", "head.bias"}
    assert len(encoder) > 35
    still = {name for name, array in update.items() if np.abs(array).max() < 1e-6}
    assert still <= {name for name in encoder if name.endswith("key.bias")}
    words = update["encoder.embeddings.word_embeddings.weight"]
    seen = {token for record in full.encode(EXAMPLES) for token in record.content}
    moved = set(np.flatnonzero(np.abs(words).max(axis=1) > 1e-6).tolist())
    assert moved == seen


def test_there_is_no_adapter(full: TextClassifier) -> None:
    assert not [name for name, _ in full.network.named_parameters() if "lora" in name]


def test_the_noise_is_on_all_weights(make_plan: MakePlan, tiny_base: Path) -> None:
    plan = make_plan(phase("full", noise_multiplier="2", learning_rate="1"))
    model = TextClassifier.build(plan, tiny_base)
    update = SiteTrainer(model, plan, []).train_round(0, model.get_state()).update
    for name, array in update.items():
        if not name.startswith("head."):  # whose release form mixes its columns
            deviation = float(np.sqrt(np.square(array.astype(float)).mean()))
            assert deviation == pytest.approx(2 * 0.1 / DIVISOR, rel=6 / (2 * array.size) ** 0.5)


def test_the_plain_library_loads_the_release_and_computes_the_same(
    full: TextClassifier, plan: TrainingPlan, tiny_base: Path, tmp_path: Path
) -> None:
    SiteTrainer(full, plan, EXAMPLES).train_round(0, headed(full))
    expected = logits_of(full, TEXTS)
    full.save(tmp_path / "release")
    names = sorted(file.name for file in (tmp_path / "release").iterdir())
    assert names == ["config.json", "model.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_PLAINLY, str(tmp_path / "release"), str(tiny_base)],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["foreign"] == []
    assert len(answer["logits"][0]) == len(LABELS)
    torch.testing.assert_close(torch.tensor(answer["logits"]), expected, rtol=1e-4, atol=1e-4)


def test_a_release_is_the_same_bytes_each_time(
    plan: TrainingPlan, tiny_base: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        TextClassifier.build(plan, tiny_base).save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_state_survives_being_set(full: TextClassifier, plan: TrainingPlan) -> None:
    SiteTrainer(full, plan, EXAMPLES).train_round(0, headed(full))
    state, before = full.get_state(), logits_of(full, TEXTS)
    full.set_state({name: array * 0 for name, array in state.items()})
    assert not torch.allclose(logits_of(full, TEXTS), before)
    full.set_state(state)
    torch.testing.assert_close(logits_of(full, TEXTS), before, rtol=1e-4, atol=1e-4)


# --- after a probe --------------------------------------------------------------------------------


@pytest.fixture
def both(make_plan: MakePlan, tiny_base: Path) -> tuple[TextClassifier, TrainingPlan]:
    plan = make_plan(phase("probe", rounds=2, steps_per_round=3, learning_rate="20"), phase("full"))
    return TextClassifier.build(plan, tiny_base), plan


def test_a_full_phase_begins_where_the_probe_ended(
    both: tuple[TextClassifier, TrainingPlan],
) -> None:
    model, plan = both
    trainer = SiteTrainer(model, plan, EXAMPLES)
    start = model.get_state()
    update = trainer.train_round(0, start).update
    assert {name for name, array in update.items() if array.any()} == {"head.weight", "head.bias"}
    probed = {name: start[name] + update[name] for name in start}
    model.set_state(probed)
    assert not model.is_adapted
    assert model.kind_of_state() == "probe"
    as_probe = model.network.head(model.features(model.encode(EXAMPLES))).detach()
    as_full = logits_of(model, [example.text for example in EXAMPLES])
    torch.testing.assert_close(as_full, as_probe, rtol=1e-4, atol=1e-4)
    later = trainer.train_round(2, probed).update
    assert all(array.any() for name, array in later.items() if "key.bias" not in name)
    model.set_state({name: probed[name] + later[name] for name in probed})
    assert model.is_adapted
    assert model.kind_of_state() == "full"


def test_a_probe_of_another_base_is_refused_and_nothing_moves(
    both: tuple[TextClassifier, TrainingPlan],
) -> None:
    """Its features would be another's: those kept, or of a model that the plan does not name."""
    model, plan = both
    trainer = SiteTrainer(model, plan, EXAMPLES)
    trainer.train_round(0, model.get_state())
    state = model.get_state()
    name = next(name for name in state if name.endswith("output.dense.weight"))
    state[name][0, 0] += np.float32(0.01)
    with pytest.raises(MalformedInput, match="a probe is trained on the base model") as refused:
        trainer.train_round(1, state)
    assert refused.value.fix
    np.testing.assert_allclose(flat(model.get_state()), flat(state), rtol=1e-5, atol=1e-5)


def test_evaluation_follows_the_state_from_probe_to_full(
    both: tuple[TextClassifier, TrainingPlan],
) -> None:
    model, plan = both
    trainer = SiteTrainer(model, plan, EXAMPLES)
    rng = np.random.default_rng(3)
    start = headed(model)
    moved = {
        name: array + rng.normal(size=array.shape).astype(np.float32) / 2 * ("dense" in name)
        for name, array in start.items()
    }
    seen = []
    for state in (start, moved, start):
        model.set_state(state)
        logits = logits_of(model, [example.text for example in EXAMPLES])
        confusion = np.zeros((3, 3), np.int64)
        for example, predicted in zip(EXAMPLES, logits.argmax(1).tolist(), strict=True):
            confusion[example.label, predicted] += 1
        told = trainer.evaluate(state, EXAMPLES).everybody.confusion
        assert told.tolist() == confusion.tolist()
        seen.append(told.tolist())
    assert seen[0] == seen[2] != seen[1]
