"""Noise that repeats, steps that nobody counts, or that train nothing: see `usual_code`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from client.learning.passes import Settings
from client.learning.plan_model import quiet_transformers
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks.text_classification import TextClassifier
from tests.client.learning.conftest import MakePlan, people, phase
from tests.client.learning.usual_code import (
    DELTA,
    NOISE,
    NORM,
    OPACUS_WARNS,
    Network,
    Ours,
    engines,
    movement,
    opacus,
    table,
)

pytestmark = OPACUS_WARNS

# --- noise that a seed repeats --------------------------------------------------------------------


def is_fresh(release: Callable[[], Tensor]) -> bool:
    """Whether the noise differs where somebody has set all the usual seeds, to compare runs."""
    released = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            released.append(release())
    return not torch.equal(*released)


def test_noise_follows_the_seed_unless_one_has_a_package_without_wheels() -> None:
    with pytest.raises(ImportError, match="torchcsprng"):
        PrivacyEngine(secure_mode=True)

    def hooks() -> Tensor:
        network, records = Network(), table()
        module, optimizer, _ = PrivacyEngine().make_private(
            module=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
            data_loader=DataLoader(TensorDataset(records.x, records.y), batch_size=5),
            noise_multiplier=NOISE,
            max_grad_norm=NORM,
            loss_reduction="sum",
            poisson_sampling=False,
        )
        module(records.x, records.y).backward()
        optimizer.step()
        return movement(network)

    assert not is_fresh(hooks)


@engines
def test_noise_follows_no_seed(engine: str) -> None:
    assert is_fresh(lambda: Ours(engine, seed=None).step(table()))


# --- the inner optimiser's step -------------------------------------------------------------------


def is_accounted(network: nn.Module, steps_accounted: int) -> bool:
    """Whether weights that moved have moved by accounted steps."""
    return steps_accounted > 0 or not bool(movement(network).any())


def test_the_inner_optimisers_step_trains_without_being_counted() -> None:
    network, records = Network(), table()
    engine, (module, optimizer, _) = opacus(network, records, poisson_sampling=False)
    module(records.x, records.y).backward()
    optimizer.original_optimizer.step()
    assert not is_accounted(network, len(engine.accountant))
    assert engine.get_epsilon(DELTA) == 0


@engines
def test_the_inner_optimisers_step_finds_nothing_to_step_with(engine: str) -> None:
    ours = Ours(engine)
    subjects = ours.backward(table())
    ours.optimizer.original_optimizer.step()
    assert is_accounted(ours.network, ours.optimizer.steps)
    gradients = ours.engine.collect()
    ours.optimizer.original_optimizer.step()
    assert is_accounted(ours.network, ours.optimizer.steps)
    ours.optimizer.accumulate(gradients, subjects)
    ours.optimizer.original_optimizer.step()
    assert is_accounted(ours.network, ours.optimizer.steps)
    assert ours.optimizer.steps == 0
    ours.optimizer.step()
    assert bool(movement(ours.network).any())
    assert is_accounted(ours.network, ours.optimizer.steps)


# --- LoRA under DP that trains nothing (#820) -----------------------------------------------------


def trains_just(model: nn.Module, before: dict[str, Tensor], *intended: str) -> bool:
    """Whether all weights whose names hold one of `intended` have moved, and no others."""
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return moved == {name for name in before if any(part in name for part in intended)}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("inference_mode", [False, True])
def test_lora_that_was_loaded_to_go_on_may_train_nothing(inference_mode: bool) -> None:
    """`PeftModel.from_pretrained` loads adapters frozen unless told otherwise.

    The loss falls (the head learns) and epsilon is spent. In #820 it was a matter of when the model
    was moved to the device; the symptoms were the same.
    """
    import peft
    import transformers

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base = transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=30,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                initializer_range=0.3,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        model: Any = peft.get_peft_model(
            base,
            peft.LoraConfig(r=2, target_modules=["query", "value"], inference_mode=inference_mode),
        )
    model.base_model.model.classifier.requires_grad_(True)
    model.train()
    ids = torch.arange(2, 26).view(8, 3)
    labels = torch.arange(8) % 2
    before = weights_of(model)
    engine = PrivacyEngine(accountant="rdp")
    module, optimizer, _ = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5),
        data_loader=DataLoader(TensorDataset(ids, labels), batch_size=8),
        noise_multiplier=0.1,
        max_grad_norm=1.0,
        noise_generator=torch.Generator().manual_seed(2),
        poisson_sampling=False,
    )
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert engine.get_epsilon(DELTA) > 0
    intended = ("lora_", "classifier")
    assert trains_just(model, before, *intended) is not inference_mode


@engines
def test_an_adapter_phase_trains_what_it_says(
    model: TextClassifier, make_plan: MakePlan, engine: str
) -> None:
    """With noise far below the gradients: what moved has learnt."""
    before = weights_of(model.network)
    plan = make_plan(phase("adapter", learning_rate="5"))
    trainer = SiteTrainer(model, plan, people([2] * 4), settings=Settings(engine=engine))
    trainer.train_round(0, model.get_state())
    assert trains_just(model.network, before, "head.weight", ".lora_B.")
