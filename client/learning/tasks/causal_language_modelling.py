"""Causal language modelling: the next token of a text, by a pretrained decoder such as GPT-2.

* A record's loss is the mean cross-entropy of its tokens but the first, each given those before.
* The head is the base model's own. With LoRA it is frozen, tied to the embeddings or not, and
  logits are then made for a few tokens at a time: those of all tokens and the whole vocabulary
  together would take more memory than all else.
* A release is an ordinary peft adapter for `AutoModelForCausalLM`, or all weights of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from audit.errors import MalformedInput
from client.learning.data import Example, StoredRecord, group_of
from client.learning.evaluation import Evaluation, count_by_group
from client.learning.language_evaluation import LanguageCounts
from client.learning.layers import SplitLayers
from client.learning.losses import IGNORED
from client.learning.plan_model import EncodedRecord
from client.learning.pretrained_model import PretrainedModel, SplitNetwork
from client.learning.tally import Tally
from client.learning.text_inputs import TextInputs
from compliance.statements import TrainingPlan

LOAD_EXAMPLE: Final = """import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = AutoModelForCausalLM.from_pretrained(base)
model = PeftModel.from_pretrained(encoder, folder).eval()

text = "Please send me the"
batch = tokenizer(text, truncation=True, max_length={max_tokens}, return_tensors="pt")
with torch.no_grad():
    written = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=0,
    )
print(tokenizer.decode(written[0]))
"""

LOGITS_AT_ONCE: Final = 2**24
"""Logits in memory where the head is frozen: 64 MiB."""


def read_examples(plan: TrainingPlan, records: Iterable[StoredRecord]) -> list[Example]:
    """Texts.

    Raises:
        MalformedInput: When a record has a label: it was meant for another task.
    """
    examples = []
    for record in records:
        if record.label:
            raise MalformedInput(
                "a plan that models language reads texts without labels, and a record has one",
                fix="name a dataset of unlabelled texts",
            )
        group = group_of(record.group, plan.groups)
        examples.append(Example(subject=record.subject, text=record.text, group=group))
    return examples


class LanguageNetwork(SplitNetwork):
    """Token ids to the loss of each token.

    Args:
        decoder: The transformer.
        head: Makes logits of its output; its weight may be the embeddings'.
        first_trained_layer: Layers below it are frozen in every phase.
    """

    def __init__(self, decoder: nn.Module, head: nn.Linear, first_trained_layer: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head
        self.split = SplitLayers(decoder, first_trained_layer)

    def lower(self, *inputs: Tensor) -> Tensor:
        """Hidden states before the first trained layer, `(records, tokens, hidden)`."""
        return self.split.lower(**_named(*inputs))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each token but the first, and whether it was the likeliest.

        Args:
            inputs: Ids and mask, each `(records, tokens)`, and hidden states below the trained
                layers where it is split.

        Returns:
            Two `(records, tokens)`: at a token, what it says of the next one; 0 where none is.
        """
        ids, mask, *hidden = inputs
        named = _named(ids, mask)
        output = self.split.upper(hidden[0], **named) if hidden else self.decoder(**named)
        # The last token has no next one; as an ignored one it keeps the shapes from being empty.
        targets = ids.roll(-1, dims=1).masked_fill(mask.roll(-1, dims=1) == 0, IGNORED)
        targets[:, -1] = IGNORED
        return self._losses(output.last_hidden_state, targets)

    def _losses(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and self.head.weight.requires_grad:
            losses, right = _of_logits(self.head(hidden).flatten(0, 1), targets.flatten())
        else:
            losses, right = _FrozenHead.apply(  # type: ignore[no-untyped-call]
                hidden.flatten(0, 1), targets.flatten(), self.head.weight, self.head.bias
            )
        return losses.view_as(targets), right.view_as(targets)


class _FrozenHead(torch.autograd.Function):
    """Losses of tokens under a head that does not train, a few tokens' logits at a time.

    The gradient of the hidden states is made along with the losses, so that no logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        losses, right = torch.empty(len(hidden), device=hidden.device), torch.empty_like(targets)
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if needed else None
        step = max(1, LOGITS_AT_ONCE // len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = functional.linear(hidden[rows], weight, bias).float()
            losses[rows], right[rows] = _of_logits(logits, targets[rows])
            if gradient is not None:
                counted = targets[rows] != IGNORED
                slope = logits.softmax(1)
                slope[counted.nonzero()[:, 0], targets[rows][counted]] -= 1
                slope.mul_(counted.unsqueeze(1))
                gradient[rows] = slope.to(weight.dtype) @ weight
        ctx.gradient = gradient
        ctx.mark_non_differentiable(right)
        return losses, right

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor, _of_right: Tensor) -> Any:
        gradient = ctx.gradient
        return gradient * of_losses.unsqueeze(1).to(gradient.dtype), None, None, None


class CausalLanguageModel(PretrainedModel):
    """The model of a plan that models language."""

    network: LanguageNetwork
    auto_class = "AutoModelForCausalLM"
    peft_task = "CAUSAL_LM"
    prefix = "decoder."
    keeps_head = True
    load_example: ClassVar[str] = LOAD_EXAMPLE
    counts: ClassVar[type[Tally]] = LanguageCounts

    def network_on(self, transformer: nn.Module, first_trained_layer: int) -> LanguageNetwork:
        """With the base model's own head."""
        head = self._inner.get_output_embeddings()
        return LanguageNetwork(transformer, head, first_trained_layer)

    def read_from(self, base_path: Path) -> None:
        """Load the tokenizer."""
        self.texts = TextInputs(base_path, self.plan.max_tokens)

    def all_weights(self) -> dict[str, nn.Parameter]:
        """The decoder's, and the head's where it is not tied."""
        weights = super().all_weights()
        known = {id(weight) for weight in weights.values()}
        head = self.network.head.named_parameters(prefix="head")
        return weights | {name: weight for name, weight in head if id(weight) not in known}

    # --- records ----------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """Token ids of each; a text without tokens has one that predicts nothing."""
        ids = self.texts.token_ids([example.text for example in examples])
        return [EncodedRecord(tokens or [0], None, max(1, len(tokens))) for tokens in ids]

    def raw_inputs(self, records: Sequence[EncodedRecord]) -> tuple[Tensor, ...]:
        """Padded token ids and mask."""
        ids, mask = self.texts.padded([record.content for record in records])
        return ids.to(self.device), mask.to(self.device)

    def losses(self, outputs: tuple[Tensor, Tensor], records: Sequence[EncodedRecord]) -> Tensor:
        """Mean over each record's predicted tokens; 0 where it has none."""
        of_tokens, _ = outputs
        predicted = [max(1, record.size - 1) for record in records]
        return of_tokens.sum(1) / torch.tensor(predicted, device=of_tokens.device)

    def results(
        self, outputs: tuple[Tensor, Tensor], records: Sequence[EncodedRecord]
    ) -> list[npt.NDArray[np.float32]]:
        """Of each record `(predicted tokens, 2)`: loss, and whether it was the likeliest."""
        both = torch.stack([part.detach().float() for part in outputs], dim=-1).cpu().numpy()
        return [row[: record.size - 1] for row, record in zip(both, records, strict=True)]

    def evaluation(
        self,
        examples: Sequence[Example],
        records: Sequence[EncodedRecord],
        results_of: Callable[[list[int]], list[npt.NDArray[np.float32]]],
    ) -> Evaluation[LanguageCounts]:
        """Counts of predicted tokens."""
        del records
        return count_by_group(
            examples, lambda rows: LanguageCounts.count(results_of(rows)), LanguageCounts.empty(0)
        )


def _of_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each row, and whether its target is the likeliest; 0 where it is ignored."""
    losses = functional.cross_entropy(
        logits.float(), targets, reduction="none", ignore_index=IGNORED
    )
    return losses, (logits.argmax(1) == targets).to(targets.dtype)


def _named(ids: Tensor, mask: Tensor, *_: Tensor) -> dict[str, Any]:
    """The decoder's arguments; positions of each record, as Opacus needs them to be trained."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "use_cache": False,
    }
