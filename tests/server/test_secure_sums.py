"""Rounds that sum securely, over real TLS: who drops out when, and who lies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from audit.errors import FiduciaryError, MalformedInput
from audit.keys import SigningKey
from audit.statement import SignedStatement, sign_statement
from client.arrays import Arrays
from client.secure_aggregation.fixed_point import FixedPoint
from client.secure_aggregation.messages import MASKED
from compliance.statements import Phase, TrainingPlan
from server.rounds import Stopped
from server.runs import RunState
from tests.server.conftest import Service, plan_of
from tests.server.ground import INITIAL, Ground, ground
from tests.server.scripted import Script, counts_of
from tests.server.summing import SummingSite, random_update
from tests.server.test_training import outcome_of, rounds_of, run

NAMES = ("ash", "beech", "cedar", "elm")


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("sums"), NAMES) as made:
        yield made


def secure_plan(field: Ground, **changes: Any) -> tuple[str, TrainingPlan]:
    phase = plan_of().phases[0].model_copy(update={"rounds": changes.pop("rounds", 1)})
    fields = {"sites": NAMES, "quorum": 3, "deadline_seconds": 5, "phases": (phase,)}
    return field.approved(secure_aggregation=True, **{**fields, **changes})


@contextmanager
def summing(
    field: Ground, plan: TrainingPlan, scripts: dict[str, Script] | None = None
) -> Iterator[dict[str, SummingSite]]:
    peers = {name: files.identity.public for name, files in field.sites.items()}
    with ExitStack() as stack:
        sites = {}
        for number, name in enumerate(plan.sites):
            script = (scripts or {}).get(name) or Script(update=random_update(number))
            sites[name] = SummingSite(field.sites[name], plan, script, peers=peers)
        for site in sites.values():
            stack.enter_context(site)
        yield sites


def trained(field: Ground, plan_id: str, plan: TrainingPlan) -> tuple[RunState, Arrays]:
    """The run, and the mean update of its only round."""
    state = run(field, field.training(plan_id, plan))
    model = field.folder(plan_id).model(state)
    assert model is not None, state.reason
    return state, {name: model.current[name] - INITIAL[name] for name in INITIAL}


def expected_mean(plan: TrainingPlan, sites: dict[str, SummingSite], names: list[str]) -> Arrays:
    form = FixedPoint.of(plan, 0)
    total = sum(sites[name].vectors["train"] for name in names)
    assert isinstance(total, np.ndarray)
    return {name: part / len(names) for name, part in form.decode(total, INITIAL).items()}


def test_a_run_learns_the_mean_and_the_counts_of_all_and_reports_each_round(field: Ground) -> None:
    plan_id, plan = secure_plan(field, name="summed", rounds=2)
    with summing(field, plan) as sites:
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done) == ("completed", 2)
    steps = ["train", "deal", "mask", "attest", "reveal", "evaluate", "deal", "mask", "attest"]
    assert [kind for kind, _ in sites["ash"].seen][:10] == [*steps, "reveal"]
    reports = rounds_of(field, plan_id)
    assert [report.participants for report in reports] == [NAMES, NAMES]
    assert reports[-1].metrics is not None
    assert reports[-1].metrics.examples == 4 * 33
    assert set(reports[-1].epsilon_by_site) == set(NAMES)
    assert outcome_of(field, plan_id).verdict == "completed"
    assert len(field.link._state.object_store) == 0


def test_the_mean_is_exact(field: Ground) -> None:
    plan_id, plan = secure_plan(field, name="exact")
    with summing(field, plan) as sites:
        _, mean = trained(field, plan_id, plan)
    for name, array in expected_mean(plan, sites, list(NAMES)).items():
        np.testing.assert_array_equal(mean[name], array.astype(np.float32))


@pytest.mark.parametrize("step", ["train", "deal", "mask", "attest", "reveal"])
def test_a_site_that_drops_out_costs_itself_alone(field: Ground, step: str) -> None:
    """Before its vector came it is not in the sum; afterwards it is, whatever becomes of it."""
    plan_id, plan = secure_plan(field, name=f"without-{step}")
    with summing(field, plan) as sites:
        sites["cedar"].vanish = (step,)
        _, mean = trained(field, plan_id, plan)
    late = step in ("attest", "reveal")
    counted = [name for name in NAMES if late or name != "cedar"]
    (report,) = rounds_of(field, plan_id)
    assert list(report.participants) == counted
    reason = "no answer within the deadline of 5 seconds"
    assert report.absent == ({} if late else {"cedar": reason})
    for name, array in expected_mean(plan, sites, counted).items():
        np.testing.assert_array_equal(mean[name], array.astype(np.float32))
    assert report.metrics is not None


@pytest.mark.parametrize("step", ["deal", "mask", "attest", "reveal"])
def test_without_a_quorum_in_any_step_nothing_is_learned(field: Ground, step: str) -> None:
    plan_id, plan = secure_plan(field, name=f"too-few-{step}")
    with summing(field, plan) as sites:
        for name in ("beech", "cedar"):
            sites[name].vanish = (step,)
        state = run(field, field.training(plan_id, plan))
    assert (state.stage, state.rounds_done) == ("failed", 0)
    assert "and 3 are needed: beech: no answer within" in state.reason
    assert rounds_of(field, plan_id) == []


def _forged(step: str, answer: Any) -> Any:
    if step != "train":
        return answer
    body = SignedStatement.from_json(json.loads(answer)).body
    return json.dumps(sign_statement(body, SigningKey.generate("cedar/identity")).to_json())


def _at(step: str, change: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    return lambda present, answer: change(answer) if present == step else answer


def _without_a_box(answer: str, site: SummingSite) -> str:
    body = SignedStatement.from_json(json.loads(answer)).body
    body["boxes"].pop("ash")
    return json.dumps(sign_statement(body, site.files.identity).to_json())


LIES: list[tuple[str, Callable[[SummingSite], Callable[[str, Any], Any]], str]] = [
    ("forged-keys", lambda _: _forged, "is signed by"),
    ("no-keys", lambda _: _at("train", lambda _: "{}"), "expected a signed document"),
    ("fewer-boxes", lambda s: _at("deal", lambda a: _without_a_box(a, s)), "exactly these members"),
    (
        "longer-vector",
        lambda _: _at("mask", lambda a: {MASKED: np.append(a[MASKED], a[MASKED][:1])}),
        "expected 15 masked uint32",
    ),
    (
        "wider-vector",
        lambda _: _at("mask", lambda a: {MASKED: a[MASKED].astype("<u8")}),
        "expected 15 masked uint32",
    ),
    (
        "another-array",
        lambda _: _at("mask", lambda a: {"update": a[MASKED]}),
        "expected a masked vector",
    ),
]


@pytest.mark.parametrize(("name", "twist", "said"), LIES, ids=[lie[0] for lie in LIES])
def test_a_site_that_sends_something_else_is_left_out_and_told_why(
    field: Ground, name: str, twist: Callable[[SummingSite], Callable[[str, Any], Any]], said: str
) -> None:
    plan_id, plan = secure_plan(field, name=name)
    with summing(field, plan) as sites:
        sites["cedar"].twist = twist(sites["cedar"])
        _, mean = trained(field, plan_id, plan)
    (report,) = rounds_of(field, plan_id)
    assert report.participants == ("ash", "beech", "elm")
    assert said in report.absent["cedar"]
    for array_name, array in expected_mean(plan, sites, ["ash", "beech", "elm"]).items():
        np.testing.assert_array_equal(mean[array_name], array.astype(np.float32))


def test_a_report_of_another_vector_is_refused(field: Ground) -> None:
    """The signed report names the masked vector that came with it."""
    plan_id, plan = secure_plan(field, name="other-report")
    lie = Script(
        update=random_update(7), claim=lambda body: {**body, "update_digest": f"sha256:{'7' * 64}"}
    )
    with summing(field, plan, {"cedar": lie}):
        trained(field, plan_id, plan)
    (report,) = rounds_of(field, plan_id)
    assert "of other arrays than it sent" in report.absent["cedar"]


def test_counts_that_nobody_can_have_are_no_metrics(field: Ground) -> None:
    """A site that poisons the counts spoils them for all: the run does not read as a success."""
    plan_id, plan = secure_plan(field, name="poisoned-counts")
    poison = Script(update=random_update(1), counts=lambda labels: _negative(labels))
    with summing(field, plan, {"cedar": poison}):
        state = run(field, field.training(plan_id, plan))
    assert state.stage == "failed"
    assert "the summed counts are none" in state.reason


def _negative(labels: int) -> Arrays:
    counts = counts_of(np.eye(labels, dtype=int))
    return {name: array - 1000 for name, array in counts.items()}


def test_an_update_is_bounded_whatever_a_site_sends(field: Ground) -> None:
    """A vector of the ring's largest numbers moves the mean by the bound, not by more."""
    plan_id, plan = secure_plan(field, name="huge")
    huge = Script(update=lambda state: {k: np.full_like(v, 1e30) for k, v in state.items()})
    with summing(field, plan, {"cedar": huge}):
        _, mean = trained(field, plan_id, plan)
    form = FixedPoint.of(plan, 0)
    for array in mean.values():
        assert (np.abs(array) <= form.bound / 4 + 0.1).all()


def test_a_coordinator_that_came_back_sums_the_same_round_again(field: Ground) -> None:
    """Stopped in the middle of a sum, before anything was unmasked."""
    plan_id, plan = secure_plan(field, name="again")
    stop = threading.Event()

    def once(step: str) -> None:
        if step == "attest":
            stop.set()

    with summing(field, plan) as sites:
        sites["ash"].before = once
        with pytest.raises(Stopped):
            run(field, field.training(plan_id, plan, stop=stop))
        sites["ash"].before = lambda step: None
        state, _ = trained(field, plan_id, plan)
    assert (state.stage, state.rounds_done) == ("completed", 1)
    assert len(rounds_of(field, plan_id)) == 1
    assert [kind for kind, _ in sites["elm"].seen].count("train") == 2


def test_a_phase_bounds_what_travels() -> None:
    """Used above: the bound is of the plan's phase, so a steeper phase allows for more."""
    plan = plan_of(sites=NAMES)
    phase: Phase = plan.phases[0].model_copy(
        update={"learning_rate": 10 * plan.phases[0].learning_rate}
    )
    steeper = FixedPoint.of(plan.model_copy(update={"phases": (phase,)}), 0)
    assert 10 / 2 < steeper.bound / FixedPoint.of(plan, 0).bound < 10 * 2


def test_a_coordinator_that_died_while_sites_revealed_has_the_sum_when_it_is_back(
    field: Ground,
) -> None:
    """Sites reveal for one sum of a round alone, so forgetting it would lose the round."""
    plan_id, plan = secure_plan(field, name="revealing")
    stop = threading.Event()
    with summing(field, plan) as sites:
        sites["ash"].before = lambda step: stop.set() if step == "reveal" else None
        with pytest.raises(Stopped):
            run(field, field.training(plan_id, plan, stop=stop))
        kept = list(field.folder(plan_id).path.glob("sum-*"))
        assert [path.name for path in kept] == ["sum-0-train.safetensors"]
        sites["ash"].before = lambda step: None
        state, mean = trained(field, plan_id, plan)
        seen = [kind for kind, _ in sites["elm"].seen]
    assert (state.stage, seen.count("train"), seen.count("mask")) == ("completed", 1, 2)
    for name, array in expected_mean(plan, sites, list(NAMES)).items():
        np.testing.assert_array_equal(mean[name], array.astype(np.float32))
    assert not list(field.folder(plan_id).path.glob("sum-*"))


def test_a_kept_sum_that_was_changed_is_not_unmasked(field: Ground) -> None:
    plan_id, plan = secure_plan(field, name="changed")
    stop = threading.Event()
    with summing(field, plan) as sites:
        sites["ash"].before = lambda step: stop.set() if step == "reveal" else None
        with pytest.raises(Stopped):
            run(field, field.training(plan_id, plan, stop=stop))
    (kept,) = field.folder(plan_id).path.glob("sum-*")
    data = kept.read_bytes()
    ours = rb"\"survivors\":[\"ash\""
    assert ours in data
    kept.write_bytes(data.replace(ours, ours.replace(b"ash", b"elm"), 1))
    with pytest.raises(MalformedInput):
        field.folder(plan_id).sums.load(0, "train", sites["ash"].peers, plan.quorum)
    assert b"ed25519:" in data
    kept.write_bytes(data.replace(b"ed25519:", b"ed25519;", 1))
    with pytest.raises(FiduciaryError):
        field.folder(plan_id).sums.load(0, "train", sites["ash"].peers, plan.quorum)
    kept.write_bytes(data[:100])
    with pytest.raises(MalformedInput, match="malformed sum-0-train"):
        field.folder(plan_id).sums.load(0, "train", sites["ash"].peers, plan.quorum)
