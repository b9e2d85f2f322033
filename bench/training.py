"""What privacy costs a training step, beside plain training and Opacus, in one run.

    python -m bench.training [--quick] [--engine-only] [--kinds KIND …] [--data DIR]

* `lora_*` and `full_*`: one logical step of 128 records of 128 tokens on the packaged encoder (four
  micro-batches of 32, then the optimiser's step with noise): without privacy, with ours (clipped
  per subject, two records of each), and with Opacus' hooks and ghost mode (clipped per record).
  Steps are taken in turns and the medians of the paired ratios are reported. Peak memory is that of
  a fresh process which does nothing else.
* `records_per_second_over_opacus_recipe`: LoRA in the upper third of the layers, on real messages
  and abstracts (Opacus' tutorial on text trains the last one): the product's `SiteTrainer` beside
  Opacus as its tutorials use it: Poisson loader, `BatchMemoryManager`, padding to the plan's
  length; same trained weights, sampling rate and noise. `…_all_layers`: LoRA in every layer.
* `records_per_second_over_plain_trainer`: beside a Hugging Face `Trainer` without privacy, with
  LoRA (in the same layers) and its defaults.
* The two keys without a data set's name are the smaller ones of both data sets. What lies below the
  trained layers is computed in the first step, whose rate is told too; medians are of later ones.

The last line is one JSON object; progress goes to standard error.

Exit status: 0; 77 when the data is not there (what test harnesses call "skipped").
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.recipes import measure_recipes
from bench.steps import STEPS
from client.learning.base_model import EMBEDDED_MODEL, resolve_base_model
from client.learning.plan_model import quiet_transformers

LABELS: Final = 77
LENGTH: Final = 128
EXIT_SKIPPED: Final = 77
KINDS: Final = ("lora", "full")


# --- one step of a model --------------------------------------------------------------------------


def build(kind: str) -> nn.Module:
    """The packaged encoder with a classifier: `lora` (r 8 on queries and values) or `full`."""
    import peft
    import transformers

    with quiet_transformers():
        model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
            resolve_base_model(EMBEDDED_MODEL), num_labels=LABELS, local_files_only=True
        )
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        if kind == "lora":
            config = peft.LoraConfig(r=8, target_modules=["query", "value"], lora_dropout=0.0)
            model = peft.get_peft_model(model, config)
    built: nn.Module = model.train()
    return built


class Texts:
    """Random texts of one length."""

    micro_batch: Final = 32
    records: Final = 4 * micro_batch

    def batches(self) -> list[tuple[Tensor, ...]]:
        """Ids, mask and labels."""
        generator = torch.Generator().manual_seed(1)
        return [
            (
                torch.randint(1000, 30000, (self.micro_batch, LENGTH), generator=generator),
                torch.ones(self.micro_batch, LENGTH, dtype=torch.long),
                torch.randint(0, LABELS, (self.micro_batch,), generator=generator),
            )
            for _ in range(self.records // self.micro_batch)
        ]

    def losses(self, model: Any, *batch: Tensor) -> Tensor:
        """Loss of each record."""
        ids, mask, labels = batch
        positions = torch.arange(LENGTH).repeat(len(ids), 1)  # a row a record, which Opacus needs
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        return cross_entropy(logits, labels, reduction="none")


def measure_steps(kind: str, turns: int) -> dict[str, float]:
    """Medians of ratios to the plain step of the same turn."""
    steps = {name: make(Texts(), build(kind)) for name, make in STEPS.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of what it does
        for turn in range(turns + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if turn:  # the first one warms up
                    taken[name].append(time.perf_counter() - started)
                say(f"{kind}: {name} {time.perf_counter() - started:.2f} s")
    return {
        f"{kind}_{name}_over_plain": round(
            statistics.median(
                mine / plain for mine, plain in zip(taken[name], taken["plain"], strict=True)
            ),
            3,
        )
        for name in ("dp", "hooks", "ghost")
    } | {f"{kind}_plain_step_seconds": round(statistics.median(taken["plain"]), 2)}


def measure_memory(kind: str) -> dict[str, float]:
    """Peak memory of a process that takes two steps, over that of plain training."""
    peaks = {}
    for name in STEPS:
        done = subprocess.run(
            [sys.executable, "-m", "bench.training", "--peak", kind, name],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[name] = float(done.stdout.split()[-1])
        say(f"{kind}: {name} peak {peaks[name]:.0f} MiB")
    return {
        f"{kind}_{'memory' if name == 'dp' else f'{name}_memory'}_over_plain": round(
            peaks[name] / peaks["plain"], 3
        )
        for name in ("dp", "hooks", "ghost")
    }


def peak(kind: str, name: str) -> float:
    """MiB."""
    step = STEPS[name](Texts(), build(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            step()
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns and records")
    parser.add_argument("--engine-only", action="store_true", help="leave the recipes out")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of engines")
    parser.add_argument("--recipes-only", action="store_true", help="leave the engine out")
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("FIDUCIARY_DATA", default))
    )
    parser.add_argument("--peak", nargs=2, metavar=("KIND", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak:
        print(peak(*options.peak))
        return 0
    figures: dict[str, float] = {"threads": torch.get_num_threads()}
    if not options.recipes_only:
        for kind in options.kinds:
            figures |= measure_steps(kind, 3 if options.quick else 9)
            figures |= measure_memory(kind)
    if not options.engine_only:
        if not (options.data / "banking77").is_dir():
            say(f"no data in {options.data}: set FIDUCIARY_DATA")
            return EXIT_SKIPPED
        turns, most = (2, 256) if options.quick else (3, 1024)
        figures |= measure_recipes(options.data, turns, most)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}} {value:>10,}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
