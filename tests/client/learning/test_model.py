"""The classifier: what is trained, what is exchanged, and what others can load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.errors import MalformedInput
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.data import Example
from client.learning.metrics import accuracy
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Adapter, BaseModelReference, StartsFrom
from tests.client.learning.conftest import (
    LABELS,
    TEXTS,
    MakePlan,
    base_features,
    logits_of,
    people,
    phase,
    read_texts,
    reference_to,
)

LOAD_WITH_PLAIN_PEFT = """
import json, sys
import torch
from peft import AutoPeftModelForTokenClassification
from transformers import AutoTokenizer

adapter, base, labels = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoPeftModelForTokenClassification.from_pretrained(adapter, num_labels=labels).eval()
tokens = AutoTokenizer.from_pretrained(base)(
    json.load(sys.stdin), padding=True, truncation=True, max_length=32, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**tokens).logits
mask = tokens["attention_mask"].unsqueeze(-1)
foreign = [n for n in sys.modules if n.split(".")[0] in ("client", "audit", "compliance", "opacus")]
print(json.dumps({"logits": ((logits * mask).sum(1) / mask.sum(1)).tolist(), "foreign": foreign}))
"""


def trained(model: TextClassifier, make_plan: MakePlan) -> State:
    """A state in which head and every LoRA matrix differ from where they began."""
    plan = make_plan(phase("adapter", learning_rate="3", steps_per_round=2))
    update = SiteTrainer(model, plan, people([1] * 6)).train_round(0, model.get_state()).update
    assert all(np.abs(array).max() > 0 for array in update.values())
    return model.get_state()


def test_plain_peft_loads_the_release_and_computes_the_same(
    make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    model = TextClassifier.build(make_plan(base_model=reference_to(tiny_base)), tiny_base)
    trained(model, make_plan)
    expected = logits_of(model, TEXTS)
    model.save(tmp_path / "adapter")
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    command = [sys.executable, "-c", LOAD_WITH_PLAIN_PEFT, str(tmp_path / "adapter")]
    done = subprocess.run(
        [*command, str(tiny_base), str(len(LABELS))],
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
    torch.testing.assert_close(torch.tensor(answer["logits"]), expected, rtol=1e-4, atol=1e-4)


def test_saving_twice_gives_the_same_bytes_and_no_path(
    make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    reference = BaseModelReference(name=EMBEDDED_MODEL, digest=base_model_digest(tiny_base))
    plan = make_plan(base_model=reference)
    for name in ("one", "two"):
        TextClassifier.build(plan, tiny_base).save(tmp_path / name)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one" / "adapter_config.json").read_text(encoding="utf-8")
    assert json.loads(text)["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert str(tiny_base) not in text


def test_document_logits_are_the_masked_mean_of_token_logits(model: TextClassifier) -> None:
    ids, mask = model.raw_inputs(read_texts(model, TEXTS))
    weight, bias = model.network.released_head()
    with torch.no_grad():
        hidden = model.network.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        tokens = hidden @ weight.T + bias
    expected = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(logits_of(model, TEXTS), expected, rtol=1e-4, atol=1e-4)


def test_padding_and_company_do_not_change_a_documents_logits(model: TextClassifier) -> None:
    together = logits_of(model, TEXTS)
    for position, text in enumerate(TEXTS):
        torch.testing.assert_close(
            logits_of(model, [text])[0], together[position], rtol=1e-4, atol=1e-4
        )


def test_every_party_of_a_plan_builds_the_same_model(make_plan: MakePlan, tiny_base: Path) -> None:
    first = TextClassifier.build(make_plan(), tiny_base)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    second = TextClassifier.build(make_plan(), tiny_base)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was used"
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    other = TextClassifier.build(make_plan(name="other-plan"), tiny_base)
    differ = [
        name
        for (name, a), b in zip(
            first.network.named_parameters(), other.network.parameters(), strict=True
        )
        if not torch.equal(a, b)
    ]
    assert differ
    assert all("lora_A" in name for name in differ)


def test_the_state_is_sorted_float32_and_independent_of_the_model(model: TextClassifier) -> None:
    state = model.get_state()
    assert list(state) == sorted(state)
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    assert sum("lora_B" in name for name in state) == 4
    assert {name for name in state if "lora" not in name} == {"head.weight", "head.bias"}
    kept = state["head.weight"].copy()
    model.set_state({name: array + 1 for name, array in state.items()})
    assert np.array_equal(state["head.weight"], kept)
    assert not np.array_equal(model.get_state()["head.weight"], kept)


def test_a_plan_that_starts_from_a_model_computes_what_that_model_did(
    make_plan: MakePlan, tiny_base: Path
) -> None:
    """LoRA's fixed `A` is no part of a state: it is drawn from the first plan of the line."""
    plan = make_plan(phase("adapter", learning_rate="3", steps_per_round=2, rounds=2))
    model = TextClassifier.build(plan, tiny_base)
    state = trained(model, make_plan)
    model.set_state(state)
    first = StartsFrom.after(f"sha256:{'1' * 64}", plan, 1, f"sha256:{'2' * 64}")
    second = make_plan(*plan.phases, name="second", starts_from=first)
    third = make_plan(
        *plan.phases,
        name="third",
        starts_from=StartsFrom.after(f"sha256:{'3' * 64}", second, 1, f"sha256:{'4' * 64}"),
    )
    for later in (second, third):
        other = TextClassifier.build(later, tiny_base)
        other.set_state(state)
        np.testing.assert_array_equal(logits_of(other, TEXTS), logits_of(model, TEXTS))
    unrelated = TextClassifier.build(make_plan(*plan.phases, name="unrelated"), tiny_base)
    unrelated.set_state(state)
    assert not np.array_equal(logits_of(unrelated, TEXTS), logits_of(model, TEXTS))
    probing = make_plan(phase("probe"), phase("adapter"), name="probing", starts_from=first)
    adapted = TextClassifier.build(probing, tiny_base)
    adapted.set_state(state)
    with pytest.raises(MalformedInput, match="probe is trained on the base model"):
        adapted.set_trainable("probe")


def test_a_state_survives_being_set(model: TextClassifier, make_plan: MakePlan) -> None:
    state = trained(model, make_plan)
    before = logits_of(model, TEXTS)
    model.set_state(state)
    torch.testing.assert_close(logits_of(model, TEXTS), before, rtol=1e-5, atol=1e-5)
    for name, array in model.get_state().items():
        np.testing.assert_allclose(array, state[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("head.bias"), "'head.bias' is missing"),
        (lambda s: s.update(extra=np.zeros(1, np.float32)), "'extra' is unknown"),
        (lambda s: s.update({"head.bias": np.zeros(4, np.float32)}), "expected shape"),
        (lambda s: s.update({"head.bias": np.zeros(3, np.float64)}), "expected float32"),
        (lambda s: s.update({"head.bias": np.full(3, np.nan, np.float32)}), "not finite"),
        (lambda s: s.update({"head.bias": np.full(3, np.inf, np.float32)}), "not finite"),
        (lambda s: s.update({"head.bias": np.full(3, 1e9, np.float32)}), "above 1e"),
    ],
)
def test_a_malformed_state_is_refused_and_changes_nothing(
    model: TextClassifier, change: object, reason: str
) -> None:
    state = {name: array + 1 for name, array in model.get_state().items()}
    assert callable(change)
    change(state)
    before = model.get_state()
    with pytest.raises(MalformedInput, match=reason):
        model.set_state(state)
    for name, array in model.get_state().items():
        assert np.array_equal(array, before[name])


@pytest.mark.parametrize("targets", [("nothing",), ("word_embeddings",), ("query", "nothing")])
def test_targets_that_are_not_linear_layers_are_refused(
    make_plan: MakePlan, tiny_base: Path, targets: tuple[str, ...]
) -> None:
    plan = make_plan(adapter=Adapter(rank=2, alpha=4, target_modules=targets))
    with pytest.raises(MalformedInput, match="are not linear layers"):
        TextClassifier.build(plan, tiny_base)


def test_label_names_alone_are_better_than_chance(make_plan: MakePlan) -> None:
    """The real encoder, before any training: what `public_prior` promises."""
    base = resolve_base_model(EMBEDDED_MODEL)
    reference = BaseModelReference(name=EMBEDDED_MODEL, digest=base_model_digest(base))
    plan = make_plan(base_model=reference, adapter=Adapter())
    model = TextClassifier.build(plan, base)
    features = base_features(model, TEXTS)
    assert 0.7 < float(features[:, :-1].norm(dim=1).mean()) < 1.5
    told = [
        Example(subject=str(number), text=text, label=label)
        for number, (text, label) in enumerate(zip(TEXTS, (0, 1, 2, 0, 1, 2), strict=True))
    ]
    trainer = SiteTrainer(model, plan, told)
    assert accuracy(trainer.evaluate(model.get_state(), told).everybody.confusion) == 1.0
