"""The first layers of a BERT encoder, with NumPy alone: what reads a text need not load torch.

The same numbers as `transformers` computes, to about 1e-5 (Devlin et al. 2019, post-norm layers,
exact GELU). A test holds that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Values = NDArray[np.float32]

HEAD_WIDTH: Final = 32
"""Of MiniLM, in each of its twelve heads."""

LINEAR: Final = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""The linear parts of a layer, in the order in which they are used."""

_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_SMALLEST_VARIANCE = np.float32(1e-12)


class Encoder:
    """The first layers of an encoder.

    Args:
        folder: With `model.safetensors`.
        layers: How many are read.
        adapters: Products of two thin matrices to add to the linear parts, by layer and part:
            "1.output.dense.down" (rank, inputs) and "1.output.dense.up" (outputs, rank).
    """

    def __init__(self, folder: Path, layers: int, adapters: Mapping[str, Values]) -> None:
        with safe_open(folder / "model.safetensors", framework="numpy") as stored:
            names = set(stored.keys())

            def read(name: str) -> Values:
                own = name if name in names else f"bert.{name}"
                return np.asarray(stored.get_tensor(own), dtype=np.float32)

            self._words = read("embeddings.word_embeddings.weight")
            self._places = read("embeddings.position_embeddings.weight")
            self._places = self._places + read("embeddings.token_type_embeddings.weight")[0]
            self._first_norm = (
                read("embeddings.LayerNorm.weight"),
                read("embeddings.LayerNorm.bias"),
            )
            self._layers = []
            for at in range(layers):
                linear = []
                for part in LINEAR:
                    weight = read(f"encoder.layer.{at}.{part}.weight")
                    if f"{at}.{part}.down" in adapters:
                        weight = (
                            weight + adapters[f"{at}.{part}.up"] @ adapters[f"{at}.{part}.down"]
                        )
                    linear.append((weight.T.copy(), read(f"encoder.layer.{at}.{part}.bias")))
                norms = [
                    tuple(
                        read(f"encoder.layer.{at}.{name}.{which}") for which in ("weight", "bias")
                    )
                    for name in _NORMS
                ]
                self._layers.append((linear, norms))

    @property
    def longest(self) -> int:
        """How many word pieces it can read at once."""
        return len(self._places)

    def __call__(self, pieces: list[int]) -> Values:
        """What the last of the layers says of each word piece.

        Args:
            pieces: Numbers of word pieces, the marks of beginning and end among them.

        Returns:
            Shape (pieces, width).
        """
        values = _normed(self._words[pieces] + self._places[: len(pieces)], *self._first_norm)
        for (query, key, value, joined, inner, outer), (after_attention, after_all) in self._layers:
            heads = [
                (values @ weight + bias).reshape(len(pieces), -1, HEAD_WIDTH).transpose(1, 0, 2)
                for weight, bias in (query, key, value)
            ]
            scores = heads[0] @ heads[1].transpose(0, 2, 1) / np.float32(HEAD_WIDTH**0.5)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            seen = (scores @ heads[2]).transpose(1, 0, 2).reshape(len(pieces), -1)
            values = _normed(values + seen @ joined[0] + joined[1], *after_attention)
            thought = _gelu(values @ inner[0] + inner[1])
            values = _normed(values + thought @ outer[0] + outer[1], *after_all)
        return values


def _normed(values: Values, weight: Values, bias: Values) -> Values:
    centred = values - values.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    normed: Values = centred / np.sqrt(variance + _SMALLEST_VARIANCE) * weight + bias
    return normed


def _gelu(values: Values) -> Values:
    """Half of x (1 + erf(x / sqrt 2)); erf after Abramowitz and Stegun 7.1.26, within 1.5e-7."""
    size = np.abs(values) * np.float32(0.5**0.5)
    inverse = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * size)
    series = np.float32(1.061405429) * inverse
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(term)) * inverse
    erf = np.copysign(np.float32(1) - series * np.exp(-size * size), values)
    halved: Values = np.float32(0.5) * values * (np.float32(1) + erf)
    return halved
