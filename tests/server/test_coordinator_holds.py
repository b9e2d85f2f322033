"""What the coordinator's process and disk hold of a single site's update: nothing, when summed.

A real `server start` is read from outside, whole memory and whole folder, at each step of a secure
sum after the vectors have arrived. That the search would find an update is shown on a plan that
keeps single updates.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from client.arrays import Arrays
from client.fleet_tasks import IncomingTask
from client.flower import FleetConnection
from client.learning.base_model import resolve_base_model
from client.learning.plan_model import State
from client.learning.tasks import build_model
from compliance.statements import TrainingPlan
from tests.server.conftest import Service, until
from tests.server.desk import Desk, desk_at
from tests.server.scripted import Script, ScriptedSite
from tests.server.summing import SummingSite

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads another process through Linux's /proc"
)

SITES = ("ash", "beech", "cedar")
RUN_SECONDS = 240.0
LOOKED_AT = ("attest", "reveal", "evaluate")
"""Steps after a vector has arrived."""

WINDOW_BYTES = 32
"""Eight weights in a row: their chance to be somewhere else is nil."""

PLAN = """
[plan]
name = "{name}"
task = "tabular-classification"
labels = ["a", "b", "c"]
sites = ["ash", "beech", "cedar"]
purpose = "{name}"
legal_basis = "consent"
retention_days = 1
rounds = 1
deadline_seconds = 60
{more}
[privacy]
epsilon = 8
delta = 1e-5
nominal_subjects = 100
{rule}
"""
FEATURES = "".join(
    f'\n[[features]]\nname = "f{number}"\nkind = "number"\nlow = 0\nhigh = 1\n'
    for number in range(8)
)


@pytest.fixture(scope="module")
def desk(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return desk_at(tmp_path_factory.mktemp("holds"), shared_service, SITES)


class Updates:
    """What sites train: different in every weight and round, and remembered."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.made: list[Arrays] = []

    def __call__(self, state: Arrays) -> Arrays:
        update = {
            name: self._generator.uniform(-0.01, 0.01, array.shape).astype(np.float32)
            for name, array in state.items()
        }
        self.made.append(update)
        return update

    def traces(self) -> list[bytes]:
        """Bytes by which each update is known."""
        return [max(update.values(), key=np.size).tobytes()[:WINDOW_BYTES] for update in self.made]


def memory_of(pid: int) -> Iterator[bytes]:
    """Every private, writable part of a process' memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions = line.split()[:2]
            if not permissions.startswith("rw") or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            first, last = (int(end, 16) for end in span.split("-"))
            try:
                memory.seek(first)
                yield memory.read(last - first)
            except (OSError, ValueError, OverflowError):
                continue  # gone since the map was read


def holds(pid: int, traces: list[bytes]) -> bool:
    """Whether any trace is anywhere in the process."""
    return any(trace in part for part in memory_of(pid) for trace in traces)


def submit(desk: Desk, name: str, more: str, rule: str = "") -> tuple[str, TrainingPlan]:
    text = PLAN.format(name=name, more=more, rule=rule) + FEATURES
    (desk.folder / f"{name}.toml").write_text(text)
    submitted = desk.json("submit", f"{name}.toml")
    with desk.service.client("officer") as officer:
        officer.approve_plan(submitted["plan_id"])
    return submitted["plan_id"], TrainingPlan.from_body(submitted["plan"])


def initial_of(plan: TrainingPlan) -> State:
    """The plan's model before the first round, which each party builds itself."""
    return build_model(plan, resolve_base_model(plan.base_model.name)).get_state()


def run(
    desk: Desk, plan_id: str, sites: list[ScriptedSite], started: Callable[[int], None]
) -> None:
    """Train the plan to its end with a real coordinator."""
    with ExitStack() as stack, desk.service.client("officer") as officer:
        process = stack.enter_context(desk.started())
        started(process.pid)
        for site in sites:
            stack.enter_context(site)

        def ended() -> bool:
            return officer.plan(plan_id).state in ("completed", "failed")

        until(lambda: ended() or process.poll() is not None, "the run's end", RUN_SECONDS)
        assert officer.plan(plan_id).state == "completed"


def test_at_no_step_of_a_secure_sum_is_an_update_in_its_memory_or_on_its_disk(desk: Desk) -> None:
    plan_id, plan = submit(desk, "summed", "secure_aggregation = true\nquorum = 3")
    peers = {name: files.identity.public for name, files in desk.sites.items()}
    updates = {name: Updates(number) for number, name in enumerate(SITES)}
    sites = {
        name: SummingSite(
            desk.sites[name],
            plan,
            Script(update=updates[name]),
            initial=initial_of(plan),
            peers=peers,
        )
        for name in SITES
    }
    pids: list[int] = []
    looked: list[tuple[str, bool]] = []

    def traces() -> list[bytes]:
        encoded = [
            vector.tobytes()[:WINDOW_BYTES]
            for site in sites.values()
            for activity, vector in list(site.vectors.items())
            if activity == "train"
        ]
        return encoded + [trace for each in updates.values() for trace in each.traces()]

    def look(step: str) -> None:
        if step in LOOKED_AT:
            looked.append((step, holds(pids[0], traces())))

    sites["ash"].before = look
    run(desk, plan_id, list(sites.values()), pids.append)
    assert [step for step, _ in looked] == ["attest", "reveal", "evaluate", "attest", "reveal"]
    assert len(traces()) == 6, "three vectors and three updates were looked for"
    assert [step for step, found in looked if found] == []
    for path in (desk.folder / "federation").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(trace in data for trace in traces()), path


def test_the_same_search_finds_updates_of_a_plan_that_keeps_them(desk: Desk) -> None:
    rule = '[aggregation]\nrule = "median"\ntolerated = 1\n'
    plan_id, plan = submit(desk, "single", "quorum = 3", rule)
    updates = {name: Updates(10 + number) for number, name in enumerate(SITES)}
    pids: list[int] = []
    found: list[bool] = []

    class Last(ScriptedSite):
        """Answers when the others have."""

        def _answer(self, connection: FleetConnection, task: IncomingTask) -> None:
            if task.kind == "train" and not found:
                until(lambda: holds(pids[0], updates["ash"].traces()), "ash's update", 30)
                found.append(True)
            super()._answer(connection, task)

    sites = [
        (Last if name == "cedar" else ScriptedSite)(
            desk.sites[name], plan, Script(update=updates[name]), initial=initial_of(plan)
        )
        for name in SITES
    ]
    run(desk, plan_id, sites, pids.append)
    assert found == [True]
