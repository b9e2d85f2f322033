"""A real compliance service, a real federation and scripted sites, shared by these tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    # Typer 0.20 touches names that click 8.4 calls deprecated, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401

from audit.errors import FiduciaryError
from compliance.api import ComplianceClient
from compliance.service.folder import NewService, create_folder
from compliance.statements import (
    BaseModelReference,
    Phase,
    Privacy,
    TrainingPlan,
    utc_now,
)
from compliance.tokens import read_token
from compliance.trust import Trust
from server.federation import Federation
from server.founding import create_federation
from server.sites import admit, invite
from tests.server.scripted import SiteFiles, enrol

START_SECONDS = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at present."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def command(*arguments: str) -> list[str]:
    """The command line of one of our commands, in this interpreter."""
    name, *rest = arguments
    return [sys.executable, "-c", f"from {name}.cli import main; main()", *rest]


def until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for something, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


@dataclass
class Service:
    """A running compliance service."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def trust_file(self) -> Path:
        return self.folder / "trust.json"

    def client(self, role: str) -> ComplianceClient:
        token = read_token(self.folder / "tokens" / f"{role}.token")
        return ComplianceClient(Trust.load(self.trust_file), token)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def start(self) -> None:
        self.process = _start_service(self.folder)
        _await_service(self)


def _start_service(folder: Path) -> subprocess.Popen[bytes]:
    with (folder.parent / "compliance.log").open("ab") as log:
        return subprocess.Popen(
            command("compliance", "start", str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )


def _await_service(service: Service) -> None:
    def healthy() -> bool:
        if service.process.poll() is not None:
            raise AssertionError((service.folder.parent / "compliance.log").read_text())
        try:
            with service.client("officer") as officer:
                officer.health()
        except FiduciaryError:
            return False
        return True

    until(healthy, "the compliance service")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A fresh compliance service of its own process."""
    yield from _service(tmp_path / "trusted")


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One compliance service for a module."""
    yield from _service(tmp_path_factory.mktemp("shared") / "trusted")


def _service(parent: Path) -> Iterator[Service]:
    parent.mkdir()
    (port,) = free_ports(1)
    folder = parent / "compliance"
    new = NewService("127.0.0.1", port, "127.0.0.1", "fiduciary.test/log")
    create_folder(folder, new, lambda: datetime.now(UTC))
    made = Service(folder, port, _start_service(folder))
    try:
        _await_service(made)
        yield made
    finally:
        made.stop()


def make_federation(service: Service, folder: Path) -> Federation:
    """A federation at a service that knows no coordinator yet."""
    fleet, control = free_ports(2)
    return create_federation(
        folder,
        name="demo",
        trust_file=service.trust_file,
        token_file=service.folder / "tokens" / "coordinator.token",
        fleet_port=fleet,
        control_port=control,
    )


def join(federation: Federation, name: str, folder: Path) -> SiteFiles:
    """Invite, enrol and admit a site."""
    with federation.compliance() as compliance:
        kit = folder / f"{name}.kit"
        folder.mkdir(parents=True, exist_ok=True)
        invite(federation, compliance, name, path=kit)
        files = enrol(kit, folder / name)
        admit(federation, compliance, name)
    files.fetch_certificate()
    return files


def plan_of(**changes: Any) -> TrainingPlan:
    """A small valid plan."""
    fields: dict[str, Any] = {
        "name": "routing",
        "federation": "demo",
        "author": "coordinator",
        "created_at": utc_now(),
        "base_model": BaseModelReference(name="tiny", digest=f"sha256:{'1' * 64}"),
        "task": "text-classification",
        "labels": ("billing", "clinical", "other"),
        "phases": (
            Phase(
                kind="probe",
                rounds=3,
                steps_per_round=1,
                sampling_rate=Decimal(1),
                learning_rate=Decimal(1),
                max_grad_norm=Decimal(1),
                noise_multiplier=Decimal(1),
            ),
        ),
        "privacy": Privacy(epsilon=Decimal(8), delta=Decimal("0.00001"), nominal_subjects=100),
        "purpose": "routing",
        "legal_basis": "legitimate-interests",
        "retention_days": 30,
        "sites": ("st-elm", "lakeside"),
        "quorum": 2,
        "deadline_seconds": 30,
    }
    return TrainingPlan.model_validate({**fields, **changes})
