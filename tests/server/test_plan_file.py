"""From `plan.toml` to a plan, and one clear message for each way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from audit.errors import MalformedInput, NotFound
from client.learning.accounting import epsilon_of, events_of
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from compliance.statements import DeidentificationDemand, TrainingPlan
from server.errors import MalformedPlanFile
from server.plan_file import make_plan, read_plan_file

PLAN = """
[plan]
name = "message-routing"
labels = ["billing", "clinical"]
sites = ["st-elm", "lakeside"]
purpose = "message-routing"
legal_basis = "legitimate-interests"
retention_days = 365

[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 1000
"""

PHASES = """
[[phases]]
kind = "probe"
rounds = 2
steps_per_round = 1
sampling_rate = 1.0
learning_rate = 2.0
max_grad_norm = 1.0

[[phases]]
kind = "adapter"
rounds = 3
steps_per_round = 2
sampling_rate = 0.1
learning_rate = 0.05
max_grad_norm = 0.5
relative_noise = 0.5
"""

SITES = ("st-elm", "lakeside", "merchant-bank")


def plan_from(folder: Path, text: str) -> TrainingPlan:
    path = folder / "plan.toml"
    path.write_text(text, "utf-8")
    return make_plan(read_plan_file(path), path=path, federation="demo", admitted_sites=SITES)


def test_a_short_file_gets_recommended_phases_and_the_models_digest(tmp_path: Path) -> None:
    plan = plan_from(tmp_path, PLAN)
    assert plan.base_model.name == EMBEDDED_MODEL
    assert plan.base_model.digest == base_model_digest(resolve_base_model(EMBEDDED_MODEL))
    assert (plan.federation, plan.author, plan.quorum) == ("demo", "coordinator", 2)
    assert plan.privacy.delta == Decimal("0.00001")
    spent = epsilon_of(events_of(plan.phases), plan.privacy.delta)
    assert 7.5 < spent <= 8


def test_the_number_of_rounds_can_be_chosen(tmp_path: Path) -> None:
    text = PLAN.replace("retention_days = 365", "retention_days = 365\nrounds = 3")
    assert plan_from(tmp_path, text).rounds == 3


def test_adapter_rounds_can_be_asked_for(tmp_path: Path) -> None:
    asked = "retention_days = 365\nrounds = 5\nadapter_rounds = 2"
    plan = plan_from(tmp_path, PLAN.replace("retention_days = 365", asked))
    assert [(phase.kind, phase.rounds) for phase in plan.phases] == [("probe", 3), ("adapter", 2)]


def test_no_adapter_rounds_can_be_asked_for(tmp_path: Path) -> None:
    asked = "retention_days = 365\nadapter_rounds = 0"
    plan = plan_from(tmp_path, PLAN.replace("retention_days = 365", asked))
    assert [phase.kind for phase in plan.phases] == ["probe"]
    by_default = plan_from(tmp_path, PLAN)
    assert [phase.kind for phase in by_default.phases] == ["probe", "adapter"]


def test_recommended_phases_know_the_size_of_the_plan(tmp_path: Path) -> None:
    small = plan_from(tmp_path, PLAN)
    smaller = plan_from(tmp_path, PLAN.replace("nominal_subjects = 1000", "nominal_subjects = 20"))
    assert smaller.phases[0].learning_rate < small.phases[0].learning_rate


def test_phases_are_taken_and_their_noise_is_solved(tmp_path: Path) -> None:
    plan = plan_from(tmp_path, PLAN + PHASES)
    assert [(phase.kind, phase.rounds) for phase in plan.phases] == [("probe", 2), ("adapter", 3)]
    first, second = (phase.noise_multiplier for phase in plan.phases)
    assert float(second / first) == pytest.approx(0.5, rel=0.01)
    assert plan.phases[1].learning_rate == Decimal("0.05")  # never a binary float
    assert 7.5 < epsilon_of(events_of(plan.phases), plan.privacy.delta) <= 8


def _without(line: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert line in text
        return "\n".join(kept for kept in text.split("\n") if not kept.startswith(line))

    return change


def _set(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def _add(line: str, after: str = "[plan]") -> Callable[[str], str]:
    return _set(after, f"{after}\n{line}")


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        (_add('colour = "red"'), "plan.colour: unknown field", "remove plan.colour"),
        (_add("deadline_second = 9"), "plan.deadline_second: unknown", "mean deadline_seconds?"),
        (_add("noise_multiplier = 1", "[privacy]"), "privacy.noise_multiplier: unknown", "remove"),
        (_set("[privacy]", "[privcy]"), "privcy: unknown field", "mean privacy?"),
        (_set("epsilon =", "epsilom ="), "privacy.epsilom: unknown", "mean epsilon?"),
        (_set('["st-elm", "lakeside"]', '"st-elm"'), "plan.sites: expected a list", "correct"),
        (_set('["st-elm", "lakeside"]', "[]"), "plan.sites: expected at least 1", "correct"),
        (_without("labels"), "plan.labels: Field required", "add plan.labels"),
        (_without("purpose"), "plan.purpose: Field required", "add plan.purpose"),
        (_without("epsilon"), "privacy.epsilon: Field required", "add privacy.epsilon"),
        (_without("delta"), "privacy.delta: Field required", "add privacy.delta"),
        (_set("epsilon = 8", "epsilon = 0"), "privacy.epsilon: Input should be greater", "correct"),
        (_set("epsilon = 8", "epsilon = -1.5"), "privacy.epsilon: Input should be", "correct"),
        (_set("epsilon = 8", "epsilon = nan"), "privacy.epsilon", "correct"),
        (_set("epsilon = 8", "epsilon = inf"), "privacy.epsilon", "correct"),
        (_set("epsilon = 8", 'epsilon = "lots"'), "privacy.epsilon", "correct"),
        (_set("epsilon = 8", "epsilon = 1000"), "privacy.epsilon: Input should be less", "correct"),
        (_set("delta = 1e-5", "delta = 0.0"), "privacy.delta: Input should be greater", "correct"),
        (_set("delta = 1e-5", "delta = 1.0"), "privacy.delta: Input should be less", "correct"),
        (_set("= 1000", "= 0"), "privacy.nominal_subjects: Input should be", "correct"),
        (_set('"clinical"', '"billing"'), "each label may appear once", "correct"),
        (_set('["billing", "clinical"]', '["billing"]'), "names at least 2 labels", "correct"),
        (_set('["billing", "clinical"]', '["billing", ""]'), "plan.labels.1: String", "correct"),
        (_set('"lakeside"', '"st-elm"'), "each site may appear once", "correct"),
        (_set('"lakeside"', '"nowhere"'), "not an admitted site: nowhere", "server admit SITE"),
        (_add("quorum = 3"), "quorum: 3 is more than the 2 sites", "correct"),
        (_add("quorum = 0"), "plan.quorum: Input should be greater", "correct"),
        (_add("deadline_seconds = 1"), "plan.deadline_seconds: Input should be", "correct"),
        (_add("rounds = 0"), "plan.rounds: Input should be greater", "correct"),
        (_set('legal_basis = "legit', 'legal_basis = "illegit'), "plan.legal_basis", "correct"),
        (_set('name = "message-routing"', 'name = "Mess age"'), "plan.name: a name is", "correct"),
        (_add('task = "poetry"'), "plan.task", "correct"),
        (_set("retention_days = 365", "retention_days = 0"), "plan.retention_days", "correct"),
        (_set("[plan]", "[plan"), "is not TOML", "correct it"),
        (lambda text: text + "\n[plan]\n", "is not TOML", "correct it"),
        (lambda text: "", "plan: Field required", "add [plan]"),
    ],
)
def test_each_mistake_has_one_clear_message(
    tmp_path: Path, change: Callable[[str], str], said: str, fix: str
) -> None:
    with pytest.raises(MalformedPlanFile) as refused:
        plan_from(tmp_path, change(PLAN))
    assert said in str(refused.value)
    assert fix in refused.value.fix
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("sampling_rate = 0.1", "sampling_rate = 1.1"), "phases.1.sampling_rate"),
        (_set("rounds = 2", "rounds = 0"), "phases.0.rounds"),
        (_set('kind = "probe"', 'kind = "everything"'), "phases.0.kind"),
        (_set('kind = "adapter"', 'kind = "probe"'), "a probe can only come once"),
        (_set("relative_noise = 0.5", "noise_multiplier = 0.5"), "phases.1.noise_multiplier"),
        (_add("rounds = 4"), "each phase states its own rounds"),
    ],
)
def test_each_mistake_in_a_phase_has_one_clear_message(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(MalformedPlanFile, match=said):
        plan_from(tmp_path, change(PLAN + PHASES))


def test_a_model_that_is_not_here_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not on this machine"):
        plan_from(tmp_path, _add('base_model = "./no-such-model"')(PLAN))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"# " + b"x" * 5_000_000])
def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "plan.toml").write_bytes(data)
    with pytest.raises(MalformedPlanFile):
        read_plan_file(tmp_path / "plan.toml")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(NotFound, match="cannot read"):
            read_plan_file(path)


# --- every task -----------------------------------------------------------------------------------

TABLE = """
[[features]]
name = "age"
kind = "number"
low = 0
high = 120

[[features]]
name = "pain"
kind = "category"
values = ["typical", "none"]
"""


def _kinds(plan: TrainingPlan) -> list[str]:
    return [phase.kind for phase in plan.phases]


def test_a_tables_plan_trains_all_weights(tmp_path: Path) -> None:
    text = PLAN.replace("[plan]", '[plan]\ntask = "tabular-classification"') + TABLE
    plan = plan_from(tmp_path, text)
    assert (plan.base_model.name, _kinds(plan)) == ("tabular:linear", ["full"])
    assert [feature.name for feature in plan.features] == ["age", "pain"]
    assert plan.features[0].high == 120
    assert 7.5 < epsilon_of(events_of(plan.phases), plan.privacy.delta) <= 8


def test_a_language_models_plan_has_no_labels_and_names_its_model(
    tmp_path: Path, tiny_folder: Path
) -> None:
    text = _set('labels = ["billing", "clinical"]', 'task = "causal-language-modelling"')(PLAN)
    with pytest.raises(MalformedPlanFile, match="has no default base model"):
        plan_from(tmp_path, text)
    plan = plan_from(
        tmp_path, text.replace("[plan]", f'[plan]\nbase_model = "{tiny_folder}"\nrounds = 4')
    )
    assert (plan.labels, _kinds(plan), plan.rounds) == ((), ["adapter"], 4)
    assert plan.phases[0].steps_per_round == 8


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A folder that looks like a base model: only its digest is asked for."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_token_and_image_plans_are_probed(tmp_path: Path, tiny_folder: Path) -> None:
    for task in ("token-classification", "image-classification"):
        text = PLAN.replace(
            "[plan]", f'[plan]\ntask = "{task}"\nbase_model = "{tiny_folder}"\nrounds = 3'
        )
        assert plan_from(tmp_path, text).task == task
        assert _kinds(plan_from(tmp_path, text)) == ["probe"]


def test_everything_that_plan_2_can_say_is_read(tmp_path: Path) -> None:
    more = """
groups = ["north", "south"]
class_weights = "histogram"
focal_gamma = 1.5
privacy_audit = true
"""
    text = PLAN.replace("retention_days = 365", "retention_days = 365\nrounds = 3" + more)
    text = text.replace("[privacy]", "[adapter]\nrank = 4\nlayers = 2\n\n[privacy]")
    plan = plan_from(tmp_path, text)
    assert plan.format == "fiduciary.plan/4"
    assert (plan.groups, plan.focal_gamma) == (("north", "south"), Decimal("1.5"))
    assert plan.privacy_audit
    assert (plan.adapter.rank, plan.adapter.layers) == (4, 2)
    assert _kinds(plan) == ["histogram", "probe"], "rounds are those that train"
    assert [phase.rounds for phase in plan.phases] == [1, 3]
    assert 7.5 < epsilon_of(events_of(plan.phases), plan.privacy.delta) <= 8


def test_what_is_asked_of_deidentification_is_read(tmp_path: Path) -> None:
    asked = '[deidentification]\nminimum_recall = 0.95\nmeasured = "review"\n\n[privacy]'
    demand = plan_from(tmp_path, PLAN.replace("[privacy]", asked)).deidentification
    assert demand == DeidentificationDemand(minimum_recall=Decimal("0.95"), measured="review")
    assert plan_from(tmp_path, PLAN).deidentification is None
    for wrong, says in (
        ("minimum_recall = 1.5", "deidentification.minimum_recall"),
        ("minimal_recall = 0.5", "did you mean minimum_recall"),
        ('measured = "review"', "minimum_recall, maximum_leak_share or both"),
    ):
        text = PLAN.replace("[privacy]", f"[deidentification]\n{wrong}\n\n[privacy]")
        with pytest.raises(MalformedPlanFile) as refused:
            plan_from(tmp_path, text)
        assert says in f"{refused.value} {refused.value.fix}"


def test_everything_that_plan_3_can_say_is_read(tmp_path: Path) -> None:
    text = PLAN.replace(
        "retention_days = 365", "retention_days = 365\nsecure_aggregation = true\nrounds = 21"
    ).replace("[privacy]", '[aggregation]\nserver = "adam"\nlearning_rate = 0.1\n\n[privacy]')
    plan = plan_from(tmp_path, text)
    assert plan.secure_aggregation
    assert (plan.aggregation.server, plan.aggregation.learning_rate) == ("adam", Decimal("0.1"))
    assert plan.missed_rounds == 3, "a tenth of 21 rounds, rounded up"
    stated = text.replace("rounds = 21", "rounds = 21\nmissed_rounds = 0")
    assert plan_from(tmp_path, stated).missed_rounds == 0

    open_text = PLAN.replace("[privacy]", '[transport]\nprecision = "int8"\n\n[privacy]')
    assert plan_from(tmp_path, open_text).transport.precision == "int8"
    with pytest.raises(MalformedPlanFile, match=r"transport: masked numbers"):
        plan_from(tmp_path, text.replace("[privacy]", '[transport]\nprecision = "int8"\n[privacy]'))
    with pytest.raises(MalformedPlanFile) as refused:
        plan_from(tmp_path, PLAN.replace("[privacy]", '[aggregation]\nrules = "mean"\n[privacy]'))
    assert refused.value.fix == "did you mean rule?"


def test_a_histogram_costs_the_other_phases_hardly_any_noise(tmp_path: Path) -> None:
    counted = plan_from(
        tmp_path, PLAN.replace("retention_days", 'class_weights = "histogram"\nretention_days')
    )
    plain = plan_from(tmp_path, PLAN)
    histogram, probe, _ = counted.phases
    assert (histogram.rounds, histogram.steps_per_round) == (1, 1)
    assert histogram.max_grad_norm == Decimal(1)
    assert 1 < probe.noise_multiplier / plain.phases[0].noise_multiplier < Decimal("1.015")
    assert histogram.noise_multiplier < 6, "of 1,000 subjects: shares within 0.006"


BATCH_LIMIT = "batch_limit = { subjects = 400, max_population = 2000 }\n"


def test_a_batch_limit_is_paid_for_in_noise(tmp_path: Path) -> None:
    limited = PHASES.replace("relative_noise = 0.5\n", "relative_noise = 0.5\n" + BATCH_LIMIT)
    plan = plan_from(tmp_path, PLAN + limited)
    assert plan.phases[1].batch_limit is not None
    assert plan.phases[1].batch_limit.subjects == 400
    without = plan_from(tmp_path, PLAN + PHASES)
    assert plan.phases[1].noise_multiplier >= without.phases[1].noise_multiplier
    assert epsilon_of(events_of(plan.phases), plan.privacy.delta) <= 8


def test_a_plan_can_protect_single_records(tmp_path: Path) -> None:
    plan = plan_from(tmp_path, PLAN.replace("epsilon = 8", 'epsilon = 8\nunit = "record"'))
    assert plan.privacy.unit == "record"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("rounds = 3", "rounds = 3\nbatch_limit = { subject = 4 }"), "batch_limit"),
        (_set('kind = "probe"', 'kind = "full"'), "an adapter or all weights, not both"),
        (_set('kind = "probe"', 'kind = "histogram"'), "class_weights"),
        (
            _set("rounds = 3", "rounds = 3\nbatch_limit = { subjects = 9, max_population = 4 }"),
            "must not be larger than the population",
        ),
    ],
)
def test_mistakes_in_what_is_new_are_named(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    with pytest.raises(MalformedPlanFile, match=said):
        plan_from(tmp_path, PLAN + change(PHASES))


@pytest.mark.parametrize(
    ("task", "asked"),
    [("tabular-classification", TABLE), ("causal-language-modelling", "")],
)
def test_adapter_rounds_need_a_probe_beside_them(
    tmp_path: Path, tiny_folder: Path, task: str, asked: str
) -> None:
    text = PLAN.replace(
        "retention_days",
        f'task = "{task}"\nbase_model = "{tiny_folder}"\nadapter_rounds = 1\nretention_days',
    )
    if not asked:
        text = text.replace('labels = ["billing", "clinical"]', "")
    with pytest.raises(MalformedInput, match="adapter_rounds"):
        plan_from(tmp_path, text + asked)
