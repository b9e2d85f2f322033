"""What a release tells of its evaluation, and what it keeps back."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np

from client.learning.evaluation import Evaluation
from client.learning.metrics import EvaluationReport, evaluation_report
from compliance.statements import Metrics
from server.model_card import evaluation_file, model_card
from server.runs import RoundSummary, RunState
from tests.server.conftest import plan_of
from tests.server.scripted import counts_of

PLAN = plan_of()
DIGEST = f"sha256:{'a' * 64}"
TIME = "2026-01-31T12:00:00Z"


def report_of(confusion: list[list[int]]) -> EvaluationReport:
    labels = [f"label-{place}" for place in range(len(confusion))]
    return evaluation_report(Evaluation.from_arrays(counts_of(confusion), len(labels)), labels)


def released(confusion: list[list[int]]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(evaluation_file(report_of(confusion)))
    return told


def labels_of(told: dict[str, Any]) -> list[str]:
    return [row["label"] for row in told["labels"]]


def test_labels_of_few_records_are_withheld_also_from_subtraction() -> None:
    told = released(np.diag([40, 10, 30, 0]).tolist())
    # 80 examples less the 40 of one label would tell the 10 of another: 30 are withheld with them.
    assert labels_of(told) == ["label-0"]
    assert told["labels_withheld"] == 3
    assert told["everybody"]["examples"] == 80
    assert labels_of(released(np.diag([40, 11, 30, 0]).tolist())) == [
        "label-0",
        "label-1",
        "label-2",
    ]
    assert labels_of(released(np.diag([40, 10, 9]).tolist())) == ["label-0"]
    assert labels_of(released(np.diag([10, 10, 9]).tolist())) == []


def test_the_matrix_stays_with_the_coordinator() -> None:
    told = released([[30, 1], [0, 30]])
    assert "confusion" not in told
    assert [each["examples"] for each in told["reliability"]] == [61]


def _run(evaluation: EvaluationReport | None) -> RunState:
    metrics = Metrics(accuracy=Decimal("0.9"), macro_f1=Decimal("0.8"), examples=61)
    summary = RoundSummary(
        round=0,
        phase="probe",
        participants=(),
        absent={},
        report=DIGEST,
        state_digest=DIGEST,
        metrics=metrics,
        seconds=1,
    )
    return RunState(
        plan_id=DIGEST,
        name=PLAN.name,
        rounds=1,
        rounds_done=1,
        history=(summary,),
        evaluation=evaluation,
        started_at=TIME,
        updated_at=TIME,
    )


def test_the_card_tells_the_figures_in_words() -> None:
    card = model_card(PLAN, DIGEST, _run(report_of([[30, 1], [0, 30]])), {}).decode()
    for said in (
        "accuracy 0.983607 (95 % interval 0.9128 to 0.9971)",
        "macro F1 0.983607",
        "macro ROC-AUC 0.9839",
        "expected calibration error 0.1028",
        "on 61 records",
    ):
        assert said in card


def test_a_run_measured_before_there_were_more_figures_is_told_as_it_was() -> None:
    run = RunState.model_validate_json(_run(None).model_dump_json(exclude={"evaluation"}))
    card = model_card(PLAN, DIGEST, run, {}).decode()
    assert "accuracy 0.9, macro F1 0.8, on 61 records" in card


def test_all_figures_survive_the_disk() -> None:
    run = _run(report_of([[30, 1], [0, 30]]))
    again = RunState.model_validate_json(json.dumps(run.model_dump(mode="json")))
    assert again == run
    assert isinstance(again.evaluation, EvaluationReport)
