"""A release's weights are a state again, whatever the task and whatever was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.learning.plan_model import PlanModel
from client.learning.tasks import build_model
from compliance.statements import Phase
from tests.client.learning.conftest import MakePlan, phase
from tests.client.learning.tasks.conftest import language_plan

Decoders = Callable[[str], Path]


def check_round_trip(model: PlanModel, folder: Path) -> None:
    """Save a state of random numbers, and find it in the release."""
    start = model.get_state()
    rng = np.random.default_rng(5)
    state = {
        name: array + 0.1 * rng.normal(size=array.shape).astype(np.float32)
        for name, array in start.items()
    }
    model.set_state(state)
    model.save(folder)
    (file,) = folder.glob("*.safetensors")
    model.set_state(start)
    found = model.state_in(load_file(file))
    model.set_state(found)  # refuses a name too many or too few
    for name, array in state.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert model.state_in(state).keys() == state.keys()


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_texts(kind: str, make_plan: MakePlan, tiny_base: Path, tmp_path: Path) -> None:
    check_round_trip(build_model(make_plan(phase(kind)), tiny_base), tmp_path)


@pytest.mark.parametrize("kind", ["adapter", "full"])
@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_language(kind: str, base: str, decoders: Decoders, tmp_path: Path) -> None:
    folder = decoders(base)
    check_round_trip(build_model(language_plan(folder, phase(kind)), folder), tmp_path)


def test_a_histogram_stays_what_it_was(
    make_plan: MakePlan, tiny_base: Path, tmp_path: Path
) -> None:
    phases: tuple[Phase, ...] = (phase("histogram"), phase("adapter"))
    model = build_model(make_plan(*phases, class_weights="histogram"), tiny_base)
    model.save(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert model.state_in(load_file(file)).keys() == model.get_state().keys()
