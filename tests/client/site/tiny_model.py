"""A base model of some kilobytes: real BERT code, random weights, a vocabulary of a few words."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

WORDS = ("urgent", "routine", "note", "0", "1")


def save_tiny_model(folder: Path) -> None:
    """Write config, weights (safetensors) and tokenizer, as a Hugging Face model folder."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder, safe_serialization=True)
