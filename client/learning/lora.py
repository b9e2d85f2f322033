"""LoRA as a plan asks for it: where it is, which of its weights train, and the fixed ones.

The `B` matrices train and start at zero, so that LoRA changes nothing at first. The `A` matrices
are drawn from the plan and stay fixed (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313): averages of
sites' updates are then exact.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import nn

from audit.errors import MalformedInput
from audit.words import count_of
from client.learning.layers import transformer_layers
from client.learning.randomness import Keystream
from compliance.statements import TrainingPlan

_SUFFIX: Final = ".default.weight"
_TRANSPOSED: Final = "Conv1D"
"""transformers' class of linear layers whose weight is `(inputs, outputs)`, as GPT-2 has them."""


def first_adapted_layer(plan: TrainingPlan, transformer: nn.Module) -> int:
    """The lowest layer with LoRA, from 0.

    Raises:
        MalformedInput: When the transformer has fewer layers than the plan adapts.
    """
    if plan.adapter.layers is None:
        return 0
    count = len(transformer_layers(transformer))
    if plan.adapter.layers > count:
        raise MalformedInput(
            f"adapter.layers: the base model has {count_of(count, 'layer')}",
            fix="ask for at most as many",
        )
    return count - plan.adapter.layers


def with_lora(plan: TrainingPlan, base: Any, peft_task: str | None) -> Any:
    """The base model as a peft model.

    Args:
        plan: Whose adapter it is to have.
        base: A model of transformers.
        peft_task: peft's name of the task; None where it has none, and the head is `classifier`.

    Raises:
        MalformedInput: When the plan's target modules or layers are not in the model.
    """
    import peft

    transformer = getattr(base, base.base_model_prefix)
    layers = None
    if plan.adapter.layers is not None:
        first = first_adapted_layer(plan, transformer)
        layers = list(range(first, len(transformer_layers(transformer))))
    targets = {type(module).__name__ for module in _targets(plan, transformer)}
    config = peft.LoraConfig(
        task_type=peft_task,
        r=plan.adapter.rank,
        lora_alpha=plan.adapter.alpha,
        target_modules=list(plan.adapter.target_modules),
        layers_to_transform=layers,
        lora_dropout=0.0,
        fan_in_fan_out=targets == {_TRANSPOSED},
        modules_to_save=None if peft_task else ["classifier"],
    )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        raise _bad_targets(plan) from error


def trained_matrices(plan: TrainingPlan, transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The `B` matrices by name, such as `encoder.layer.0.attention.self.query.lora_B`.

    Raises:
        MalformedInput: When one of the plan's target modules has none, or is no linear layer.
    """
    names = [name for name, _ in transformer.named_parameters() if ".lora_" in name]
    matrices = {
        name.removesuffix(_SUFFIX): weight
        for name, weight in transformer.named_parameters()
        if name.endswith(".lora_B" + _SUFFIX)
    }
    modules = [name.removesuffix(".lora_B") for name in matrices]
    if len(names) != 2 * len(matrices) or not all(
        any(f".{name}".endswith(f".{target}") for name in modules)
        for target in plan.adapter.target_modules
    ):
        raise _bad_targets(plan)
    return matrices


def draw_fixed_matrices(transformer: nn.Module, seed: bytes) -> None:
    """Draw every `A` uniformly in `±1 / sqrt(inputs)`, in the order of names."""
    keystream = Keystream(seed)
    for name, parameter in sorted(transformer.named_parameters()):
        if name.endswith(".lora_A" + _SUFFIX):
            bound = 1 / math.sqrt(parameter.shape[1])
            values = (2 * keystream.uniform(parameter.numel()) - 1) * bound
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(values).view_as(parameter))


def _targets(plan: TrainingPlan, transformer: nn.Module) -> list[nn.Module]:
    return [
        module
        for name, module in transformer.named_modules()
        if any(f".{name}".endswith(f".{target}") for target in plan.adapter.target_modules)
    ]


def _bad_targets(plan: TrainingPlan) -> MalformedInput:
    return MalformedInput(
        f"adapter.target_modules {list(plan.adapter.target_modules)} are not linear layers of "
        f"base model {plan.base_model.name!r}",
        fix="name the model's attention projections, such as query and value",
    )
