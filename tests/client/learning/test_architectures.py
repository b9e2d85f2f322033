"""Encoders other than BERT: positions and names differ, the guarantees do not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from client.learning.base_model import EMBEDDED_MODEL, resolve_base_model
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Adapter
from tests.client.learning.conftest import (
    TEXTS,
    logits_of,
    people,
    phase,
    plan_for,
    read_texts,
    trained_weights,
)
from tests.client.learning.test_private_sgd import DIVISOR, naive_gradients


def tiny(kind: str) -> Any:
    import transformers

    vocabulary = 30522
    if kind == "roberta":
        return transformers.RobertaModel(
            transformers.RobertaConfig(
                vocab_size=vocabulary,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=66,
                pad_token_id=0,
            )
        )
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
        )
    )


# peft 0.21, here used plainly as a consumer would, reads a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "targets"), [("roberta", ("query", "value")), ("distilbert", ("q_lin", "v_lin"))]
)
def test_a_step_and_the_release_of_another_encoder(
    kind: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    from peft import AutoPeftModelForTokenClassification

    base = tmp_path / kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        tiny(kind).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(resolve_base_model(EMBEDDED_MODEL) / name, base / name)
    adapter = Adapter(rank=2, alpha=4, target_modules=targets)
    plan = plan_for(base, [phase("adapter", learning_rate="1000")], adapter=adapter)
    model = TextClassifier.build(plan, base)
    examples = people([1, 3, 2])
    wanted = naive_gradients(model, examples, "adapter", 0.1)
    before = trained_weights(model, "adapter")
    SiteTrainer(model, plan, examples).train_round(0, model.get_state())
    after = trained_weights(model, "adapter")
    got = torch.cat([(old - new).flatten() for old, new in zip(before, after, strict=True)])
    want = torch.cat([g.flatten() for g in wanted]) * 1000 / DIVISOR
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())

    model.save(tmp_path / "adapter")
    released = AutoPeftModelForTokenClassification.from_pretrained(
        tmp_path / "adapter", num_labels=len(plan.labels)
    ).eval()
    ids, mask = model.raw_inputs(read_texts(model, TEXTS))
    with torch.no_grad():
        tokens = released(input_ids=ids, attention_mask=mask).logits
    document = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(logits_of(model, TEXTS), document, rtol=1e-4, atol=1e-4)
