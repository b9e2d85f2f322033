"""Encoders other than BERT: positions and names differ, the guarantees do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
    reference_to,
    trained_weights,
)
from tests.client.learning.test_private_sgd import DIVISOR, naive_gradients
from tests.client.learning.tiny_models import TARGETS, save_base


# peft 0.21, here used plainly as a consumer would, reads a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_a_step_and_the_release_of_another_encoder(kind: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForTokenClassification

    base = save_base(kind, 2, tmp_path / kind)
    adapter = Adapter(rank=2, alpha=4, target_modules=TARGETS[kind])
    plan = plan_for(
        base,
        [phase("adapter", learning_rate="1000")],
        adapter=adapter,
        base_model=reference_to(base),
    )
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
