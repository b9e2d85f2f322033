"""Language models: their loss, their exact private step, what is counted, what others load."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.errors import MalformedInput, VerificationFailed
from client.learning.base_model import base_model_digest
from client.learning.data import Example, StoredRecord
from client.learning.language_evaluation import LanguageCounts, language_summary
from client.learning.membership import attack
from client.learning.passes import Passes, Settings
from client.learning.private_sgd import SiteTrainer
from client.learning.randomness import Keystream
from client.learning.tasks import build_model, causal_language_modelling, read_examples
from client.learning.tasks.causal_language_modelling import CausalLanguageModel
from compliance.statements import Adapter, BaseModelReference
from tests.client.learning.conftest import TEXTS, people, phase
from tests.client.learning.tasks.conftest import (
    check_step,
    language_plan,
    run_load_example,
    train,
)

Decoders = Callable[[str], Path]
KINDS = ("gpt2", "llama")


def built(base: Path, kind: str = "adapter", **changes: object) -> CausalLanguageModel:
    return CausalLanguageModel.build(language_plan(base, phase(kind), **changes), base)  # type: ignore[arg-type]


def texts(count: int) -> list[Example]:
    """Subjects with one short text each; they repeat."""
    return [Example(f"subject-{n:03}", TEXTS[n % len(TEXTS)]) for n in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_records_loss_is_the_models_own_and_alone_its_own(kind: str, decoders: Decoders) -> None:
    """transformers' own loss of each text by itself, against ours of all texts together."""
    from transformers import AutoModelForCausalLM

    base = decoders(kind)
    model = built(base)
    plain = AutoModelForCausalLM.from_pretrained(base)
    ours = Passes(model, texts(6), Settings()).losses()
    for loss, record in zip(ours, model.encode(texts(6)), strict=True):
        ids = torch.tensor([record.content])
        with torch.no_grad():
            assert loss == pytest.approx(float(plain(input_ids=ids, labels=ids).loss), rel=1e-5)


@pytest.mark.parametrize("engine", ["one_backward", "hooks"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("trains", "layers"), [("adapter", None), ("adapter", 1), ("full", None)])
def test_a_step_is_that_of_exact_subject_gradients(
    kind: str, trains: str, layers: int | None, engine: str, decoders: Decoders
) -> None:
    base = decoders(kind)
    plan = language_plan(base, phase(trains, learning_rate="1000"), layers=layers)
    check_step(CausalLanguageModel.build(plan, base), plan, people([1, 3, 2]), engine)


@pytest.mark.parametrize("trains", ["adapter", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_without_noise_learns_and_leaves_the_rest_as_it_is(
    kind: str, trains: str, decoders: Decoders
) -> None:
    base = decoders(kind)
    rate = "20" if trains == "adapter" else "2"
    plan = language_plan(
        base, phase(trains, steps_per_round=40, learning_rate=rate, max_grad_norm="1")
    )
    model = CausalLanguageModel.build(plan, base)
    examples = texts(12)
    trainer = SiteTrainer(model, plan, examples)
    frozen = {
        name: weight.detach().clone()
        for name, weight in model.network.named_parameters()
        if trains == "adapter" and "lora_B" not in name
    }
    before = language_summary(trainer.evaluate(model.get_state(), examples).everybody)
    after = language_summary(trainer.evaluate(train(model, plan, examples), examples).everybody)
    assert before.perplexity is not None
    assert after.perplexity is not None
    assert after.perplexity < before.perplexity / 3
    assert after.accuracy > before.accuracy
    for name, weight in model.network.named_parameters():
        if name in frozen:
            assert torch.equal(weight, frozen[name]), name


@pytest.mark.parametrize(("kind", "trains"), [("gpt2", "adapter"), ("llama", "full")])
def test_a_state_survives_being_set(kind: str, trains: str, decoders: Decoders) -> None:
    base = decoders(kind)
    plan = language_plan(base, phase(trains, learning_rate="3"))
    model = CausalLanguageModel.build(plan, base)
    state = train(model, plan, people([1, 2]))
    model.set_state(state)
    losses = Passes(model, texts(3), Settings()).losses()
    other = CausalLanguageModel.build(plan, base)
    assert Passes(other, texts(3), Settings()).losses() != losses
    other.set_state(state)
    assert Passes(other, texts(3), Settings()).losses() == losses
    for name, array in other.get_state().items():
        assert np.array_equal(array, state[name])


def test_the_state_of_a_tied_head_has_it_once(decoders: Decoders) -> None:
    tied, own = (set(built(decoders(kind), "full").get_state()) for kind in KINDS)
    assert "decoder.wte.weight" in tied
    assert not any("head" in name for name in tied)
    assert {"decoder.embed_tokens.weight", "head.weight"} <= own
    adapter = set(built(decoders("gpt2")).get_state())
    assert adapter == {f"h.{layer}.attn.c_attn.lora_B" for layer in range(2)}


@pytest.mark.parametrize(("kind", "trains"), [("gpt2", "adapter"), ("llama", "adapter")])
def test_logits_of_a_few_tokens_at_a_time_give_the_same(
    kind: str, trains: str, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = decoders(kind)
    plan = language_plan(base, phase(trains, learning_rate="1000"))
    monkeypatch.setattr(causal_language_modelling, "LOGITS_AT_ONCE", 1)  # one token at a time
    check_step(CausalLanguageModel.build(plan, base), plan, people([1, 2]), "one_backward")


def test_the_frozen_heads_gradient_is_autograds(decoders: Decoders) -> None:
    model = built(decoders("gpt2"))
    records = model.encode(texts(6))
    module = model.set_trainable("adapter")
    weights = list(model.weights("adapter").values())
    losses = model.losses(module(*model.inputs("adapter", records, None)), records)
    ours = torch.autograd.grad((losses * torch.arange(6)).sum(), weights)
    model.network.head.weight.requires_grad_(True)  # logits of everything, by autograd
    losses = model.losses(module(*model.inputs("adapter", records, None)), records)
    for got, want in zip(
        ours, torch.autograd.grad((losses * torch.arange(6)).sum(), weights), strict=True
    ):
        assert float((got - want).norm()) <= 1e-5 * float(want.norm())


@pytest.mark.parametrize("trains", ["adapter", "full"])
def test_bfloat16_computes_nearly_the_same(trains: str, decoders: Decoders) -> None:
    model = built(decoders("gpt2"), trains)
    examples, settings = people([2, 1]), Settings(precision="bf16")
    exact = Passes(model, examples, Settings()).losses()
    assert Passes(model, examples, settings).losses() == pytest.approx(exact, rel=0.05)
    start = model.get_state()
    updates = [
        SiteTrainer(model, model.plan, examples, settings=each).train_round(0, start).update
        for each in (Settings(), settings)
    ]
    one, two = (np.concatenate([array.ravel() for array in u.values()]) for u in updates)
    assert one @ two > 0.99 * np.linalg.norm(one) * np.linalg.norm(two)


def test_texts_that_predict_nothing_count_nothing(decoders: Decoders) -> None:
    base = decoders("gpt2")
    plan = language_plan(base, phase(learning_rate="1", kind="adapter"))
    model = CausalLanguageModel.build(plan, base)
    silent = [Example("a", ""), Example("b", "s")]
    assert Passes(model, silent, Settings()).losses() == [0.0, 0.0]
    trainer = SiteTrainer(model, plan, silent)
    assert trainer.evaluate(model.get_state(), silent).everybody.examples == 0
    update = trainer.train_round(0, model.get_state()).update
    assert max(float(np.abs(array).max()) for array in update.values()) < 1e-6  # noise alone


def test_what_is_counted_is_each_predicted_token(decoders: Decoders) -> None:
    base = decoders("gpt2")
    model = built(base)
    examples = texts(5)
    trainer = SiteTrainer(model, model.plan, examples)
    counts: LanguageCounts = trainer.evaluate(model.get_state(), examples).everybody
    tokens = [record.size - 1 for record in model.encode(examples)]
    losses = Passes(model, examples, Settings()).losses()
    mean = np.average(losses, weights=tokens)
    assert counts.examples == sum(tokens)
    summary = language_summary(counts)
    assert summary.records == 5
    assert summary.perplexity == pytest.approx(math.exp(mean), rel=1e-4)


def test_evaluation_is_sliced_by_declared_groups(decoders: Decoders) -> None:
    base = decoders("gpt2")
    plan = language_plan(base, phase("adapter"), groups=("ward", "home"))
    model = build_model(plan, base)
    stored = [
        StoredRecord(f"s{n}", TEXTS[n % 6], "", "ward" if n < 12 else "elsewhere")
        for n in range(30)
    ]
    examples = read_examples(plan, stored)
    evaluation = SiteTrainer(model, plan, examples).evaluate(model.get_state(), examples)
    assert set(evaluation.slices) == {"ward"}
    assert evaluation.slices["ward"].predictions[3] == 12
    assert evaluation.everybody.predictions[3] == 30


def test_a_labelled_record_is_refused(decoders: Decoders) -> None:
    plan = language_plan(decoders("gpt2"), phase("adapter"))
    with pytest.raises(MalformedInput, match="without labels") as refused:
        read_examples(plan, [StoredRecord("s", "a secret", "secret label")])
    assert "secret" not in str(refused.value)


def test_another_base_model_is_refused(decoders: Decoders) -> None:
    plan = language_plan(decoders("gpt2"), phase("adapter"))
    reference = BaseModelReference(name="x", digest=base_model_digest(decoders("llama")))
    with pytest.raises(VerificationFailed, match="expected"):
        build_model(plan.model_copy(update={"base_model": reference}), decoders("gpt2"))


def test_a_base_model_without_a_head_of_its_own_is_refused(
    decoders: Decoders, tmp_path: Path
) -> None:
    """It would be drawn at random, and differ between sites."""
    from transformers import AutoModel

    base = tmp_path / "tiny-llama"
    AutoModel.from_pretrained(decoders("llama")).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((decoders("llama") / name).read_bytes())
    with pytest.raises(MalformedInput, match="lm_head"):
        build_model(language_plan(base, phase("adapter")), base)


def test_what_the_base_model_cannot_do_is_refused(decoders: Decoders) -> None:
    base = decoders("gpt2")
    with pytest.raises(MalformedInput, match="are not linear layers"):
        built(base, adapter=Adapter(rank=2, alpha=4, target_modules=("query",)))
    with pytest.raises(MalformedInput, match="has 2 layers"):
        built(base, layers=3)
    with pytest.raises(MalformedInput, match="at most 48 tokens"):
        built(base, max_tokens=64)


@pytest.mark.parametrize("trains", ["adapter", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_code_continues_a_text_as_the_model_does(
    kind: str, trains: str, decoders: Decoders, tmp_path: Path
) -> None:
    base = decoders(kind)
    rate = "3" if trains == "adapter" else "0.3"
    plan = language_plan(
        base, phase(trains, steps_per_round=20, learning_rate=rate, max_grad_norm="1")
    )
    model = CausalLanguageModel.build(plan, base)
    text = "Please send me the"
    untrained = continuation(model, text)
    model.set_state(train(model, plan, texts(12)))
    expected = continuation(model, text)
    assert expected != untrained
    model.save(tmp_path / "release")
    files = sorted(path.name for path in (tmp_path / "release").iterdir())
    assert ("adapter_model.safetensors" if trains == "adapter" else "model.safetensors") in files
    assert run_load_example(plan, tmp_path / "release", base) == expected


def continuation(model: CausalLanguageModel, text: str) -> str:
    """The likeliest eight tokens after a text, one at a time; fewer where the text ends."""
    tokenizer = model.texts.tokenizer
    ids: list[int] = tokenizer(text)["input_ids"]
    with torch.no_grad():
        for _ in range(8):
            given = torch.tensor([ids])
            output = model.network.decoder(input_ids=given, use_cache=False).last_hidden_state
            ids.append(int(model.network.head(output[0, -1]).argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    said: str = tokenizer.decode(ids)
    return said


def test_the_attack_recognises_who_trained_an_overfitted_model(decoders: Decoders) -> None:
    base = decoders("gpt2")
    plan = language_plan(
        base, phase("full", steps_per_round=120, learning_rate="1", max_grad_norm="1")
    )
    model = CausalLanguageModel.build(plan, base)
    members, others = (
        [Example(f"{side}-{n}", f"{n * 7919 % 1000} {side} {n * 104729 % 1000}") for n in range(20)]
        for side in ("in", "ou")
    )

    def area() -> float:
        coins = Keystream(b"coins")
        return attack(
            model, members, others, held_out_share=0.5, delta=1e-5, coins=coins
        ).area.value

    untrained = area()
    model.set_state(train(model, plan, members))
    assert area() > max(0.85, untrained + 0.2)
