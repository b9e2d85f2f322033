"""A Hugging Face model that gives each token a label, as a rule (`engine = "transformer"`).

* A text of any length is read as a whole, in windows that overlap by a quarter. What any window
  finds is found.
* A token is found as a kind when the labels that mean that kind have the threshold's probability
  together, `B-` and `I-` as well, even where "nothing" is likelier: a lower threshold never finds
  less. Labels that the settings do not name are not looked at.
* A word is found as a whole when one of its tokens is.
* A number that is none, in the model's answer, is an error: the text is kept out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from audit.errors import MalformedInput
from client.deidentification.findings import Finding

MOST_TOKENS: Final = 512
"""Of one window, where a model would take more: attention grows with its square."""

LEAST_TOKENS: Final = 16
"""Of a model's window; with fewer there is no context to read."""

_SCHEME = re.compile(r"[BIELSU]-")
"""Where a token stands in what it is part of, before the label itself."""

_NOT_SPACED = ("\u2e80", "\uabff")
"""Chinese characters and kana: what stands beside one of them is no part of its word."""


class TokenClassifier:
    """A model, loaded to the graphics processor where there is one.

    Args:
        folder: Checked; with `model.safetensors`, `config.json` and a fast tokenizer.
        labels: Kinds by the model's labels, which are named without `B-` and `I-`.
        threshold: The probability from which a token is found.

    Raises:
        MalformedInput: When the folder holds no such model, or the model has no such label.
    """

    def __init__(self, folder: Path, labels: Mapping[str, str], threshold: float) -> None:
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # an ingest shows its own
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            model, loaded = AutoModelForTokenClassification.from_pretrained(
                folder, **local, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise unreadable(folder, "a model that labels tokens", error) from error
        if loaded["missing_keys"]:
            raise untrained(folder, loaded["missing_keys"])
        if not self._tokenizer.is_fast:
            raise MalformedInput(
                f"the tokenizer in {folder} does not say where its tokens stand",
                fix="save the tokenizer with tokenizer.json, and write down the new digest",
            )
        self._kinds, self._positions = _positions(folder, model.config.id2label, labels)
        self._most = window_tokens(self._tokenizer, model.config, folder)
        self._threshold = threshold
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = model.to(self._device).eval()

    def __call__(self, text: str) -> Iterator[Finding]:
        """What it finds, word by word."""
        if not text.strip():
            return
        read = self._tokenizer(
            text,
            truncation=True,
            max_length=self._most,
            stride=self._most // 4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for window, offsets in enumerate(read["offset_mapping"]):
            names = [name for name in self._tokenizer.model_input_names if name in read]
            scores = self._scores({name: read[name][window] for name in names})
            for (start, end), row in zip(offsets, scores, strict=True):
                best = max(row)
                if end > start and best >= self._threshold:
                    yield Finding(*whole_word(text, start, end), self._kinds[row.index(best)])

    def _scores(self, window: Mapping[str, list[int]]) -> list[list[float]]:
        """For each token the probability of each kind."""
        import torch

        with torch.inference_mode():
            inputs = {
                name: torch.tensor([ids], device=self._device) for name, ids in window.items()
            }
            logits = self._model(**inputs).logits[0].float()
            if not torch.isfinite(logits).all():
                raise ArithmeticError("the model answered with no numbers")
            probabilities = logits.softmax(-1)
            of_kinds = [probabilities[:, positions].sum(-1) for positions in self._positions]
            scores: list[list[float]] = torch.stack(of_kinds, 1).tolist()
            return scores


def whole_word(text: str, start: int, end: int) -> tuple[int, int]:
    """The word that characters `[start, end)` are part of.

    >>> whole_word("Dr. Zorblin's", 6, 9)
    (4, 11)
    """
    while start > 0 and _joined(text[start - 1]) and _joined(text[start]):
        start -= 1
    while end < len(text) and _joined(text[end - 1]) and _joined(text[end]):
        end += 1
    return start, end


def window_tokens(tokenizer: Any, config: Any, folder: Path) -> int:
    """How many tokens a model reads together, with those that the tokenizer adds.

    Raises:
        MalformedInput: When they are too few to read anything.
    """
    limits = [MOST_TOKENS, int(tokenizer.model_max_length)]
    places = getattr(config, "max_position_embeddings", None)
    if isinstance(places, int) and places > 0:
        limits.append(places - 2)  # RoBERTa's first two are for padding
    most = min(limits)
    if most < LEAST_TOKENS:
        raise MalformedInput(
            f"the model in {folder} reads {most} tokens together, which is too few",
            fix="look at max_position_embeddings of config.json and model_max_length of"
            " tokenizer_config.json",
        )
    return most


def unreadable(folder: Path, what: str, error: Exception) -> MalformedInput:
    """The error for a folder that holds no such model."""
    first = str(error).strip().splitlines()[:1]
    return MalformedInput(
        f"{folder} cannot be read as {what} ({type(error).__name__}: {''.join(first)[:200]})",
        fix="save model and tokenizer there with save_pretrained, as safetensors, and write down"
        " the new digest",
    )


def untrained(folder: Path, missing: Sequence[str]) -> MalformedInput:
    """The error for weights that the folder lacks: a model would make them up."""
    return MalformedInput(
        f"the model in {folder} lacks weights: {', '.join(sorted(missing)[:3])}",
        fix="take a model that was trained for this engine",
    )


def _positions(
    folder: Path, names: Mapping[int, str], labels: Mapping[str, str]
) -> tuple[list[str], list[list[int]]]:
    """The kinds, and for each of them which of the model's labels mean it."""
    known = {position: _SCHEME.sub("", name, count=1) for position, name in names.items()}
    if absent := sorted(set(labels) - set(known.values())):
        raise MalformedInput(
            f"the model in {folder} has no label {', '.join(absent)}",
            fix="labels in deidentify.toml can name: "
            + ", ".join(sorted(set(known.values()) - {"O"})),
        )
    kinds = sorted(set(labels.values()))
    return kinds, [
        [position for position, name in known.items() if labels.get(name) == kind] for kind in kinds
    ]


def _joined(char: str) -> bool:
    """Whether a character makes one word with another beside it."""
    return unicodedata.category(char)[0] in "LMN" and not (_NOT_SPACED[0] <= char <= _NOT_SPACED[1])
