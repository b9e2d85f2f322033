"""What classifiers on a pretrained encoder share: a frozen or trained encoder, LoRA, a linear head.

* The head works on standardised features with one constant feature appended, whose weight is the
  bias. Centre and scale come from the plan alone. In a release the head is an ordinary linear layer
  on the encoder's output.
* `probe` trains the head on what the base model makes of a record, `adapter` the head and the LoRA
  `B` matrices, `full` the head and every weight of the encoder. LoRA's `A` is drawn from the plan
  and stays fixed (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313): averages of sites' updates are then
  exact.
* Weights come from safetensors only, never from pickle. Dropout is off: under per-subject clipping
  it costs accuracy, and results do not depend on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput
from client.learning.base_model import EMBEDDED_MODEL, HUB_NAME_OF_EMBEDDED
from client.learning.layers import SplitLayers, padded, transformer_layers
from client.learning.plan_model import (
    EncodedRecord,
    PlanModel,
    State,
    check_base_model,
    copies,
    quiet_transformers,
)
from client.learning.randomness import Keystream
from compliance.statements import TrainingPlan

BIAS_FEATURE: Final = 0.2
"""Below 1, it keeps the bias, which follows how common a label is at a site, from using up the
clipping norm: on label-skewed banking77 a feature of 1 costs 2 points at ε = 3."""

_LORA_SUFFIX: Final = ".default.weight"
_ENCODER: Final = "encoder."


class EncoderNetwork(nn.Module):
    """Encoder, what the task makes of its output, and a linear head.

    Args:
        encoder: The transformer.
        hidden_size: Width of its output.
        label_count: Outputs of the head.
        first_trained_layer: Layers below it are frozen in every phase.
    """

    def __init__(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden_size + 1, label_count, bias=False)
        nn.init.zeros_(self.head.weight)
        self.centre = nn.Buffer(torch.zeros(hidden_size), persistent=False)
        self.scale = 1.0
        self.split = SplitLayers(encoder, first_trained_layer)

    def pool(self, hidden: Tensor, *inputs: Tensor) -> Tensor:
        """What the head is to see of the encoder's output, `(records, …, hidden)`."""
        raise NotImplementedError

    def encoder_inputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The encoder's arguments by name."""
        raise NotImplementedError

    def standardise(self, pooled: Tensor) -> Tensor:
        """What the head sees: `(records, …, hidden + 1)`."""
        constant = pooled.new_full((*pooled.shape[:-1], 1), BIAS_FEATURE)
        return torch.cat([(pooled - self.centre) / self.scale, constant], dim=-1)

    def features(self, *inputs: Tensor, hidden: Tensor | None = None) -> Tensor:
        """What the head sees of inputs, from hidden states below the trained layers if given."""
        named = self.encoder_inputs(*inputs)
        output = (
            self.encoder(**named) if hidden is None else self.split.upper(hidden, **named)
        ).last_hidden_state
        return self.standardise(self.pool(output, *inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits; the last input may be hidden states below the trained layers."""
        hidden = None
        if self.split.first:
            *inputs, hidden = inputs  # type: ignore[assignment]
        logits: Tensor = self.head(self.features(*inputs, hidden=hidden))
        return logits

    def released_head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the same head on plain features."""
        trained = self.head.weight.detach()
        weight = trained[:, :-1] / self.scale
        return weight, trained[:, -1] * BIAS_FEATURE - weight @ self.centre

    def take_head(self, weight: Tensor, bias: Tensor) -> None:
        """Inverse of `released_head`."""
        with torch.no_grad():
            self.head.weight[:, :-1] = weight * self.scale
            self.head.weight[:, -1] = (bias + weight @ self.centre) / BIAS_FEATURE


class EncoderModel(PlanModel):
    """A classifier on a pretrained encoder. Subclasses say how a task reads and pools."""

    network: EncoderNetwork
    auto_class: ClassVar[str]
    """The class of transformers that a release is loaded with."""
    peft_task: ClassVar[str | None]
    """peft's name of the task; None where it has none."""

    def __init__(self, plan: TrainingPlan, outer: Any) -> None:
        self._outer = outer
        self._is_lora = not any(phase.kind == "full" for phase in plan.phases)
        inner = outer.base_model.model if self._is_lora else outer
        self._inner = inner
        encoder = getattr(inner, inner.base_model_prefix)
        first = 0
        if self._is_lora and plan.adapter.layers is not None:
            first = len(transformer_layers(encoder)) - plan.adapter.layers
        network = self.make_network(encoder, int(inner.config.hidden_size), len(plan.labels), first)
        super().__init__(plan, network)
        self._encoder_weights = self._find_encoder_weights(plan, encoder)
        self._base = {} if self._is_lora else copies(self._encoder_weights)

    @classmethod
    def build(cls, plan: TrainingPlan, base_path: Path, seed: int | None = None) -> Self:
        """Load the base model, add LoRA that changes nothing yet, and start the head.

        Args:
            plan: Names the base model's digest, labels and adapter.
            base_path: Folder of the base model (`resolve_base_model`).
            seed: Seed of the fixed LoRA `A`; by default a hash of the plan, so that every party of
                a plan has the same.

        Raises:
            VerificationFailed: When the base model's digest is not the plan's.
            MalformedInput: When the adapter's target modules are not in the model.
        """
        check_base_model(plan, base_path)
        import transformers

        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            settings = transformers.AutoConfig.from_pretrained(
                base_path, num_labels=len(plan.labels), local_files_only=True
            )
            for name, value in settings.to_dict().items():
                if "drop" in name and isinstance(value, float):
                    setattr(settings, name, 0.0)
            outer = getattr(transformers, cls.auto_class).from_pretrained(
                base_path, config=settings, use_safetensors=True, local_files_only=True
            )
            if not any(phase.kind == "full" for phase in plan.phases):
                outer = _with_lora(plan, outer, cls.peft_task)
            model = cls(plan, outer)
            model.read_from(base_path)
        model._draw_projections(_adapter_seed(plan) if seed is None else str(seed).encode())
        model.start_head()
        return model

    @abstractmethod
    def make_network(
        self, encoder: nn.Module, hidden_size: int, label_count: int, first_trained_layer: int
    ) -> EncoderNetwork:
        """The task's network."""

    @abstractmethod
    def read_from(self, base_path: Path) -> None:
        """Load what turns records into inputs."""

    @abstractmethod
    def start_head(self) -> None:
        """Set centre, scale and first head from what is public."""

    @abstractmethod
    def raw_inputs(self, records: Sequence[EncodedRecord]) -> tuple[Tensor, ...]:
        """The network's inputs, on the model's device."""

    # --- weights ----------------------------------------------------------------------------------

    @property
    def released_head_module(self) -> nn.Linear:
        """The linear layer of the release."""
        head = getattr(self._inner, "classifier", None) or self._inner.score
        layer: nn.Linear = head.modules_to_save["default"] if self._is_lora else head
        return layer

    def weights(self, kind: str) -> Mapping[str, nn.Parameter]:
        """The head; in an adapter phase LoRA's `B` too, in a full one the encoder."""
        head = dict(self.network.head.named_parameters(prefix="head"))
        return head if kind == "probe" else head | self._encoder_weights

    def trained_module(self, kind: str) -> nn.Module:
        """The head alone, or the network."""
        return self.network.head if kind == "probe" else self.network

    @property
    def is_adapted(self) -> bool:
        """Whether the encoder computes anything else than the base model does."""
        if self._is_lora:  # `B` starts at zero, and then LoRA changes nothing
            return any(bool(weight.any()) for weight in self._encoder_weights.values())
        return any(
            not np.array_equal(self._base[name], weight.detach().cpu().numpy())
            for name, weight in self._encoder_weights.items()
        )

    def _own_state(self) -> State:
        weight, bias = self.network.released_head()
        return {
            "head.weight": weight.cpu().numpy(),
            "head.bias": bias.cpu().numpy(),
            **copies(self._encoder_weights),
        }

    def _take_own_state(self, state: State) -> None:
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        weight, bias = tensors.pop("head.weight"), tensors.pop("head.bias")
        self.network.take_head(weight.to(self.device), bias.to(self.device))
        for name, tensor in tensors.items():
            self._encoder_weights[name].copy_(tensor)

    def _find_encoder_weights(
        self, plan: TrainingPlan, encoder: nn.Module
    ) -> dict[str, nn.Parameter]:
        if not self._is_lora:
            frozen = self.frozen_in_full()
            return {
                _ENCODER + name: weight
                for name, weight in encoder.named_parameters()
                if name not in frozen
            }
        names = [name for name, _ in encoder.named_parameters() if ".lora_" in name]
        adapted = {
            name.removesuffix(_LORA_SUFFIX): weight
            for name, weight in encoder.named_parameters()
            if name.endswith(".lora_B" + _LORA_SUFFIX)
        }
        modules = [name.removesuffix(".lora_B") for name in adapted]
        if len(names) != 2 * len(adapted) or not all(
            any(f".{name}".endswith(f".{target}") for name in modules)
            for target in plan.adapter.target_modules
        ):
            raise _bad_targets(plan)
        return adapted

    def frozen_in_full(self) -> frozenset[str]:
        """Weights of the encoder that a full phase leaves as they are, by name."""
        return frozenset()

    def _draw_projections(self, seed: bytes) -> None:
        keystream = Keystream(seed)
        for name, parameter in sorted(self.network.encoder.named_parameters()):
            if name.endswith(".lora_A" + _LORA_SUFFIX):
                bound = 1 / math.sqrt(parameter.shape[1])
                values = (2 * keystream.uniform(parameter.numel()) - 1) * bound
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(values).view_as(parameter))

    # --- records ----------------------------------------------------------------------------------

    def keeps_below(self, kind: str) -> bool:
        """For a probe, and where only upper layers have LoRA."""
        return kind == "probe" or self.network.split.first > 0

    def below(self, kind: str, records: Sequence[EncodedRecord]) -> list[Tensor]:
        """Features of the base model for a probe, hidden states below the adapters for LoRA."""
        if kind == "probe":
            return _trimmed(self.features(records).cpu(), records)
        inputs = self.network.encoder_inputs(*self.raw_inputs(records))
        return _trimmed(self.network.split.lower(**inputs).cpu(), records)

    def features(self, records: Sequence[EncodedRecord]) -> Tensor:
        """What the head sees of records in one batch, of the encoder without adapter."""
        with self._outer.disable_adapter() if self._is_lora else contextlib.nullcontext():
            return self.network.features(*self.raw_inputs(records))

    def inputs(
        self, kind: str, records: Sequence[EncodedRecord], below: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Features for a probe; else what the network reads, with hidden states if it is split."""
        lower = () if below is None else (padded(list(below)).to(self.device),)
        return lower if kind == "probe" else (*self.raw_inputs(records), *lower)

    # --- releases ---------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """`adapter_model.safetensors` as peft reads it, or `model.safetensors`."""
        weight, bias = self.network.released_head()
        head = self.released_head_module
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        folder.mkdir(parents=True, exist_ok=True)
        embedded = self.plan.base_model.name == EMBEDDED_MODEL
        base = HUB_NAME_OF_EMBEDDED if embedded else self.plan.base_model.name
        if not self._is_lora:
            self._outer.config._name_or_path = base
            self._outer.save_pretrained(str(folder), safe_serialization=True)
            return
        self._outer.peft_config["default"].base_model_name_or_path = base
        # Left to itself, peft asks the hub whether embeddings were resized: they never are.
        self._outer.save_pretrained(
            str(folder), safe_serialization=True, save_embedding_layers=False
        )
        config_file = folder / "adapter_config.json"
        settings = json.loads(config_file.read_text(encoding="utf-8"))
        settings["target_modules"] = sorted(settings["target_modules"])  # peft keeps a set
        config_file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
        (folder / "README.md").unlink(missing_ok=True)  # the release brings its own model card


def _trimmed(values: Tensor, records: Sequence[EncodedRecord]) -> list[Tensor]:
    """Values `(records, …)` of each record; of values of tokens, those that are not padding."""
    if values.dim() < 3:
        return list(values)
    return [row[: record.size] for row, record in zip(values, records, strict=True)]


def _with_lora(plan: TrainingPlan, base: Any, peft_task: str | None) -> Any:
    import peft

    layers = None
    if plan.adapter.layers is not None:
        count = len(transformer_layers(getattr(base, base.base_model_prefix)))
        if plan.adapter.layers > count:
            raise MalformedInput(
                f"adapter.layers: the base model has {count} layers", fix="ask for at most as many"
            )
        layers = list(range(count - plan.adapter.layers, count))
    config = peft.LoraConfig(
        task_type=peft_task,
        r=plan.adapter.rank,
        lora_alpha=plan.adapter.alpha,
        target_modules=list(plan.adapter.target_modules),
        layers_to_transform=layers,
        lora_dropout=0.0,
        modules_to_save=None if peft_task else ["classifier"],
    )
    try:
        return peft.get_peft_model(base, config)
    except ValueError as error:
        raise _bad_targets(plan) from error


def _bad_targets(plan: TrainingPlan) -> MalformedInput:
    return MalformedInput(
        f"adapter.target_modules {list(plan.adapter.target_modules)} are not linear layers of "
        f"base model {plan.base_model.name!r}",
        fix="name the model's attention projections, such as query and value",
    )


def _adapter_seed(plan: TrainingPlan) -> bytes:
    return hashlib.sha256(canonical_bytes(plan.body())).digest()
