"""From `plan.toml` to a plan, and one clear message for each way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from audit.errors import NotFound
from client.learning.accounting import epsilon_of, events_of
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from compliance.statements import TrainingPlan
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
        (_set("[privacy]", "[privcy]"), "privacy: Field required", "add privacy"),
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
        (_set('name = "message-routing"', 'name = "Mess age"'), "plan.name: String", "correct"),
        (_add('task = "poetry"'), "plan.task", "correct"),
        (_set("retention_days = 365", "retention_days = 0"), "plan.retention_days", "correct"),
        (_set("[plan]", "[plan"), "is not TOML", "correct it"),
        (lambda text: text + "\n[plan]\n", "is not TOML", "correct it"),
        (lambda text: "", "plan: Field required", "add plan"),
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
        with pytest.raises(MalformedPlanFile, match="cannot read"):
            read_plan_file(path)
