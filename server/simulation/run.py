"""Runs the variants of a simulation one after another, over the same sites and the same workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from audit.errors import MalformedInput
from audit.keys import SigningKey, VerifyKey
from audit.statement import sign_statement
from client.deflated import open_arrays
from client.learning.base_model import resolve_base_model
from client.learning.data import StoredRecord
from client.learning.tasks import build_model, counts_like
from client.simulation.bundle import Bundle, identity_of
from compliance.statements import RoundReport, TrainingPlan
from server.progress import RunView
from server.rounds import Stopped
from server.runs import RunFolder
from server.simulation.engine import simulate
from server.simulation.recorder import SimulatedRecorder
from server.simulation.results import Figures, figures_of
from server.simulation.wire import Conditions, Grid, SimulatedWire
from server.training import Training


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes:
        plans: Variants, over the same sites.
        sites: Their records.
        conditions: What the federation is like; its seed is that of everything.
        policy: Text of the policy.toml of every site; empty for one that allows the plans.
        workers: Processes that compute.
    """

    plans: tuple[TrainingPlan, ...]
    sites: Mapping[str, Sequence[StoredRecord]] = field(repr=False)
    conditions: Conditions
    policy: str = ""
    workers: int = 1


class Watcher:
    """Told what happens; the default listens to nothing. A `server.progress.Reporter`, too."""

    def began(self, plan: TrainingPlan, number: int) -> None:
        """A variant begins."""

    def finished_round(self, plan: TrainingPlan, report: RoundReport) -> None:
        """A round is done."""

    def note(self, message: str) -> None:
        """What a coordinator would say; rounds are told by `finished_round`."""

    def show(self, view: RunView | None) -> None:
        """The present state of a run."""

    def event(self, name: str, **fields: object) -> None:
        """Events are told of real runs."""


@dataclass(frozen=True)
class _Identities:
    """Signs for nobody: knows the simulated sites' keys (`server.training.Identities`)."""

    keys: Mapping[str, VerifyKey]

    def identity_of(self, site: str) -> VerifyKey | None:
        return self.keys.get(site)


def run_simulation(
    simulation: Simulation, folder: Path, watcher: Watcher, stop: threading.Event
) -> list[Figures]:
    """Simulate all variants.

    Args:
        simulation: What is simulated.
        folder: An empty folder, which the caller removes: it holds records and models.
        watcher: Told what happens.
        stop: Ends the simulation.

    Raises:
        SimulationExtraMissing, SimulationFailed: See `server.simulation.engine`.
        FiduciaryError: When a model or a record does not fit a plan.
    """
    secret = os.urandom(32)
    bundle = Bundle.write(
        folder,
        simulation.sites,
        seed=simulation.conditions.seed,
        secret=secret,
        policy=simulation.policy,
    )
    found: list[Figures] = []

    def work(grid: Grid, run_id: int) -> None:
        for number, plan in enumerate(simulation.plans):
            watcher.began(plan, number)
            try:
                found.append(
                    run_plan(
                        plan,
                        bundle,
                        grid,
                        run_id,
                        simulation.conditions,
                        tell=partial(watcher.finished_round, plan),
                        watcher=watcher,
                        stop=stop,
                    )
                )
            except Stopped:
                return

    simulate(folder, len(simulation.sites), simulation.workers, work, stop)
    return found


def run_plan(
    plan: TrainingPlan,
    bundle: Bundle,
    grid: Grid,
    run_id: int,
    conditions: Conditions,
    *,
    tell: Callable[[RoundReport], None],
    watcher: Watcher,
    stop: threading.Event,
) -> Figures:
    """One variant, by the coordinator's own rounds.

    Args:
        plan: Over simulated sites.
        bundle: What the sites read.
        grid: Flower's.
        run_id: Flower's number of the run.
        conditions: What the federation is like.
        tell: Told each round.
        watcher: Told what is going on.
        stop: Ends the run.

    Raises:
        Stopped: When `stop` was set.
        FiduciaryError: When the model cannot be built.
    """
    began = time.monotonic()
    signer, settings = SigningKey.generate("simulation/coordinator"), bundle.settings()
    plan_id = bundle.add_plan(sign_statement(plan.body(), signer))
    model = build_model(plan, resolve_base_model(plan.base_model.name), settings.seed)
    keys = {site: identity_of(site, settings.secret).public for site in plan.sites}
    wire = SimulatedWire(grid, plan.sites, conditions)
    recorder = SimulatedRecorder(plan, signer.public, tell)
    training = Training(
        plan_id,
        plan,
        RunFolder.of(bundle.folder / "runs", plan_id),
        model.get_state(),
        signer=signer,
        wire=wire,
        sites=_Identities(keys),
        compliance=recorder,
        reporter=watcher,
        stop=stop,
        stretch=model.stretch(),
        clock=wire.clock,
    )
    state = training.run(run_id)
    like, compression = counts_like(plan), plan.transport.compression
    counts = {
        site: open_arrays(answer.arrays, answer.deflated, compression, like)
        for site, answer in wire.counts.items()
    }
    return figures_of(plan, state, recorder.rounds, wire.traffic, counts, time.monotonic() - began)


def require_possible(plan: TrainingPlan, dropout: float) -> None:
    """Refuse conditions under which hardly any round has a quorum.

    Raises:
        MalformedInput: When fewer sites than the quorum are available on average.
    """
    expected = (1 - dropout) * len(plan.sites)
    if expected < plan.quorum:
        raise MalformedInput(
            f"with a dropout of {dropout:g} about {expected:.0f} of {len(plan.sites)} sites take "
            f"part in a round, and the quorum is {plan.quorum}",
            fix="state a lower quorum with --quorum, or in the plan file",
        )
