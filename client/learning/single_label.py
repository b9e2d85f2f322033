"""What tasks share in which a record has one label of the plan's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.learning.data import Example, StoredRecord, group_of, label_index
from client.learning.evaluation import Evaluation, EvaluationCounts, evaluate_examples
from client.learning.plan_model import EncodedRecord, PlanModel
from client.learning.tally import Tally
from compliance.statements import TrainingPlan


def read_labelled(
    plan: TrainingPlan,
    records: Iterable[StoredRecord],
    check: Callable[[str], object] = lambda _: None,
) -> list[Example]:
    """Records with the class of each.

    Args:
        plan: Names labels and groups.
        records: A site's.
        check: Refuses content that is none of the task; by default all is.

    Raises:
        MalformedInput: When a label is not one of the plan's, or as `check` says.
    """
    examples = []
    for record in records:
        check(record.text)
        examples.append(
            Example(
                subject=record.subject,
                text=record.text,
                label=label_index(record.label, plan.labels),
                group=group_of(record.group, plan.groups),
            )
        )
    return examples


class SingleLabel(PlanModel):
    """Losses and counts of a model whose outputs are `(records, labels)`."""

    counts: ClassVar[type[Tally]] = EvaluationCounts

    def shares(self, record: EncodedRecord) -> tuple[float, ...]:
        """All of it to its one label."""
        return tuple(float(place == record.target) for place in range(len(self.plan.labels)))

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
