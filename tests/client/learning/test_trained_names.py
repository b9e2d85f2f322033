"""What a phase may move, and how much longer an update is as it is sent than as it was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.learning.base_model import resolve_base_model
from client.learning.plan_model import HISTOGRAM, trained_names
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import MakePlan, people, phase
from tests.client.learning.tasks_records.plans import people as people_of
from tests.client.learning.tasks_records.plans import row, table_plan


def test_exactly_those_names_move_of_a_text_s_model(
    model: TextClassifier, make_plan: MakePlan
) -> None:
    for kind in ("probe", "adapter"):
        plan = make_plan(phase(kind, noise_multiplier="1"))
        update = SiteTrainer(model, plan, people([2] * 4)).train_round(0, model.get_state()).update
        assert {n for n, array in update.items() if array.any()} == trained_names(kind, update)


@pytest.mark.parametrize("architecture", ["tabular:linear", "tabular:mlp"])
def test_exactly_those_names_move_of_a_table_s_model(architecture: str) -> None:
    noisy = {"noise_multiplier": "1"}
    plan = table_plan(
        architecture,
        phase("histogram", **noisy),
        phase("full", **noisy),
        class_weights="histogram",
    )
    model = build_model(plan, resolve_base_model(architecture))
    trainer = SiteTrainer(model, plan, people_of([1] * 8, row))
    for number, kind in enumerate(("histogram", "full")):
        update = trainer.train_round(number, model.get_state()).update
        assert {n for n, array in update.items() if array.any()} == trained_names(kind, update)
    assert trained_names("histogram", update) == {HISTOGRAM}


def test_a_head_stretches_updates_by_as_much_as_is_said_and_no_more(model: TextClassifier) -> None:
    network, random = model.network, torch.Generator().manual_seed(1)
    width = network.head.weight.shape[1] - 1
    network.see_through(torch.zeros(width), torch.eye(width))
    assert model.stretch() == pytest.approx(1.0)
    root = torch.randn(width, width, generator=random)
    network.see_through(torch.randn(width, generator=random), root @ root.T / width)
    torch.nn.init.zeros_(network.head.weight)
    stretch, start = model.stretch(), model.get_state()
    assert stretch > 1.5
    longest = 0.0
    for number in range(30):
        way = torch.randn(network.head.weight.shape, generator=random)
        if number:  # towards the longest, by powers of the map
            way = network.head.weight.detach().clone()
        with torch.no_grad():
            network.head.weight.copy_(way / way.norm())
        update = {name: array - start[name] for name, array in model.get_state().items()}
        length = float(np.sqrt(sum(np.square(update[n]).sum() for n in update)))
        assert length <= stretch * (1 + 1e-5)
        longest = max(longest, length)
        _apply_adjoint(model, update)
    assert longest > 0.98 * stretch


def _apply_adjoint(model: TextClassifier, update: dict[str, np.ndarray]) -> None:
    """Let the head be the map's adjoint of an update: its longest direction grows fastest."""
    from client.learning.encoder_model import BIAS_FEATURE

    network = model.network
    weight, bias = (torch.from_numpy(update[f"head.{name}"]) for name in ("weight", "bias"))
    with torch.no_grad():
        inner = weight - bias[:, None] * network.centre
        network.head.weight[:, :-1] = inner @ network.transform.T
        network.head.weight[:, -1] = BIAS_FEATURE * bias
