"""Training on a device that is not the CPU: nothing is mixed, and little waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

CASES = ("one_backward:full", "one_backward:adapter", "hooks:adapter")


@pytest.fixture(scope="module")
def compared(tiny_base: Path) -> Mapping[str, Mapping[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.learning.other_device", str(tiny_base), *CASES],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_another_device_trains_the_same(
    compared: Mapping[str, Mapping[str, Any]], case: str
) -> None:
    found = compared[case]
    assert all(size > 0 for size in found["sizes"])
    assert all(
        difference <= 1e-6 * size
        for difference, size in zip(found["differences"], found["sizes"], strict=True)
    )
    assert found["confusions_agree"]


@pytest.mark.parametrize("case", CASES)
def test_a_micro_batch_waits_for_the_device_once_beside_the_model(
    compared: Mapping[str, Mapping[str, Any]], case: str
) -> None:
    """For whether norms are finite. transformers itself asks once whether there is padding."""
    waits = dict(compared[case]["waits"])
    of_norms = [line for line in waits if line.startswith("subject_gradients.py")]
    of_model = [line for line in waits if line.startswith("encoder_model.py")]
    assert [waits.pop(line) for line in (*of_norms, *of_model)] == [1, 1]
    assert waits == {}


def test_a_step_takes_sums_that_are_elsewhere(compared: Mapping[str, Mapping[str, Any]]) -> None:
    assert compared["sums of the CPU"]["weight"] == pytest.approx([0.0, -1.0, -2.0], abs=1e-6)


TF32 = """
import torch
from client.learning.one_backward import OneBackwardModule

torch.backends.cuda.matmul.fp32_precision = "tf32"
engine = OneBackwardModule(torch.nn.Linear(2, 1))
engine.group(torch.tensor([0]), 1)
engine.backward(engine(torch.ones(1, 2)).sum())
engine.collect()
"""


def test_less_exact_products_are_refused_however_they_are_asked_for() -> None:
    """Torch's newer setting is one that the function for the older one cannot read."""
    done = subprocess.run([sys.executable, "-c", TF32], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValueError: products of float32 are computed with fewer bits" in done.stderr
