"""LoRA in the upper layers only: what is below is computed once, and nothing else is different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.errors import MalformedInput
from client.learning.passes import Passes, Settings
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Adapter, TrainingPlan
from tests.client.learning.conftest import (
    TEXTS,
    logits_of,
    people,
    phase,
    plan_for,
    read_texts,
    trainable,
)
from tests.client.learning.test_passes import counted
from tests.client.learning.test_private_sgd import DIVISOR, flat
from tests.client.learning.tiny_models import TARGETS, save_base

LAYERS = 3
kinds = pytest.mark.parametrize("kind", TARGETS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder of three layers of each architecture."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_base(kind, LAYERS, folder / kind) for kind in TARGETS}


def plan_of(base: Path, kind: str, layers: int | None, **changes: object) -> TrainingPlan:
    adapter = Adapter(rank=2, alpha=4, target_modules=TARGETS[kind], layers=layers)
    trained = phase("adapter", **{"learning_rate": "1000", **changes})
    return plan_for(base, [trained], adapter=adapter)


def adapted(model: TextClassifier) -> State:
    """A state whose LoRA changes the encoder."""
    rng = np.random.default_rng(2)
    return {
        name: rng.normal(scale=0.25, size=array.shape).astype(np.float32)
        for name, array in model.get_state().items()
    }


def naive_step(model: TextClassifier, layers: int, norm: float) -> Tensor:
    """Each subject's clipped gradient by the whole network, of the upper layers' B and the head."""
    weights = trainable(model, "adapter")
    assert len(weights) == 1 + 2 * layers
    total = torch.zeros(sum(weight.numel() for weight in weights))
    examples = people([1, 3, 2])
    for subject in sorted({example.subject for example in examples}):
        own = [example for example in examples if example.subject == subject]
        features = model.network.features(*model.raw_inputs(model.encode(own)))
        loss = cross_entropy(model.network.head(features), torch.tensor([e.label for e in own]))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        total += gradient * min(1.0, norm / float(gradient.norm()))
    return total * 1000 / DIVISOR


@kinds
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cache_bytes", [0, 10**9])
@pytest.mark.parametrize("engine", ["one_backward", "hooks"])
def test_a_step_is_that_of_the_whole_network(
    bases: dict[str, Path], kind: str, layers: int, cache_bytes: int, engine: str
) -> None:
    """Whether what is below is kept or not, and with each engine."""
    plan = plan_of(bases[kind], kind, layers, max_grad_norm="0.1")
    model = TextClassifier.build(plan, bases[kind])
    state = adapted(model)
    model.set_state(state)
    wanted = naive_step(model, layers, 0.1)
    before = torch.cat([weight.detach().flatten() for weight in trainable(model, "adapter")])
    settings = Settings(engine=engine, cache_bytes=cache_bytes)
    SiteTrainer(model, plan, people([1, 3, 2]), settings=settings).train_round(0, state)
    after = torch.cat([weight.detach().flatten() for weight in trainable(model, "adapter")])
    assert float(((before - after) - wanted).norm()) <= 1e-5 * float(wanted.norm())


@pytest.mark.parametrize("layers", [1, 2])
def test_only_the_upper_layers_move(bases: dict[str, Path], layers: int) -> None:
    plan = plan_of(bases["bert"], "bert", layers)
    model = TextClassifier.build(plan, bases["bert"])
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    update = SiteTrainer(model, plan, people([2] * 4)).train_round(0, model.get_state()).update
    upper = [f"layer.{number}." for number in range(LAYERS - layers, LAYERS)]
    matrices = [name for name in before if ".lora_" in name]
    assert len(matrices) == 4 * layers, "two matrices for query and value of each"
    assert all(any(part in name for part in upper) for name in matrices)
    moved = {
        name for name, p in model.network.named_parameters() if not torch.equal(p, before[name])
    }
    assert moved == {"head.weight"} | {name for name in matrices if ".lora_B." in name}
    assert len(update) == 2 + 2 * layers
    assert all(array.any() for array in update.values())


def test_all_layers_are_the_same_as_no_number(bases: dict[str, Path]) -> None:
    updates = []
    for layers in (LAYERS, None):
        plan = plan_of(bases["bert"], "bert", layers)
        model = TextClassifier.build(plan, bases["bert"], seed=1)
        assert not model.keeps_below("adapter")
        trainer = SiteTrainer(model, plan, people([2] * 3))
        updates.append(flat(trainer.train_round(0, model.get_state()).update))
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", [LAYERS + 1, 1000])
def test_more_layers_than_there_are_is_refused(bases: dict[str, Path], layers: int) -> None:
    with pytest.raises(MalformedInput, match="the base model has 3 layers") as refused:
        TextClassifier.build(plan_of(bases["bert"], "bert", layers), bases["bert"])
    assert refused.value.fix


def test_the_lower_layers_run_once_a_record(bases: dict[str, Path]) -> None:
    """Over steps and rounds; without a cache they run in every step."""
    examples = people([1, 3, 2])
    for cache_bytes, times in ((10**9, 1), (0, 6)):
        plan = plan_of(bases["bert"], "bert", 1, rounds=2, steps_per_round=3)
        model = TextClassifier.build(plan, bases["bert"])
        lower, upper = (model.network.encoder.get_submodule(f"encoder.layer.{n}") for n in (0, 2))
        trainer = SiteTrainer(model, plan, examples, settings=Settings(cache_bytes=cache_bytes))
        # Without weights that train, a stand-in passes through no projection.
        with (
            counted(lower.get_submodule("attention.self.query")) as below,
            counted(upper.get_submodule("attention.self.query")) as above,
        ):
            for number in range(2):
                trainer.train_round(number, model.get_state())
        assert sum(below) == times * len(examples)
        assert sum(above) == 6 * len(examples)


# peft 0.21, here used plainly as a consumer would, reads a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_results_and_release_are_the_whole_networks(bases: dict[str, Path], tmp_path: Path) -> None:
    """Plain peft reads it: it says itself in which layers the adapter is."""
    import peft
    import transformers

    plan = plan_of(bases["bert"], "bert", 1)
    model = TextClassifier.build(plan, bases["bert"])
    model.set_state(adapted(model))
    records = model.raw_inputs(read_texts(model, TEXTS))
    with torch.no_grad():
        whole = model.network.head(model.network.features(*records))
    torch.testing.assert_close(logits_of(model, TEXTS), whole, rtol=1e-4, atol=1e-4)
    examples = people([2, 2, 2])
    told = Passes(model, examples, Settings(micro_batch_tokens=20)).results_of("adapter", range(6))
    expected = logits_of(model, [example.text for example in examples])
    np.testing.assert_allclose(np.stack(told), expected, rtol=1e-4, atol=1e-4)

    model.save(tmp_path / "release")
    base = transformers.AutoModelForTokenClassification.from_pretrained(
        bases["bert"], num_labels=len(plan.labels)
    )
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "release").eval()
    ids, mask = records
    with torch.no_grad():
        tokens = loaded(input_ids=ids, attention_mask=mask).logits
    document = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(document, whole, rtol=1e-4, atol=1e-4)
