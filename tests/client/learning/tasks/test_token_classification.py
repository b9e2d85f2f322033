"""Labelled parts of texts: what is read and refused, the exact private step, counts, releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from audit.errors import MalformedInput, VerificationFailed
from client.learning.base_model import base_model_digest
from client.learning.data import Example, Span, StoredRecord
from client.learning.entity_evaluation import SpanCounts, runs
from client.learning.losses import IGNORED
from client.learning.membership import attack
from client.learning.metrics import evaluation_report
from client.learning.passes import Passes, Settings
from client.learning.plan_model import HISTOGRAM
from client.learning.private_sgd import SiteTrainer
from client.learning.randomness import Keystream
from client.learning.tasks import build_model, read_examples
from client.learning.tasks.token_classification import TokenClassifier, label_tokens
from compliance.statements import Adapter, BaseModelReference, Phase, TrainingPlan
from tests.client.learning.conftest import MakePlan, phase
from tests.client.learning.tasks.conftest import check_step, run_load_example, train

LABELS = ("O", "person", "city")
NAMES = ("Anna Berg", "Tom Smith", "Maria Lopez")
CITIES = ("Ulm", "Paris", "London")


def plan_of(make_plan: MakePlan, *phases: Phase, **changes: Any) -> TrainingPlan:
    return make_plan(*phases, **{"task": "token-classification", "labels": LABELS, **changes})


def sentence(number: int) -> tuple[str, list[list[Any]]]:
    """A text and its spans; names and cities vary on their own."""
    name, city = NAMES[number % 3], CITIES[number // 3 % 3]
    text = f"{name} called from {city} on monday"
    start = text.index(city)
    return text, [[0, len(name), "person"], [start, start + len(city), "city"]]


def stored(records_of: list[int], group: str = "") -> list[StoredRecord]:
    return [
        StoredRecord(f"subject-{subject:03}", text, json.dumps(spans), group)
        for subject, count in enumerate(records_of)
        for text, spans in (sentence(subject + 5 * n) for n in range(count))
    ]


@pytest.fixture
def model(make_plan: MakePlan, tiny_base: Path) -> TokenClassifier:
    return TokenClassifier.build(plan_of(make_plan, phase("adapter")), tiny_base)


# --- records --------------------------------------------------------------------------------------


def test_spans_are_read_in_order_with_the_plans_labels(make_plan: MakePlan) -> None:
    plan = plan_of(make_plan, groups=("ward",))
    label = '[[10, 13, "city"], [0, 4, "person"]]'
    read = read_examples(plan, [StoredRecord("s", "Anna from Ulm", label, "ward")])
    assert read == [
        Example("s", "Anna from Ulm", group="ward", spans=(Span(0, 4, 1), Span(10, 13, 2)))
    ]
    assert read_examples(plan, [StoredRecord("s", "Anna", "[]")])[0].spans == ()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("", "not JSON"),
        ("Anna", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"Anna": 1}', "not a list"),
        ("null", "not a list"),
        ('["Anna"]', "not .start, end, label."),
        ('[[0, 4, "person", "Anna"]]', "not .start, end, label."),
        ('[["0", 4, "person"]]', "no start before its end"),
        ("[[0.0, 4, 1]]", "no start before its end"),
        ('[[false, 4, "person"]]', "no start before its end"),
        ('[[-1, 4, "person"]]', "no start before its end"),
        ('[[4, 4, "person"]]', "no start before its end"),
        ('[[0, 14, "person"]]', "beyond the text"),
        ('[[0, 5, "person"], [4, 9, "city"]]', "overlap"),
        ('[[0, 5, "person"], [0, 5, "person"]]', "overlap"),
        ('[[0, 4, "Anna"]]', "a label that the plan does not name"),
        ('[[0, 4, "O"]]', "a label that the plan does not name after its first"),
        ("[[0, 4, 1]]", "a label that the plan does not name"),
    ],
)
def test_malformed_spans_are_refused_without_quoting_them(
    make_plan: MakePlan, label: str, said: str
) -> None:
    records = [StoredRecord("s", "Ulm", "[]"), StoredRecord("s", "Anna from Ulm", label)]
    with pytest.raises(MalformedInput, match=said) as refused:
        read_examples(plan_of(make_plan), records)
    told = f"{refused.value} {refused.value.fix}"
    assert "record 2" in told
    assert "Anna" not in told
    assert refused.value.__cause__ is None


def test_a_token_has_the_label_of_what_covers_it(model: TokenClassifier) -> None:
    text = "Unbelievably, Anna-Lena lives in Ulm."
    spans = (Span(14, 23, 1), Span(33, 36, 2))
    (record,) = model.encode([Example("s", text, spans=spans)])
    tokens = model.texts.tokenizer.convert_ids_to_tokens(record.content)
    named = dict(zip(tokens, record.target.labels, strict=True))
    assert named["[CLS]"] == named["[SEP]"] == IGNORED
    assert [named[token] for token in ("anna", "-", "lena", "ul", "##m")] == [1, 1, 1, 2, 2]
    assert {named[token] for token in (",", "lives", "in", ".")} == {0}
    first = tokens.index("anna") - 1  # entities are told in tokens without the special ones
    assert record.target.entities[0] == Span(first, first + 3, 1)
    assert sum(model.shares(record)) == pytest.approx(1)
    assert model.shares(record)[1] == pytest.approx(3 / (len(tokens) - 2))


def test_characters_are_counted_as_python_does(model: TokenClassifier) -> None:
    text = "😀 é Anna"
    (record,) = model.encode([Example("s", text, spans=(Span(4, 8, 1),))])
    assert sum(label == 1 for label in record.target.labels) == 1


def test_what_the_plans_length_cuts_away_is_labelled_and_has_no_token() -> None:
    told = label_tokens([(0, 0), (0, 4), (0, 0)], [Span(0, 4, 1), Span(9, 12, 2)])
    assert told.labels == (IGNORED, 1, IGNORED)
    assert told.entities == (Span(0, 1, 1), Span(0, 0, 2))


# --- losses and steps -----------------------------------------------------------------------------


def test_a_records_loss_is_the_mean_over_its_labelled_tokens(
    model: TokenClassifier, make_plan: MakePlan
) -> None:
    plan = plan_of(make_plan)
    examples = [*read_examples(plan, stored([1, 1])), Example("quiet", "")]
    model.set_state(train(model, plan_of(make_plan, phase("adapter")), examples[:2]))
    losses = Passes(model, examples, Settings()).losses()
    for example, loss in zip(examples[:2], losses, strict=False):
        (record,) = model.encode([example])
        with torch.no_grad():
            logits = model.network(*model.raw_inputs([record]))[0]
        targets = torch.tensor(record.target.labels)
        assert loss == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-5)
    assert losses[2] == 0.0


@pytest.mark.parametrize(
    ("kind", "layers", "engine"),
    [
        ("probe", None, "one_backward"),
        ("probe", None, "hooks"),
        ("adapter", None, "one_backward"),
        ("adapter", None, "hooks"),
        ("adapter", 1, "one_backward"),
        ("adapter", 1, "hooks"),
        ("full", None, "one_backward"),  # Opacus needs a row of BERT's positions a record
    ],
)
def test_a_step_is_that_of_exact_subject_gradients(
    kind: str, layers: int | None, engine: str, make_plan: MakePlan, tiny_base: Path
) -> None:
    adapter = Adapter(rank=2, alpha=4, layers=layers)
    plan = plan_of(make_plan, phase(kind, learning_rate="1000"), adapter=adapter)
    examples = read_examples(plan, stored([1, 3, 2]))
    check_step(TokenClassifier.build(plan, tiny_base), plan, examples, engine)


@pytest.mark.parametrize(("kind", "rate"), [("probe", "20"), ("adapter", "1"), ("full", "0.5")])
def test_training_without_noise_learns(
    kind: str, rate: str, make_plan: MakePlan, tiny_base: Path
) -> None:
    plan = plan_of(
        make_plan, phase(kind, steps_per_round=40, learning_rate=rate, max_grad_norm="1")
    )
    model = TokenClassifier.build(plan, tiny_base)
    examples = read_examples(plan, stored([1] * 18))
    state = train(model, plan, examples)
    counts = SiteTrainer(model, plan, examples).evaluate(state, examples)
    report = evaluation_report(counts, LABELS)
    assert report.entities is not None
    assert report.entities.everybody.support == 36
    assert report.entities.everybody.f1 is not None
    assert report.entities.everybody.f1 > 0.9
    assert report.everybody.accuracy > 0.95


def test_rare_labels_weigh_more_by_the_histogram(make_plan: MakePlan, tiny_base: Path) -> None:
    histogram = phase("histogram", max_grad_norm="1", learning_rate="1")
    plan = plan_of(make_plan, histogram, phase("probe"), class_weights="histogram")
    model = TokenClassifier.build(plan, tiny_base)
    examples = read_examples(plan, stored([1] * 10))
    state = train(model, plan, examples)
    shares = np.mean([model.shares(record) for record in model.encode(examples)], axis=0)
    np.testing.assert_allclose(state[HISTOGRAM], shares, atol=1e-5)
    model.set_state(state)
    weights = model.histogram.class_weights()
    assert weights[0] < weights[1] < weights[2] == 1


# --- state, base model, release -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_state_survives_being_set(kind: str, make_plan: MakePlan, tiny_base: Path) -> None:
    plan = plan_of(make_plan, phase(kind, learning_rate="3"))
    examples = read_examples(plan, stored([1, 2]))
    model = TokenClassifier.build(plan, tiny_base)
    state = train(model, plan, examples)
    model.set_state(state)
    losses = Passes(model, examples, Settings()).losses()
    other = TokenClassifier.build(plan, tiny_base)
    other.set_state(state)
    np.testing.assert_allclose(Passes(other, examples, Settings()).losses(), losses, rtol=1e-5)
    for name, array in other.get_state().items():
        np.testing.assert_allclose(array, state[name], rtol=1e-5, atol=1e-6)


def test_another_base_model_is_refused(
    make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    reference = BaseModelReference(name="x", digest=base_model_digest(tmp_path))
    plan = plan_of(make_plan, base_model=reference)
    with pytest.raises(VerificationFailed, match="expected"):
        build_model(plan, tiny_base)


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_the_cards_code_finds_the_spans_that_the_model_finds(
    kind: str, make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    rate = "1" if kind == "adapter" else "0.5"
    plan = plan_of(
        make_plan, phase(kind, steps_per_round=40, learning_rate=rate, max_grad_norm="1")
    )
    model = TokenClassifier.build(plan, tiny_base)
    model.set_state(train(model, plan, read_examples(plan, stored([1] * 18))))
    model.save(tmp_path / "release")
    (tmp_path / "release" / "labels.json").write_text(json.dumps(LABELS))
    found = json.loads(run_load_example(plan, tmp_path / "release", tiny_base))
    assert found[0] == [0, 9, "person"]
    assert [22, 25, "city"] in found
    assert found == spans_of(model, "Anna Berg called from Ulm on Monday.")  # the card's text


def spans_of(model: TokenClassifier, text: str) -> list[list[Any]]:
    """What the model labels, in characters."""
    (record,) = model.encode([Example("s", text)])
    with torch.no_grad():
        logits = model.network(*model.raw_inputs([record]))[0]
    told = model.texts.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    offsets = [each for each in told if each[0] != each[1]]
    said = runs(logits[1:-1].argmax(1).tolist())
    return [[offsets[span.start][0], offsets[span.end - 1][1], LABELS[span.label]] for span in said]


# --- evaluation -----------------------------------------------------------------------------------


def test_tokens_and_spans_are_counted_and_sliced_by_subjects(
    make_plan: MakePlan, tiny_base: Path
) -> None:
    plan = plan_of(make_plan, phase("probe"), groups=("ward", "home"))
    model = TokenClassifier.build(plan, tiny_base)
    ward, home = stored([2] * 11, "ward"), stored([4] * 3, "home")
    home = [StoredRecord(f"h-{r.subject}", r.text, r.label, r.group) for r in home]
    # Nobody else is left to hide the three: with them alone the ward would tell them.
    examples = read_examples(plan, ward + home)
    evaluation = SiteTrainer(model, plan, examples).evaluate(model.get_state(), examples)
    assert evaluation.slices == {}
    others = [StoredRecord(f"o{n}", *r[1:]) for n, r in enumerate(_fields(stored([1] * 9)))]
    examples = read_examples(plan, ward + home + others)
    evaluation = SiteTrainer(model, plan, examples).evaluate(model.get_state(), examples)
    assert set(evaluation.slices) == {"ward"}
    counts: SpanCounts = evaluation.everybody
    tokens = [label for r in model.encode(examples) for label in r.target.labels if label >= 0]
    assert counts.examples == len(tokens)
    assert counts.confusion.sum(axis=1).tolist() == np.bincount(tokens, minlength=3).tolist()
    assert counts.entities[:, 2].tolist() == [0, 43, 43]
    assert evaluation.slices["ward"].entities[:, 2].tolist() == [0, 22, 22]


def _fields(records: list[StoredRecord]) -> list[tuple[str, str, str, str]]:
    return [(r.subject, r.text, r.label, r.group) for r in records]


def test_the_attack_works_on_labelled_spans(model: TokenClassifier, make_plan: MakePlan) -> None:
    plan = plan_of(make_plan)
    examples = read_examples(plan, stored([1] * 40))
    found = attack(
        model,
        examples[:20],
        examples[20:],
        held_out_share=0.5,
        delta=1e-5,
        coins=Keystream(b"coins"),
    )
    assert (found.members, found.others) == (20, 20)
    assert found.area.low < 0.5 < found.area.high
