"""A base model is what its digest says, and comes from this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit.errors import NotFound, Refused, VerificationFailed
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import MakePlan


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "copy")


def test_the_embedded_model_is_the_published_one() -> None:
    # Weights as sentence-transformers/all-MiniLM-L6-v2 has them: model.safetensors is 53aa5117….
    assert base_model_digest(resolve_base_model(EMBEDDED_MODEL)) == (
        "sha256:eadd4b20bba5b7e48f4d4a6c64e8699793591eb4bce44a06c4150de82b88cf23"
    )


def test_a_folder_is_found_by_path(tiny_base: Path) -> None:
    assert resolve_base_model(str(tiny_base)) == tiny_base.resolve()


@pytest.mark.parametrize(
    "name",
    ["nobody/has-this", "/no/such/folder", "embedded:other", "no such model!", "../no-such-model"],
)
def test_an_absent_model_is_not_fetched(name: str) -> None:
    with pytest.raises(NotFound, match="not on this machine") as caught:
        resolve_base_model(name)
    assert caught.value.fix


def test_the_digest_does_not_depend_on_the_place_or_on_other_files(
    tiny_base: Path, copy: Path
) -> None:
    (copy / "README.md").write_text("hello", encoding="utf-8")
    assert base_model_digest(copy) == base_model_digest(tiny_base)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_changes_the_digest_and_is_refused(
    tiny_base: Path, copy: Path, make_plan: MakePlan, name: str
) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-2] ^= 1
    (copy / name).write_bytes(data)
    assert base_model_digest(copy) != base_model_digest(tiny_base)
    with pytest.raises(VerificationFailed, match=r"expected sha256:.*got sha256:"):
        TextClassifier.build(make_plan(), copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_pickled_weights_are_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\x80\x04.")
    with pytest.raises(Refused, match="pickled"):
        base_model_digest(copy)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_without_a_model_is_refused(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(NotFound, match=r"config\.json with safetensors"):
        base_model_digest(copy)
