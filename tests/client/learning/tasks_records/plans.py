"""Plans over a tiny vision transformer and over tables, their records, and the naive step."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from client.learning.base_model import base_model_digest, resolve_base_model
from client.learning.data import Example
from client.learning.passes import Settings
from client.learning.plan_model import PlanModel
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import load_example
from compliance.statements import Adapter, BaseModelReference, Feature, Phase, TrainingPlan
from tests.client.learning.conftest import phase, plan_for, trainable, trained_weights
from tests.client.learning.tiny_models import vision

LABELS = ("healthy", "ill")
SIDE = 16
LEARNING_RATE, DIVISOR = 1000, 10

FEATURES = (
    Feature(name="age", kind="number", low=Decimal(20), high=Decimal(100)),
    Feature(name="pain", kind="category", values=("1", "2", "3")),
    Feature(name="pressure", kind="number", low=Decimal(80), high=Decimal(200)),
    Feature(name="sex", kind="category", values=("f", "m")),
)


def save_vision(folder: Path, layers: int = 2, **processor: Any) -> Path:
    """A tiny vision transformer with a head for other labels, and its image processor."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    vision(layers).save_pretrained(folder)  # type: ignore[operator]
    size = {"height": SIDE, "width": SIDE}
    ViTImageProcessorPil(size=size, **processor).save_pretrained(folder)
    return folder


def image_plan(base: Path, *phases: Phase, **changes: Any) -> TrainingPlan:
    fields: dict[str, Any] = {
        "task": "image-classification",
        "labels": LABELS,
        "adapter": Adapter(rank=2, alpha=4, target_modules=("q_proj", "v_proj")),
    }
    return plan_for(base, phases or (phase("adapter"),), **{**fields, **changes})


def table_plan(architecture: str, *phases: Phase, **changes: Any) -> TrainingPlan:
    base = resolve_base_model(architecture)
    fields: dict[str, Any] = {
        "task": "tabular-classification",
        "labels": LABELS,
        "base_model": BaseModelReference(name=architecture, digest=base_model_digest(base)),
        "features": FEATURES,
    }
    return plan_for(base, phases or (phase("full"),), **{**fields, **changes})


def png(pixels: Any, mode: str | None = None) -> str:
    """Pixels `(height, width, channels)` as a record's text."""
    from PIL import Image

    written = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels))
    (image if mode is None else image.convert(mode)).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def picture(number: int, label: int) -> str:
    """Noise that is red, or blue."""
    pixels = np.random.default_rng(number).integers(0, 120, (24, 20, 3), dtype=np.uint8)
    pixels[..., 2 * label] += 130
    return png(pixels)


def row(number: int, label: int) -> str:
    """Older people with pain of kind 3 are ill; a cell is missing now and then."""
    random = np.random.default_rng(number)
    cells = {
        "age": f"{random.normal(45 + 25 * label, 5):.1f}",
        "pain": str(random.choice([1, 2] if not label else [2, 3])),
        "pressure": "" if number % 3 == 0 else str(random.integers(90, 190)),
        "sex": "?" if number % 5 == 0 else str(random.choice(["f", "m"])),
    }
    return json.dumps(cells)


def people(records_of: Sequence[int], make: Any) -> list[Example]:
    """Subjects with so many records each, of both labels in turn."""
    examples: list[Example] = []
    for subject, records in enumerate(records_of):
        for _ in range(records):
            at = len(examples)
            examples.append(Example(f"subject-{subject}", make(at, at % 2), at % 2))
    return examples


def with_a_head(model: PlanModel) -> None:
    """Weights at zero hide mistakes in what lies below them: give them others."""
    random = np.random.default_rng(4)
    state = model.get_state()
    model.set_state(
        {
            name: array if array.any() else random.normal(0, 0.3, array.shape).astype(np.float32)
            for name, array in state.items()
        }
    )


def logits_of(model: PlanModel, kind: str, examples: Sequence[Example]) -> Tensor:
    records = model.encode(examples)
    below = model.below(kind, records) if model.keeps_below(kind) else None
    with torch.no_grad():
        logits: Tensor = model.trained_module(kind)(*model.inputs(kind, records, below))
    return logits


def naive_step(model: PlanModel, kind: str, examples: Sequence[Example], norm: float) -> Tensor:
    """Clip the gradient of each subject's mean loss, one subject at a time, without an engine."""
    parameters = trainable(model, kind)
    total = torch.zeros(sum(p.numel() for p in parameters))
    for subject in sorted({example.subject for example in examples}):
        own = [example for example in examples if example.subject == subject]
        records = model.encode(own)
        below = model.below(kind, records) if model.keeps_below(kind) else None
        logits = model.trained_module(kind)(*model.inputs(kind, records, below))
        loss = cross_entropy(logits, torch.tensor([e.label for e in own]))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        total += gradient * min(1.0, norm / float(gradient.double().norm()))
    return total * LEARNING_RATE / DIVISOR


def difference_of_a_step(
    model: PlanModel, plan: TrainingPlan, engine: str, examples: Sequence[Example]
) -> float:
    """Of the trainer's first step from the naive one, relative to that.

    The learning rate is large, so that the step is not lost in the rounding of the weights.
    """
    kind, norm = plan.phases[0].kind, float(plan.phases[0].max_grad_norm)
    want = naive_step(model, kind, examples, norm)
    before = trained_weights(model, kind)
    trainer = SiteTrainer(model, plan, examples, settings=Settings(engine=engine))
    trainer.train_round(0, model.get_state())
    after = trained_weights(model, kind)
    got = torch.cat([(a - b).flatten() for a, b in zip(before, after, strict=True)])
    assert float(want.norm()) > 0
    return float((got - want).norm()) / float(want.norm())


def run_load_example(
    plan: TrainingPlan, folder: Path, base: Path, replacing: str, by: str, tmp_path: Path
) -> Any:
    """What a release's example says in a process without Fiduciary.

    Args:
        plan: The plan of the release.
        folder: The release.
        base: The base model.
        replacing: A line of the example, which reads what is to be classified, up to its `=`.
        by: What to read instead.
        tmp_path: Where the process runs.
    """
    (folder / "labels.json").write_text(json.dumps(plan.labels), encoding="utf-8")
    code = load_example(plan).format(
        folder=json.dumps(str(folder)), base=json.dumps(str(base)), max_tokens=plan.max_tokens
    )
    start, found, rest = code.partition(f"\n{replacing} = ")
    assert found
    code = f"{start}{found}{by}\n{rest.partition(chr(10))[2]}"
    foreign = '[n for n in sys.modules if n.split(".")[0] in ("client", "audit", "compliance")]'
    tail = f"\nimport sys\nprint(json.dumps([{foreign}, VALUES]))\n"
    values = "logits.tolist()" if replacing == "images" else "[logits(r).tolist() for r in rows]"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + tail.replace("VALUES", values)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said[0] == []
    return said[1], done.stdout.splitlines()[-2]
