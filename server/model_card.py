"""What a release says about itself: model card, privacy statement, provenance. Pure.

* The privacy statement says what epsilon means here, of whom, by which accountant, and what it
  does not cover; a number without that is not a promise.
* What was measured is told label by label, except where fewer than `MINIMUM_SLICE_SUBJECTS` records
  stand behind a figure: a release goes to people who see no more of the sites' data than it tells.
* Provenance is an in-toto statement: the files, the plan, its approval, each round's report.
* The card's code runs with plain transformers and peft.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from client.learning.evaluation import MINIMUM_SLICE_SUBJECTS, groups_to_tell
from client.learning.metrics import EvaluationReport, in_words
from compliance.resources import PlanEvidence, PlanView
from compliance.statements import TrainingPlan
from server.runs import RunState

IN_TOTO_STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:fiduciary:predicate:training-run:1"

SOFTWARE = (
    "fiduciary",
    "torch",
    "transformers",
    "peft",
    "opacus",
    "dp-accounting",
    "flwr",
    "safetensors",
    "cryptography",
)

NOT_COVERED = (
    "Held-out evaluation: sites send exact counts of right, wrong and how sure on their held-out "
    "subjects, from which all figures are computed. These counts are not differentially private; "
    "held-out subjects are never trained on. `evaluation.json` leaves out labels and bins with few "
    "records.",
    "The choice of labels, hyper-parameters and sites, if it was made by looking at private data.",
    "Other plans on the same subjects: their epsilons compose, and each site's ledger keeps count.",
    "Subjects whose records lie at more than one site: their sites' epsilons compose. One epsilon "
    "for each site assumes that a subject belongs to one site.",
    "De-identification: that names were removed before training is measured by each site, not "
    "proven.",
    "Groups: a group of k subjects has, at most, k times the epsilon and a larger delta.",
)

LOAD_EXAMPLE = """import json

import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification, AutoTokenizer

folder = {folder}
base = {base}
with open(f"{{folder}}/labels.json") as file:
    labels = json.load(file)
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = AutoModelForTokenClassification.from_pretrained(base, num_labels=len(labels))
model = PeftModel.from_pretrained(encoder, folder).eval()

texts = ["Please send me the invoice again."]
batch = tokenizer(
    texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt"
)
with torch.no_grad():
    token_logits = model(**batch).logits
mask = batch["attention_mask"].unsqueeze(-1)
logits = (token_logits * mask).sum(1) / mask.sum(1)  # a document's logits: the mean of its tokens'
print([labels[int(i)] for i in logits.argmax(1)])
"""


def load_example(plan: TrainingPlan, *, folder: str, base: str) -> str:
    """Code that loads the release with plain transformers and peft.

    Args:
        plan: The plan.
        folder: Folder of the release.
        base: Folder or hub id of the base model.
    """
    return LOAD_EXAMPLE.format(
        folder=json.dumps(folder),
        base=json.dumps(base),
        max_tokens=plan.max_tokens,
    )


def labels_file(plan: TrainingPlan) -> bytes:
    """`labels.json`: the labels, in the order of the model's outputs."""
    return _json(list(plan.labels))


def evaluation_file(evaluation: EvaluationReport) -> bytes:
    """`evaluation.json`: the figures, without those of few records.

    Withheld are labels that are true of fewer than `MINIMUM_SLICE_SUBJECTS` records, bins of
    confidence that hold fewer, and the smallest others where the whole would tell them by
    subtraction. The matrix of who was taken for what stays with the coordinator.
    """
    supports = {str(n): row.support for n, row in enumerate(evaluation.labels) if row.support}
    sizes = {str(n): each.examples for n, each in enumerate(evaluation.reliability)}
    labels, bins = groups_to_tell(supports), groups_to_tell(sizes)
    return _json(
        {
            "format": "fiduciary.evaluation/1",
            "everybody": asdict(evaluation.everybody),
            "labels": [asdict(evaluation.labels[n]) for n in sorted(map(int, labels))],
            "labels_withheld": len(evaluation.labels) - len(labels),
            "reliability": [asdict(evaluation.reliability[n]) for n in sorted(map(int, bins))],
            "slices": {group: asdict(each) for group, each in evaluation.slices.items()},
            "minimum_records": MINIMUM_SLICE_SUBJECTS,
            "intervals": "95 %, records taken as independent",
        }
    )


def privacy_statement(
    plan: TrainingPlan, plan_id: str, epsilon_by_site: Mapping[str, Any]
) -> dict[str, Any]:
    """`dp_statement.json`."""
    return {
        "format": "fiduciary.dp-statement/1",
        "plan_id": plan_id,
        "unit": plan.privacy.unit,
        "adjacency": plan.privacy.adjacency,
        "meaning": (
            "For each site: adding or removing all records of one data subject changes the "
            "probability of anything that the site's updates reveal by a factor of at most "
            "exp(epsilon), except with probability delta. The released model is computed from "
            "these updates alone."
        ),
        "delta": str(plan.privacy.delta),
        "epsilon_promised": str(plan.privacy.epsilon),
        "epsilon_by_site": {site: str(value) for site, value in epsilon_by_site.items()},
        "max_records_per_subject": plan.privacy.max_records_per_subject,
        "mechanism": "Poisson-subsampled Gaussian mechanism on per-subject clipped gradients",
        "phases": [phase.model_dump(mode="json") for phase in plan.phases],
        "public_divisor": "sampling_rate * nominal_subjects",
        "nominal_subjects": plan.privacy.nominal_subjects,
        "accountant": "privacy loss distributions (PLD), pessimistic discretisation",
        "accountant_software": f"dp-accounting {_version('dp-accounting')}",
        "trusts": [
            "that each site ran the software it reports: its noise is added at the site",
            "that nobody outside a site sees its updates except the coordinator, for whom the same "
            "bound holds",
        ],
        "does_not_cover": list(NOT_COVERED),
    }


def provenance(
    view: PlanView,
    evidence: PlanEvidence,
    state: RunState,
    *,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """`provenance.json`: an in-toto statement about the other files."""
    return {
        "_type": IN_TOTO_STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
            for name, digest in sorted(files.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "plan_id": view.plan_id,
            "plan": view.statement.to_json(),
            "approval": None if view.approval is None else view.approval.to_json(),
            "log_positions": {
                "submitted": view.submitted_position,
                "approved": view.approved_position,
            },
            "outcome": state.outcome,
            "rounds": [item.to_json() for item in evidence.rounds],
            "site_reports": sorted(item.digest for item in evidence.reports),
            "sites": sorted(state.epsilon_by_site),
            "software": software_versions(),
        },
    }


def software_versions() -> dict[str, str]:
    """Versions of what computed the release."""
    return {"python": platform.python_version(), **{name: _version(name) for name in SOFTWARE}}


def model_card(
    plan: TrainingPlan, plan_id: str, state: RunState, epsilon_by_site: Mapping[str, Any]
) -> bytes:
    """`README.md`, with the front matter that model hubs read."""
    front = {
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "base_model": hub_name(plan),
        "tags": ["federated-learning", "differential-privacy", "lora"],
    }
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in front.items()),
        "---",
        f"# {plan.name}",
        "",
        f"A classifier of {len(plan.labels)} labels, fine-tuned together by {len(plan.sites)} "
        f"sites of the federation {plan.federation}. Records never left their sites, and every "
        "update was differentially private.",
        "",
        f"- **Purpose:** {plan.purpose} (legal basis: {plan.legal_basis}), and nothing else.",
        f"- **Keep it** at most {plan.retention_days} days after {state.updated_at[:10]}.",
        f"- **Base model:** {plan.base_model.name}, `{plan.base_model.digest}`",
        f"- **Adapter:** LoRA, rank {plan.adapter.rank}, and a linear head on mean-pooled tokens.",
        f"- **Rounds:** {state.rounds_done} of {plan.rounds}.",
        f"- **Measured:** {_measured(state)}",
        f"- **Plan:** `{plan_id}`",
        "",
        "## Privacy",
        "",
        f"At most ε = {plan.privacy.epsilon} at δ = {plan.privacy.delta} for each data subject of "
        "a site (adding or removing one subject). What that means, and what it does not cover, is "
        "in `dp_statement.json`.",
        "",
        "| site | ε spent |",
        "|---|---|",
        *(f"| {site} | {value} |" for site, value in sorted(epsilon_by_site.items())),
        "",
        "## Labels",
        "",
        *(_bullets(plan.labels)),
        "",
        "## Use",
        "",
        "```python",
        load_example(plan, folder=".", base=hub_name(plan)).rstrip(),
        "```",
        "",
        "## Evidence",
        "",
        "`provenance.json` holds the signed plan, its approval and every round's signed report. "
        "The manifest that came with this release is signed by the federation's coordinator and "
        "recorded in the compliance service's log.",
        "",
    ]
    return "\n".join(lines).encode("utf-8")


def hub_name(plan: TrainingPlan) -> str:
    """Where others find the base model: its hub id, or the path that the plan names."""
    from client.learning.base_model import EMBEDDED_MODEL

    embedded = plan.base_model.name == EMBEDDED_MODEL
    return "sentence-transformers/all-MiniLM-L6-v2" if embedded else plan.base_model.name


def _measured(state: RunState) -> str:
    if state.metrics is None:
        return "not measured."
    of = f"{state.metrics.examples} records of the sites' held-out subjects."
    if state.evaluation is None:
        return f"{state.metrics.accuracy} accuracy and {state.metrics.macro_f1} macro F1 on {of}"
    return f"{in_words(state.evaluation.everybody)}, on {of} By label in `evaluation.json`."


def _bullets(labels: Sequence[str]) -> list[str]:
    shown = [f"- `{label}`" for label in labels[:100]]
    return shown + ([f"- … {len(labels) - 100} more in `labels.json`"] if len(labels) > 100 else [])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")
