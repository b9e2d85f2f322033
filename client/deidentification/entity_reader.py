"""The packaged model's entities, computed from its weights with NumPy in a fifth of spaCy's time.

spaCy steps through a text token by token and asks at each which of 74 actions are allowed. But
outside of an entity its decision depends on one token and its surroundings alone: here all tokens
are decided at once, and only entities are walked through. Words that a batch repeats are embedded
once, and rows pass the layers in pieces that stay in the processor's cache.

* What is found is what spaCy's `ner` finds with the same weights; a test compares them.
* Made for the packaged model's architecture, whose files are checked. spaCy reads other models.

See spaCy's `pipeline/_parser_internals/ner.pyx` (which action is allowed when), `_state.pxd` (which
tokens decide), `ml/models/tok2vec.py` and `ml/models/parser.py` (the layers).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

Entity = tuple[int, int, str]
"""First token, one past the last, label."""

_Place = tuple[int, int, int]
"""A token within an entity, where the entity began, and its kind."""

_Found = list[tuple[int, int, int]]
"""First token, one past the last, kind."""

_Walk = Generator[_Place, bool | None, _Found]
"""Asks of one token after the other whether the entity ends with it."""

ROWS_AT_ONCE: Final = 256
"""Rows that pass a layer together: with the layer's weights they fit into a core's cache."""

_SMALLEST_VARIANCE: Final = np.float32(1e-8)
"""What thinc adds before it divides by a deviation."""


class EntityReader:
    """Reads entities as the model of a spaCy `ner` component would.

    Args:
        component: The packaged model's `ner`.
    """

    def __init__(self, component: Any) -> None:
        model = component.model
        layers = list(model.get_ref("tok2vec").walk(order="dfs_pre"))
        self._features = _named(layers, "extract_features")[0].attrs["columns"]
        self._tables = _named(layers, "hashembed")
        self._mix, *self._windows = map(
            _Maxout, _named(layers, "maxout"), _named(layers, "layernorm")
        )
        self._padding = len(self._windows)  # rows between texts: one a window of one word each way
        self._narrow = _Affine(_named(layers, "linear")[0])
        self._decide = _Decisions(model.get_ref("lower"), model.get_ref("upper"), component)

    def read(self, docs: Sequence[Any]) -> list[list[Entity]]:
        """The entities of each tokenised text, in order."""
        if not any(map(len, docs)):
            return [[] for _ in docs]
        lengths = np.array([len(doc) for doc in docs])
        rows = self._encoded(self._embedded(docs), lengths)
        spaces = np.concatenate([doc.to_array("IS_SPACE") for doc in docs]).astype(bool)
        return self._decide.entities(self._narrow(rows), spaces, lengths)

    def _embedded(self, docs: Sequence[Any]) -> Floats:
        """A row for each token of all texts, from its form alone."""
        features = np.concatenate([doc.to_array(self._features) for doc in docs])
        _, first, each = np.unique(
            features.view(f"V{features.strides[0]}").ravel(), return_index=True, return_inverse=True
        )
        distinct = features[first]
        looked_up = [
            table.predict(np.ascontiguousarray(distinct[:, column]))
            for column, table in enumerate(self._tables)
        ]
        return self._mix(np.hstack(looked_up))[each]

    def _encoded(self, rows: Floats, lengths: Integers) -> Floats:
        """The rows after the layers that look at neighbours, none across texts."""
        padding, width = self._padding, rows.shape[1]
        total = len(rows) + padding * (len(lengths) + 1)
        wide = np.zeros((total + 2, width), np.float32)  # one row more at either end
        before = 1 + padding * np.arange(1, len(lengths) + 1)
        own = np.arange(len(rows)) + np.repeat(before, lengths)
        wide[own] = rows
        for layer in self._windows:
            added = np.empty((total, width), np.float32)
            for start in range(0, total, ROWS_AT_ONCE):
                end = min(total, start + ROWS_AT_ONCE)
                added[start:end] = layer(
                    np.hstack([wide[start + shift : end + shift] for shift in range(3)])
                )
            wide[1:-1] += added
        return wide[own]


class _Affine:
    """A layer of weights and a bias."""

    def __init__(self, layer: Any) -> None:
        self._weights = np.ascontiguousarray(layer.get_param("W").T)
        self._bias = layer.get_param("b")

    def __call__(self, rows: Floats) -> Floats:
        narrow: Floats = rows @ self._weights + self._bias
        return narrow


class _Maxout:
    """A layer of several pieces of which the largest counts, normalised."""

    def __init__(self, maxout: Any, norm: Any) -> None:
        weights = maxout.get_param("W")
        self._width, self._pieces, inputs = weights.shape
        # A piece is a block of columns, so that NumPy takes the larger of whole blocks.
        self._weights = np.ascontiguousarray(weights.transpose(1, 0, 2).reshape(-1, inputs).T)
        self._bias = maxout.get_param("b").T.ravel()
        self._gain, self._shift = norm.get_param("G"), norm.get_param("b")

    def __call__(self, rows: Floats) -> Floats:
        sums = rows @ self._weights
        sums += self._bias
        best = _largest(sums, self._width, self._pieces)
        best -= best.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", best, best) / np.float32(self._width)
        best *= (1 / np.sqrt(variance + _SMALLEST_VARIANCE))[:, None]
        best *= self._gain
        best += self._shift
        return best


class _Decisions:
    """Which tokens begin, continue and end an entity, and of what kind."""

    def __init__(self, lower: Any, upper: Any, component: Any) -> None:
        weights, bias, missing = (lower.get_param(name) for name in ("W", "b", "pad"))
        features, self._hidden, self._pieces, inputs = weights.shape  # features: this, first, last
        blocks = weights.transpose(0, 2, 1, 3).reshape(features, -1, inputs).transpose(0, 2, 1)
        self._this, self._first, self._last = map(np.ascontiguousarray, blocks)
        self._bias = bias.T.ravel()
        self._outside = missing[0, 1:].transpose(0, 2, 1).reshape(2, -1).sum(axis=0)
        actions = [component.moves.get_class_name(at) for at in range(component.moves.n_moves)]
        scores, offsets = upper.get_param("W"), upper.get_param("b")
        row = {action: at for at, action in enumerate(actions)}
        self._labels = [action[2:] for action in actions if action.startswith("B-")]
        of = {
            move: [row[f"{move}-{label}"] for label in self._labels]
            for move in ("B", "I", "L", "U")
        }
        opening = [*of["B"], *of["U"], row["O"]]
        self._opening = np.ascontiguousarray(scores[opening].T), offsets[opening]
        self._inside = scores[of["I"]], offsets[of["I"]]
        self._ending = scores[of["L"]], offsets[of["L"]]

    def entities(
        self, rows: Floats, spaces: NDArray[np.bool_], lengths: Integers
    ) -> list[list[Entity]]:
        """The entities of each text.

        Args:
            rows: One for each token of all texts.
            spaces: Whether a token is white space, with which no entity begins.
            lengths: Tokens of each text.
        """
        this = rows @ self._this + self._bias
        opening = self._scored(this + self._outside) @ self._opening[0] + self._opening[1]
        ends, kinds = np.cumsum(lengths), len(self._labels)
        opening[ends - 1, :kinds] = -np.inf  # a text's last token is an entity by itself, or none
        opening[spaces, : 2 * kinds] = -np.inf
        choice = opening.argmax(axis=1)
        chosen = np.flatnonzero(choice < 2 * kinds)
        cuts = np.searchsorted(chosen, [0, *ends])
        walks = [
            self._walk(chosen[left:right].tolist(), choice[chosen[left:right]].tolist(), end - 1)
            for (left, right), end in zip(pairwise(cuts.tolist()), ends.tolist(), strict=True)
        ]
        found = _in_step(walks, lambda places: self._ended(this, rows, places))
        begins = (ends - lengths).tolist()
        return [
            [(start - begin, end - begin, self._labels[kind]) for start, end, kind in own]
            for begin, own in zip(begins, found, strict=True)
        ]

    def _walk(self, starts: list[int], choices: list[int], last: int) -> _Walk:
        """The entities of one text, whose last token is `last`."""
        free, kinds, found = 0, len(self._labels), []
        for start, choice in zip(starts, choices, strict=True):
            if start < free:
                continue
            at = start
            if choice < kinds:
                at += 1
                while at < last and not (yield at, start, choice):
                    at += 1
            free = at + 1
            found.append((start, free, choice % kinds))
        return found

    def _ended(self, this: Floats, rows: Floats, places: list[_Place]) -> list[bool]:
        """Whether the entities that began at `start` end with token `at`, for each place."""
        at, start, kind = np.array(places).T
        hidden = self._scored(this[at] + rows[start] @ self._first + rows[at - 1] @ self._last)
        inside, ending = (
            np.einsum("ij,ij->i", hidden, weights[kind]) + offsets[kind]
            for weights, offsets in (self._inside, self._ending)
        )
        return (ending > inside).tolist()  # type: ignore[no-any-return]

    def _scored(self, sums: Floats) -> Floats:
        return _largest(sums, self._hidden, self._pieces)


def _in_step(walks: Sequence[_Walk], answers: Callable[[list[_Place]], list[bool]]) -> list[_Found]:
    """What each walk finds; the questions of all walks that still ask are answered together."""
    found: list[_Found] = [[] for _ in walks]
    heard: list[tuple[int, bool | None]] = [(number, None) for number in range(len(walks))]
    while heard:
        asking: list[tuple[int, _Place]] = []
        for number, answer in heard:
            try:
                asking.append((number, walks[number].send(answer)))
            except StopIteration as end:
                found[number] = end.value
        said = answers([place for _, place in asking]) if asking else []
        heard = [(number, answer) for (number, _), answer in zip(asking, said, strict=True)]
    return found


def _largest(sums: Floats, width: int, pieces: int) -> Floats:
    """The largest of the pieces, each a block of columns."""
    best = np.maximum(sums[:, :width], sums[:, width : 2 * width])
    for piece in range(2, pieces):
        np.maximum(best, sums[:, piece * width : (piece + 1) * width], out=best)
    return best


def _named(layers: Sequence[Any], name: str) -> list[Any]:
    return [layer for layer in layers if layer.name == name]
