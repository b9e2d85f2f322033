"""A real detector, loaded once, and a site with real keys, journal and vault."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.deidentification.detection import Detector
from client.deidentification.pipeline import Deidentifier
from client.site import Site
from client.vault import Vault
from tests.client.data.records import KEY

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: every write is synced, and syncing takes the time."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="session")
def deidentifier(detector: Detector) -> Deidentifier:
    return Deidentifier(KEY, detector)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site.create(tmp_path / "site", name="north", federation="test") as made:
        yield made


@pytest.fixture
def vault(site: Site) -> Iterator[Vault]:
    with Vault.open(site.paths, site.keyring) as opened:
        yield opened
