"""A site that has joined a fake federation, with real keys, journal, ledger, keyring and vault."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from client.enrolment import Waiting, join
from client.guard import Membership
from client.site import Site
from tests.client.site.counterparts import (
    FEDERATION,
    ORIGIN,
    SITE,
    Coordinator,
    FakeCompliance,
    make_kit,
    write_kit,
)
from tests.client.site.tiny_model import save_tiny_model
from tests.client.site.world import World

MEMORY = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one.

    A site syncs every write; on a busy disk that is most of these tests' time. What a crash may
    cost is tested by killing processes, whose pages the system keeps all the same.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def compliance(tmp_path: Path, coordinator: Coordinator) -> Iterator[FakeCompliance]:
    service = FakeCompliance(tmp_path / "compliance", coordinator)
    yield service
    service.log.close()


@pytest.fixture
def kit(tmp_path: Path, coordinator: Coordinator, compliance: FakeCompliance) -> Path:
    return write_kit(tmp_path / "north.kit", make_kit(coordinator, compliance.trust))


@pytest.fixture
def member(coordinator: Coordinator, compliance: FakeCompliance) -> Membership:
    return Membership(
        federation=FEDERATION,
        site=SITE,
        coordinator_key=coordinator.identity.public,
        log_key=compliance.trust.log_key,
        log_origin=ORIGIN,
    )


@pytest.fixture
def at_once() -> Waiting:
    """Wait for nothing."""
    return Waiting(0, lambda _: None, lambda: datetime.now(UTC))


@pytest.fixture
def joined(
    tmp_path: Path, kit: Path, compliance: FakeCompliance, at_once: Waiting
) -> Iterator[Site]:
    """An admitted site."""
    compliance.polls_until_admitted = 0
    join(kit, tmp_path / "site", connect=compliance.connect, waiting=at_once)
    compliance.polls_until_admitted = None
    with Site.open(tmp_path / "site") as site:
        yield site


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Site]:
    """A site without a federation."""
    with Site.create(tmp_path / "local", name="north", federation="hospitals") as site:
        yield site


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model folder, made once."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture
def world(joined: Site, compliance: FakeCompliance, tiny_model: Path) -> World:
    """A site that is ready to train, and a plan that it allows."""
    return World(joined, compliance, tiny_model)
