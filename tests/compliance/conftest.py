from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.api import ComplianceClient
from tests.compliance.federation import Coordinator, Site
from tests.compliance.fuzzing import FuzzedService, fuzzed_service
from tests.compliance.running import Clock, RunningService, running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(clock: Clock) -> Iterator[RunningService]:
    """A fresh service, in memory where the machine allows: it syncs after every write."""
    memory = Path("/dev/shm")  # noqa: S108  only its existence matters
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        running(Path(folder) / "compliance", clock) as started,
    ):
        yield started


@pytest.fixture
def coordinator(service: RunningService) -> Coordinator:
    """The coordinator, registered."""
    coordinator = Coordinator(service)
    coordinator.register()
    return coordinator


@pytest.fixture
def north(coordinator: Coordinator) -> Site:
    """A site that takes part."""
    return coordinator.welcome("north")


@pytest.fixture
def officer(service: RunningService) -> ComplianceClient:
    return service.as_("officer")


@pytest.fixture
def fuzzed(
    service: RunningService, coordinator: Coordinator, north: Site, tmp_path: Path
) -> FuzzedService:
    """A service in which a release was granted and a request filed, and a token of each role."""
    return fuzzed_service(service, coordinator, north, tmp_path)
