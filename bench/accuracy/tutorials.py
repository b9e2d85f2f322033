"""The baseline: Opacus as its tutorials use it, and FedAvg (McMahan et al. 2017).

* Text: the settings of Opacus' tutorials on text (`building_text_classifier`, and its variant with
  LoRA): LoRA of rank 8 on queries and values and the classifier on the pooler, AdamW at 5e-4,
  batches of 32 records, 3 epochs, clipping norm 0.1. What the tutorials pad to the maximum is
  padded to the longest record here: it is masked, and changes the time alone.
* Tables: those of Opacus' MNIST example, which trains a small network from nothing: here one hidden
  layer of 32, SGD at 0.1, batches of 64, 10 epochs, clipping norm 1.
* Either: `PrivacyEngine` with its default accountant (PRV) and Poisson loader, noise for all
  epochs, gradients of records by hooks, `BatchMemoryManager`. One local epoch a round; weights are
  averaged by the sites' record counts. Opacus' loader and divisor know a site's true number of
  records, which the product's may not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from bench.accuracy.datasets import Dataset
from bench.accuracy.product import DELTA, Score
from bench.recipes import lora_classifier
from client.learning.data import StoredRecord
from client.learning.metrics import accuracy, macro_f1
from client.learning.table_inputs import TableInputs

MICRO_BATCH: Final = 32
TEXT_EPOCHS: Final = 3
TEXT_BATCH: Final = 32
TEXT_NORM: Final = 0.1
TEXT_RATE: Final = 5e-4
TABLE_EPOCHS: Final = 10
TABLE_BATCH: Final = 64
TABLE_NORM: Final = 1.0
TABLE_RATE: Final = 0.1
HIDDEN: Final = 32


class Site:
    """One site's private model, optimiser and loader."""

    def __init__(self, model: nn.Module, data: TensorDataset, epsilon: int, tabular: bool) -> None:
        from opacus import PrivacyEngine

        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = (
            torch.optim.SGD(trained, lr=TABLE_RATE)
            if tabular
            else torch.optim.AdamW(trained, lr=TEXT_RATE)
        )
        self.records = len(data)
        batch = min(TABLE_BATCH if tabular else TEXT_BATCH, self.records)
        loader = DataLoader(data, batch_size=batch)
        self.model, self._optimizer, self._loader = PrivacyEngine().make_private(
            module=model.train(),
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=_noise(
                epsilon, 1 / len(loader), TABLE_EPOCHS if tabular else TEXT_EPOCHS
            ),
            max_grad_norm=TABLE_NORM if tabular else TEXT_NORM,
        )

    def train_epoch(self) -> None:
        """One pass over expected as many records as there are."""
        from opacus.utils.batch_memory_manager import BatchMemoryManager

        with BatchMemoryManager(
            data_loader=self._loader,
            max_physical_batch_size=MICRO_BATCH,
            optimizer=self._optimizer,
        ) as batches:
            for *inputs, labels in batches:
                self._optimizer.zero_grad()
                loss = cross_entropy(logits_of(self.model, inputs), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()

    def trained(self) -> dict[str, Tensor]:
        """By name."""
        named = self.model.named_parameters()
        return {name: weight.detach() for name, weight in named if weight.requires_grad}


def scores_of(
    dataset: Dataset, epsilon: int, repetitions: int, seed: int | None, progress: Callable[[], None]
) -> Iterator[Score]:
    """Of FedAvg's last model, on the test records."""
    tabular = dataset.task == "tabular-classification"
    for repetition in range(repetitions):
        torch.manual_seed(repetition + (seed or 0) * repetitions)
        tensors, make_model = (_tables if tabular else _texts)(dataset)
        first = make_model()
        weights = {name: value.clone() for name, value in first.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sites = []
            for records in dataset.sites.values():
                model = make_model()
                model.load_state_dict(weights)
                sites.append(Site(model, tensors(records), epsilon, tabular))
            for _ in range(TABLE_EPOCHS if tabular else TEXT_EPOCHS):
                for site in sites:
                    site.train_epoch()
                    progress()
                _average(sites)
        yield _score(sites[0].model, tensors(dataset.test), len(dataset.labels))


@lru_cache
def _noise(epsilon: int, sampling_rate: float, epochs: int) -> float:
    """What `make_private_with_epsilon` solves anew for each model, for half a minute."""
    from opacus.accountants.utils import get_noise_multiplier

    noise: float = get_noise_multiplier(
        target_epsilon=float(epsilon),
        target_delta=float(DELTA),
        sample_rate=sampling_rate,
        epochs=epochs,
        accountant="prv",
    )
    return noise


def rounds_of(dataset: Dataset) -> int:
    """Local epochs of all sites in one repetition."""
    tabular = dataset.task == "tabular-classification"
    return (TABLE_EPOCHS if tabular else TEXT_EPOCHS) * len(dataset.sites)


def logits_of(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) == 1:
        logits: Tensor = model(inputs[0])
        return logits
    ids, mask = inputs
    longest = int(mask.sum(1).max())
    classified: Tensor = model(input_ids=ids[:, :longest], attention_mask=mask[:, :longest]).logits
    return classified


def _average(sites: Sequence[Site]) -> None:
    total = sum(site.records for site in sites)
    trained = [site.trained() for site in sites]
    with torch.no_grad():
        for name in trained[0]:
            mean = sum(
                (
                    weights[name] * (site.records / total)
                    for site, weights in zip(sites, trained, strict=True)
                ),
                start=torch.zeros(()),
            )
            for weights in trained:
                weights[name].copy_(mean)


def _score(model: nn.Module, test: TensorDataset, labels: int) -> Score:
    model.eval()
    confusion = np.zeros((labels, labels), np.int64)
    with torch.no_grad():
        for *inputs, true in DataLoader(test, batch_size=4 * MICRO_BATCH):
            predicted = logits_of(model, inputs).argmax(1)
            np.add.at(confusion, (true.numpy(), predicted.numpy()), 1)
    return Score(accuracy(confusion), macro_f1(confusion))


Tensors = Callable[[Sequence[StoredRecord]], TensorDataset]


def _texts(dataset: Dataset) -> tuple[Tensors, Callable[[], nn.Module]]:
    _, tokenizer = lora_classifier(len(dataset.labels), None)

    def tensors(records: Sequence[StoredRecord]) -> TensorDataset:
        encoded = tokenizer(
            [record.text for record in records],
            truncation=True,
            padding="max_length",
            max_length=dataset.max_tokens,
            return_tensors="pt",
        )
        return TensorDataset(
            encoded["input_ids"], encoded["attention_mask"], _targets(dataset, records)
        )

    return tensors, lambda: lora_classifier(len(dataset.labels), None)[0]


def _tables(dataset: Dataset) -> tuple[Tensors, Callable[[], nn.Module]]:
    inputs = TableInputs(dataset.features)

    def tensors(records: Sequence[StoredRecord]) -> TensorDataset:
        rows = torch.zeros(len(records), inputs.slot_count)
        for row, record in zip(rows, records, strict=True):
            slots, values = inputs.cells(record.text)
            for at, feature in enumerate(dataset.features):
                is_number = feature.kind == "number" and not slots[at]
                row[inputs.first_slots[at] + int(slots[at])] = (
                    float(values[at]) if is_number else 1.0
                )
        return TensorDataset(rows, _targets(dataset, records))

    def make_model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(inputs.slot_count, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, len(dataset.labels)),
        )

    return tensors, make_model


def _targets(dataset: Dataset, records: Sequence[StoredRecord]) -> Tensor:
    return torch.tensor([dataset.labels.index(record.label) for record in records])
