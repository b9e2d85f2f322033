"""Tiny decoders with a tokenizer of their own, and a step computed one subject at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client.learning.data import Example
from client.learning.passes import Settings
from client.learning.plan_model import PlanModel, State
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import load_example
from compliance.statements import Adapter, Phase, TrainingPlan
from tests.client.learning.conftest import plan_for
from tests.client.learning.tiny_models import save_decoder

DIVISOR = 10.0
"""Of a step of `phase(...)` at rate 1: the plan's nominal subjects."""

TARGETS = {"gpt2": ("c_attn",), "llama": ("q_proj", "v_proj")}

PRINT_FOREIGN = """
import sys
foreign = [n for n in sys.modules if n.split(".")[0] in ("client", "audit", "compliance", "opacus")]
assert not foreign, foreign
"""


@pytest.fixture(scope="session")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of decoders, `gpt2` with a tied head and `llama` with one of its own."""
    made: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("decoders") / f"tiny-{kind}"
            save_decoder(kind, folder)
            made[kind] = folder
        return made[kind]

    return folder_of


def language_plan(
    base: Path, *phases: Phase, layers: int | None = None, **changes: Any
) -> TrainingPlan:
    """A plan that models language with one of the decoders."""
    targets = TARGETS[base.name.removeprefix("tiny-")]
    adapter = Adapter(rank=2, alpha=4, target_modules=targets, layers=layers)
    fields = {"task": "causal-language-modelling", "labels": (), "adapter": adapter}
    return plan_for(base, phases, **{**fields, **changes})


def naive_gradients(
    model: PlanModel, examples: Sequence[Example], kind: str, norm: float
) -> dict[str, Tensor]:
    """Clip the gradient of each subject's mean loss, one subject at a time, and sum up."""
    module = model.set_trainable(kind)
    weights = model.weights(kind)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for subject in sorted({example.subject for example in examples}):
        records = model.encode([each for each in examples if each.subject == subject])
        below = None
        if model.keeps_below(kind):
            with torch.no_grad():
                below = model.below(kind, records)
        outputs = module(*model.inputs(kind, records, below))
        loss = model.losses(outputs, records).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        length = float(sum(g.double().pow(2).sum() for g in gradients)) ** 0.5
        for total, gradient in zip(totals.values(), gradients, strict=True):
            total += gradient * min(1.0, norm / length)
    return totals


def check_step(
    model: PlanModel, plan: TrainingPlan, examples: Sequence[Example], engine: str
) -> None:
    """One step of the plan's first phase moves weights by the clipped gradients, to 1e-5."""
    phase = plan.phases[0]
    norm, rate = float(phase.max_grad_norm), float(phase.learning_rate)
    wanted = naive_gradients(model, examples, phase.kind, norm)
    before = {name: w.detach().clone() for name, w in model.weights(phase.kind).items()}
    trainer = SiteTrainer(model, plan, examples, settings=Settings(engine=engine))
    trainer.train_round(0, model.get_state())
    after = model.weights(phase.kind)
    got = torch.cat([(before[name] - after[name].detach()).flatten() for name in wanted])
    want = torch.cat([gradient.flatten() for gradient in wanted.values()]) * rate / DIVISOR
    assert float(want.norm()) > 0
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())


def run_load_example(plan: TrainingPlan, folder: Path, base: Path) -> str:
    """What the code of a model card prints, in a process that has nothing of ours."""
    code = load_example(plan).format(
        folder=repr(str(folder)), base=repr(str(base)), max_tokens=plan.max_tokens
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + PRINT_FOREIGN],
        capture_output=True,  # bytes: a model may well write a carriage return
        check=False,
        cwd=folder,
        env={"HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().removesuffix("\n")


def train(model: PlanModel, plan: TrainingPlan, examples: Sequence[Example]) -> State:
    """A state that one round of the plan gives."""
    start = model.get_state()
    update = SiteTrainer(model, plan, examples, seed=1).train_round(0, start).update
    return {name: (start[name] + update[name]).astype(np.float32) for name in start}
