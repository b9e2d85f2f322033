"""Tiny transformers of each architecture, from configurations, and what they read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from client.learning.base_model import EMBEDDED_MODEL, resolve_base_model
from tests.client.learning.conftest import TEXTS

TARGETS: Mapping[str, tuple[str, ...]] = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
}
"""Of encoders of text, what LoRA adapts."""

RECORDS, VOCABULARY, LENGTH = 6, 50, 12


def tokens() -> tuple[Tensor, Tensor]:
    """Ids and a mask with padding, from a generator of their own."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, VOCABULARY, (RECORDS, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((12, 5, 8, 12, 3, 9)):
        ids[row, length:], mask[row, length:] = 1, 0
    return ids, mask


def encoder(kind: str, layers: int = 2) -> nn.Module:
    """A transformer with a head for its task; its weights are random, and none is zero."""
    import transformers as t

    common: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 1, "num_labels": 3}
    wide: dict[str, Any] = {
        **common,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    makers: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**wide)),
        "roberta": lambda: t.RobertaForSequenceClassification(
            t.RobertaConfig(**wide, max_position_embeddings=20)
        ),
        "distilbert": lambda: t.DistilBertForSequenceClassification(
            t.DistilBertConfig(**common, dim=32, n_layers=layers, n_heads=2, hidden_dim=64)
        ),
        "llama": lambda: t.LlamaForSequenceClassification(  # type: ignore[no-untyped-call]
            t.LlamaConfig(**wide, num_key_value_heads=1)
        ),
        "gpt2": lambda: t.GPT2ForSequenceClassification(
            t.GPT2Config(**common, n_embd=32, n_layer=layers, n_head=2, n_positions=32)
        ),
        "gpt2-lm": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(**common, n_embd=32, n_layer=layers, n_head=2, n_positions=32)
        ),
        "bert-mlm": lambda: t.BertForMaskedLM(t.BertConfig(**wide)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: nn.Module = makers[kind]()
        for parameter in model.parameters():  # nothing at zero, which would hide a mistake
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def vision(layers: int = 2) -> nn.Module:
    """A vision transformer for images of 16 by 16."""
    import transformers as t

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: nn.Module = t.ViTForImageClassification(
            t.ViTConfig(
                hidden_size=32,
                num_hidden_layers=layers,
                num_attention_heads=2,
                intermediate_size=64,
                image_size=16,
                patch_size=4,
                id2label={0: "a", 1: "b", 2: "c"},
            )
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def images() -> Tensor:
    """`(records, 3, 16, 16)`."""
    return torch.randn(RECORDS, 3, 16, 16, generator=torch.Generator().manual_seed(6))


def save_base(kind: str, layers: int, folder: Path) -> Path:
    """A base model with the packaged tokenizer: an encoder of `TARGETS`, 32 wide."""
    import transformers as t

    read: dict[str, Any] = {
        "vocab_size": 30522,
        "pad_token_id": 0,
        "max_position_embeddings": 66,
        "initializer_range": 0.2,
    }
    wide: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    makers: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertModel(t.BertConfig(**read, **wide)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**read, **wide)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(**read, dim=32, n_layers=layers, n_heads=2, hidden_dim=64)
        ),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        makers[kind]().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(resolve_base_model(EMBEDDED_MODEL) / name, folder / name)
    return folder


def save_decoder(kind: str, folder: Path) -> None:
    """A decoder with its tokenizer: `gpt2` with a tied head, or `llama` with one of its own."""
    vocabulary = _save_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        _decoder(kind, vocabulary).save_pretrained(folder)


def _save_tokenizer(folder: Path) -> int:
    """A byte-level BPE over a few texts; returns how many tokens it knows."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([*TEXTS, "Please send me the"], vocab_size=300, min_frequency=1)
    trained.add_special_tokens(["<end>"])
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=trained._tokenizer, eos_token="<end>"
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _decoder(kind: str, vocabulary: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_positions=48,
                n_embd=32,
                n_layer=2,
                n_head=2,
                initializer_range=0.2,
                eos_token_id=vocabulary - 1,
                bos_token_id=vocabulary - 1,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=48,
            initializer_range=0.2,
            eos_token_id=vocabulary - 1,
            bos_token_id=vocabulary - 1,
            tie_word_embeddings=False,
        )
    )
