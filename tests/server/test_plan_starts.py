"""A plan that starts from a kept model, over real TLS, to its release."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import NotFound
from audit.statement import verify_statement
from client.arrays import Arrays, arrays_digest
from client.learning.accounting import events_of, reported_epsilon
from client.learning.base_model import base_model_digest, resolve_base_model
from client.learning.plan_model import State
from client.learning.task_recipes import LINEAR_MODEL
from client.learning.tasks import build_model
from compliance.statements import (
    BaseModelReference,
    Feature,
    ReleaseManifest,
    RoundReport,
    TrainingPlan,
)
from server import training
from server.coordinator import Coordinator
from server.errors import MalformedPlanFile
from server.runs import RunFolder
from server.screens import show_checkpoints, show_proposal
from server.submission import Proposal, propose
from tests.server.conftest import Service, until
from tests.server.ground import SITES, Ground, ground
from tests.server.scripted import Script
from tests.server.summing import SummingSite
from tests.server.test_recovery import Killed, Writes
from tests.server.test_training import simple_phase

EARLIER: dict[str, Any] = {
    "base_model": BaseModelReference(
        name=LINEAR_MODEL, digest=base_model_digest(resolve_base_model(LINEAR_MODEL))
    ),
    "task": "tabular-classification",
    "labels": ("healthy", "ill"),
    "features": (Feature(name="age", kind="number", low=Decimal(0), high=Decimal(120)),),
    "phases": (simple_phase(3).model_copy(update={"kind": "full"}),),
    "purpose": "routing",
}

PLAN = """
[plan]
name = "{name}"
task = "tabular-classification"
labels = ["healthy", "ill"]
sites = ["st-elm", "lakeside"]
purpose = "routing"
legal_basis = "legitimate-interests"
retention_days = 30
{more}

[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 100

[starts_from]
plan = "earlier"
rounds = {rounds}

[[features]]
name = "age"
kind = "number"
low = 0
high = 120
"""

PHASE = """
[[phases]]
kind = "full"
rounds = 2
steps_per_round = 1
sampling_rate = 1.0
learning_rate = 1.0
max_grad_norm = 1.0
"""


class Watched:
    """Sites' updates, and the states that they were made from."""

    def __init__(self) -> None:
        self.states: list[State] = []

    @property
    def script(self) -> Script:
        def update(state: Arrays) -> Arrays:
            self.states.append(dict(state))
            size = 0.25 * (1 + float(next(iter(state.values())).max()))
            return {name: np.full_like(array, size) for name, array in state.items()}

        return Script(update=update)


@pytest.fixture(scope="module")
def field(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(shared_service, tmp_path_factory.mktemp("starts")) as made:
        yield made


def coordinator_of(field: Ground) -> Coordinator:
    """As after a restart: nothing is remembered."""
    return Coordinator(
        field.federation, field.link, field.registrar, field.notes, threading.Event()
    )


def field_now() -> datetime:
    return datetime.now(UTC)


def built(plan: TrainingPlan) -> State:
    return build_model(plan, resolve_base_model(LINEAR_MODEL)).get_state()


def reported(field: Ground, plan_id: str) -> list[str | None]:
    """The models that the recorded reports of a plan name, by round."""
    evidence = field.compliance.plan_evidence(plan_id)
    key = field.federation.identity.public
    return [
        RoundReport.from_body(verify_statement(item, key)).model_digest for item in evidence.rounds
    ]


@pytest.fixture(scope="module")
def earlier(field: Ground) -> tuple[str, TrainingPlan]:
    """A plan of three rounds that has run, killed once between keeping a model and counting it."""
    plan_id, plan = field.approved(name="earlier", **EARLIER)
    initial, watched = built(plan), Watched()
    with (
        field.site("st-elm", plan, watched.script, initial),
        field.site("lakeside", plan, watched.script, initial),
    ):
        with pytest.MonkeyPatch.context() as patch:

            def killed(*_: Any) -> Any:
                raise Killed

            patch.setattr(RunFolder, "finish_round", killed)
            with pytest.raises(Killed):
                coordinator_of(field)._train(field.compliance, field.compliance.plan(plan_id))
        coordinator_of(field)._train(field.compliance, field.compliance.plan(plan_id))
    assert field.compliance.plan(plan_id).state == "completed"
    return plan_id, plan


def proposed(field: Ground, folder: Path, text: str) -> Proposal:
    path = folder / "plan.toml"
    path.write_text(text)
    return propose(field.federation, field.compliance, path)


def approved(field: Ground, proposal: Proposal) -> TrainingPlan:
    field.compliance.submit_plan(proposal.statement)
    with field.service.client("officer") as officer:
        officer.approve_plan(proposal.plan_id)
    return proposal.plan


def test_what_is_kept_is_what_was_reported_and_lies_sealed(
    field: Ground, earlier: tuple[str, TrainingPlan]
) -> None:
    plan_id, _ = earlier
    checkpoints = field.federation.checkpoints
    now = field_now()
    kept = checkpoints.kept(now)
    assert [(each.plan_id, each.rounds) for each in kept] == [(plan_id, n) for n in (1, 2, 3)]
    assert [each.model for each in kept] == reported(field, plan_id)
    model = checkpoints.open(plan_id, 2, kept[1].model, now)
    assert arrays_digest(model) == kept[1].model
    folder = field.federation.root / "checkpoints"
    files = sorted(folder.glob("*/*.sealed"))
    assert len(files) == 3
    for array in model.values():
        assert all(array.tobytes() not in path.read_bytes() for path in files)


def test_kept_models_are_listed(
    field: Ground, earlier: tuple[str, TrainingPlan], capsys: pytest.CaptureFixture[str]
) -> None:
    show_checkpoints(field.federation, "earlier", as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [each["rounds"] for each in listed] == [1, 2, 3]
    assert {each["plan_id"] for each in listed} == {earlier[0]}
    assert "key" not in listed[0]
    show_checkpoints(field.federation, "nothing", as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    show_checkpoints(field.federation, None, as_json=False)
    assert "earlier" in capsys.readouterr().out


def test_a_secure_plan_starts_from_the_very_model_also_after_a_kill(
    field: Ground,
    earlier: tuple[str, TrainingPlan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is stated of phases: what was left of the earlier plan, one round, is trained."""
    plan_id, of_earlier = earlier
    text = PLAN.format(name="again", rounds=2, more="secure_aggregation = true")
    proposal = proposed(field, tmp_path, text)
    plan = approved(field, proposal)
    assert [(phase.kind, phase.rounds) for phase in plan.phases] == [("full", 1)]
    assert plan.starts_from is not None
    assert (plan.starts_from.plan, plan.starts_from.rounds) == (plan_id, 2)
    watched, peers = Watched(), {n: f.identity.public for n, f in field.sites.items()}
    elm, lakeside = (
        SummingSite(field.sites[name], plan, watched.script, initial=built(plan), peers=peers)
        for name in SITES
    )
    with elm, lakeside:
        with pytest.MonkeyPatch.context() as patch:
            Writes(patch, 2, done=False)  # the state is there, and no aggregate yet
            with pytest.raises(Killed):
                coordinator_of(field)._train(
                    field.compliance, field.compliance.plan(proposal.plan_id)
                )
        coordinator_of(field)._train(field.compliance, field.compliance.plan(proposal.plan_id))
    assert field.compliance.plan(proposal.plan_id).state == "completed"
    assert len(watched.states) >= 2
    assert {arrays_digest(state) for state in watched.states} == {reported(field, plan_id)[1]}
    started = field.federation.checkpoints.open(plan_id, 2, plan.starts_from.model, field_now())
    for name, array in watched.states[0].items():
        np.testing.assert_array_equal(array, started[name])

    # The release tells of two rounds of the earlier plan too, composed exactly.
    events = (*events_of(of_earlier.phases, 2), *events_of(plan.phases))
    whole = reported_epsilon(events, plan.privacy.delta)
    assert proposal.epsilon_with_start == {"lakeside": whole, "st-elm": whole}
    assert proposal.to_json()["epsilon_with_start"]["st-elm"] == str(whole)
    show_proposal(proposal)
    assert f"at the same δ: ε lakeside {whole}, st-elm {whole}" in capsys.readouterr().out
    release = field.federation.releases / proposal.plan_id.removeprefix("sha256:")[:16]
    manifest = ReleaseManifest.from_body(
        next(
            view.statement.body
            for view in field.compliance.releases()
            if view.plan_id == proposal.plan_id
        )
    )
    assert manifest.epsilon_with_start == proposal.epsilon_with_start
    stated = json.loads((release / "files/dp_statement.json").read_text())["start"]
    assert stated["holds"] == [{"plan_id": plan_id, "name": "earlier", "rounds": 2}]
    assert stated["epsilon_by_site"]["lakeside"] == f"{whole:f}"
    provenance = json.loads((release / "files/provenance.json").read_text())
    assert provenance["predicate"]["starts_from"][0]["plan"] == of_earlier.body()
    card = (release / "files/README.md").read_text()
    assert f"**Starts from** 2 rounds of `{plan_id}` (earlier)" in card
    assert f"st-elm {whole}" in card


def test_a_site_that_comes_late_needs_nothing_of_the_start(
    field: Ground,
    earlier: tuple[str, TrainingPlan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "START_GRACE_SECONDS", 0.1)
    text = PLAN.format(name="late", rounds=1, more="quorum = 1") + PHASE
    proposal = proposed(field, tmp_path, text)
    plan, watched, late = approved(field, proposal), Watched(), Watched()
    initial = {name: np.full_like(array, 9) for name, array in built(plan).items()}
    work = threading.Thread(
        target=coordinator_of(field)._train,
        args=(field.compliance, field.compliance.plan(proposal.plan_id)),
    )
    lakeside = field.site("lakeside", plan, late.script, initial)
    gate = watched.script

    def first_alone(state: Arrays) -> Arrays:
        update = gate.update(state)
        if len(watched.states) == 2:  # in its second round the other site comes
            lakeside.__enter__()
            until(lambda: bool(late.states), "the late site to train")
        return update

    try:
        with field.site("st-elm", plan, Script(update=first_alone), initial):
            work.start()
            work.join(60)
    finally:
        lakeside.__exit__()
    assert field.compliance.plan(proposal.plan_id).state == "completed"
    assert plan.starts_from is not None
    assert arrays_digest(watched.states[0]) == plan.starts_from.model
    (joined,) = late.states
    for name, array in joined.items():
        np.testing.assert_array_equal(array, watched.states[1][name])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('plan = "earlier"', 'plan = "unknown"', "no model of unknown"),
        ("rounds = 2\n", "rounds = 7\n", "kept after: 1, 2, 3"),
        ('purpose = "routing"', 'purpose = "research"', "purpose differ"),
        ('labels = ["healthy"', 'labels = ["well"', "labels differ"),
        ("high = 120", "high = 99", "features differ"),
        ("rounds = 2\n", "rounds = 3\n", "nothing was left of plan earlier"),
        ('name = "x"', 'name = "x"\nrounds = 2', "recommended phases are for the base model"),
    ],
)
def test_a_start_that_is_not_there_or_is_of_something_else_is_not_submitted(
    field: Ground, earlier: tuple[str, TrainingPlan], tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = PLAN.format(name="x", rounds=2, more="")
    assert text.count(old) == 1
    with pytest.raises((MalformedPlanFile, NotFound), match=said):
        proposed(field, tmp_path, text.replace(old, new))


def test_a_start_that_is_gone_when_its_turn_comes_ends_the_run_as_failed(
    field: Ground, earlier: tuple[str, TrainingPlan], tmp_path: Path
) -> None:
    proposal = proposed(field, tmp_path, PLAN.format(name="gone", rounds=2, more=""))
    approved(field, proposal)
    digits = earlier[0].removeprefix("sha256:")[:16]
    path = field.federation.root / "checkpoints" / digits / "2.sealed"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    coordinator_of(field)._train(field.compliance, field.compliance.plan(proposal.plan_id))
    outcome = field.compliance.plan(proposal.plan_id).run_outcome
    assert outcome is not None
    assert outcome.verdict == "failed"
    assert "does not open" in outcome.reason
