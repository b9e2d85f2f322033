"""Token classification: labelled parts of a text, such as names, by an encoder's token outputs.

* The plan's first label is of what no span covers ("O"); sites label with the others only.
* A record's label is JSON, `[[start, end, "LABEL"], …]`, in characters of the text, `end` excluded;
  spans do not overlap. `[]` says that nothing in the text has a label.
* A token has the label of the first span that it shares a character with. Special tokens have none.
* A record's loss is the mean over its tokens that have a label.
* A release is an ordinary peft adapter for `AutoModelForTokenClassification`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audit.errors import MalformedInput
from client.learning.data import Example, Span, StoredRecord, group_of
from client.learning.encoder_model import EncoderModel
from client.learning.entity_evaluation import OUTSIDE, SpanCounts, count_entities
from client.learning.evaluation import Evaluation, count_by_group
from client.learning.losses import IGNORED
from client.learning.plan_model import EncodedRecord
from client.learning.public_prior import label_sentences
from client.learning.tally import Tally
from client.learning.tasks.text_classification import DocumentNetwork
from client.learning.text_inputs import TextInputs
from compliance.statements import TrainingPlan

LOAD_EXAMPLE: Final = """import json

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

text = "Anna Berg called from Ulm on Monday."
batch = tokenizer(
    text,
    truncation=True,
    max_length={max_tokens},
    return_offsets_mapping=True,
    return_tensors="pt",
)
offsets = batch.pop("offset_mapping")[0].tolist()
with torch.no_grad():
    likeliest = model(**batch).logits[0].argmax(1).tolist()
spans = []
last = 0  # labels[0] is of what no span covers
for (start, end), label in zip(offsets, likeliest):
    if start == end:  # a special token
        continue
    if label and label == last:
        spans[-1][1] = end
    elif label:
        spans.append([start, end, labels[label]])
    last = label
print(json.dumps(spans))
"""


@dataclass(frozen=True)
class TokenLabels:
    """What is true of a text's tokens.

    Attributes:
        labels: Of each token; `IGNORED` of special ones.
        entities: Labelled spans in tokens, special ones not counted; empty ones of spans that no
            token shows.
    """

    labels: tuple[int, ...]
    entities: tuple[Span, ...]


def read_examples(plan: TrainingPlan, records: Iterable[StoredRecord]) -> list[Example]:
    """Texts with their labelled spans.

    Raises:
        MalformedInput: When a record's label is no list of spans of the text with the plan's
            labels, or spans overlap. It tells the record's number and nothing of what it holds.
    """
    numbers = {label: number for number, label in enumerate(plan.labels) if number != OUTSIDE}
    examples = []
    for place, record in enumerate(records):
        try:
            spans = _read_spans(record, numbers)
        except _BadSpans as error:
            raise MalformedInput(
                f"malformed labelled spans of record {place + 1}: {error}",
                fix='label each record as [[start, end, "LABEL"], …] with the plan\'s labels '
                "after the first, and as [] where nothing has a label",
            ) from None
        examples.append(
            Example(
                subject=record.subject,
                text=record.text,
                group=group_of(record.group, plan.groups),
                spans=spans,
            )
        )
    return examples


class _BadSpans(Exception):
    """A record's label is no list of spans; the text says why, and quotes nothing."""


def _read_spans(record: StoredRecord, numbers: dict[str, int]) -> tuple[Span, ...]:
    try:
        told = json.loads(record.label)
    except (ValueError, RecursionError):
        raise _BadSpans("not JSON") from None
    if not isinstance(told, list):
        raise _BadSpans("not a list")
    spans = sorted((_read_span(each, numbers) for each in told), key=lambda span: span.start)
    end = 0
    for span in spans:
        if span.start < end:
            raise _BadSpans("two of them overlap")
        end = span.end
    if end > len(record.text):
        raise _BadSpans("one reaches beyond the text")
    return tuple(spans)


def _read_span(told: Any, numbers: dict[str, int]) -> Span:
    if not isinstance(told, list) or len(told) != 3:
        raise _BadSpans("one is not [start, end, label]")
    start, end, label = told
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        raise _BadSpans("one has no start before its end")
    if not isinstance(label, str) or label not in numbers:
        raise _BadSpans("one has a label that the plan does not name after its first")
    return Span(start, end, numbers[label])


class TokenNetwork(DocumentNetwork):
    """Logits of each token, `(records, tokens, labels)`."""

    def pool(self, hidden: Tensor, *inputs: Tensor) -> Tensor:
        """Each token by itself."""
        del inputs
        return hidden


class TokenClassifier(EncoderModel):
    """The model of a plan that labels parts of texts."""

    network: TokenNetwork
    auto_class = "AutoModelForTokenClassification"
    peft_task = "TOKEN_CLS"
    load_example: ClassVar[str] = LOAD_EXAMPLE
    counts: ClassVar[type[Tally]] = SpanCounts

    def make_network(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int
    ) -> TokenNetwork:
        """A head on each token."""
        return TokenNetwork(encoder, hidden_size, label_count, first_trained_layer)

    def read_from(self, base_path: Path) -> None:
        """Load the tokenizer.

        Raises:
            MalformedInput: When it cannot tell which characters a token is of.
        """
        self.texts = TextInputs(base_path, self.plan.max_tokens)
        if not self.texts.tokenizer.is_fast:
            raise MalformedInput(
                f"the tokenizer of base model {self.plan.base_model.name!r} does not tell which "
                "characters a token is of",
                fix="name a base model with a tokenizer.json",
            )

    def start_head(self) -> None:
        """Centre and scale from the tokens of sentences that hold the names of the labels.

        The head starts at zero, where the first label is the likeliest of every token. One from the
        names, as whole texts have it, finds spans no better after training and many too many before
        (labelled sentences of presidio-research, probe at noise 6: F1 0.21 to 0.22, without 0.23).
        """
        sentences = label_sentences(self.plan.labels[1:])
        with torch.no_grad():
            records = self.encode([Example(subject="", text=text) for text in sentences])
            features = self.features(records)[..., :-1]
            labels = self._targets(records)
            tokens = features[labels != IGNORED]
            centre = tokens.mean(0)
            length = float((tokens - centre).norm(dim=1).mean()) or 1.0
            self.network.see_through(centre, torch.eye(len(centre)) / length)

    # --- records ----------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """Token ids and labels of each."""
        if not examples:
            return []
        encoded = self.texts.tokenizer(
            [example.text for example in examples],
            truncation=True,
            max_length=self.plan.max_tokens,
            return_offsets_mapping=True,
        )
        records = []
        for example, ids, offsets in zip(
            examples, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            target = label_tokens(offsets, example.spans)
            records.append(EncodedRecord(ids, target, len(ids)))
        return records

    def shares(self, record: EncodedRecord) -> tuple[float, ...]:
        """By how many of its tokens have each label."""
        labels = [label for label in record.target.labels if label != IGNORED]
        return tuple(
            labels.count(label) / max(1, len(labels)) for label in range(len(self.plan.labels))
        )

    def raw_inputs(self, records: Sequence[EncodedRecord]) -> tuple[Tensor, ...]:
        """Padded token ids and mask."""
        ids, mask = self.texts.padded([record.content for record in records])
        return ids.to(self.device), mask.to(self.device)

    def losses(self, outputs: Tensor, records: Sequence[EncodedRecord]) -> Tensor:
        """Mean over each record's tokens that have a label; 0 where none has."""
        targets = self._targets(records).to(outputs.device)
        of_tokens = self.class_losses(outputs.flatten(0, 1), targets.flatten()).view_as(targets)
        return of_tokens.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)

    def _targets(self, records: Sequence[EncodedRecord]) -> Tensor:
        """Labels of tokens, `(records, longest)`; `IGNORED` where there is none."""
        targets = torch.full((len(records), max(record.size for record in records)), IGNORED)
        for row, record in enumerate(records):
            targets[row, : record.size] = torch.tensor(record.target.labels)
        return targets

    def results(
        self, outputs: Tensor, records: Sequence[EncodedRecord]
    ) -> list[npt.NDArray[np.float32]]:
        """Logits of each record's tokens that have a label, `(tokens, labels)`."""
        logits = outputs.detach().float().cpu().numpy()
        return [
            row[: record.size][np.array(record.target.labels) != IGNORED]
            for row, record in zip(logits, records, strict=True)
        ]

    def evaluation(
        self,
        examples: Sequence[Example],
        records: Sequence[EncodedRecord],
        results_of: Callable[[list[int]], list[npt.NDArray[np.float32]]],
    ) -> Evaluation[SpanCounts]:
        """Counts of tokens, and of spans that were found exactly."""
        label_count = len(self.plan.labels)

        def count(rows: list[int]) -> SpanCounts:
            results, targets = results_of(rows), [records[row].target for row in rows]
            true = [label for each in targets for label in each.labels if label != IGNORED]
            entities = count_entities(
                (
                    (logits.argmax(1).tolist(), target.entities)
                    for logits, target in zip(results, targets, strict=True)
                ),
                label_count,
            )
            return SpanCounts.of_tokens(true, np.concatenate(results), entities)

        return count_by_group(examples, count, SpanCounts.empty(label_count))


def label_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> TokenLabels:
    """What spans of characters say of tokens.

    Args:
        offsets: Characters `[start, end)` of each token; empty of special ones.
        spans: In order, without overlap.

    >>> label_tokens([(0, 0), (0, 4), (5, 9), (0, 0)], [Span(5, 9, 1), Span(20, 24, 2)])
    TokenLabels(labels=(-100, 0, 1, -100), entities=(Span(start=1, end=2, label=1), \
Span(start=0, end=0, label=2)))
    """
    labels: list[int] = []
    tokens_of: list[list[int]] = [[] for _ in spans]
    place = number = 0
    for start, end in offsets:
        if start == end:
            labels.append(IGNORED)
            continue
        while number < len(spans) and spans[number].end <= start:
            number += 1
        is_covered = number < len(spans) and spans[number].start < end
        labels.append(spans[number].label if is_covered else OUTSIDE)
        if is_covered:
            tokens_of[number].append(place)
        place += 1
    entities = (
        Span(tokens[0], tokens[-1] + 1, span.label) if tokens else Span(0, 0, span.label)
        for span, tokens in zip(spans, tokens_of, strict=True)
    )
    return TokenLabels(tuple(labels), tuple(entities))
