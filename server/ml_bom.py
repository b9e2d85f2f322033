"""`mlbom.cdx.json`: what a release is made of, as a CycloneDX 1.6 bill of materials. Pure.

The model with its card, the base model, each file, each dataset that a site reported, and the
software that computed it (https://cyclonedx.org/docs/1.6/json/, ECMA-424). Deterministic: its
serial number follows from the plan and the model's files.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from client.learning.metrics import EvaluationReport
from compliance.rules.deidentification import in_words
from compliance.statements import TrainingPlan
from server.card_sections import limitations
from server.datasets_told import DatasetTold
from server.runs import RunState
from server.software import software_versions

BOM_FILE: Final = "mlbom.cdx.json"
SPECIFICATION: Final = "1.6"
SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"

_NAMESPACE: Final = uuid.UUID("b7a1ad4a-6f0e-5a52-9f55-6f1c1ce0a3c4")
"""Ours, for serial numbers that follow from content (RFC 9562, version 5)."""

_MODEL: Final = "model"
_BASE: Final = "base-model"

FORMAT_OF_CONTENT: Final = {
    "text-classification": "text",
    "token-classification": "text",
    "causal-language-modelling": "text",
    "image-classification": "image",
    "tabular-classification": "table",
}


def ml_bom(
    plan: TrainingPlan,
    plan_id: str,
    state: RunState,
    *,
    files: Mapping[str, str],
    epsilon_by_site: Mapping[str, Decimal],
    datasets: Sequence[DatasetTold],
) -> dict[str, Any]:
    """The bill.

    Args:
        plan: The plan.
        plan_id: Its digest.
        state: The run, with what was measured.
        files: `sha256:` digest of each file of the model.
        epsilon_by_site: What each site spent.
        datasets: What the sites reported to have trained on.
    """
    software = software_versions()
    named = [_data(each, plan) for each in datasets]
    parts = [
        _base_model(plan),
        *(_file(name, digest) for name, digest in sorted(files.items())),
        *named,
        *(_library(name, version) for name, version in sorted(software.items())),
    ]
    content = "".join([plan_id, *(f"{name}{files[name]}" for name in sorted(files))])
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}",
        "version": 1,
        "metadata": {
            "timestamp": state.updated_at,
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "fiduciary",
                        "version": software["fiduciary"],
                    }
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": _MODEL,
                "name": plan.name,
                "version": plan_id.removeprefix("sha256:")[:12],
                "description": f"Trained by the federation {plan.federation} for the purpose "
                f"{plan.purpose}",
                "modelCard": _card(plan, state, epsilon_by_site, datasets),
                "properties": _properties(plan, plan_id, epsilon_by_site),
            },
        },
        "components": parts,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [part["bom-ref"] for part in parts]},
        ],
    }


def _card(
    plan: TrainingPlan,
    state: RunState,
    epsilon_by_site: Mapping[str, Decimal],
    datasets: Sequence[DatasetTold],
) -> dict[str, Any]:
    spent = max(epsilon_by_site.values(), default=Decimal(0))
    return {
        "bom-ref": "model-card",
        "modelParameters": {
            "approach": {
                "type": "self-supervised"
                if plan.task == "causal-language-modelling"
                else "supervised"
            },
            "task": plan.task,
            "datasets": [{"ref": each.reference} for each in datasets],
            "inputs": [{"format": FORMAT_OF_CONTENT.get(plan.task, plan.task)}],
            "outputs": [{"format": "label" if plan.labels else "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(state)},
        "considerations": {
            "useCases": [f"{plan.purpose} (legal basis: {plan.legal_basis}), and nothing else"],
            "technicalLimitations": list(limitations(plan)),
            "performanceTradeoffs": [
                "Noise for differential privacy costs accuracy: at most ε "
                f"{spent:f} was spent at a site, of {plan.privacy.epsilon:f}"
            ],
            "ethicalConsiderations": [
                {
                    "name": "Privacy of the people whose records were trained on",
                    "mitigationStrategy": "Records are de-identified and stay at their sites; "
                    "dp_statement.json says what the promise is and what it does not cover",
                }
            ],
        },
    }


def _metrics(state: RunState) -> list[dict[str, Any]]:
    report = state.evaluation
    if report is None:
        told = () if state.metrics is None else (("accuracy", state.metrics.accuracy),)
        return [{"type": name, "value": f"{value:f}"} for name, value in told]
    return [_metric("everybody", report), *(_metric(group, report) for group in report.slices)]


def _metric(group: str, report: EvaluationReport) -> dict[str, Any]:
    figures = report.slices.get(group, report.everybody)
    low, high = figures.accuracy_interval
    return {
        "type": "accuracy",
        "value": f"{figures.accuracy}",
        "slice": group,
        "confidenceInterval": {"lowerBound": f"{low}", "upperBound": f"{high}"},
    }


def _properties(
    plan: TrainingPlan, plan_id: str, epsilon_by_site: Mapping[str, Decimal]
) -> list[dict[str, str]]:
    told = {
        "plan": plan_id,
        "privacy-unit": plan.privacy.unit,
        "delta": f"{plan.privacy.delta:f}",
        **{f"epsilon:{site}": f"{spent:f}" for site, spent in sorted(epsilon_by_site.items())},
    }
    return [{"name": f"fiduciary:{name}", "value": value} for name, value in told.items()]


def _base_model(plan: TrainingPlan) -> dict[str, Any]:
    """Its digest is over a folder, by our own rule: no hash that another tool could check."""
    return {
        "type": "machine-learning-model",
        "bom-ref": _BASE,
        "name": plan.base_model.name,
        "properties": [{"name": "fiduciary:digest", "value": plan.base_model.digest}],
    }


def _file(name: str, digest: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }


def _data(dataset: DatasetTold, plan: TrainingPlan) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": dataset.reference,
        "name": f"dataset of {dataset.site}",
        "properties": [
            {"name": "fiduciary:digest", "value": dataset.digest},
            {"name": "fiduciary:deidentification-digest", "value": dataset.deidentification},
            {"name": "fiduciary:deidentification-recall", "value": in_words(dataset.measured)},
        ],
        "data": [
            {
                "type": "dataset",
                "name": f"dataset of {dataset.site}",
                "classification": "de-identified personal data, held at the site",
                "sensitiveData": [f"used for {plan.purpose} by {plan.legal_basis}"],
            }
        ],
    }


def _library(name: str, version: str) -> dict[str, Any]:
    if name == "python":
        return {"type": "platform", "bom-ref": "python", "name": "Python", "version": version}
    return {
        "type": "library",
        "bom-ref": f"library:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
