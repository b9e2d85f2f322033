from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.api import ComplianceClient
from compliance.service.folder import create_folder
from tests.compliance.federation import Coordinator, Site
from tests.compliance.fuzzing import FuzzedService, fuzzed_service
from tests.compliance.running import NEW, START, Clock, RunningService, running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where the machine allows: a service syncs after every write."""
    memory = Path("/dev/shm")  # noqa: S108  only its existence matters
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def made_at_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compliance folder of `START`. Making one takes longer than most tests."""
    return create_folder(tmp_path_factory.mktemp("made") / "compliance", NEW, Clock()).path


@pytest.fixture
def service(clock: Clock, memory: Path, made_at_start: Path) -> Iterator[RunningService]:
    """A fresh service. All of `START` have the same keys; `running` alone makes others."""
    folder = memory / "compliance"
    if clock.now == START:
        shutil.copytree(made_at_start, folder)
    with running(folder, clock) as started:
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
