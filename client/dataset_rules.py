"""The guard's rules about datasets: which of a site's a plan would use, and whether they fit.

* A plan uses every dataset that is for its purpose and holds what its task reads. One of them that
  does not fit refuses the plan: none is left out silently.
* The rules are pure, and their names are codes of refusals; see `client.guard`. What they tell
  leaves the site, so it names no label and no number of subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from audit.words import count_of
from client.findings import Finding
from client.vault.contents import Content
from compliance.rules.deidentification import shortfall
from compliance.statements import (
    TEXT_TASKS,
    DeidentificationDemand,
    DeidentificationFigures,
    TaskName,
    TrainingPlan,
)

_MEASURED: Final = "deidentification-measured"

CONTENT_OF_TASK: Final[Mapping[TaskName, Content]] = {
    "text-classification": "text",
    "token-classification": "spans",
    "causal-language-modelling": "language",
    "image-classification": "image",
    "tabular-classification": "table",
}
"""What a task reads. Another kind was added for another use, even where a task could read it."""


@dataclass(frozen=True)
class DatasetFacts:
    """What the guard looks at of one dataset.

    Attributes:
        name: The operator's name for it.
        labels: Classes, or labels of spans, that occur.
        purposes: Purposes that the operator stated for it.
        legal_basis: Ground on which it is processed; empty when none was stated.
        content: What its records are.
        measured: What was measured of the pipeline that made it; the newest of each method.
        row_bases: Grounds on which single records of it are processed instead.
    """

    name: str
    labels: frozenset[str]
    purposes: frozenset[str]
    legal_basis: str
    content: Content = "text"
    measured: tuple[DeidentificationFigures, ...] = ()
    row_bases: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Demands:
    """What is asked of the datasets beside what the plan says of them.

    Attributes:
        minimum_subjects: By the site's policy.
        deidentification: By the site's policy; None: nothing.
        now: The moment from which measurements are as old as they are.
    """

    minimum_subjects: int
    deidentification: DeidentificationDemand | None
    now: datetime


def uses(plan: TrainingPlan, purposes: Sequence[str], content: Content) -> bool:
    """Whether a plan would use a dataset of these purposes and this content."""
    return plan.purpose in purposes and content == CONTENT_OF_TASK[plan.task]


def check_datasets(
    plan: TrainingPlan,
    datasets: Sequence[DatasetFacts],
    count_subjects: Callable[[Sequence[str]], int],
    demands: Demands,
) -> tuple[tuple[str, ...], list[Finding]]:
    """Ask the rules about the datasets that a plan would use.

    Args:
        plan: The plan.
        datasets: Everything in the vault.
        count_subjects: Distinct subjects over datasets of these names.
        demands: What the site's policy asks.

    Returns:
        Names of the datasets, and a finding for each rule.
    """
    for_purpose = [dataset for dataset in datasets if plan.purpose in dataset.purposes]
    if not for_purpose:
        detail = f"no dataset here is for the purpose {plan.purpose}"
        fix = f"add records for it: `client data add … --purpose {plan.purpose}`"
        return (), [Finding("dataset-purpose", False, detail, fix)]
    listed = ", ".join(dataset.name for dataset in for_purpose)
    purpose = Finding("dataset-purpose", True, f"{listed}: for the purpose {plan.purpose}")
    content = CONTENT_OF_TASK[plan.task]
    chosen = [dataset for dataset in for_purpose if dataset.content == content]
    if not chosen:
        detail = f"{plan.task} reads records of the kind {content}, and {listed} holds none"
        fix = f"add them: `client data add … --kind {content} --purpose {plan.purpose}`"
        return (), [purpose, Finding("dataset-content", False, detail, fix)]
    names = tuple(dataset.name for dataset in chosen)
    subjects = count_subjects(names)
    return names, [
        purpose,
        Finding("dataset-content", True, f"{', '.join(names)}: records of the kind {content}"),
        _legal_basis(plan, chosen),
        _labels(plan, chosen),
        _measured(plan, chosen, demands),
        _enough_subjects(max(demands.minimum_subjects, plan.minimum_subjects), subjects),
        *_batch_limit(plan, subjects),
    ]


def _legal_basis(plan: TrainingPlan, datasets: Sequence[DatasetFacts]) -> Finding:
    others = [
        dataset.name
        for dataset in datasets
        if plan.legal_basis not in {dataset.legal_basis, *dataset.row_bases}
    ]
    return Finding(
        "dataset-legal-basis",
        not others,
        f"the plan rests on {plan.legal_basis}"
        + (f"; another basis, or none, is stated for {', '.join(others)}" if others else ""),
        f"add the dataset again with --legal-basis {plan.legal_basis}, if that is its basis",
    )


def _labels(plan: TrainingPlan, datasets: Sequence[DatasetFacts]) -> Finding:
    # The first label of a plan for spans is of what no span covers: no span can carry it.
    known = set(plan.labels[1:] if plan.task == "token-classification" else plan.labels)
    foreign = [dataset.name for dataset in datasets if not dataset.labels <= known]
    return Finding(
        "dataset-labels",
        not foreign,
        f"the plan does not know every label of {', '.join(foreign)}"
        if foreign
        else f"the plan knows every label of {', '.join(dataset.name for dataset in datasets)}",
        "ask for a plan that names all labels, or add the dataset with the plan's labels",
    )


def _measured(plan: TrainingPlan, datasets: Sequence[DatasetFacts], demands: Demands) -> Finding:
    """The pipeline that made each dataset was measured, and found as good as is asked.

    Tables and pictures have no text in which identifiers are found and replaced: nothing is asked.
    """
    asked = [
        (who, demand)
        for who, demand in (
            ("the plan", plan.deidentification),
            ("the policy", demands.deidentification),
        )
        if demand is not None and plan.task in TEXT_TASKS
    ]
    if not asked:
        return Finding(_MEASURED, True, "nothing is asked of the recall of de-identification")
    for who, demand in asked:
        for dataset in datasets:
            if reason := shortfall(demand, dataset.measured, demands.now):
                return Finding(
                    _MEASURED,
                    False,
                    f"{who} asks what was measured of the de-identification of {dataset.name}: "
                    f"{reason}",
                    "measure it, on more or newer texts: `client deidentify evaluate LABELLED.json`"
                    f" or `client deidentify review FILE --dataset {dataset.name}`; where it is "
                    "not good enough, mend deidentify.toml and add the dataset again",
                )
    listed = " and ".join(who for who, _ in asked)
    return Finding(_MEASURED, True, f"de-identification was measured as {listed} asks")


def _enough_subjects(required: int, subjects: int) -> Finding:
    enough = subjects >= required
    return Finding(
        "dataset-subjects",
        enough,
        f"{'at least' if enough else 'fewer than'} the {count_of(required, 'subject')} required",
        "add records of more subjects, or lower minimum_subjects in policy.toml",
    )


def _batch_limit(plan: TrainingPlan, subjects: int) -> list[Finding]:
    """Batches of a limited size keep the promise only up to a stated population.

    Whoever is held out counts too: which subjects those are depends on the site's secret.
    """
    limits = [phase.batch_limit.max_population for phase in plan.phases if phase.batch_limit]
    if not limits:
        return []
    holds = subjects <= min(limits)
    return [
        Finding(
            "batch-limit",
            holds,
            f"the plan's batch limit holds for at most {count_of(min(limits), 'subject')}, and"
            f" this one has {'no more' if holds else 'more'}",
            "ask for a plan with a larger max_population",
        )
    ]
