"""A real detector, loaded once, and a site with real keys, journal and vault."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.terminal import run_app
from client.cli import app
from client.deidentification import pipeline
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


class Operator:
    """Types commands for one site.

    Args:
        folder: The site's folder.
        capsys: Where the output goes.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def types(
        self, *words: str, monkeypatch: pytest.MonkeyPatch, group: str = "data"
    ) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["client", group, *words, "--dir", str(self.folder)])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        captured = self._capsys.readouterr()
        return int(str(ended.value.code)), captured.out, captured.err


@pytest.fixture
def typed(
    site: Site,
    detector: Detector,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Type words of `client data`, or of another `group`: exit code, output, errors.

    The detector is loaded already.
    """
    monkeypatch.setattr(pipeline, "Detector", lambda *_: detector)
    monkeypatch.setenv("COLUMNS", "200")
    operator = Operator(site.paths.root, capsys)
    return lambda *words, **group: operator.types(*words, monkeypatch=monkeypatch, **group)
