"""What tasks share in which a record has one label of the plan's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.data import Example
from client.learning.evaluation import Evaluation, EvaluationCounts, evaluate_examples
from client.learning.plan_model import EncodedRecord, PlanModel
from client.learning.tally import Tally


class SingleLabel(PlanModel):
    """Losses and counts of a model whose outputs are `(records, labels)`."""

    counts: ClassVar[type[Tally]] = EvaluationCounts

    def shares(self, label: int) -> tuple[float, ...]:
        """What a record with this label counts in the histogram."""
        return tuple(float(place == label) for place in range(len(self.plan.labels)))

    def losses(self, outputs: Tensor, records: Sequence[EncodedRecord]) -> Tensor:
        """The plan's classification loss of each record."""
        targets = torch.tensor([record.target for record in records], device=outputs.device)
        return self.class_losses(outputs, targets)

    def results(
        self, outputs: Tensor, records: Sequence[EncodedRecord]
    ) -> list[npt.NDArray[np.float32]]:
        """Each record's logits, `(labels,)`."""
        del records
        return list(outputs.detach().float().cpu().numpy())

    def evaluation(
        self,
        examples: Sequence[Example],
        records: Sequence[EncodedRecord],
        results_of: Callable[[list[int]], list[npt.NDArray[np.float32]]],
    ) -> Evaluation[EvaluationCounts]:
        """Counts of records by true label and logits."""
        del records
        return evaluate_examples(
            examples, lambda rows: np.stack(results_of(rows)), len(self.plan.labels)
        )
