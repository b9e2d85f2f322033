"""Runs a transformer's layers in two halves: the lower ones once, the upper ones again and again.

It works on any model of transformers whose layers are one `ModuleList` and take and give hidden
states first: a lower layer is stood in for by what it gave before, so that masks, positions and
the order of things remain the model's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from audit.errors import MalformedInput
from audit.words import count_of


class SplitLayers:
    """A transformer that can begin at one of its layers.

    Args:
        encoder: The transformer; its layers' `forward` are replaced.
        first: The first upper layer, from 0; 0 leaves all as it is.

    Raises:
        MalformedInput: When the transformer has fewer layers.
    """

    def __init__(self, encoder: nn.Module, first: int) -> None:
        self._encoder = encoder
        self.first = first
        layers = transformer_layers(encoder)
        if not 0 <= first < len(layers):
            raise MalformedInput(
                f"adapter.layers: the base model has {count_of(len(layers), 'layer')}",
                fix="ask for at most as many",
            )
        self._given: Tensor | None = None
        self._wanted = False
        for layer in layers[:first]:
            self._stand_in_for(layer)
        if first:
            self._stop_before(layers[first])

    def lower(self, **inputs: Tensor) -> Tensor:
        """Hidden states before the first upper layer, `(records, tokens, hidden)`."""
        self._wanted = True
        try:
            self._encoder(**inputs)
        except _Reached as reached:
            return reached.hidden
        finally:
            self._wanted = False
        raise RuntimeError("the transformer has a path around its layers")

    def upper(self, hidden: Tensor, **inputs: Tensor) -> Any:
        """The transformer's output for hidden states that `lower` gave of the same inputs."""
        self._given = hidden
        try:
            return self._encoder(**inputs)
        finally:
            self._given = None

    def _stand_in_for(self, layer: nn.Module) -> None:
        forward = layer.forward

        def stand_in(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._given is not None:
                return self._given
            return forward(hidden_states, *args, **kwargs)

        layer.forward = stand_in

    def _stop_before(self, layer: nn.Module) -> None:
        forward: Callable[..., Any] = layer.forward

        def stop(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._wanted:
                raise _Reached(hidden_states)
            return forward(hidden_states, *args, **kwargs)

        layer.forward = stop


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def transformer_layers(encoder: nn.Module) -> nn.ModuleList:
    """The list of a transformer's layers: the longest list of modules of one class.

    Raises:
        MalformedInput: When there is none.
    """
    lists = [
        module
        for module in encoder.modules()
        if isinstance(module, nn.ModuleList) and len({type(part) for part in module}) == 1
    ]
    if not lists:
        raise MalformedInput(
            f"a {type(encoder).__name__} has no list of layers", fix="leave out adapter.layers"
        )
    return max(lists, key=len)


def padded(tensors: list[Tensor]) -> Tensor:
    """`(records, longest, …)` of tensors `(tokens, …)`; what is missing is zero."""
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
