"""Plans that model language or label spans: what is accepted, reported, kept and released."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from client.arrays import Arrays
from client.learning.data import Span
from client.learning.entity_evaluation import SpanCounts, count_entities
from client.learning.evaluation import Evaluation
from client.learning.language_evaluation import LanguageCounts, LanguageSummary
from client.learning.metrics import evaluation_report
from compliance.statements import Adapter, Metrics, Phase, RoundReport, TrainingPlan
from server.errors import MalformedReply
from server.model_card import evaluation_file, load_example, model_card
from server.replies import accept_evaluation
from server.runs import RunState
from server.status import federation_status
from tests.server.conftest import Service, plan_of
from tests.server.ground import Ground, ground
from tests.server.scripted import Script, counts_of
from tests.server.test_replies import expected, report

DIGEST = f"sha256:{'a' * 64}"


def phase(kind: str, **changes: Any) -> Phase:
    return plan_of().phases[0].model_copy(update={"kind": kind, **changes})


def language_plan(**changes: Any) -> TrainingPlan:
    fields: dict[str, Any] = {
        "task": "causal-language-modelling",
        "labels": (),
        "phases": (phase("adapter", rounds=1),),
        "adapter": Adapter(target_modules=("c_attn",)),
    }
    return plan_of(**{**fields, **changes})


def span_plan(**changes: Any) -> TrainingPlan:
    fields = {"task": "token-classification", "labels": ("O", "person", "city")}
    return plan_of(**{**fields, **changes})


def language_counts(loss: float = 2.0, records: int = 20) -> LanguageCounts:
    """Records of ten tokens with this loss, on average; half of them were the likeliest."""
    return LanguageCounts.count(
        [
            np.stack([np.full(10, loss + (n % 2) - 0.5), np.arange(10) % 2], axis=1)
            for n in range(records)
        ]
    )


def span_counts() -> SpanCounts:
    """Twelve persons that were found, three cities that were missed."""
    records = [([1, 0], [Span(0, 1, 1)])] * 12 + [([0, 0], [Span(0, 1, 2)])] * 3
    true = [1, 0] * 12 + [2, 0] * 3
    logits = 3.0 * np.eye(3)[[1, 0] * 12 + [0, 0] * 3]
    return SpanCounts.of_tokens(true, logits, count_entities(records, 3))


def accepted(plan: TrainingPlan, arrays: Arrays) -> Evaluation[Any]:
    claims: dict[str, Any] = {"activity": "evaluate"}
    evaluation, _ = accept_evaluation(
        expected(plan=plan, activity="evaluate"), arrays, report(arrays, **claims)
    )
    return evaluation


def test_counts_of_language_are_accepted_with_declared_groups_only() -> None:
    whole, ward = language_counts(records=30), language_counts(records=12)
    arrays = Evaluation(whole, {"ward": ward}).to_arrays()
    told = accepted(language_plan(groups=("ward",)), arrays)
    assert told.everybody.examples == 300
    assert told.slices["ward"].examples == 120
    with pytest.raises(MalformedReply, match="nothing else"):
        accepted(language_plan(), arrays)
    with pytest.raises(MalformedReply, match="not among all"):
        accepted(language_plan(groups=("ward",)), Evaluation(ward, {"ward": whole}).to_arrays())


def test_counts_of_another_task_are_refused() -> None:
    classes, spans, language = (
        counts_of(np.eye(3, dtype=int)),
        span_counts().to_arrays(),
        language_counts().to_arrays(),
    )
    assert accepted(span_plan(), spans).everybody.entities.sum() == 39
    for plan, arrays in (
        (plan_of(), spans),
        (plan_of(), language),
        (span_plan(), classes),
        (span_plan(), language),
        (language_plan(), classes),
    ):
        with pytest.raises(MalformedReply, match="and nothing else"):
            accepted(plan, arrays)


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("ground")) as made:
        yield made


def _run(field: Ground, plan_id: str, plan: TrainingPlan, arrays: Arrays) -> RunState:
    script = Script(counts=lambda _: arrays)
    training = field.training(plan_id, plan)
    run_id = field.link.open_run()
    with field.site("st-elm", plan, script), field.site("lakeside", plan, script):
        try:
            return training.run(run_id)
        finally:
            field.link.close_run(run_id, completed=False)


def test_a_run_of_a_language_plan_is_measured_by_its_perplexity(field: Ground) -> None:
    changes = language_plan(name="notes").model_dump()
    plan_id, plan = field.approved(**{**changes, "name": "notes"})
    state = _run(field, plan_id, plan, Evaluation(language_counts()).to_arrays())
    assert state.stage == "completed", state.reason
    assert state.metrics == Metrics(
        accuracy=Decimal("0.500000"), perplexity=Decimal("7.389056"), examples=400
    )
    evidence = field.compliance.plan_evidence(plan_id)
    signed = RoundReport.from_body(evidence.rounds[0].body)
    assert signed.metrics == state.metrics
    assert "macro_f1" not in signed.body()["metrics"] or signed.metrics.macro_f1 is None
    kept = field.folder(plan_id).load()
    assert kept is not None
    assert kept.evaluation is not None
    assert isinstance(kept.evaluation.everybody, LanguageSummary)
    assert kept.evaluation.everybody.records == 40
    shown = [view for view in field.notes.views if view.plan_id == plan_id]
    assert shown[-1].perplexity == "7.389056"
    assert shown[-1].macro_f1 == ""
    assert any("accuracy 0.5000, perplexity 7.39" in line for line in field.notes.lines)
    (told,) = [p for p in federation_status(field.federation)["plans"] if p["name"] == "notes"]
    assert (told["macro_f1"], told["perplexity"]) == (None, "7.389056")
    assert told["measured"].startswith("perplexity 7.3891 (95 % interval ")
    card = model_card(plan, plan_id, kept, {"st-elm": Decimal(1)}).decode()
    for said in (
        "pipeline_tag: text-generation\n",
        "library_name: peft\n",
        "# notes\n\nA language model, trained together by 2 sites",
        "- **Trained:** LoRA, rank 8.",
        "- **Measured:** perplexity 7.3891",
        "on 400 tokens",
        "AutoModelForCausalLM",
    ):
        assert said in card, card
    assert "## Labels" not in card
    told = json.loads(evaluation_file(kept.evaluation))
    assert told["everybody"]["perplexity"] == 7.389056
    assert told["labels"] == []
    assert "entities" not in told


def _card(plan: TrainingPlan, evaluation: Evaluation[Any]) -> str:
    state = RunState(
        plan_id=DIGEST,
        name=plan.name,
        rounds=1,
        evaluation=evaluation_report(evaluation, plan.labels),
        history=(
            {
                "round": 0,
                "phase": plan.phases[0].kind,
                "participants": (),
                "absent": {},
                "report": DIGEST,
                "state_digest": DIGEST,
                "metrics": Metrics(accuracy=Decimal(1), macro_f1=Decimal(1), examples=30),
                "seconds": 1.0,
            },
        ),
        started_at="2026-01-31T12:00:00Z",
        updated_at="2026-01-31T12:00:00Z",
    )
    again = RunState.model_validate_json(json.dumps(state.model_dump(mode="json")))
    assert again == state
    return model_card(plan, DIGEST, again, {}).decode()


def test_a_card_of_labelled_spans_tells_of_spans_and_withholds_rare_labels() -> None:
    plan = span_plan(phases=(phase("full"),))
    evaluation = Evaluation(span_counts())
    card = _card(plan, evaluation)
    for said in (
        "pipeline_tag: token-classification\n",
        "library_name: transformers\n",
        "tags:\n- federated-learning\n- differential-privacy\nmodel-index:",
        "A classifier of tokens with 3 labels",
        "- **Trained:** all weights.",
        "of 15 spans: precision 1.0000, recall 0.8000, F1 0.8889; of tokens: accuracy 0.9",
        "on 30 tokens",
        "AutoModelForTokenClassification.from_pretrained(folder)",
    ):
        assert said in card, card
    assert "PeftModel" not in card
    told = json.loads(evaluation_file(evaluation_report(evaluation, plan.labels)))
    # Twelve persons could be told, were the three cities not what is left of all spans.
    assert told["entities"]["labels"] == []
    assert told["entities"]["labels_withheld"] == 2
    assert told["entities"]["everybody"]["support"] == 15
    assert told["intervals"] == "95 %, tokens and spans taken as independent"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": (phase("adapter"),)}, "LoRA, rank 8, and a linear head on mean-pooled tokens"),
        (
            {"phases": (phase("adapter"),), "adapter": Adapter(layers=2)},
            "LoRA in the upper 2 layers, rank 8, and",
        ),
        (
            {"task": "token-classification", "phases": (phase("adapter"),)},
            "LoRA, rank 8, and a linear head on each token",
        ),
        ({"phases": (phase("full"),)}, "all weights"),
    ],
)
def test_the_card_says_what_was_trained(changes: dict[str, Any], said: str) -> None:
    plan = plan_of(**changes)
    told = span_counts() if plan.task == "token-classification" else None
    evaluation = told or Evaluation.from_arrays(counts_of(np.eye(3, dtype=int)), 3).everybody
    assert f"- **Trained:** {said}" in _card(plan, Evaluation(evaluation))


@pytest.mark.parametrize("kind", ["adapter", "full"])
@pytest.mark.parametrize("make", [plan_of, span_plan, language_plan])
def test_the_cards_code_is_the_tasks_own_and_is_python(make: Any, kind: str) -> None:
    code = load_example(make(phases=(phase(kind),)), folder=".", base="hub/model")
    compile(code, "card", "exec")
    assert ("peft" in code) == (kind == "adapter")
    assert 'folder = "."' in code
