"""A tiny BERT with the packaged tokenizer, plans over it, and small data sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.data import Example
from client.learning.encoder_model import EncoderModel
from client.learning.plan_model import EncodedRecord, PlanModel
from client.learning.tasks.text_classification import TextClassifier
from compliance.statements import Adapter, BaseModelReference, Phase, Privacy, TrainingPlan

LABELS = ("card_lost", "weather", "refund")
TEXTS = (
    "my card is gone",
    "will it rain tomorrow in the north",
    "please send my money back",
    "I lost my credit card on a train yesterday evening",
    "sunny",
    "where is the refund that you promised me last week",
)

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of width 32 with random weights, saved as safetensors."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
        BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(resolve_base_model(EMBEDDED_MODEL) / name, folder / name)
    return folder


def phase(kind: str = "probe", **changes: Any) -> Phase:
    """A phase with hardly any noise, so that what is left can be compared exactly."""
    fields: dict[str, Any] = {
        "kind": kind,
        "rounds": 1,
        "steps_per_round": 1,
        "sampling_rate": Decimal(1),
        "learning_rate": Decimal("0.5"),
        "max_grad_norm": Decimal("0.1"),
        "noise_multiplier": Decimal("0.0000000001"),
    }
    return Phase.model_validate({**fields, **changes})


def reference_to(base: Path) -> BaseModelReference:
    """A base model by the path where plain libraries find it."""
    return BaseModelReference(name=str(base), digest=base_model_digest(base))


def plan_for(base: Path, phases: Sequence[Phase], **changes: Any) -> TrainingPlan:
    """A plan that is the same in each run of a test: what is drawn of it is, too."""
    fields: dict[str, Any] = {
        "name": "test",
        "federation": "test",
        "author": "coordinator",
        "created_at": "2026-01-31T12:00:00Z",
        "base_model": BaseModelReference(name=base.name, digest=base_model_digest(base)),
        "task": "text-classification",
        "labels": LABELS,
        "max_tokens": 32,
        "adapter": Adapter(rank=2, alpha=4),
        "phases": tuple(phases),
        "privacy": Privacy(
            epsilon=Decimal(8),
            delta=Decimal("0.00001"),
            nominal_subjects=10,
            max_records_per_subject=4,
        ),
        "purpose": "test",
        "legal_basis": "consent",
        "retention_days": 1,
        "sites": ("a", "b"),
        "quorum": 1,
    }
    return TrainingPlan.model_validate({**fields, **changes})


@pytest.fixture(scope="session")
def make_plan(tiny_base: Path) -> MakePlan:
    def make(*phases: Phase, **changes: Any) -> TrainingPlan:
        return plan_for(tiny_base, phases or (phase(),), **changes)

    return make


@pytest.fixture
def model(tiny_base: Path, make_plan: MakePlan) -> TextClassifier:
    return TextClassifier.build(make_plan(), tiny_base)


def people(records_of: Sequence[int]) -> list[Example]:
    """Subjects with so many records each; texts and labels cycle, and no two texts are the same."""
    examples: list[Example] = []
    for subject, records in enumerate(records_of):
        for record in range(records):
            at = len(examples)
            examples.append(
                Example(
                    subject=f"subject-{subject}",
                    text=f"{TEXTS[at % len(TEXTS)]} {'again ' * (record % 3)}{at}",
                    label=(at * 7 + subject) % len(LABELS),
                )
            )
    return examples


def read_texts(model: PlanModel, texts: Sequence[str]) -> list[EncodedRecord]:
    """Texts as the model reads them."""
    return model.encode([Example("somebody", text) for text in texts])


def logits_of(model: EncoderModel, texts: Sequence[str]) -> Tensor:
    """`(texts, labels)`: one plain forward pass with adapter and head, past batching and caches."""
    records = read_texts(model, texts)
    with torch.no_grad():
        below = model.below("adapter", records) if model.keeps_below("adapter") else None
        logits: Tensor = model.network(*model.inputs("adapter", records, below))
    return logits


def base_features(model: EncoderModel, texts: Sequence[str]) -> Tensor:
    """`(texts, hidden + 1)`: what a probe's head sees."""
    with torch.no_grad():
        return model.features(read_texts(model, texts))


def trained_weights(model: PlanModel, kind: str) -> list[Tensor]:
    """Copies of what a phase trains, in the order in which an engine has it."""
    return [weight.detach().clone() for weight in trainable(model, kind)]


def trainable(model: PlanModel, kind: str) -> list[torch.nn.Parameter]:
    """What a phase trains, ready to."""
    return [weight for weight in model.set_trainable(kind).parameters() if weight.requires_grad]
