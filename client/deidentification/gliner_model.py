"""A GLiNER model, as a rule (`engine = "gliner"`): it finds what words of the settings describe.

* A text of any length is read as a whole, in windows that overlap by more than the longest span
  that the model can name. What any window finds is found.
* The library cuts a text that is too long, in words or in tokens, and warns or says nothing. The
  windows keep both limits, and its warning is an error here: the text is kept out.
* It counts words by their tokens, so that after a word without any (a joiner between emoji, an
  accent of its own) it tells of the wrong words. It is shown a space in such a word's place.
* The library would take code of another model's author (`trust_remote_code`), a pickle, weights
  made up for those that are missing, and a hub for what a folder lacks. All four are refused.

`gliner` is no part of the distribution; docs/deidentification.md says which version was tried.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from audit.errors import MalformedInput, Refused
from client.deidentification.findings import Finding
from client.deidentification.token_classifier import (
    LEAST_TOKENS,
    unreadable,
    untrained,
    whole_word,
    window_tokens,
)

OVERLAP_WORDS: Final = 32
"""Of two windows, at most a third of them; a model's longest span is 12 words by default."""

WEIGHTS: Final = "model.safetensors"


class Word(NamedTuple):
    """A word as the model counts them.

    Attributes:
        start: Its first character.
        end: After its last.
        tokens: How many tokens it is.
    """

    start: int
    end: int
    tokens: int


class GlinerModel:
    """A model, loaded to the graphics processor where there is one.

    Args:
        folder: Checked; as `save_pretrained(folder, safe_serialization=True)` wrote it.
        labels: Kinds by what the model is asked for ("person", "hospital").
        threshold: The score from which a span is found.

    Raises:
        MalformedInput: When the folder holds no such model, or the labels are too many for it.
        Refused: When the model brings code of its own.
    """

    def __init__(self, folder: Path, labels: Mapping[str, str], threshold: float) -> None:
        _check_files(folder)
        import torch
        from gliner import GLiNER

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._model: Any = GLiNER.from_pretrained(
                str(folder), local_files_only=True, map_location=device
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise unreadable(folder, "a GLiNER model", error) from error
        _check_weights(folder, self._model.model.state_dict())
        self._labels, self._threshold = dict(labels), threshold
        self._split = self._model.data_processor.words_splitter
        self._tokenizer = self._model.data_processor.transformer_tokenizer
        encoder = self._model.config.encoder_config
        asked = [word for label in self._labels for word in ("<<ENT>>", label)]
        prompt = sum(self._tokens([*asked, "<<SEP>>"]))
        most = window_tokens(self._tokenizer, encoder, folder)
        self._most_tokens = most - prompt - self._tokenizer.num_special_tokens_to_add()
        self._most_words = int(self._model.config.max_len)
        if self._most_tokens < LEAST_TOKENS:
            raise MalformedInput(
                f"the labels of the model in {folder} leave no room for a text",
                fix="name fewer labels in deidentify.toml, in shorter words",
            )

    def __call__(self, text: str) -> Iterator[Finding]:
        """What it finds."""
        spans = [(start, end) for _, start, end in self._split(text)]
        tokens = self._tokens([text[start:end] for start, end in spans])
        words = [Word(*span, count) for span, count in zip(spans, tokens, strict=True) if count]
        shown = _only(text, words)
        for first, last in windows(words, self._most_words, self._most_tokens):
            start, end = words[first].start, words[last - 1].end
            for span in self._read(shown[start:end]):
                whole = whole_word(text, start + span["start"], start + span["end"])
                yield Finding(*whole, self._labels[span["label"]])

    def _read(self, text: str) -> Sequence[Mapping[str, Any]]:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*truncated.*")
            found: Sequence[Mapping[str, Any]] = self._model.predict_entities(
                text, list(self._labels), threshold=self._threshold
            )
        return found

    def _tokens(self, words: Sequence[str]) -> list[int]:
        """How many tokens each word is."""
        if not words:
            return []
        read = self._tokenizer(list(words), is_split_into_words=True, add_special_tokens=False)
        counts = [0] * len(words)
        for word in read.word_ids():
            counts[word] += 1
        return counts


def windows(words: Sequence[Word], most_words: int, most_tokens: int) -> Iterator[tuple[int, int]]:
    """Runs of words that a model reads together, each as its first word and the one after its last.

    Every word is in one of them, and any `OVERLAP_WORDS` that stand together are too, where the
    limits allow so many three times over.
    """
    first, done = 0, 0
    while done < len(words):
        last, tokens = first, 0
        while last < len(words) and last - first < most_words:
            tokens += words[last].tokens
            if tokens > most_tokens and last > first:
                break
            last += 1
        yield first, last
        done = last
        first = max(first + 1, last - min(OVERLAP_WORDS, (last - first) // 3))


def _only(text: str, words: Sequence[Word]) -> str:
    """The text with spaces for whatever is none of the words."""
    shown = [" "] * len(text)
    for word in words:
        shown[word.start : word.end] = text[word.start : word.end]
    return "".join(shown)


def _check_files(folder: Path) -> None:
    """Refuse what the library would run, unpickle or ask a hub for."""
    try:
        written = (folder / "gliner_config.json").read_text("utf-8")
        configuration = json.loads(written)
        lacking = [
            name for name in (WEIGHTS, "tokenizer_config.json") if not (folder / name).is_file()
        ]
        if not isinstance(configuration.get("encoder_config"), dict):
            lacking.append("encoder_config in gliner_config.json")
    except (OSError, ValueError, AttributeError) as error:
        raise unreadable(folder, "a GLiNER model", error) from error
    if lacking:
        raise MalformedInput(
            f"the GLiNER model in {folder} lacks {', '.join(lacking)}",
            fix="where there is a hub: GLiNER.from_pretrained(NAME).save_pretrained(FOLDER,"
            " safe_serialization=True); then write down the folder's digest",
        )
    if '"auto_map"' in written + (folder / "tokenizer_config.json").read_text("utf-8"):
        raise Refused(
            f"the GLiNER model in {folder} brings code of its own",
            fix="take a model whose encoder transformers has",
        )


def _check_weights(folder: Path, expected: Mapping[str, Any]) -> None:
    """Refuse a model with weights that the folder lacks; some are one tensor of two names."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        stored = set(file.keys())
    read = {tensor.data_ptr() for name, tensor in expected.items() if name in stored}
    if missing := [
        name
        for name, tensor in expected.items()
        if name not in stored and tensor.data_ptr() not in read
    ]:
        raise untrained(folder, missing)
