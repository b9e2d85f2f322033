"""A simulated run is the product's: the same model, the same refusals, and nothing to release."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audit.errors import MalformedInput, VerificationFailed
from audit.keys import SigningKey
from client.learning.aggregation import advance, begin, state_to_send
from client.learning.base_model import resolve_base_model
from client.learning.data import split_by_subject
from client.learning.plan_model import State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model, read_examples
from client.policy import DEFAULT_POLICY
from client.simulation.bundle import noise_seed, split_secret
from client.simulation.partition import Dealt
from compliance.resources import PlanView
from compliance.statements import RoundReport, TrainingPlan
from server.coordinator import verify_plan
from server.rounds import Stopped
from server.runs import RunFolder
from server.simulation.results import Figures
from server.simulation.run import Watcher, require_possible, run_plan
from server.simulation.wire import UNAVAILABLE, Conditions
from tests.server.simulation.grids import RUN_ID, Answering, FakeGrid, in_process
from tests.server.simulation.small import SEED, bundle_of, dealt, small_plan

CONDITIONS = Conditions(seed=SEED)


class Listening(Watcher):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []
        self.notes: list[str] = []

    def finished_round(self, plan: TrainingPlan, report: RoundReport) -> None:
        self.reports.append(report)

    def note(self, message: str) -> None:
        self.notes.append(message)


def _run(
    folder: Path,
    plan: TrainingPlan,
    sites: Dealt,
    conditions: Conditions = CONDITIONS,
    *,
    policy: str = "",
    stop: threading.Event | None = None,
) -> tuple[Figures, State]:
    """A run without Ray, and the model that it would have released."""
    bundle = bundle_of(folder, sites, policy)
    answering: Answering = in_process(bundle)
    listening = Listening()
    figures = run_plan(
        plan,
        bundle,
        FakeGrid(len(sites), answering),
        RUN_ID,
        conditions,
        tell=lambda report: listening.finished_round(plan, report),
        watcher=listening,
        stop=stop or threading.Event(),
    )
    assert [report.round for report in listening.reports] == list(range(len(figures.history)))
    (run,) = (bundle.folder / "runs").iterdir()
    state = RunFolder(run).load()
    assert state is not None
    iterate = RunFolder(run).model(state)
    return figures, {} if iterate is None else iterate.average


def test_a_simulated_run_gives_the_model_of_the_product_s_run(tmp_path: Path) -> None:
    plan, sites = small_plan(tmp_path), dealt()
    figures, simulated = _run(tmp_path / "run", plan, sites)

    model = build_model(plan, resolve_base_model(plan.base_model.name), SEED)
    iterate = begin(model.get_state())
    training = {
        site: split_by_subject(
            read_examples(plan, records), plan.held_out_share, split_secret(SEED, site)
        )[0]
        for site, records in sites.items()
    }
    for number in range(plan.rounds):
        sent = state_to_send(iterate, plan)
        updates = [
            SiteTrainer(model, plan, training[site], noise_seed(SEED, site, number))
            .train_round(number, sent)
            .update
            for site in sorted(sites)
        ]
        iterate = advance(iterate, plan, updates)

    assert set(simulated) == set(iterate.average)
    assert any(array.any() for array in simulated.values())
    for name, array in iterate.average.items():
        np.testing.assert_array_equal(simulated[name], array)
    assert (figures.verdict, len(figures.history)) == ("completed", 4)
    assert figures.last is not None
    assert 7.5 < figures.last.epsilon <= 8
    assert figures.accuracy_of_sites is not None
    assert figures.accuracy_of_sites.sites == 3


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    plan, sites = small_plan(tmp_path), dealt()
    bundle = bundle_of(tmp_path / "other", sites)
    text = bundle.folder / "simulation.json"
    _, first = _run(tmp_path / "run", plan, sites)
    text.write_text(text.read_text().replace(f'"seed": {SEED}', '"seed": 12'))
    run_plan(
        plan,
        bundle,
        FakeGrid(3, in_process(bundle)),
        RUN_ID,
        CONDITIONS,
        tell=lambda _: None,
        watcher=Watcher(),
        stop=threading.Event(),
    )
    (run,) = (bundle.folder / "runs").iterdir()
    state = RunFolder(run).load()
    assert state is not None
    other = RunFolder(run).model(state)
    assert other is not None
    assert any(not np.array_equal(first[name], other.average[name]) for name in first)


def test_a_site_that_misses_rounds_spends_less_and_the_run_goes_on(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, sites=6, quorum=1)
    conditions = Conditions(dropout=0.4, seed=3)
    figures, _ = _run(tmp_path / "run", plan, dealt(6, 200), conditions)
    assert figures.verdict == "completed"
    expected = [
        sum(conditions.is_available(site, number) for site in plan.sites) for number in range(4)
    ]
    assert [each.participants for each in figures.history] == expected
    assert min(expected) < 6
    assert {reason for each in figures.history for reason in each.absent} == {UNAVAILABLE}


def test_the_guard_of_a_site_refuses_a_plan_that_its_policy_does_not_allow(tmp_path: Path) -> None:
    plan, sites = small_plan(tmp_path), dealt()
    figures, _ = _run(tmp_path / "run", plan, sites, policy=DEFAULT_POLICY)
    assert figures.verdict == "failed"
    assert [each.participants for each in figures.history] == [0], "the one miss that it bears"
    assert "refused: purpose" in figures.reason


def test_the_guard_of_a_site_with_too_few_subjects_refuses(tmp_path: Path) -> None:
    plan, sites = small_plan(tmp_path, quorum=2), dealt()
    few = {record.subject for record in sites["sim-003"][:10]}
    sites["sim-003"] = [record for record in sites["sim-003"] if record.subject in few]
    figures, _ = _run(tmp_path / "run", plan, sites)
    assert figures.verdict == "completed"
    assert figures.last is not None
    ((reason, number),) = figures.last.absent.items()
    assert number == 1
    assert reason.startswith("refused: dataset-subjects")


def test_a_label_that_the_plan_does_not_name_is_refused_with_its_reason(tmp_path: Path) -> None:
    plan, sites = small_plan(tmp_path), dealt()
    sites["sim-001"][0] = replace(sites["sim-001"][0], label="unheard-of")
    figures, _ = _run(tmp_path / "run", plan, sites)
    assert figures.verdict == "failed"
    assert "dataset-labels" in figures.reason


def test_a_stop_ends_the_run(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        _run(tmp_path / "run", small_plan(tmp_path), dealt(), stop=stop)


def test_no_coordinator_believes_a_simulated_plan(tmp_path: Path) -> None:
    """A release needs a plan with the coordinator's own signature and an officer's approval."""
    plan, sites = small_plan(tmp_path), dealt()
    bundle = bundle_of(tmp_path / "run", sites)
    run_plan(
        plan,
        bundle,
        FakeGrid(3, in_process(bundle)),
        RUN_ID,
        CONDITIONS,
        tell=lambda _: None,
        watcher=Watcher(),
        stop=threading.Event(),
    )
    (file,) = (bundle.folder / "plans").iterdir()
    view = PlanView.model_validate(
        {
            "plan_id": f"sha256:{file.stem}",
            "state": "approved",
            "statement": json.loads(file.read_text()),
            "submitted_by": "coordinator",
            "submitted_at": "2026-01-01T00:00:00.000Z",
            "submitted_position": 1,
            "approval": None,
            "rejection": None,
            "approved_position": 2,
            "rounds_reported": 4,
            "outcome": None,
        }
    )
    real = SigningKey.generate("simulation/coordinator")
    with pytest.raises(VerificationFailed):
        verify_plan(view, federation="simulation", coordinator=real.public, log_key=real.public)


def test_a_dropout_that_leaves_no_quorum_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    plan = small_plan(tmp_path, sites=10)
    with pytest.raises(MalformedInput, match="about 8 of 10 sites take part"):
        require_possible(plan, 0.2)
    require_possible(plan, 0)
