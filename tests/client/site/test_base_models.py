"""Base models: found by name, never by a path that somebody else chose."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit.errors import MalformedInput, NotFound, Refused
from client.base_models import find_base_model, installed_digest, load_base_model
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest


def test_a_model_is_found_in_the_sites_folder(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "org--tiny")
    assert find_base_model("org/tiny", tmp_path) == tmp_path / "org--tiny"
    assert installed_digest("org/tiny", tmp_path) == base_model_digest(tiny_model)


def test_the_embedded_model_is_found(tmp_path: Path) -> None:
    assert (find_base_model(EMBEDDED_MODEL, tmp_path) / "config.json").is_file()


@pytest.mark.parametrize(
    "name",
    ["/etc", "../tiny", "./tiny", "~/tiny", "a/b/c", "a/../b", "a..b", "", "a b", "a\x00b", "-a"],
)
def test_a_path_is_no_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a model's name"):
        find_base_model(name, tmp_path)


def test_the_working_directory_is_not_searched(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    with pytest.raises(NotFound, match="not installed here"):
        find_base_model("tiny", tmp_path / "models")


def test_an_absent_model_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find_base_model("nobody/has-this-model", tmp_path)
    with pytest.raises(NotFound):
        find_base_model("embedded:nothing", tmp_path)


def test_a_model_loads_for_real(tiny_model: Path) -> None:
    assert load_base_model(tiny_model) == base_model_digest(tiny_model)


def test_pickled_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "tiny")
    (tmp_path / "tiny" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(Refused, match="pickled"):
        installed_digest("tiny", tmp_path)


def test_damaged_weights_do_not_load(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "tiny")
    (tmp_path / "tiny" / "config.json").write_text("{}")
    with pytest.raises(MalformedInput, match="does not load"):
        load_base_model(tmp_path / "tiny")
