"""`compute.toml`: what it says, what it may not, and that nothing is missing from it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from audit.errors import MalformedInput, NotFound
from client import compute
from client.compute import Compute, read_compute
from client.learning.passes import CPU_TOKENS, GPU_TOKENS, Settings
from compliance.toml_file import MAX_SETTINGS_BYTES

FORMAT = 'format = "fiduciary.compute/1"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "compute.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_trainers_own_defaults_hold(tmp_path: Path) -> None:
    assert read_compute(tmp_path / "compute.toml").settings() == Settings()


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    documented = (compute.__doc__ or "").split("```toml\n")[1].split("```")[0]
    assert set(tomllib.loads(documented)) == set(Compute.model_fields)
    assert read_compute(written(tmp_path, documented)).device == "auto"


def test_every_key_reaches_the_trainer(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        FORMAT + 'engine = "hooks"\ndevices = ["cpu", "cpu"]\nprecision = "bf16"\n'
        "micro_batch_tokens = 7\ncache_bytes = 0\n",
    )
    assert read_compute(path).settings() == Settings(
        engine="hooks",
        devices=("cpu", "cpu"),
        precision="bf16",
        micro_batch_tokens=7,
        cache_bytes=0,
    )
    assert "engine hooks on cpu, cpu, bf16" in read_compute(path).in_words()


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, taken in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        settings = Compute(device="auto").settings()
        assert settings.device == taken
        assert settings.micro_batch_tokens == (GPU_TOKENS if count else CPU_TOKENS)
        if count:
            assert Compute(devices=("cuda:0", "cuda:1")).settings().micro_batch_tokens == GPU_TOKENS


@pytest.mark.parametrize(
    "stated", [{"device": "cuda"}, {"device": "cuda:1"}, {"devices": ("cuda:0", "cuda:1")}]
)
def test_a_device_that_is_not_there_is_named(
    stated: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotFound, match="is not here") as refused:
        Compute.model_validate(stated).settings()
    assert "compute.toml" in refused.value.fix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "format: missing"),
        ('format = "fiduciary.compute/2"', "format"),
        (FORMAT + "surprise = 1", "surprise: unknown field"),
        (FORMAT + 'engine = "ghost"', "engine"),
        (FORMAT + 'device = "gpu"', "device"),
        (FORMAT + 'devices = ["cuda:0"]', "at least two"),
        (FORMAT + 'devices = ["cuda:0", "cuda:0"]', "each GPU may appear once"),
        (FORMAT + 'devices = ["cuda:0", "cpu"]', "of one kind"),
        (FORMAT + 'device = "cpu"\ndevices = ["cuda:0", "cuda:1"]', "either device or devices"),
        (FORMAT + 'precision = "fp16"', "precision"),
        (FORMAT + "micro_batch_tokens = 0", "micro_batch_tokens"),
        (FORMAT + "cache_bytes = -1", "cache_bytes"),
        (FORMAT + "cache_bytes = ", "Invalid value"),
        ("#" * (MAX_SETTINGS_BYTES + 1), "more than"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem) as refused:
        read_compute(written(tmp_path, text))
    assert "malformed compute.toml" in str(refused.value)
    assert "compute.toml" in refused.value.fix
