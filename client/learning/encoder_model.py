"""What classifiers on a pretrained encoder share: features, a linear head, and a probe of it.

* The head works on standardised features with one constant feature appended, whose weight is the
  bias. Centre and scale come from the plan alone. In a release the head is an ordinary linear layer
  on the encoder's output.
* `probe` trains the head on what the base model makes of a record, `adapter` the head and LoRA,
  `full` the head and every weight of the encoder.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from client.learning.layers import SplitLayers, padded
from client.learning.plan_model import EncodedRecord, State
from client.learning.pretrained_model import PretrainedModel, SplitNetwork, trimmed

BIAS_FEATURE: Final = 0.2
"""Below 1, it keeps the bias, which follows how common a label is at a site, from using up the
clipping norm: on label-skewed banking77 a feature of 1 costs 2 points at ε = 3."""


class EncoderNetwork(SplitNetwork):
    """Encoder, what the task makes of its output, and a linear head.

    Args:
        encoder: The transformer.
        hidden_size: Width of its output.
        label_count: Outputs of the head.
        first_trained_layer: Layers below it are frozen in every phase.
    """

    def __init__(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden_size + 1, label_count, bias=False)
        nn.init.zeros_(self.head.weight)
        self.centre = nn.Buffer(torch.zeros(hidden_size), persistent=False)
        self.transform = nn.Buffer(torch.eye(hidden_size), persistent=False)
        """Symmetric."""
        self.inverse = nn.Buffer(torch.eye(hidden_size), persistent=False)
        self.split = SplitLayers(encoder, first_trained_layer)

    def pool(self, hidden: Tensor, *inputs: Tensor) -> Tensor:
        """What the head is to see of the encoder's output, `(records, …, hidden)`."""
        raise NotImplementedError

    def encoder_inputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The encoder's arguments by name."""
        raise NotImplementedError

    def lower(self, *inputs: Tensor) -> Tensor:
        """Hidden states before the first trained layer, `(records, tokens, hidden)`."""
        return self.split.lower(**self.encoder_inputs(*inputs))

    def see_through(self, centre: Tensor, transform: Tensor) -> None:
        """Let the head see `(x - centre) @ transform`, with a symmetric `(hidden, hidden)`."""
        self.centre.copy_(centre)
        self.transform.copy_(transform)
        self.inverse.copy_(torch.linalg.inv(transform.double()))

    def standardise(self, pooled: Tensor) -> Tensor:
        """What the head sees: `(records, …, hidden + 1)`."""
        constant = pooled.new_full((*pooled.shape[:-1], 1), BIAS_FEATURE)
        return torch.cat([(pooled - self.centre) @ self.transform, constant], dim=-1)

    def features(self, *inputs: Tensor, hidden: Tensor | None = None) -> Tensor:
        """What the head sees of inputs, from hidden states below the trained layers if given."""
        named = self.encoder_inputs(*inputs)
        output = (
            self.encoder(**named) if hidden is None else self.split.upper(hidden, **named)
        ).last_hidden_state
        return self.standardise(self.pool(output, *inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits; the last input may be hidden states below the trained layers."""
        hidden = None
        if self.split.first:
            *inputs, hidden = inputs  # type: ignore[assignment]
        logits: Tensor = self.head(self.features(*inputs, hidden=hidden))
        return logits

    def released_head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the same head on plain features."""
        trained = self.head.weight.detach()
        weight = trained[:, :-1] @ self.transform
        return weight, trained[:, -1] * BIAS_FEATURE - weight @ self.centre

    def take_head(self, weight: Tensor, bias: Tensor) -> None:
        """Inverse of `released_head`."""
        with torch.no_grad():
            self.head.weight[:, :-1] = weight @ self.inverse
            self.head.weight[:, -1] = (bias + weight @ self.centre) / BIAS_FEATURE


class EncoderModel(PretrainedModel):
    """A classifier on a pretrained encoder. Subclasses say how a task reads and pools."""

    network: EncoderNetwork
    prefix = "encoder."

    def network_on(self, transformer: nn.Module, first_trained_layer: int) -> EncoderNetwork:
        """The task's network."""
        hidden_size = int(self._inner.config.hidden_size)
        labels = int(self._inner.config.num_labels)
        return self.make_network(transformer, hidden_size, labels, first_trained_layer)

    @abstractmethod
    def make_network(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int
    ) -> EncoderNetwork:
        """The task's network."""

    @abstractmethod
    def start_head(self) -> None:
        """Set centre, scale and first head from what is public."""

    # --- weights ----------------------------------------------------------------------------------

    @property
    def released_head_module(self) -> nn.Linear:
        """The linear layer of the release."""
        head = getattr(self._inner, "classifier", None) or self._inner.score
        layer: nn.Linear = head.modules_to_save["default"] if self._is_lora else head
        return layer

    def weights(self, kind: str) -> Mapping[str, nn.Parameter]:
        """The head; in an adapter phase LoRA's `B` too, in a full one the encoder."""
        head = dict(self.network.head.named_parameters(prefix="head"))
        return head if kind == "probe" else head | self._transformer_weights

    def trained_module(self, kind: str) -> nn.Module:
        """The head alone, or the network."""
        return self.network.head if kind == "probe" else self.network

    def stretch(self) -> float:
        """That of the head, whose two forms differ by a fixed linear map of each label's row."""
        network = self.network
        transform, centre = network.transform.double().cpu(), network.centre.double().cpu()
        width = transform.shape[1]
        both = torch.zeros(transform.shape[0] + 1, width + 1, dtype=torch.float64)
        both[:-1, :width] = transform
        both[:-1, width] = -(transform @ centre)
        both[-1, width] = BIAS_FEATURE
        return max(1.0, float(torch.linalg.matrix_norm(both, 2)))

    def _own_state(self) -> State:
        weight, bias = self.network.released_head()
        head = {"head.weight": weight.cpu().numpy(), "head.bias": bias.cpu().numpy()}
        return head | super()._own_state()

    def _take_own_state(self, state: State) -> None:
        weight, bias = (
            torch.from_numpy(state.pop(name)).to(self.device)
            for name in ("head.weight", "head.bias")
        )
        self.network.take_head(weight, bias)
        super()._take_own_state(state)

    # --- records ----------------------------------------------------------------------------------

    def keeps_below(self, kind: str) -> bool:
        """For a probe, and where only upper layers have LoRA."""
        return kind == "probe" or super().keeps_below(kind)

    def below(self, kind: str, records: Sequence[EncodedRecord]) -> list[Tensor]:
        """Features of the base model for a probe, hidden states below the adapters for LoRA."""
        if kind == "probe":
            return trimmed(self.features(records).cpu(), records)
        return super().below(kind, records)

    def features(self, records: Sequence[EncodedRecord]) -> Tensor:
        """What the head sees of records in one batch, of the encoder without adapter."""
        with self._outer.disable_adapter() if self._is_lora else contextlib.nullcontext():
            return self.network.features(*self.raw_inputs(records))

    def inputs(
        self, kind: str, records: Sequence[EncodedRecord], below: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Features for a probe; else what the network reads, with hidden states if it is split."""
        if kind == "probe" and below is not None:
            return (padded(list(below)).to(self.device),)
        return super().inputs(kind, records, below)

    # --- releases ---------------------------------------------------------------------------------

    def finish_release(self) -> None:
        """Put the head on plain features."""
        weight, bias = self.network.released_head()
        head = self.released_head_module
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
