"""What a release says about itself: its model card (`README.md`), labels and figures. Pure.

* What epsilon means here is in `dp_statement.json` (`server.privacy_statement`).
* What was measured is told label by label, except where fewer than `MINIMUM_SLICE_SUBJECTS` records
  stand behind a figure: a release goes to people who see no more of the sites' data than it tells.
* The card is of Hugging Face's format, front matter by `huggingface_hub`; provenance, the bill of
  materials and the signature are in `server.provenance`, `ml_bom` and `model_signature`.
* The card's code is the task's own, and runs without Fiduciary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from audit.words import count_of
from client.learning.entity_evaluation import EntityReport
from client.learning.evaluation import MINIMUM_SLICE_SUBJECTS, groups_to_tell
from client.learning.language_evaluation import LanguageSummary
from client.learning.metrics import EvaluationReport, Summary, report_in_words
from compliance.rules.starts import Part
from compliance.statements import TrainingPlan
from server.card_sections import (
    data_section,
    evaluation_section,
    intended_use,
    limitations_section,
)
from server.datasets_told import DatasetTold
from server.runs import RunState
from server.starts import epsilon_with_start, unit_of_line

LIBRARY_OF_TASK = {"tabular-classification": "safetensors"}
"""What reads a release of all weights; transformers unless said here."""

PIPELINE_OF_TASK = {"causal-language-modelling": "text-generation"}
"""How model hubs call a task; as plans do unless said here."""

HEAD_OF_TASK = {
    "text-classification": ", and a linear head on mean-pooled tokens",
    "token-classification": ", and a linear head on each token",
    "image-classification": ", and a linear head",
    "causal-language-modelling": "",
    "tabular-classification": "",
}


def load_example(plan: TrainingPlan, *, folder: str, base: str) -> str:
    """Code that loads the release without Fiduciary.

    Args:
        plan: The plan.
        folder: Folder of the release.
        base: Folder or hub id of the base model.
    """
    from client.learning import tasks

    return tasks.load_example(plan).format(
        folder=json.dumps(folder),
        base=json.dumps(base),
        max_tokens=plan.max_tokens,
    )


def labels_file(plan: TrainingPlan) -> bytes:
    """`labels.json`: the labels, in the order of the model's outputs."""
    return json_file(list(plan.labels))


def evaluation_file(evaluation: EvaluationReport) -> bytes:
    """`evaluation.json`: the figures, without those of few records.

    Withheld are labels that are true of fewer than `MINIMUM_SLICE_SUBJECTS` records, bins of
    confidence that hold fewer, and the smallest others where the whole would tell them by
    subtraction. The matrix of who was taken for what stays with the coordinator.
    """
    supports = {str(n): row.support for n, row in enumerate(evaluation.labels) if row.support}
    sizes = {str(n): each.examples for n, each in enumerate(evaluation.reliability)}
    labels, bins = groups_to_tell(supports), groups_to_tell(sizes)
    told = {
        "format": "fiduciary.evaluation/1",
        "everybody": asdict(evaluation.everybody),
        "labels": [asdict(evaluation.labels[n]) for n in sorted(map(int, labels))],
        "labels_withheld": len(evaluation.labels) - len(labels),
        "reliability": [asdict(evaluation.reliability[n]) for n in sorted(map(int, bins))],
        "slices": {group: asdict(each) for group, each in evaluation.slices.items()},
        "minimum_records": MINIMUM_SLICE_SUBJECTS,
        "intervals": f"95 %, {_independent(evaluation)} taken as independent",
    }
    if evaluation.entities is not None:
        told["entities"] = _entities(evaluation.entities)
    return json_file(told)


def _independent(evaluation: EvaluationReport) -> str:
    if isinstance(evaluation.everybody, LanguageSummary):
        return "records for the perplexity and tokens for the accuracy"
    return "records" if evaluation.entities is None else "tokens and spans"


def _entities(report: EntityReport) -> dict[str, Any]:
    """Of spans, labels that sites gave fewer of are withheld as labels of records are."""
    supports = {str(n): row.support for n, row in enumerate(report.labels) if row.support}
    told = groups_to_tell(supports)
    return {
        "everybody": asdict(report.everybody),
        "labels": [asdict(report.labels[n]) for n in sorted(map(int, told))],
        "labels_withheld": len(report.labels) - len(told),
        "slices": {group: asdict(each) for group, each in report.slices.items()},
    }


def model_card(
    plan: TrainingPlan,
    plan_id: str,
    state: RunState,
    epsilon_by_site: Mapping[str, Any],
    audited_by_site: Mapping[str, Any] | None = None,
    datasets: Sequence[DatasetTold] = (),
    line: Sequence[Part] = (),
) -> bytes:
    """`README.md`, with the front matter that model hubs read."""
    lines = [
        "---",
        _front_matter(plan, state),
        "---",
        f"# {plan.name}",
        "",
        f"{_what(plan)}, trained together by {count_of(len(plan.sites), 'site')} of the federation "
        f"{plan.federation}. Records never left their sites, and every update was differentially "
        "private.",
        "",
        f"- **Purpose:** {plan.purpose} (legal basis: {plan.legal_basis}), and nothing else.",
        f"- **Keep it** at most {count_of(plan.retention_days, 'day')} after"
        f" {state.updated_at[:10]}.",
        f"- **Base model:** {plan.base_model.name}, `{plan.base_model.digest}`",
        *_started(line),
        f"- **Trained:** {_trained(plan)}.",
        f"- **Rounds:** {state.rounds_done} of {plan.rounds}{_missed(state)}.",
        f"- **Measured:** {_measured(state)}",
        f"- **Plan:** `{plan_id}`",
        "",
        *intended_use(plan),
        *evaluation_section(state.evaluation),
        "## Privacy",
        "",
        f"At most ε = {plan.privacy.epsilon} at δ = {plan.privacy.delta} for each {_unit(plan)} of "
        f"a site (adding or removing one {plan.privacy.unit}). What that means, and what it does "
        "not cover, is in `dp_statement.json`.",
        "",
        *_epsilons(epsilon_by_site, audited_by_site or {}),
        "",
        *_with_start(line),
        *data_section(datasets),
        *limitations_section(plan),
        *_labels(plan),
        "## Use",
        "",
        "```python",
        load_example(plan, folder=".", base=hub_name(plan)).rstrip(),
        "```",
        "",
        "## Evidence",
        "",
        "`provenance.json` holds the signed plan, its approval and every round's signed report, "
        "`provenance.intoto.jsonl` the same under the coordinator's signature, `mlbom.cdx.json` "
        "what the model is made of. `model.sig` signs every file: `model_signing verify key`. "
        "The manifest that came with this release names its key, is signed by the federation's "
        "coordinator and recorded in the compliance service's log.",
        "",
    ]
    return "\n".join(lines).encode("utf-8")


def _started(line: Sequence[Part]) -> list[str]:
    """A line for each plan whose rounds are in the model already."""
    return [
        f"- **Starts from** {count_of(part.rounds, 'round')} of `{part.plan_id}`"
        f" ({part.plan.name})."
        for part in line[:-1]
    ]


def _with_start(line: Sequence[Part]) -> list[str]:
    if len(line) < 2:
        return []
    told = ", ".join(f"{site} {value}" for site, value in epsilon_with_start(line).items())
    return [
        "The model also holds the rounds that it starts from. Of one "
        f"{unit_of_line(line)}, those and its own tell together at most, by site: ε {told}, at "
        f"δ = {line[-1].plan.privacy.delta}.",
        "",
    ]


def _front_matter(plan: TrainingPlan, state: RunState) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = PIPELINE_OF_TASK.get(plan.task, plan.task)
    report = state.evaluation
    figures = [] if report is None else [("everybody", report.everybody), *report.slices.items()]
    results = [
        EvalResult(
            task_type=task,
            dataset_type="private",
            dataset_name="held-out subjects of the sites",
            dataset_config=group,
            metric_type="accuracy",
            metric_value=each.accuracy,
        )
        for group, each in figures
    ]
    data = ModelCardData(
        library_name="peft" if is_lora(plan) else LIBRARY_OF_TASK.get(plan.task, "transformers"),
        pipeline_tag=task,
        base_model=hub_name(plan),
        tags=["federated-learning", "differential-privacy"] + ["lora"] * is_lora(plan),
        model_name=plan.name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(line_break="\n").rstrip("\n")


def hub_name(plan: TrainingPlan) -> str:
    """Where others find the base model: its hub id, or the path that the plan names."""
    from client.learning.base_model import EMBEDDED_MODEL

    embedded = plan.base_model.name == EMBEDDED_MODEL
    return "sentence-transformers/all-MiniLM-L6-v2" if embedded else plan.base_model.name


def _unit(plan: TrainingPlan) -> str:
    return "data subject" if plan.privacy.unit == "subject" else "single record"


def _epsilons(spent: Mapping[str, Any], audited: Mapping[str, Any]) -> list[str]:
    if not audited:
        rows = [f"| {site} | {value} |" for site, value in sorted(spent.items())]
        return ["| site | ε spent |", "|---|---|", *rows]
    return [
        "| site | ε spent | its own audit measured at least |",
        "|---|---|---|",
        *(
            f"| {site} | {value} | {audited.get(site, 'not told')} |"
            for site, value in sorted(spent.items())
        ),
    ]


def is_lora(plan: TrainingPlan) -> bool:
    """Whether the release is an adapter: a plan that trains all weights has none."""
    return all(phase.kind != "full" for phase in plan.phases)


def _what(plan: TrainingPlan) -> str:
    if plan.task == "causal-language-modelling":
        return "A language model"
    if plan.task == "token-classification":
        return f"A classifier of tokens with {count_of(len(plan.labels), 'label')}"
    return f"A classifier of {count_of(len(plan.labels), 'label')}"


def _trained(plan: TrainingPlan) -> str:
    if not is_lora(plan):
        return "all weights"
    layers = plan.adapter.layers
    where = "" if layers is None else f" in the upper {count_of(layers, 'layer')}"
    return f"LoRA{where}, rank {plan.adapter.rank}{HEAD_OF_TASK[plan.task]}"


def _missed(state: RunState) -> str:
    return f"; {state.rounds_missed} of them had no quorum" if state.rounds_missed else ""


def _measured(state: RunState) -> str:
    if state.metrics is None:
        return "not measured."
    report = state.evaluation
    if report is None:
        told, more = state.metrics.in_words(), ""
    else:
        told, more = report_in_words(report), " More in `evaluation.json`."
    is_record = report is None or (isinstance(report.everybody, Summary) and not report.entities)
    unit = "records" if is_record else "tokens"
    return f"{told}, on {state.metrics.examples} {unit} of the sites' held-out subjects.{more}"


def _labels(plan: TrainingPlan) -> list[str]:
    if not plan.labels:
        return []
    shown = [f"- `{label}`" for label in plan.labels[:100]]
    if len(plan.labels) > 100:
        shown.append(f"- … {len(plan.labels) - 100} more in `labels.json`")
    return ["## Labels", "", *shown, ""]


def json_file(value: Any) -> bytes:
    """JSON as the files of a release have it: for people to read, the same for the same value."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")
