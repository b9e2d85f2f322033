"""Private training of real records beside Opacus' tutorials and a `Trainer` (`bench.training`)."""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn.functional import cross_entropy

from bench.steps import NOISE, NORM
from client.learning.base_model import EMBEDDED_MODEL, base_model_digest, resolve_base_model
from client.learning.data import Example
from client.learning.plan_model import quiet_transformers
from client.learning.private_sgd import SiteTrainer
from client.learning.tasks import build_model
from compliance.statements import Adapter, BaseModelReference, Phase, Privacy, TrainingPlan, utc_now

UPPER_LAYERS: Final = 2
MICRO_BATCH: Final = 32


def read_examples(data: Path, name: str, most: int) -> tuple[list[Example], tuple[str, ...]]:
    """Training records; each row is taken for one data subject."""
    file_name = "train.csv" if name == "banking77" else "abstracts.csv"
    with (data / name / file_name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    if name == "medical_abstracts":
        rows = [[row[1], row[0]] for row in rows]
    labels = tuple(sorted({row[1] for row in rows}))
    spread = rows[:: max(1, len(rows) // most)][:most]
    return [
        Example(subject=str(number), text=row[0], label=labels.index(row[1]))
        for number, row in enumerate(spread)
    ], labels


def plan_for(
    labels: Sequence[str], max_tokens: int, subjects: int, rate: str, layers: int | None
) -> TrainingPlan:
    base = resolve_base_model(EMBEDDED_MODEL)
    phase = Phase(
        kind="adapter",
        rounds=1,
        steps_per_round=1,
        sampling_rate=Decimal(rate),
        learning_rate=Decimal("0.5"),
        max_grad_norm=Decimal(1),
        noise_multiplier=Decimal(1),
    )
    return TrainingPlan(
        name="bench",
        federation="bench",
        author="bench",
        created_at=utc_now(),
        base_model=BaseModelReference(name=EMBEDDED_MODEL, digest=base_model_digest(base)),
        task="text-classification",
        labels=tuple(labels),
        max_tokens=max_tokens,
        adapter=Adapter(rank=8, alpha=16, layers=layers),
        phases=(phase,),
        privacy=Privacy(
            epsilon=Decimal(100),
            delta=Decimal("0.00001"),
            nominal_subjects=subjects,
            max_records_per_subject=1,
        ),
        purpose="bench",
        legal_basis="consent",
        retention_days=1,
        sites=("bench",),
        quorum=1,
    )


def our_rate(plan: TrainingPlan, examples: Sequence[Example]) -> Callable[[], float]:
    """Records a second of one step of the product's trainer."""
    model = build_model(plan, resolve_base_model(EMBEDDED_MODEL))
    trainer = SiteTrainer(model, plan, examples)
    state = model.get_state()
    expected = float(plan.phases[0].sampling_rate) * len(examples)

    def run() -> float:
        started = time.perf_counter()
        trainer.train_round(0, state)
        return expected / (time.perf_counter() - started)

    return run


def lora_classifier(labels: int, layers: int | None) -> tuple[Any, Any]:
    import peft
    import transformers

    base = resolve_base_model(EMBEDDED_MODEL)
    with quiet_transformers():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=labels, local_files_only=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
    count = model.config.num_hidden_layers
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        r=8,
        target_modules=["query", "value"],
        layers_to_transform=None if layers is None else list(range(count - layers, count)),
    )
    return peft.get_peft_model(model, config), tokenizer


def opacus_rate(plan: TrainingPlan, examples: Sequence[Example]) -> Callable[[], float]:
    """Records a second of Opacus, as its tutorials train a transformer."""
    from opacus import PrivacyEngine
    from opacus.utils.batch_memory_manager import BatchMemoryManager
    from torch.utils.data import DataLoader, TensorDataset

    model, tokenizer = lora_classifier(len(plan.labels), plan.adapter.layers)
    encoded = tokenizer(
        [example.text for example in examples],
        truncation=True,
        padding="max_length",
        max_length=plan.max_tokens,
        return_tensors="pt",
    )
    dataset = TensorDataset(
        encoded["input_ids"],
        encoded["attention_mask"],
        torch.tensor([example.label for example in examples]),
    )
    batch = max(1, int(float(plan.phases[0].sampling_rate) * len(examples)))
    model.train()
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4),
        data_loader=DataLoader(dataset, batch_size=batch),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
    )

    def run() -> float:
        records, started = 0, time.perf_counter()
        with BatchMemoryManager(
            data_loader=loader, max_physical_batch_size=MICRO_BATCH, optimizer=optimizer
        ) as physical:
            for ids, mask, labels in physical:
                optimizer.zero_grad()
                losses = private(input_ids=ids, attention_mask=mask).logits
                cross_entropy(losses, labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                records += len(labels)
                if records >= batch:
                    break
        return records / (time.perf_counter() - started)

    return run


def trainer_rate(plan: TrainingPlan, examples: Sequence[Example]) -> Callable[[], float]:
    """Records a second of a Hugging Face `Trainer` with its defaults, without privacy."""
    import transformers

    model, tokenizer = lora_classifier(len(plan.labels), plan.adapter.layers)
    encoded = [
        {
            **tokenizer(example.text, truncation=True, max_length=plan.max_tokens),
            "labels": example.label,
        }
        for example in examples
    ]
    steps = max(4, int(float(plan.phases[0].sampling_rate) * len(examples)) // 8)

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
            trainer = transformers.Trainer(
                model=model,
                args=transformers.TrainingArguments(
                    output_dir=folder,
                    max_steps=steps,
                    report_to=[],
                    save_strategy="no",
                    disable_tqdm=True,
                    logging_strategy="no",
                ),
                train_dataset=encoded,
                processing_class=tokenizer,
            )
            started = time.perf_counter()
            trainer.train()
            return (
                steps * trainer.args.per_device_train_batch_size / (time.perf_counter() - started)
            )

    return run


def measure_recipes(data: Path, turns: int, most: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, max_tokens in (("banking77", 64), ("medical_abstracts", 256)):
        examples, labels = read_examples(data, name, most)
        for suffix, layers in (("", UPPER_LAYERS), ("_all_layers", None)):
            plan = plan_for(labels, max_tokens, len(examples), "0.5", layers)
            figures |= {
                f"{name}.{key}{suffix}": value
                for key, value in _beside_others(name, plan, examples, turns).items()
            }
    for other in OTHERS:
        key = f"records_per_second_over_{other}"
        figures[key] = min(figures[f"{name}.{key}"] for name in ("banking77", "medical_abstracts"))
    return figures


def _beside_others(
    name: str, plan: TrainingPlan, examples: Sequence[Example], turns: int
) -> dict[str, float]:
    rates = {"ours": our_rate(plan, examples)} | {
        other: make(plan, examples) for other, make in OTHERS.items()
    }
    seen: dict[str, list[float]] = {key: [] for key in rates}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = rates["ours"]()
        say(f"{name}: ours, the first step {first:.1f} records/s")
        for _ in range(turns):
            for key, rate in rates.items():
                seen[key].append(rate())
                say(f"{name}: {key} {seen[key][-1]:.1f} records/s")
    ratios = {
        f"records_per_second_over_{other}": round(
            statistics.median(
                mine / theirs for mine, theirs in zip(seen["ours"], seen[other], strict=True)
            ),
            2,
        )
        for other in OTHERS
    }
    return {
        "records_per_second": round(statistics.median(seen["ours"]), 1),
        "records_per_second_first_step": round(first, 1),
        **ratios,
    }


OTHERS: Final[dict[str, Callable[[TrainingPlan, Sequence[Example]], Callable[[], float]]]] = {
    "opacus_recipe": opacus_rate,
    "plain_trainer": trainer_rate,
}


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
