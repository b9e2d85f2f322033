"""Text classification: one label for a text, by the masked mean of an encoder's token outputs.

Document logits are the attention-masked mean of token logits. As the head is linear, that is the
head applied to the mean-pooled encoder output; so the release is an ordinary peft adapter for
`AutoModelForTokenClassification` and needs nothing of Fiduciary (docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from client.learning.data import Example, StoredRecord
from client.learning.encoder_model import EncoderModel, EncoderNetwork
from client.learning.plan_model import EncodedRecord
from client.learning.public_prior import label_sentences, prior_from_features
from client.learning.single_label import SingleLabel, read_labelled
from client.learning.text_inputs import TextInputs
from compliance.statements import TrainingPlan

_SENTENCES_AT_ONCE = 256
"""Of labels, through the encoder: bounds memory where there are many labels."""

LOAD_EXAMPLE = """import json

import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification, AutoTokenizer

folder = {folder}
base = {base}
with open(f"{{folder}}/labels.json") as file:
    labels = json.load(file)
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = AutoModelForTokenClassification.from_pretrained(base, num_labels=len(labels))
model = PeftModel.from_pretrained(encoder, folder).eval()

texts = ["Please send me the invoice again."]
batch = tokenizer(
    texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt"
)
with torch.no_grad():
    token_logits = model(**batch).logits
mask = batch["attention_mask"].unsqueeze(-1)
logits = (token_logits * mask).sum(1) / mask.sum(1)  # a document's logits: the mean of its tokens'
print([labels[int(i)] for i in logits.argmax(1)])
"""


def read_examples(plan: TrainingPlan, records: Iterable[StoredRecord]) -> list[Example]:
    """Texts with the class of each.

    Raises:
        MalformedInput: When a label is not one of the plan's.
    """
    return read_labelled(plan, records)


class DocumentNetwork(EncoderNetwork):
    """Its inputs are `input_ids` and `attention_mask`, each `(records, tokens)`."""

    def encoder_inputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Token ids and mask."""
        # Positions are left to the model, as in the release: they differ between architectures, and
        # Opacus would need a row of them a record only if their embeddings were trained.
        return dict(zip(("input_ids", "attention_mask"), inputs, strict=True))

    def pool(self, hidden: Tensor, *inputs: Tensor) -> Tensor:
        """Mean over the tokens of each record, `(records, hidden)`."""
        weights = inputs[1].to(hidden.dtype).unsqueeze(-1)
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return pooled


class TextClassifier(SingleLabel, EncoderModel):
    """The model of a plan that classifies texts."""

    network: DocumentNetwork
    auto_class = "AutoModelForTokenClassification"
    peft_task = "TOKEN_CLS"
    load_example: ClassVar[str] = LOAD_EXAMPLE

    def make_network(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int
    ) -> DocumentNetwork:
        """Mean-pooled."""
        return DocumentNetwork(encoder, hidden_size, label_count, first_trained_layer)

    def read_from(self, base_path: Path) -> None:
        """Load the tokenizer."""
        self.texts = TextInputs(base_path, self.plan.max_tokens)

    def start_head(self) -> None:
        """From the names of the labels (`client.learning.public_prior`)."""
        labels = self.plan.labels
        examples = [Example(subject="", text=text) for text in label_sentences(labels)]
        with torch.no_grad():
            parts = [
                self.features(self.encode(examples[start : start + _SENTENCES_AT_ONCE]))[:, :-1]
                for start in range(0, len(examples), _SENTENCES_AT_ONCE)
            ]
            prior = prior_from_features(torch.cat(parts), len(labels))
            self.network.see_through(prior.centre, prior.transform)
            self.network.take_head(prior.head_weight, prior.head_bias)

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """Token ids and label of each."""
        ids = self.texts.token_ids([example.text for example in examples])
        return [
            EncodedRecord(tokens, example.label, len(tokens))
            for tokens, example in zip(ids, examples, strict=True)
        ]

    def raw_inputs(self, records: Sequence[EncodedRecord]) -> tuple[Tensor, ...]:
        """Padded token ids and mask."""
        ids, mask = self.texts.padded([record.content for record in records])
        return ids.to(self.device), mask.to(self.device)
