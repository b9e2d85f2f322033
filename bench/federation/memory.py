"""The coordinator's memory beside the number of sites: each sends a million float32 weights.

The coordinator is real (ports with TLS, SuperLink, `Training` with its judgement, sum, checkpoint),
in a process of its own. Sites are simulated: real keys, connections and signed reports, in threads
of one other process, without data or training. In place of the compliance service stands one that
takes every report.

    python -m bench.federation.memory coordinator SITES    prints {"peak_mb": …, "idle_mb": …}
    python -m bench.federation.memory large MILLIONS       the same of one site with a large model,
                                                           and of the process of that site
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from rich.console import Console

from audit.keys import SigningKey, VerifyKey
from client.flower import FleetConnection
from client.learning.plan_model import State
from compliance.api import ComplianceClient
from compliance.statements import Phase, TrainingPlan
from server.progress import LineReporter
from server.runs import RunFolder
from server.training import Training
from tests.server.conftest import plan_of
from tests.server.scripted import Script, ScriptedSite, SiteFiles
from tests.server.wired import wired

WEIGHTS: Final = 1_000_000
ROUNDS: Final = 1
SITE_COUNTS: Final = (4, 16, 64)


def initial_of(weights: int) -> State:
    """A model of so many weights, in arrays of at most a million."""
    rows = max(1, weights // WEIGHTS)
    shape = (weights // rows,)
    return {f"head.{row:04d}": np.zeros(shape, dtype=np.float32) for row in range(rows)}


def coordinator_peaks() -> dict[str, float]:
    """MB (10^6 bytes) of the whole process at its peak, and over what it had before the run."""
    figures: dict[str, float] = {}
    for count in SITE_COUNTS:
        done = subprocess.run(
            [sys.executable, "-m", "bench.federation.memory", "coordinator", str(count)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        figures[f"coordinator_peak_mb_{count}"] = told["peak_mb"]
        figures[f"coordinator_peak_over_idle_mb_{count}"] = told["peak_mb"] - told["idle_mb"]
    return {name: round(value, 1) for name, value in figures.items()}


class TakesAll:
    """A compliance service that records every report."""

    def report_round(self, *_: object) -> None:
        """Take it."""

    def report_outcome(self, *_: object) -> None:
        """Take it."""


@dataclass(frozen=True)
class Identities:
    """Who signs for a site."""

    keys: dict[str, VerifyKey]

    def identity_of(self, site: str) -> VerifyKey | None:
        """The site's key."""
        return self.keys.get(site)


@dataclass(frozen=True)
class SimulatedFiles:
    """What a simulated site needs to connect."""

    name: str
    identity: SigningKey
    folder: Path
    ca: Path
    address: str

    def connect(self) -> FleetConnection:
        """Dial the coordinator."""
        return FleetConnection(
            self.address, self.ca, self.folder / "certificate.pem", self.folder / "key.pem"
        )


def coordinate(count: int, folder: Path, weights: int = WEIGHTS) -> None:
    names = tuple(f"site-{number}" for number in range(count))
    phase = Phase(
        kind="probe",
        rounds=ROUNDS,
        steps_per_round=1,
        sampling_rate=Decimal(1),
        learning_rate=Decimal(1),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(1),
    )
    plan = plan_of(sites=names, quorum=count, phases=(phase,), deadline_seconds=600)
    with wired(folder) as net:
        keys, sites = {}, []
        for name in names:
            files, identity = net.admit(name), SigningKey.generate(f"{name}/identity")
            identity.save(files.key.with_name("identity.pem"))
            keys[name] = identity.public
            sites.append({"name": name, "folder": str(files.key.parent)})
        described = {
            "plan": plan.body(),
            "address": net.partner,
            "ca": str(folder / "ca.pem"),
            "weights": weights,
            "sites": sites,
        }
        (folder / "sites.json").write_text(json.dumps(described), encoding="utf-8")
        idle = _memory_mb("VmRSS")
        simulated = subprocess.Popen(
            [sys.executable, "-m", "bench.federation.memory", "sites", str(folder)]
        )
        try:
            training = Training(
                f"sha256:{'1' * 64}",
                plan,
                RunFolder(folder / "run"),
                initial_of(weights),
                signer=SigningKey.generate("bench/coordinator"),
                wire=net.link,
                sites=Identities(keys),
                compliance=cast(ComplianceClient, TakesAll()),
                reporter=LineReporter(Console(stderr=True)),
                stop=threading.Event(),
            )
            state = training.run(net.link.open_run())
            site_peak = _memory_mb("VmHWM", simulated.pid)
        finally:
            simulated.terminate()
            simulated.wait()
        if state.stage != "completed":
            raise SystemExit(state.reason)
        told = {"peak_mb": _memory_mb("VmHWM"), "idle_mb": idle}
        if count == 1:
            # What it had before it connected is told by itself.
            told |= {
                "site_peak_mb": site_peak,
                "site_idle_mb": float((folder / "site-idle").read_text("ascii")),
            }
        print(json.dumps({name: round(value, 1) for name, value in told.items()}))


def simulate(folder: Path) -> None:
    described: dict[str, Any] = json.loads((folder / "sites.json").read_text("utf-8"))
    plan = TrainingPlan.from_body(described["plan"])
    script = Script(update=lambda state: {k: np.full_like(v, 1e-3) for k, v in state.items()})
    initial = initial_of(described["weights"])
    sites = []
    for site in described["sites"]:
        own = Path(site["folder"])
        files = SimulatedFiles(
            name=site["name"],
            identity=SigningKey.load(own / "identity.pem"),
            folder=own,
            ca=Path(described["ca"]),
            address=described["address"],
        )
        sites.append(ScriptedSite(cast(SiteFiles, files), plan, script, initial=initial))
    (folder / "site-idle").write_text(f"{_memory_mb('VmRSS')}", encoding="ascii")
    for started in sites:
        started.__enter__()
    threading.Event().wait()


def _memory_mb(field: str, process: int | str = "self") -> float:
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


def main(role: str, argument: str) -> None:
    if role == "sites":
        simulate(Path(argument))
        return
    with tempfile.TemporaryDirectory(prefix="federation-") as folder:
        if role == "large":
            coordinate(1, Path(folder), int(argument) * 1_000_000)
        else:
            coordinate(int(argument), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
