"""Networks for tables: logistic regression, a small perceptron, and a small FT-Transformer.

They have no pretrained weights: an architecture is a `config.json` alone, and its digest names it
as a base model's does. Three come with this package (`tabular:linear`, `tabular:mlp`,
`tabular:ft-transformer`); a folder with a `config.json` of other sizes is as good.

* Every layer is one whose per-subject gradients are known (`client.learning.one_backward`).
* What a record is to the first layer has norm of about 1 at most, whatever the number of columns:
  a clipping norm means the same for every table.
* The first weights come from the plan, so that every party has the same; the head starts at zero.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from audit.errors import MalformedInput
from audit.words import count_of
from client.learning.encoder_model import BIAS_FEATURE
from client.learning.randomness import Keystream
from client.learning.table_inputs import TableInputs
from compliance.statements import Document, first_problem

Width = Annotated[int, Field(ge=1, le=4096)]


class Linear(Document):
    """Logistic regression."""

    model_type: Literal["fiduciary-table"]
    version: Literal[1]
    architecture: Literal["linear"]


class Perceptron(Document):
    """`layers` hidden layers of `width` with tanh.

    A bounded activation keeps gradients small, which private training rewards (Papernot et al.
    2021, arXiv 2007.14191).
    """

    model_type: Literal["fiduciary-table"]
    version: Literal[1]
    architecture: Literal["mlp"]
    width: Width
    layers: Annotated[int, Field(ge=1, le=16)]


class FeatureTokenTransformer(Document):
    """A token a column and one for the record (Gorishniy et al. 2021, arXiv 2106.11959, §3.3)."""

    model_type: Literal["fiduciary-table"]
    version: Literal[1]
    architecture: Literal["ft-transformer"]
    width: Width
    blocks: Annotated[int, Field(ge=1, le=64)]
    heads: Annotated[int, Field(ge=1, le=64)]
    hidden: Width


Architecture = Linear | Perceptron | FeatureTokenTransformer
_ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(
    Annotated[Architecture, Field(discriminator="architecture")]
)

MAX_SLOTS = 20_000
"""Values of all columns together; bounds what a hostile plan makes of memory."""

MISSING_VALUE = 0.5
"""What a missing cell adds along its own direction; a value's is at most 1. A site where a column
is missing throughout would spend much of its clipping norm on that."""


class TableNetwork(nn.Module):
    """Takes `slots` and `values`, each `(records, columns)`; see `TableInputs.cells`.

    Args:
        inputs: The plan's columns.
    """

    def __init__(self, inputs: TableInputs) -> None:
        super().__init__()
        values = [len(feature.values) for feature in inputs.features]
        self.columns = len(values)
        self.slot_count = inputs.slot_count
        self.first = nn.Buffer(torch.tensor(inputs.first_slots), persistent=False)
        self.missing = nn.Buffer(torch.tensor([max(1, k) for k in values]), persistent=False)
        self.is_number = nn.Buffer(torch.tensor([not k for k in values]), persistent=False)
        spread = [share for k in values for share in [*[1 / k if k else 0.0] * max(1, k), 0.0]]
        self.share = nn.Buffer(torch.tensor(spread), persistent=False)
        column = [place for place, k in enumerate(values) for _ in range(1 + max(1, k))]
        self.column_of_slot = nn.Buffer(torch.tensor(column), persistent=False)

    def encode(self, slots: Tensor, values: Tensor) -> Tensor:
        """Cells as one vector a record, `(records, slot_count + 1)`; the last is constant.

        A number is its value, a category one less the share of each value, what is missing
        `MISSING_VALUE` in a place of its own. Divided by the square root of the number of columns.
        """
        is_missing = slots == self.missing
        said = torch.where(self.is_number, values, torch.ones_like(values))
        said = torch.where(is_missing, torch.full_like(values, MISSING_VALUE), said)
        vectors = values.new_zeros(len(values), self.slot_count)
        vectors = vectors.scatter(1, self.first + slots, said)
        vectors = vectors - self.share * ~is_missing[:, self.column_of_slot]
        constant = values.new_full((len(values), 1), BIAS_FEATURE)
        return torch.cat([vectors / math.sqrt(self.columns), constant], dim=1)


class LinearNetwork(TableNetwork):
    """One linear layer without bias: the input has a constant."""

    def __init__(self, inputs: TableInputs, label_count: int) -> None:
        super().__init__(inputs)
        self.head = nn.Linear(inputs.slot_count + 1, label_count, bias=False)

    def forward(self, slots: Tensor, values: Tensor) -> Tensor:
        """Logits, `(records, labels)`."""
        logits: Tensor = self.head(self.encode(slots, values))
        return logits


class PerceptronNetwork(TableNetwork):
    """Hidden layers' outputs are divided by the root of their width, to a norm of about 1."""

    def __init__(self, inputs: TableInputs, spec: Perceptron, label_count: int) -> None:
        super().__init__(inputs)
        widths = [inputs.slot_count + 1, *[spec.width] * spec.layers]
        self.hidden = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in pairwise(widths)
        )
        self.head = nn.Linear(spec.width, label_count)

    def forward(self, slots: Tensor, values: Tensor) -> Tensor:
        """Logits, `(records, labels)`."""
        x = self.encode(slots, values)
        for layer in self.hidden:
            x = torch.tanh(layer(x))
            x = x / math.sqrt(x.shape[1])
        logits: Tensor = self.head(x)
        return logits


class TransformerBlock(nn.Module):
    """Attention and a gated feed-forward part, each of what was normalised before."""

    def __init__(self, spec: FeatureTokenTransformer) -> None:
        super().__init__()
        self.heads = spec.heads
        self.attention_norm = nn.LayerNorm(spec.width)
        self.query = nn.Linear(spec.width, spec.width)
        self.key = nn.Linear(spec.width, spec.width)
        self.value = nn.Linear(spec.width, spec.width)
        self.output = nn.Linear(spec.width, spec.width)
        self.norm = nn.LayerNorm(spec.width)
        self.up = nn.Linear(spec.width, 2 * spec.hidden)
        self.down = nn.Linear(spec.hidden, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens, `(records, tokens, width)`."""
        seen = self.attention_norm(x)
        query, key, value = (
            layer(seen).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        gated, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(gated * torch.relu(gate))
        return out


class TransformerNetwork(TableNetwork):
    """A number's token is `value * slope + offset`, any other cell's an offset."""

    def __init__(
        self, inputs: TableInputs, spec: FeatureTokenTransformer, label_count: int
    ) -> None:
        super().__init__(inputs)
        self.slopes = nn.Embedding(self.columns, spec.width)
        self.offsets = nn.Embedding(inputs.slot_count + 1, spec.width)
        self.blocks = nn.ModuleList(TransformerBlock(spec) for _ in range(spec.blocks))
        self.norm = nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, label_count)

    def forward(self, slots: Tensor, values: Tensor) -> Tensor:
        """Logits, `(records, labels)`."""
        columns = torch.arange(self.columns, device=slots.device).expand_as(slots)
        record = torch.full_like(slots[:, :1], self.slot_count)
        offsets = self.offsets(torch.cat([record, self.first + slots], dim=1))
        x = torch.cat(
            [offsets[:, :1], offsets[:, 1:] + values.unsqueeze(2) * self.slopes(columns)], dim=1
        )
        for block in self.blocks:
            x = block(x)
        seen = torch.relu(self.norm(x[:, 0])) / math.sqrt(x.shape[2])
        logits: Tensor = self.head(seen)
        return logits


def read_architecture(base_path: Path) -> Architecture:
    """What a folder's `config.json` says.

    Raises:
        MalformedInput: When it says something else, or asks for what does not go together.
    """
    try:
        spec = _ARCHITECTURE.validate_json((base_path / "config.json").read_bytes())
    except (OSError, ValidationError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else "cannot be read"
        raise MalformedInput(
            f"malformed architecture in {base_path.name}: {reason}",
            fix="see client/learning/architectures for what it may say",
        ) from None
    if isinstance(spec, FeatureTokenTransformer) and spec.width % spec.heads:
        raise MalformedInput(
            f"malformed architecture in {base_path.name}: {spec.heads} heads do not divide a width"
            f" of {spec.width}",
            fix="choose a width that is a multiple of heads",
        )
    return spec


def make_network(
    spec: Architecture, inputs: TableInputs, label_count: int, seed: bytes
) -> TableNetwork:
    """A network with the first weights that a seed gives.

    Raises:
        MalformedInput: When the columns have too many values.
    """
    if inputs.slot_count > MAX_SLOTS:
        raise MalformedInput(
            f"features: {count_of(inputs.slot_count, 'value')} of all columns, more than"
            f" {MAX_SLOTS}",
            fix="name fewer values",
        )
    network: TableNetwork
    if isinstance(spec, Linear):
        network = LinearNetwork(inputs, label_count)
    elif isinstance(spec, Perceptron):
        network = PerceptronNetwork(inputs, spec, label_count)
    else:
        network = TransformerNetwork(inputs, spec, label_count)
    _draw_weights(network, Keystream(seed))
    return network


def _draw_weights(network: TableNetwork, keystream: Keystream) -> None:
    for name, module in sorted(network.named_modules()):
        if isinstance(module, nn.Linear):
            # What layers of a perceptron see has norm 1, what a block sees a variance of 1.
            variance = 1.0 if isinstance(network, PerceptronNetwork) else 1 / module.in_features
            _draw(module.weight, 0.0 if name == "head" else variance, keystream)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            _draw(module.weight, 1 / module.embedding_dim, keystream)


def _draw(weight: Tensor, variance: float, keystream: Keystream) -> None:
    values = (2 * keystream.uniform(weight.numel()) - 1) * math.sqrt(3 * variance)
    with torch.no_grad():
        weight.copy_(torch.from_numpy(values).view_as(weight))
