"""The site's folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from audit.errors import Conflict, MalformedInput, NotFound
from audit.journal import Journal
from client.site import SITE_ENVIRONMENT, Site, default_folder, read_config


def test_a_site_opens_with_what_it_was_created_with(tmp_path: Path) -> None:
    with Site.create(tmp_path / "s", name="north", federation="demo") as made:
        key = made.identity.public
    with Site.open(tmp_path / "s") as site:
        assert (site.name, site.federation) == ("north", "demo")
        assert site.identity.public == key
        assert site.journal.origin == "demo/site/north"
        assert [leaf.action for leaf in site.journal.leaves()] == ["site-created"]
        assert site.principal == "site:north"
        with site.ledger() as ledger:
            assert ledger.open_plans() == []


def test_private_files_are_private(local: Site) -> None:
    paths = local.paths
    for path in (paths.identity, paths.node_key, paths.ledger, paths.journal):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (paths.root, paths.keys, paths.keyring):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Journal, "record", fail)
    with pytest.raises(OSError, match="disk full"):
        Site.create(tmp_path / "deep" / "s", name="north", federation="demo")
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_occupied_folder_is_never_overwritten(local: Site) -> None:
    before = local.paths.identity.read_bytes()
    with pytest.raises(Conflict, match="not empty"):
        Site.create(local.paths.root, name="north", federation="demo")
    assert local.paths.identity.read_bytes() == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    Site.create(tmp_path / "s", name="north", federation="demo").close()
    assert (tmp_path / "s" / "config.toml").exists()


@pytest.mark.parametrize("name", ["North", "a b", "", "a/b", "x" * 65])
def test_names_that_are_not_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedInput, match="malformed site: name"):
        Site.create(tmp_path / "s", name=name, federation="demo")
    assert list(tmp_path.iterdir()) == []


def test_no_site_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no site in") as raised:
        Site.open(tmp_path)
    assert "client join" in raised.value.fix


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"format = ", "Invalid value"),
        (b"\xff", "not UTF-8"),
        (b'format = "fiduciary.site/2"', "format"),
        (
            b'format = "fiduciary.site/1"\nname = "a"\nfederation = "b"\nmore = 1',
            "name|created|more",
        ),
    ],
)
def test_a_damaged_config_says_what_is_wrong(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(MalformedInput, match=problem):
        read_config(tmp_path / "config.toml")


def test_the_environment_names_the_folder(tmp_path: Path) -> None:
    assert default_folder({}) == Path("site")
    assert default_folder({SITE_ENVIRONMENT: "/srv/north"}) == Path("/srv/north")


def test_a_local_site_says_that_it_has_not_joined(local: Site) -> None:
    with pytest.raises(NotFound, match="has not joined"):
        local.kit  # noqa: B018
    with pytest.raises(NotFound, match="has not enrolled"):
        local.token  # noqa: B018
