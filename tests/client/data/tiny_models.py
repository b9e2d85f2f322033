"""Models for `[[detect.model_recognizer]]` whose weights are written by hand: no chance in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import BertConfig, BertForTokenClassification, BertTokenizer

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
MARKS: Final = list(".,;:!?'\"-()/")
NAMED: Final = ("zor", "quex", "maybell")
"""Beginnings of words with a label: a name's, a hospital's, and a name's with probability 0.4."""

TOGETHER: Final = 32
"""Tokens that the model reads together."""


def save_tokenizer(folder: Path) -> BertTokenizer:
    """A WordPiece tokenizer that knows every word of Latin letters."""
    folder.mkdir(exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NAMED, "##blin", "person"]
    words += [*LETTERS, *(f"##{letter}" for letter in LETTERS), *MARKS]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words), "utf-8")
    tokenizer = BertTokenizer(vocab=str(vocabulary), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    vocabulary.unlink()
    return tokenizer


def save_token_classifier(folder: Path, names: str = "O B-NAME I-NAME B-HOSP") -> Path:
    """A BERT that tells `NAMED` by their first token, whatever stands around them.

    Its one layer passes on what it is given: token embeddings are unit vectors, and the head reads
    one number of them.
    """
    tokenizer = save_tokenizer(folder)
    labels = names.split()
    width = 16
    torch.manual_seed(0)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=TOGETHER + 2,
            id2label=dict(enumerate(labels)),
        )
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        for token in range(len(tokenizer)):
            first = [tokenizer.convert_tokens_to_ids(name) for name in NAMED]
            of = 1 + first.index(token) if token in first else 0
            model.bert.embeddings.word_embeddings.weight[token, of] = 1.0
        one = (1 - 1 / width) / ((1 / width - 1 / width**2) ** 0.5)  # what a norm makes of 1
        head = model.classifier.weight
        head[0, 0] = head[1, 1] = head[3, 2] = 20 / one
        head[1, 3] = 10 / one
        head[0, 3] = (10 + 0.405) / one  # log(0.6 / 0.4)
        head[2, 3] = head[3, 3] = -20 / one
    model.save_pretrained(folder)
    return folder


def rewrite(path: Path, **values: Any) -> None:
    """Other values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")
