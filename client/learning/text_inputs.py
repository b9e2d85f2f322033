"""Texts as a transformer reads them: its own tokens, cut to the plan's length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class TextInputs:
    """A base model's tokenizer.

    Args:
        base_path: Folder of the base model.
        max_tokens: Longest text, in tokens.
    """

    def __init__(self, base_path: Path, max_tokens: int) -> None:
        import transformers

        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            base_path, local_files_only=True
        )
        self.max_tokens = max_tokens

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def padded(self, token_ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """`(input_ids, attention_mask)`, each `(records, longest)`."""
        longest = max(len(ids) for ids in token_ids)
        fill = int(self.tokenizer.pad_token_id or 0)
        padded = [ids + [fill] * (longest - len(ids)) for ids in token_ids]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in token_ids]
        return torch.tensor(padded), torch.tensor(mask)
