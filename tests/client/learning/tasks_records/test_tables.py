"""Tables: how rows are read, what is trained, and what others can load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.errors import MalformedInput, NotFound, VerificationFailed
from client.base_models import find_base_model, installed_digest
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import (
    TABULAR_MODELS,
    base_model_digest,
    resolve_base_model,
)
from client.learning.data import StoredRecord
from client.learning.metrics import accuracy
from client.learning.plan_model import PlanModel
from client.learning.private_sgd import SiteTrainer
from client.learning.table_inputs import TableInputs
from client.learning.table_networks import MAX_SLOTS, TableNetwork
from client.learning.tasks import build_model, read_examples
from compliance.statements import BaseModelReference, Feature, TrainingPlan
from tests.client.learning.conftest import phase
from tests.client.learning.tasks_records.plans import (
    FEATURES,
    difference_of_a_step,
    logits_of,
    people,
    row,
    run_load_example,
    table_plan,
    with_a_head,
)

DIGESTS = {
    "tabular:linear": ("sha256:fb275cb9eb2b6ce85802699df11957f9ed5307b6d2476860153a83e9ba799373"),
    "tabular:mlp": ("sha256:5b16dd4efdf233e8ac369ad0cff5ce245d7e715fa2e9ffbdd19bfdcf78304162"),
    "tabular:ft-transformer": (
        "sha256:55c5d9acea7b494d6c8feee94364222f65d21fd2afa134d5a61cada22f2ee8bf"
    ),
}
"""Of the architectures that come with the package: a change of one is another base model."""


def built(plan: TrainingPlan) -> PlanModel:
    return build_model(plan, resolve_base_model(plan.base_model.name))


def vector(text: str) -> np.ndarray:
    """What a linear layer sees of a row, without the division and the constant."""
    slots, values = torch.from_numpy(TableInputs(FEATURES).cells(text)).unsqueeze(1)
    found = TableNetwork(TableInputs(FEATURES)).encode(slots.long(), values)
    assert float(found[0, -1]) == pytest.approx(0.2)
    vector: np.ndarray = found[0, :-1].numpy() * len(FEATURES) ** 0.5
    return vector


# --- reading --------------------------------------------------------------------------------------


def test_a_row_is_read_by_what_the_plan_says_and_nothing_else() -> None:
    read = vector('{"age": "80", "pain": "3.0", "pressure": "300", "sex": "m", "name": "x"}')
    third = 1 / 3
    expected = [0.5, 0, -third, -third, 1 - third, 0, 1, 0, -0.5, 0.5, 0]
    np.testing.assert_allclose(read, expected, atol=1e-6)


@pytest.mark.parametrize("mark", ["", " ", "?", "NaN", "nan", None])
def test_what_is_missing_is_told_as_missing(mark: str | None) -> None:
    names = [feature.name for feature in FEATURES]
    read = vector(json.dumps({} if mark is None else dict.fromkeys(names, mark)))
    np.testing.assert_allclose(read, [0, 0.5, 0, 0, 0, 0.5, 0, 0.5, 0, 0, 0.5], atol=1e-6)


def test_a_value_that_the_plan_does_not_name_is_missing() -> None:
    assert vector('{"pain": "4"}')[5] == vector("{}")[5] == pytest.approx(0.5)


@pytest.mark.parametrize("spelling", ["2", "2.0", "02", " 2e0 ", "+2"])
def test_numerals_are_read_by_their_value(spelling: str) -> None:
    cells = TableInputs(FEATURES).cells(json.dumps({"pain": spelling, "age": spelling}))
    assert cells[0, 1] == 1
    assert cells[1, 0] == -1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("secret", "no JSON"),
        ('{"age": "secret"', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('["secret"]', "no object of columns"),
        ('{"age": 63}', "no object of columns"),
        ('{"age": {"secret": "1"}}', "no object of columns"),
        ('{"age": "secret", "age": "63"}', "a column twice"),
        ('{"age": "secret"}', "column 'age' holds what is no number"),
        ('{"age": "63,5 secret"}', "column 'age' holds what is no number"),
        ('{"age": "6_3"}', "column 'age' holds what is no number"),
        ('{"age": "inf"}', "column 'age' holds what is no number"),
        ('{"age": "1e999"}', "column 'age' holds what is no number"),
        (json.dumps({"age": "9" * 101}), "column 'age' holds what is no number"),
    ],
)
def test_a_malformed_row_is_refused_without_a_word_of_it(text: str, reason: str) -> None:
    plan = table_plan("tabular:linear")
    with pytest.raises(MalformedInput, match=reason) as refusal:
        read_examples(plan, [StoredRecord("s", text, "ill")])
    assert refusal.value.fix
    assert refusal.value.__cause__ is None
    assert "secret" not in str(refusal.value)


def test_examples_have_labels_and_declared_groups() -> None:
    plan = table_plan("tabular:linear", groups=("north",))
    records = [
        StoredRecord("a", "{}", "ill", "north"),
        StoredRecord("b", "{}", "healthy", "south"),
    ]
    examples = read_examples(plan, records)
    assert [(e.subject, e.label, e.group) for e in examples] == [("a", 1, "north"), ("b", 0, "")]
    with pytest.raises(MalformedInput, match="is not one of the plan's 2 labels"):
        read_examples(plan, [StoredRecord("a", "{}", "unknown")])


@pytest.mark.parametrize("columns", [1, 4, 200])
def test_a_record_has_norm_of_about_one_at_most_whatever_the_columns(columns: int) -> None:
    features = tuple(
        Feature(name=f"c{n}", kind="category", values=("1", "2", "3", "4"))
        if n % 2
        else Feature(name=f"c{n}", kind="number", low=0, high=1)
        for n in range(columns)
    )
    inputs = TableInputs(features)
    texts = [
        json.dumps({feature.name: cell for feature in features}) for cell in ("", "1", "0", "9")
    ]
    slots, values = torch.from_numpy(np.stack([inputs.cells(text) for text in texts], 1))
    norms = TableNetwork(inputs).encode(slots.long(), values).norm(dim=1)
    assert float(norms.max()) <= (1 + 0.2**2) ** 0.5 + 1e-6
    assert float(norms.min()) >= 0.2


# --- architectures --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABULAR_MODELS)
def test_an_architecture_is_named_by_its_content_everywhere(name: str, tmp_path: Path) -> None:
    assert base_model_digest(resolve_base_model(name)) == DIGESTS[name]
    assert installed_digest(name, tmp_path) == DIGESTS[name]


@pytest.mark.parametrize("name", ["tabular:none", "tabular:../linear", "tabular:", "tabular:/etc"])
def test_no_other_name_is_an_architecture(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        resolve_base_model(name)
    with pytest.raises(Exception, match="is not a model's name"):
        find_base_model(name, tmp_path)


def own_architecture(folder: Path, **spec: Any) -> Path:
    folder.mkdir()
    whole = {"model_type": "fiduciary-table", "version": 1, **spec}
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder


def test_another_architecture_is_refused_by_its_digest(tmp_path: Path) -> None:
    ours = own_architecture(tmp_path / "ours", architecture="mlp", width=8, layers=1)
    wider = own_architecture(tmp_path / "wider", architecture="mlp", width=9, layers=1)
    plan = table_plan(str(ours))
    build_model(plan, ours)
    for other in (wider, resolve_base_model("tabular:mlp")):
        with pytest.raises(VerificationFailed, match="expected sha256"):
            build_model(plan, other)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"architecture": "boosted-trees"}, "architecture"),
        ({"architecture": "linear", "width": 3}, "unknown field"),
        ({"architecture": "linear", "version": 2}, "version"),
        ({"architecture": "mlp", "width": 10**9, "layers": 1}, "width"),
        (
            {"architecture": "ft-transformer", "width": 6, "blocks": 1, "heads": 4, "hidden": 8},
            "4 heads do not divide a width of 6",
        ),
    ],
)
def test_a_folder_that_describes_no_architecture_is_refused(
    spec: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = own_architecture(tmp_path / "own", **spec)
    with pytest.raises(MalformedInput, match=reason) as refusal:
        build_model(table_plan(str(folder)), folder)
    assert refusal.value.fix


def test_columns_of_too_many_values_are_refused() -> None:
    values = tuple(map(str, range(1000)))
    features = [
        Feature(name=f"c{n}", kind="category", values=values) for n in range(MAX_SLOTS // 1000 + 1)
    ]
    with pytest.raises(MalformedInput, match="more than 20000"):
        built(table_plan("tabular:linear", features=features))


@pytest.mark.parametrize("name", TABULAR_MODELS)
def test_every_party_of_a_plan_builds_the_same_model(name: str) -> None:
    plan = table_plan(name)
    first = built(plan).get_state()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    second = built(plan).get_state()
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was used"
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not first["head.weight"].any()
    other = built(table_plan(name, name="another-plan")).get_state()
    differ = {key for key in first if not np.array_equal(first[key], other[key])}
    assert bool(differ) is (name != "tabular:linear")


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["one_backward", "hooks"])
@pytest.mark.parametrize("norm", ["0.1", "100"])
@pytest.mark.parametrize("name", TABULAR_MODELS)
def test_a_step_equals_the_naive_computation(name: str, norm: str, engine: str) -> None:
    plan = table_plan(name, phase("full", max_grad_norm=norm, learning_rate="1000"))
    model = built(plan)
    with_a_head(model)
    assert difference_of_a_step(model, plan, engine, people([1, 3, 2, 1, 4], row)) <= 1e-5


@pytest.mark.parametrize(
    ("name", "rate"),
    [("tabular:linear", "20"), ("tabular:mlp", "5"), ("tabular:ft-transformer", "1")],
)
def test_two_sites_learn_with_hardly_any_noise(name: str, rate: str) -> None:
    rounds = 40
    learn = phase("full", rounds=rounds, max_grad_norm="1", learning_rate=rate)
    count = phase("histogram", max_grad_norm="1", learning_rate="1")
    plan = table_plan(name, count, learn, class_weights="histogram")
    sites = [
        people([1] * 12, lambda at, label, s=site: row(100 * s + at, label)) for site in (1, 2)
    ]
    held_out = people([1] * 40, lambda at, label: row(1000 + at, label))
    model = built(plan)
    trainers = [SiteTrainer(model, plan, site) for site in sites]
    iterate = begin(model.get_state())
    for number in range(plan.rounds):
        state = state_to_send(iterate, plan)
        iterate = advance(iterate, plan, [t.train_round(number, state).update for t in trainers])
    np.testing.assert_allclose(iterate.average["label_histogram"], [0.6, 0.6], atol=1e-6)
    counts = trainers[0].evaluate(iterate.average, held_out).everybody
    assert accuracy(counts.confusion) >= 0.9


@pytest.mark.parametrize("name", TABULAR_MODELS)
def test_a_state_survives_being_set_and_a_wrong_one_changes_nothing(name: str) -> None:
    model = built(table_plan(name))
    with_a_head(model)
    state, examples = model.get_state(), people([1] * 5, row)
    before = logits_of(model, "full", examples)
    assert list(state) == sorted(state)
    again = built(table_plan(name))
    again.set_state(state)
    assert torch.equal(logits_of(again, "full", examples), before)
    broken = {**state, "head.weight": np.full_like(state["head.weight"], np.nan)}
    with pytest.raises(MalformedInput, match="not finite"):
        again.set_state(broken)
    assert torch.equal(logits_of(again, "full", examples), before)


# --- releases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABULAR_MODELS)
def test_the_example_loads_the_release_and_computes_the_same(name: str, tmp_path: Path) -> None:
    plan = table_plan(name)
    model = built(plan)
    with_a_head(model)
    examples = people([1] * 16, row)
    model.save(tmp_path / "release")
    assert sorted(file.name for file in (tmp_path / "release").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    rows = repr([json.loads(example.text) for example in examples] + [{}, {"pain": "3.0"}])
    said, names = run_load_example(
        plan, tmp_path / "release", Path("unused"), "rows", rows, tmp_path
    )
    expected = logits_of(model, "full", examples)
    torch.testing.assert_close(torch.tensor(said)[:16], expected, rtol=1e-5, atol=1e-5)
    assert names.startswith("['")
    again = built(plan)
    again.set_state(model.get_state())
    again.save(tmp_path / "again")
    for file in (tmp_path / "release").iterdir():
        if file.name != "labels.json":
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_reference_names_an_architecture_as_it_names_a_model() -> None:
    plan = table_plan("tabular:linear")
    reference = BaseModelReference(name="tabular:linear", digest=DIGESTS["tabular:mlp"])
    with pytest.raises(VerificationFailed, match="base model 'tabular:linear'"):
        built(plan.model_copy(update={"base_model": reference}))
