"""Of a model card: what a model is for, how good it is, and where it ends. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from client.learning.language_evaluation import LanguageSummary
from client.learning.metrics import EvaluationReport, Summary
from compliance.rules.deidentification import in_words
from compliance.statements import TrainingPlan
from server.datasets_told import DatasetTold


def intended_use(plan: TrainingPlan) -> list[str]:
    """What the plan allows, and what that leaves out."""
    return [
        "## Intended use",
        "",
        f"For the purpose `{plan.purpose}` alone, by those to whom it was granted, within their "
        f"grant. Its training was lawful by: {plan.legal_basis}.",
        "",
        "Out of scope: any other purpose; decisions about a person without a human who can "
        "overrule them; passing it on.",
        "",
    ]


def evaluation_section(report: EvaluationReport | None) -> list[str]:
    """The figures with their intervals, for everybody and by declared group."""
    if report is None:
        return []
    rows = [_row("everybody", report.everybody)]
    rows += [_row(group, figures) for group, figures in sorted(report.slices.items())]
    return [
        "## Evaluation",
        "",
        "On the sites' held-out subjects, of whom no record was trained on. Intervals are 95 %. "
        "Groups of few records are not told.",
        "",
        "| who | examples | accuracy | interval | more |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _row(who: str, figures: Summary | LanguageSummary) -> str:
    low, high = figures.accuracy_interval
    if isinstance(figures, Summary):
        more = f"macro F1 {figures.macro.f1}"
    else:
        more = "" if figures.perplexity is None else f"perplexity {figures.perplexity}"
    cell = who.replace("|", "\\|")
    return f"| {cell} | {figures.examples} | {figures.accuracy} | {low} to {high} | {more} |"


def limitations(plan: TrainingPlan) -> Sequence[str]:
    """What the model does not do, and what is not known of it; of the plan alone."""
    told = [
        "It was measured on the participating sites' own records; elsewhere it may do worse.",
        "It was trained with noise for differential privacy: rare labels and small groups suffer "
        "most from it.",
    ]
    if not plan.groups:
        told.append("The plan declares no groups: whether it serves some worse was not measured.")
    if plan.task == "causal-language-modelling":
        told.append("What it writes may be false, and sounds the same.")
    if plan.privacy.unit == "record":
        told.append("The promise of privacy is to single records, not to all of a person's.")
    return told


def limitations_section(plan: TrainingPlan) -> list[str]:
    """`limitations`, as a section."""
    return ["## Limitations", "", *(f"- {each}" for each in limitations(plan)), ""]


def data_section(datasets: Sequence[DatasetTold]) -> list[str]:
    """The datasets, as far as the sites tell of them."""
    if not datasets:
        return []
    rows = [
        f"| {each.site} | `{each.digest[:23]}…` | `{each.deidentification[:23]}…` | "
        f"{in_words(each.measured)} |"
        for each in datasets
    ]
    return [
        "## Training data",
        "",
        "Records stay at their sites. Digests name the datasets and the pipelines that "
        "de-identified them; `provenance.json` has them in full. Recall is the share of a text's "
        "identifying characters that its site's pipeline finds, measured by the site: with 95 % "
        "confidence, on labelled texts (evaluation) or its own rows (review).",
        "",
        "| site | dataset | de-identification | its recall |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
