"""What privacy costs a training step on a GPU, beside plain training and Opacus, in one run.

    python -m bench.gpu [--device cuda] [--model bert-base|vit-large|gpt2-medium]
                        [--precision bf16|fp32] [--kind full|lora] [--size full|small] [--turns 5]

Models have 110 to 355 million weights, from configurations; nothing is downloaded. A step is 128
records (of 128 tokens, or pictures of 224 by 224) in micro-batches of 32, and the optimiser's step
with noise: without privacy, with ours (clipped per subject, two records of each), and with Opacus'
hooks and ghost mode (clipped per record). Steps are taken in turns, and medians of the ratios to
the plain step of the same turn are reported. Peak memory is measured before, one engine at a time.

* `dp_over_plain`, `hooks_over_plain`, `ghost_over_plain`; the same with `_memory`: null where an
  engine has no memory for it, or cannot do it (`…_failed` says which).
* `plain_step_seconds`, `dp_records_per_second`.
* `noise_seconds`: the private optimiser's step alone, whose noise is made on the CPU whatever the
  device (`client.learning.noise`): a step with more records has no more of it.
  `dp_without_noise_over_plain` is `dp_over_plain` less that.

The last line is one JSON object with the device's name; progress goes to standard error. `--size
small` is a smoke test, for any device.

Exit status: 0; 77 when there is no such device (what test harnesses call "skipped").
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.steps import STEPS, Step, private_optimizer
from client.learning.device_failures import is_out_of_memory
from client.learning.plan_model import quiet_transformers

LABELS: Final = 10
LENGTH: Final = 128
MICRO_BATCH: Final = 32
MICRO_BATCHES: Final = 4
EXIT_SKIPPED: Final = 77

MODELS: Final = ("bert-base", "vit-large", "gpt2-medium")
LORA_TARGETS: Final = {
    "bert-base": ["query", "value"],
    "vit-large": ["q_proj", "v_proj"],
    "gpt2-medium": ["c_attn"],
}


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
        model: One of `MODELS`.
        kind: `full` or `lora` (r 8 on what attention asks and gives).
        device: Where.
        is_bf16: Whether forward and backward pass run under autocast to bfloat16.
        is_small: Two narrow layers and short inputs, for a smoke test.
    """

    model: str
    kind: str
    device: torch.device
    is_bf16: bool
    is_small: bool

    @property
    def micro_batch(self) -> int:
        """Records in it."""
        return 4 if self.is_small else MICRO_BATCH

    @property
    def records(self) -> int:
        """Of a step."""
        return self.micro_batch * MICRO_BATCHES

    def build(self) -> nn.Module:
        """The model with a classifier, on its device, ready to train."""
        import peft

        torch.manual_seed(1)
        with quiet_transformers(), self.device:
            model: Any = _from_config(self.model, self.is_small)
            for part in model.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.0
            if self.kind == "lora":
                targets = LORA_TARGETS[self.model]
                fan = self.model == "gpt2-medium"
                model = peft.get_peft_model(
                    model, peft.LoraConfig(r=8, target_modules=targets, fan_in_fan_out=fan)
                )
        for name, weight in model.named_parameters():
            if name.rpartition(".")[2] not in ("weight", "bias"):
                weight.requires_grad_(False)  # a ViT's CLS token and positions are no layer's
        built: nn.Module = model.train()
        return built

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Inputs and labels of each micro-batch, as they come from the CPU."""
        generator = torch.Generator().manual_seed(1)
        side = 32 if self.is_small else 224
        made = []
        for _ in range(MICRO_BATCHES):
            if self.model == "vit-large":
                inputs = torch.rand(self.micro_batch, 3, side, side, generator=generator)
            else:
                shape = (self.micro_batch, 16 if self.is_small else LENGTH)
                inputs = torch.randint(1000, 30000, shape, generator=generator)
            labels = torch.randint(0, LABELS, (self.micro_batch,), generator=generator)
            made.append((inputs.to(self.device), labels.to(self.device)))
        return made

    def losses(self, model: Any, *batch: Tensor) -> Tensor:
        """Loss of each record."""
        inputs, labels = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            if self.model == "vit-large":
                logits = model(pixel_values=inputs).logits
            else:
                positions = torch.arange(inputs.shape[1], device=self.device)
                positions = positions.repeat(len(inputs), 1)  # a row a record, as Opacus needs
                logits = model(
                    input_ids=inputs, attention_mask=torch.ones_like(inputs), position_ids=positions
                ).logits
        return cross_entropy(logits.float(), labels, reduction="none")


def _from_config(name: str, is_small: bool) -> nn.Module:
    import transformers

    t: Any = transformers
    width, layers, heads = (64, 2, 4) if is_small else (1024, 24, 16)
    wide = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    model: nn.Module
    if name == "bert-base":
        shape = wide if is_small else {}
        model = t.BertForSequenceClassification(t.BertConfig(num_labels=LABELS, **shape))
    elif name == "vit-large":
        pictures = {"image_size": 32 if is_small else 224, "num_labels": LABELS}
        model = t.ViTForImageClassification(t.ViTConfig(**wide, **pictures))
    else:
        config = t.GPT2Config(
            n_embd=width, n_layer=layers, n_head=heads, num_labels=LABELS, pad_token_id=0
        )
        model = t.GPT2ForSequenceClassification(config)
    return model


# --- measuring ------------------------------------------------------------------------------------


def wait_for(device: torch.device) -> None:
    """Until all that was asked of it is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_bytes(work: Work, name: str) -> int | None:
    """Most memory that an engine's second step takes, on a device that counts it."""
    if work.device.type != "cuda":
        return None
    step = STEPS[name](work, work.build())
    step()
    torch.cuda.reset_peak_memory_stats(work.device)
    step()
    wait_for(work.device)
    return torch.cuda.max_memory_allocated(work.device)


def seconds_of(work: Work, step: Step) -> float:
    """Of one step."""
    wait_for(work.device)
    started = time.perf_counter()
    step()
    wait_for(work.device)
    return time.perf_counter() - started


def noise_seconds(work: Work) -> float:
    """Of the optimiser's step alone, the second one."""
    weights = [weight for weight in work.build().parameters() if weight.requires_grad]
    optimizer = private_optimizer(work, weights)
    optimizer.step()
    return seconds_of(work, optimizer.step)


def measure(work: Work, turns: int) -> dict[str, Any]:
    """Ratios to plain training."""
    peaks: dict[str, int | None] = {}
    failed: dict[str, str] = {}
    for name in STEPS:
        try:
            peaks[name] = peak_bytes(work, name)
        except _FAILURES as error:
            failed[name] = _reason(error)
            say(f"{name}: {failed[name]}")
        release(work.device)
        if peaks.get(name) is not None:
            say(f"{name}: peak {(peaks[name] or 0) / 2**30:.1f} GiB")
    taken: dict[str, list[float]] = {name: [] for name in STEPS if name not in failed}
    steps = {name: STEPS[name](work, work.build()) for name in taken}
    for turn in range(turns + 1):
        for name in list(steps):
            try:
                seconds = seconds_of(work, steps[name])
            except _FAILURES as error:
                failed[name] = _reason(error)
                del steps[name], taken[name]
                release(work.device)
                continue
            say(f"{name} {seconds:.3f} s")
            if turn:  # the first one warms up
                taken[name].append(seconds)
    found: dict[str, Any] = {}
    for name in ("dp", "hooks", "ghost"):
        times, plain = taken.get(name), taken["plain"]
        ratios = [mine / other for mine, other in zip(times, plain, strict=True)] if times else []
        found[f"{name}_over_plain"] = round(statistics.median(ratios), 3) if ratios else None
        peak, least = peaks.get(name), peaks.get("plain")
        found[f"{name}_memory_over_plain"] = round(peak / least, 3) if peak and least else None
        if name in failed:
            found[f"{name}_failed"] = failed[name]
    found["plain_step_seconds"] = round(statistics.median(taken["plain"]), 4)
    found["dp_records_per_second"] = round(work.records / statistics.median(taken["dp"]), 1)
    steps.clear()
    release(work.device)
    noise = noise_seconds(work)
    rest = (statistics.median(taken["dp"]) - noise) / statistics.median(taken["plain"])
    return found | {
        "noise_seconds": round(noise, 3),
        "dp_without_noise_over_plain": round(rest, 3),
    }


_FAILURES: Final = (RuntimeError, NotImplementedError, ValueError, AttributeError)
"""How an engine says that it cannot do it, or that it has no memory for it."""


def _reason(error: Exception) -> str:
    return "out of memory" if is_out_of_memory(error) else type(error).__name__


def release(device: torch.device) -> None:
    """Let the next engine have what the last one left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def name_of(device: torch.device) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; see the module."""
    parser = argparse.ArgumentParser(description="DP training on a GPU beside Opacus and no DP.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", choices=MODELS, default="bert-base")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--kind", choices=("full", "lora"), default="full")
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        say("no CUDA device here: skipped (--device cpu --size small is a smoke test)")
        return EXIT_SKIPPED
    work = Work(
        options.model, options.kind, device, options.precision == "bf16", options.size == "small"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns of what it does
        found = measure(work, options.turns)
    weights = sum(weight.numel() for weight in work.build().parameters())
    told = {
        "benchmark": "gpu",
        "device": name_of(device),
        "model": options.model,
        "size": options.size,
        "kind": options.kind,
        "precision": options.precision,
        "weights": weights,
        "records": work.records,
        "torch": torch.__version__,
    }
    print(json.dumps(told | found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
