"""A site that has joined a fake federation, with real keys, journal, ledger, keyring and vault."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.enrolment import Waiting, join
from client.site import Site
from tests.client.site.counterparts import Coordinator, FakeCompliance, make_kit, write_kit


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
    with Site.open(tmp_path / "site") as site:
        yield site


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Site]:
    """A site without a federation."""
    with Site.create(tmp_path / "local", name="north", federation="hospitals") as site:
        yield site
