"""The first layers of a BERT encoder, with NumPy alone: what reads a text need not load torch.

The same numbers as `transformers` computes, to about 1e-5 (Devlin et al. 2019, post-norm layers).
A test holds that.

* Windows of several texts pass the linear layers together, which is what makes short ones cheap.
  Each is attended to by itself, and a row's sums are the same whatever rows are beside it: what
  comes out does not depend on what is read together. A test holds that, too.
* In the last layer only those word pieces are computed that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Values = NDArray[np.float32]
Rows = NDArray[np.int64]

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

ROWS_AT_ONCE: Final = 192
"""Word pieces that pass a layer together: with the layer's weights they fit into a core's cache."""

_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_SMALLEST_VARIANCE = np.float32(1e-12)

_GELU = tuple(
    np.float32(half / 2)
    for half in (2.23818869e-06, -6.11624152e-05, -2.49721354e-04, 7.29375792e-02, 1.59565627)
)
"""Half of what log(F/(1-F)) is over x, F the normal distribution, as a polynomial in x squared.

Fitted so that x F(x) is within 4e-6 everywhere.
"""


class Window(NamedTuple):
    """What is read at once: its words see one another.

    Attributes:
        pieces: Numbers of its word pieces, the marks of beginning and end among them.
        asked: Which of them are asked for, from 0, in order; two or more, as BLAS adds up a single
            row in another order.
    """

    pieces: Sequence[int]
    asked: Rows


class _Linear(NamedTuple):
    weight: Values
    bias: Values

    def __call__(self, values: Values) -> Values:
        made: Values = values @ self.weight
        made += self.bias
        return made


class _Norm(NamedTuple):
    gain: Values
    bias: Values

    def __call__(self, values: Values) -> Values:
        """Normalises in place."""
        width = np.float32(values.shape[1])
        values -= values.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", values, values) / width
        values *= (1 / np.sqrt(variance + _SMALLEST_VARIANCE))[:, None]
        values *= self.gain
        values += self.bias
        return values


class _Layer(NamedTuple):
    query: _Linear
    seen: _Linear
    joined: _Linear
    inner: _Linear
    outer: _Linear
    after_attention: _Norm
    after_all: _Norm

    def __call__(self, values: Values, lengths: Sequence[int], asked: Sequence[Rows]) -> Values:
        """The rows that are asked for, after this layer.

        Args:
            values: Rows of several windows, one window after the other.
            lengths: Rows of each window.
            asked: Which rows of each window, from 0.
        """
        starts = np.cumsum([0, *lengths[:-1]])
        wanted = np.concatenate([start + own for start, own in zip(starts, asked, strict=True)])
        kept = values[wanted]
        queries, seen = self.query(kept), self.seen(values)
        attended = np.empty_like(queries)
        at = 0
        for start, length, own in zip(starts.tolist(), lengths, asked, strict=True):
            attended[at : at + len(own)] = _attended(
                queries[at : at + len(own)], seen[start : start + length]
            )
            at += len(own)
        kept += self.joined(attended)
        kept = self.after_attention(kept)
        kept += self.outer(_twice_gelu(self.inner(kept)))
        return self.after_all(kept)


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
            read = _Stored(stored)
            self._words = read("embeddings.word_embeddings.weight")
            self._places = read("embeddings.position_embeddings.weight")
            self._places = self._places + read("embeddings.token_type_embeddings.weight")[0]
            self._first_norm = read.norm("embeddings.LayerNorm")
            self._layers = [read.layer(f"encoder.layer.{at}", at, adapters) for at in range(layers)]

    @property
    def longest(self) -> int:
        """How many word pieces it can read at once."""
        return len(self._places)

    def __call__(self, windows: Iterable[Window]) -> Iterator[Values]:
        """What the last of the layers says of word pieces, window by window.

        Args:
            windows: Any number; they are read a few at a time.

        Yields:
            Shape (pieces that the window asks for, width).
        """
        for group in _groups(windows):
            lengths = [len(window.pieces) for window in group]
            values = self._words[[piece for window in group for piece in window.pieces]]
            values += np.concatenate([self._places[:length] for length in lengths])
            values = self._first_norm(values)
            every, asked = [np.arange(length) for length in lengths], [own.asked for own in group]
            for layer in self._layers[:-1]:
                values = layer(values, lengths, every)
            values = self._layers[-1](values, lengths, asked)
            yield from np.split(values, np.cumsum([len(own) for own in asked])[:-1])


class _Stored:
    """Reads the parts of an encoder from its file."""

    def __init__(self, stored: Any) -> None:
        self._stored, self._names = stored, set(stored.keys())

    def __call__(self, name: str) -> Values:
        own = name if name in self._names else f"bert.{name}"
        return np.asarray(self._stored.get_tensor(own), dtype=np.float32)

    def norm(self, name: str) -> _Norm:
        return _Norm(self(f"{name}.weight"), self(f"{name}.bias"))

    def layer(self, name: str, at: int, adapters: Mapping[str, Values]) -> _Layer:
        weights: list[Values] = []
        biases: list[Values] = []
        for part in LINEAR:
            weight = self(f"{name}.{part}.weight")
            if f"{at}.{part}.down" in adapters:
                weight = weight + adapters[f"{at}.{part}.up"] @ adapters[f"{at}.{part}.down"]
            weights.append(weight.T.copy())
            biases.append(self(f"{name}.{part}.bias"))
        query, key, value, joined, inner, outer = weights
        scale = np.float32(HEAD_WIDTH**-0.5)
        return _Layer(
            _Linear(query * scale, biases[0] * scale),
            _Linear(np.hstack([key, value]), np.hstack(biases[1:3])),
            _Linear(joined, biases[3]),
            _Linear(inner, biases[4]),
            _Linear(outer * np.float32(0.5), biases[5]),  # what it gets is twice the GELU
            *(self.norm(f"{name}.{norm}") for norm in _NORMS),
        )


def _groups(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Windows that are read together, in order: at most `ROWS_AT_ONCE` pieces, or one window."""
    group: list[Window] = []
    rows = 0
    for window in windows:
        if group and rows + len(window.pieces) > ROWS_AT_ONCE:
            yield group
            group, rows = [], 0
        group.append(window)
        rows += len(window.pieces)
    if group:
        yield group


def _attended(queries: Values, seen: Values) -> Values:
    """What the rows of one window see in it.

    Args:
        queries: Scaled, shape (rows, width).
        seen: Keys and values of the whole window, shape (pieces, twice the width).
    """
    rows, width = queries.shape
    asking = queries.reshape(rows, -1, HEAD_WIDTH).transpose(1, 0, 2)
    keys = seen[:, :width].reshape(len(seen), -1, HEAD_WIDTH).transpose(1, 2, 0)
    values = seen[:, width:].reshape(len(seen), -1, HEAD_WIDTH).transpose(1, 0, 2)
    scores: Values = asking @ keys
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    attended: Values = scores @ values
    attended /= scores.sum(-1, keepdims=True)
    return attended.transpose(1, 0, 2).reshape(rows, width)


def _twice_gelu(values: Values) -> Values:
    """Twice the GELU, x (1 + erf(x / sqrt 2)), within 1e-5: x (1 + tanh of half the log-odds)."""
    squares = np.square(values)
    odds = squares * _GELU[0]
    for term in _GELU[1:-1]:
        odds += term
        odds *= squares
    odds += _GELU[-1]
    odds *= values
    np.tanh(odds, out=odds)
    odds += np.float32(1)
    odds *= values
    return odds
