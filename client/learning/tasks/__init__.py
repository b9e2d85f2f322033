"""The tasks that a plan can name: one file each, and this table.

A task's file has `read_examples(plan, records)` and a class of `PlanModel` with
`build(plan, base_path, seed)`. It is imported when a plan names it: importing them all would load
libraries that most plans never need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from client.learning.data import Example, StoredRecord
from client.learning.evaluation import Evaluation
from client.learning.plan_model import PlanModel
from client.learning.tally import Counts, Tally
from compliance.statements import TrainingPlan

TASKS: Final[Mapping[str, tuple[str, str]]] = {
    "text-classification": ("text_classification", "TextClassifier"),
    "token-classification": ("token_classification", "TokenClassifier"),
    "causal-language-modelling": ("causal_language_modelling", "CausalLanguageModel"),
    "image-classification": ("image_classification", "ImageClassifier"),
    "tabular-classification": ("tabular_classification", "TabularClassifier"),
}
"""Of each task, its module in this package and its class of models."""


def build_model(plan: TrainingPlan, base_path: Path, seed: int | None = None) -> PlanModel:
    """The plan's model as it is before the first round; the same for every party.

    Args:
        plan: Names the task and the base model's digest.
        base_path: Folder of the base model (`client.learning.base_model.resolve_base_model`).
        seed: Of what is drawn at random and public; by default a hash of the plan.

    Raises:
        VerificationFailed: When the base model's digest is not the plan's.
        MalformedInput: When the plan asks for what the base model does not have.
    """
    model: PlanModel = _model_class(plan).build(plan, base_path, seed)
    model.built_from = (base_path, seed)
    return model


def read_examples(plan: TrainingPlan, records: Iterable[StoredRecord]) -> list[Example]:
    """A site's records as examples of a plan.

    Raises:
        MalformedInput: When a label is not one of the plan's, or a record is none of the task.
    """
    examples: list[Example] = _module(plan).read_examples(plan, records)
    return examples


def load_example(plan: TrainingPlan) -> str:
    """Code that loads a release of the plan without Fiduciary, with places to fill in."""
    code: str = _model_class(plan).load_example_of(plan)
    return code


def counts_of(plan: TrainingPlan) -> type[Tally]:
    """What sites count when they evaluate a plan."""
    kind: type[Tally] = _model_class(plan).counts
    return kind


def counts_like(plan: TrainingPlan) -> dict[str, Counts]:
    """Counts over no examples, with a slice for every group of the plan.

    What a secure sum adds has one shape for every site, whichever slices it withholds.
    """
    kind, labels = counts_of(plan), len(plan.labels)
    slices = {group: kind.empty(labels) for group in plan.groups}
    return Evaluation(kind.empty(labels), slices).to_arrays()


def _model_class(plan: TrainingPlan) -> Any:
    return getattr(_module(plan), TASKS[plan.task][1])


def _module(plan: TrainingPlan) -> Any:
    return import_module(f"{__name__}.{TASKS[plan.task][0]}")
