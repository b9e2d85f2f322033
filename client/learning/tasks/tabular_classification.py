"""Classification of rows of a table, by a small network that starts from nothing.

There is no pretrained encoder: the plan names an architecture (`client.learning.table_networks`)
and its columns, and a `full` phase trains all weights. A release is `model.safetensors` with a
`config.json` that says what the network is and how a row is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from client.learning.data import Example, StoredRecord
from client.learning.plan_model import EncodedRecord, check_base_model, copies, seed_of
from client.learning.single_label import SingleLabel, read_labelled
from client.learning.table_inputs import TableInputs
from client.learning.table_networks import (
    Architecture,
    TableNetwork,
    make_network,
    read_architecture,
)
from compliance.statements import TrainingPlan

LOAD_EXAMPLE = """import json

import torch
from safetensors.torch import load_file
from torch.nn import functional

folder = {folder}
with open(f"{{folder}}/config.json") as file:
    config = json.load(file)
weights = load_file(f"{{folder}}/model.safetensors")
labels, features = config["labels"], config["features"]


def place_of(row, feature):  # where a cell is among the feature's places, and its value
    cell, values = row.get(feature["name"], "").strip(), feature["values"]
    if cell.lower() in ("", "?", "nan"):
        return max(1, len(values)), 0.0
    if feature["kind"] == "number":
        low, high = float(feature["low"]), float(feature["high"])
        return 0, min(1.0, max(-1.0, 2 * (float(cell) - low) / (high - low) - 1))
    spelled = [spelling(value) for value in values]
    return (spelled.index(spelling(cell)) if spelling(cell) in spelled else len(values)), 0.0


def spelling(text):
    try:
        return repr(float(text) + 0.0)
    except ValueError:
        return text.strip()


def vector(row):  # what linear layers see of a row
    parts = []
    for feature in features:
        place, value = place_of(row, feature)
        count = max(1, len(feature["values"]))
        part = [0.0] * count + [0.0]
        if place == count:
            part[place] = 0.5
        elif feature["kind"] == "number":
            part[0] = value
        else:
            part = [float(n == place) - 1 / count for n in range(count)] + [0.0]
        parts += part
    return torch.tensor([part / len(features) ** 0.5 for part in parts] + [0.2])


def tokens(row):  # what a transformer sees of it
    offsets, slopes = weights["offsets.weight"], weights["slopes.weight"]
    found, first = [offsets[-1]], 0
    for number, feature in enumerate(features):
        place, value = place_of(row, feature)
        found.append(offsets[first + place] + value * slopes[number])
        first += 1 + max(1, len(feature["values"]))
    return torch.stack(found)


def linear(name, x):
    return functional.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))


def norm(name, x):
    return functional.layer_norm(
        x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"]
    )


def logits(row):
    if config["architecture"] == "ft-transformer":
        x = tokens(row)
        for n in range(config["blocks"]):
            seen = norm(f"blocks.{{n}}.attention_norm", x)
            query, key, value = (
                linear(f"blocks.{{n}}.{{part}}", seen)
                .unflatten(1, (config["heads"], -1))
                .transpose(0, 1)
                for part in ("query", "key", "value")
            )
            mixed = functional.scaled_dot_product_attention(query, key, value)
            x = x + linear(f"blocks.{{n}}.output", mixed.transpose(0, 1).flatten(1))
            gated, gate = linear(f"blocks.{{n}}.up", norm(f"blocks.{{n}}.norm", x)).chunk(2, -1)
            x = x + linear(f"blocks.{{n}}.down", gated * torch.relu(gate))
        x = torch.relu(norm("norm", x[0])) / config["width"] ** 0.5
    else:
        x = vector(row)
        for n in range(config.get("layers", 0)):
            x = torch.tanh(linear(f"hidden.{{n}}", x)) / config["width"] ** 0.5
    return linear("head", x)


rows = [{{features[0]["name"]: ""}}]  # columns and their texts; what is absent is missing
print([labels[int(logits(row).argmax())] for row in rows])
"""


def read_examples(plan: TrainingPlan, records: Iterable[StoredRecord]) -> list[Example]:
    """Rows with the class of each.

    Raises:
        MalformedInput: When a label is not one of the plan's, or a record is no row.
    """
    return read_labelled(plan, records, TableInputs(plan.features).cells)


class TabularClassifier(SingleLabel):
    """The model of a plan that classifies rows."""

    network: TableNetwork
    load_example: ClassVar[str] = LOAD_EXAMPLE

    def __init__(
        self, plan: TrainingPlan, architecture: Architecture, inputs: TableInputs, seed: bytes
    ) -> None:
        network = make_network(architecture, inputs, len(plan.labels), seed)
        super().__init__(plan, network)
        self.architecture = architecture
        self.rows = inputs
        self._weights = dict(network.named_parameters())

    @classmethod
    def build(cls, plan: TrainingPlan, base_path: Path, seed: int | None = None) -> Self:
        """The network of the plan's architecture, with the first weights that the plan gives.

        Args:
            plan: Names the architecture's digest, columns and labels.
            base_path: Folder of the architecture (`resolve_base_model`).
            seed: Of the first weights; by default a hash of the plan, so that every party of a plan
                has the same.

        Raises:
            VerificationFailed: When the architecture's digest is not the plan's.
            MalformedInput: When the folder describes no architecture for tables.
        """
        check_base_model(plan, base_path)
        drawn = seed_of(plan) if seed is None else str(seed).encode()
        architecture = read_architecture(base_path)
        with torch.random.fork_rng(devices=[]):  # layers draw weights that are replaced
            return cls(plan, architecture, TableInputs(plan.features), drawn)

    # --- weights ----------------------------------------------------------------------------------

    def weights(self, kind: str) -> Mapping[str, nn.Parameter]:
        """All of them: there is nothing below."""
        del kind
        return self._weights

    def trained_module(self, kind: str) -> nn.Module:
        """The network."""
        del kind
        return self.network

    @property
    def is_adapted(self) -> bool:
        """Yes: there is no base model that could be left as it is."""
        return True

    def exchanged(self) -> Mapping[str, nn.Parameter]:
        """All of them."""
        return self._weights

    # --- records ----------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example]) -> list[EncodedRecord]:
        """Slots and values of each row's columns, and its label."""
        return [
            EncodedRecord(self.rows.cells(example.text), example.label, 1) for example in examples
        ]

    def inputs(
        self, kind: str, records: Sequence[EncodedRecord], below: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """`slots` and `values`, each `(records, columns)`."""
        del kind, below
        cells = torch.from_numpy(np.stack([record.content for record in records])).to(self.device)
        return cells[:, 0].long(), cells[:, 1]

    # --- releases ---------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """`model.safetensors` and `config.json`."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(copies(self._weights), folder / "model.safetensors")
        config = {
            **self.architecture.model_dump(),
            "labels": list(self.plan.labels),
            "features": [feature.model_dump(mode="json") for feature in self.plan.features],
        }
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / "config.json").write_text(text, encoding="utf-8")
