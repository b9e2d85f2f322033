"""The code of a text classifier's model card, run as a consumer would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from client.learning.data import Example
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import LABELS, MakePlan, logits_of, people, phase
from tests.client.learning.tasks.conftest import run_load_example, train

TEXT = "Please send me the invoice again."  # as in the card


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_the_cards_code_gives_the_label_that_the_model_gives(
    kind: str, make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    plan = make_plan(phase(kind, steps_per_round=20, learning_rate="0.5", max_grad_norm="1"))
    model = TextClassifier.build(plan, tiny_base)
    before = int(logits_of(model, [TEXT]).argmax())
    other = (before + 1) % len(LABELS)
    taught = [Example(f"s{n}", f"{TEXT} {n}", other) for n in range(4)]
    model.set_state(train(model, plan, [*people([1] * 3), *taught]))
    with torch.no_grad():
        assert int(logits_of(model, [TEXT]).argmax()) == other
    model.save(tmp_path / "release")
    (tmp_path / "release" / "labels.json").write_text(json.dumps(LABELS))
    assert run_load_example(plan, tmp_path / "release", tiny_base) == repr([LABELS[other]])
