"""The federation that chaos strikes: real processes, three sites with a table each, a small model.

Processes are started and killed through `Supervised`, which does what systemd does: what ends is
started again. With `Hosts`, the compliance service and each site have a host of their own, whose
cable can be pulled (`tests.chaos.hosts`).
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.secure_sums import REVEALED
from compliance.api import ComplianceClient
from compliance.resources import PlanEvidence
from compliance.statements import TrainingPlan
from compliance.trust import Trust
from demo.federation import Federation, acting_as
from demo.processes import CommandFailed, Processes, free_ports
from tests.chaos.hosts import Hosts

SITES = ("north", "south", "west")
SUBJECTS = 300
EPSILON = 4

SERVICES: dict[str, tuple[str, ...]] = {
    "compliance": ("compliance", "start", "compliance"),
    "server": ("server", "start", "federation"),
    **{site: ("client", "start", "--dir", site) for site in SITES},
}
"""What can be killed, and what starts it again."""

PLAN = """
[plan]
name = "{name}"
task = "tabular-classification"
labels = ["healthy", "ill"]
sites = ["north", "south", "west"]
quorum = 2
deadline_seconds = {deadline}
minimum_subjects = 50
purpose = "hearts"
legal_basis = "consent"
retention_days = 30
missed_rounds = {rounds}
{options}

[privacy]
epsilon = {epsilon}
delta = 1e-5
nominal_subjects = {subjects}
max_records_per_subject = 2

[[features]]
name = "age"
kind = "number"
low = 20
high = 100

[[features]]
name = "pain"
kind = "category"
values = ["none", "some", "much"]

[[phases]]
kind = "full"
rounds = {rounds}
steps_per_round = 20
sampling_rate = 0.5
learning_rate = 2.0
max_grad_norm = 1.0
"""


class Supervised(Processes):
    """Processes that can be killed with SIGKILL and are started again when they end.

    Args:
        folder: Where commands run.
        hosts: Where processes run; None for this host.
    """

    def __init__(self, folder: Path, hosts: Hosts | None = None) -> None:
        super().__init__(folder)
        self._hosts = hosts
        self.ended_by_themselves: list[tuple[str, int]] = []

    def _prefix(self, name: str) -> tuple[str, ...]:
        """A host of its own, where there are hosts."""
        return () if self._hosts is None else self._hosts.prefix(name)

    def serve(self, name: str) -> None:
        """Start one of the services."""
        self.start(name, *SERVICES[name])

    def kill(self, name: str) -> None:
        """SIGKILL: nothing in the process runs any more, not even a handler."""
        process = self._running[name]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def supervise(self) -> None:
        """Start again what ended by itself, as systemd would."""
        for name in SERVICES:
            process = self._running.get(name)
            code = None if process is None else process.poll()
            if code is not None:
                if code != -signal.SIGKILL:
                    self.ended_by_themselves.append((name, code))
                self.serve(name)


@dataclass
class Hospitals:
    """A federation of three sites.

    Attributes:
        folder: Where everything lies.
        processes: Runs it.
        hosts: The hosts of its parties; None for this host alone.
        subjects: People at each site.
        plans: Plan ids by name.
    """

    folder: Path
    processes: Supervised
    hosts: Hosts | None = None
    subjects: int = SUBJECTS
    plans: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.federation = Federation(self.folder, self.processes)

    def start(self) -> None:
        """From nothing to three sites that wait for tasks."""
        self._start_coordinator()
        for number, site in enumerate(SITES):
            self.federation.join(site)
            self.federation.allow(
                site,
                purposes=["hearts"],
                tasks=["tabular-classification"],
                base_models=["any-embedded"],
                max_epsilon_total=30,
                max_epsilon_per_period=30,
            )
            self._add_data(site, number)
        for site in SITES:
            self.processes.serve(site)

    def _start_coordinator(self) -> None:
        run = self.processes.run
        ports = [str(port) for port in free_ports(3)]
        compliance, coordinator = "127.0.0.1", "127.0.0.1"
        if self.hosts is not None:
            compliance, coordinator = self.hosts.address("compliance"), self.hosts.gateway
        run("compliance", "init", "compliance", "--host", compliance, "--port", ports[0])
        self.processes.serve("compliance")
        plans = ("compliance", "plans", *acting_as("officer"))
        self.federation.until(lambda: self.processes.exit_code(*plans) == 0, 60)
        run(
            "server", "init", "federation", "--name", "chaos",
            "--host", coordinator,
            "--compliance", "compliance/trust.json",
            "--token-file", "compliance/tokens/coordinator.token",
            "--fleet-port", ports[1], "--control-port", ports[2],
        )  # fmt: skip
        self.processes.serve("server")

    def _add_data(self, site: str, number: int) -> None:
        """People whose illness follows from age and pain."""
        chance = random.Random(number)
        rows = []
        for person in range(self.subjects):
            age, pain = chance.randint(21, 99), chance.choice(["none", "some", "much"])
            state = "ill" if age > 60 or pain == "much" else "healthy"
            rows.append([f"p{number}-{person}", age, pain, state])
        with (self.folder / f"{site}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["person", "age", "pain", "state"], *rows])
        self.processes.run(
            "client", "data", "add", f"{site}.csv", "--dir", site, "--dataset", "hearts",
            "--subject", "person", "--kind", "table", "--features", "age", "--categories", "pain",
            "--label", "state", "--purpose", "hearts", "--legal-basis", "consent",
        )  # fmt: skip

    def propose(self, name: str, rounds: int, deadline: int, options: str) -> str:
        """Submit and approve a plan; returns its id."""
        text = PLAN.format(
            name=name,
            rounds=rounds,
            deadline=deadline,
            options=options,
            epsilon=EPSILON,
            subjects=self.subjects,
        )
        (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")
        plan_id = self.federation.submit(f"{name}.toml")
        self.federation.approve("plan", plan_id)
        self.plans[name] = plan_id
        return plan_id

    def run_state(self, plan_id: str) -> dict[str, Any]:
        """What the coordinator's folder says of a run; empty before it began."""
        digits = plan_id.removeprefix("sha256:")[:16]
        path = self.folder / "federation" / "runs" / digits / "state.json"
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return found

    def await_end(self, plan_id: str, seconds: float) -> dict[str, Any]:
        """Supervise until a run has ended and, if it completed, is released.

        Raises:
            CommandFailed: When it takes longer.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.processes.supervise()
            state = self.run_state(plan_id)
            if state.get("outcome_recorded") and (
                state["stage"] == "failed" or state.get("release_id")
            ):
                return state
            time.sleep(0.2)
        raise CommandFailed(
            f"the run did not end within {seconds:.0f} s:\n{self.processes.tail('server')}"
        )

    def evidence(self, plan_id: str) -> PlanEvidence:
        """What the compliance service recorded of a plan."""
        with self._auditor() as auditor:
            return auditor.plan_evidence(plan_id)

    def _auditor(self) -> ComplianceClient:
        token = (self.folder / "compliance/tokens/auditor.token").read_text("ascii").strip()
        return ComplianceClient(Trust.load(self.folder / "compliance/trust.json"), token)

    def budget(self, site: str, plan_id: str) -> dict[str, Any]:
        """A plan's part of a site's ledger."""
        plans = self.processes.json("client", "budget", "--dir", site)["plans"]
        found: dict[str, Any] = next(plan for plan in plans if plan["plan_id"] == plan_id)
        return found

    def unmasked(self, site: str, plan_id: str) -> int:
        """In how many sums of the plan a site has revealed, by its journal."""
        shown = self.processes.json(
            "audit", "show", f"{site}/journal.sqlite",
            "--action", REVEALED, "--object", f"plan:{plan_id}", "--limit", "100000",
        )  # fmt: skip
        return len(shown["entries"])

    def plan(self, plan_id: str) -> TrainingPlan:
        """A plan, as the service keeps it."""
        with self._auditor() as auditor:
            return auditor.plan(plan_id).plan

    def verify_logs(self) -> dict[str, bool]:
        """Whether the service's log and each site's journal verify."""
        trust = json.loads((self.folder / "compliance/trust.json").read_text("utf-8"))
        log = ("audit", "verify", "compliance/compliance.sqlite", "--key", trust["log_key"])
        found = {"compliance": self.processes.exit_code(*log) == 0}
        for site in SITES:
            journal = ("audit", "verify", f"{site}/journal.sqlite")
            found[site] = self.processes.exit_code(*journal) == 0
        return found


def may_make_hosts() -> bool:
    """Whether this user may make network namespaces here."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run(
        ["unshare", "-n", "true"], capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode == 0
