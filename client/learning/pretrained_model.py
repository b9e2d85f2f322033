"""What models on a pretrained transformer share: loading, LoRA, what is exchanged, releases.

* `adapter` trains LoRA's `B` matrices (`client.learning.lora`), `full` every weight; a task adds
  what it trains beside the transformer.
* Where only upper layers have LoRA, what lies below them is computed once a record.
* Weights come from safetensors only, never from pickle. Dropout is off: under per-subject clipping
  it costs accuracy, and results do not depend on it.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audit.errors import MalformedInput
from client.learning.base_model import EMBEDDED_MODEL, HUB_NAME_OF_EMBEDDED
from client.learning.layers import SplitLayers, padded
from client.learning.lora import (
    draw_fixed_matrices,
    first_adapted_layer,
    trained_matrices,
    with_lora,
)
from client.learning.plan_model import (
    EncodedRecord,
    PlanModel,
    State,
    check_base_model,
    copies,
    quiet_transformers,
    seed_of,
)
from compliance.statements import TrainingPlan

_PEFT: Final = "base_model.model."
"""Begins the names of a release that peft wrote."""

ADAPTER_IMPORT: Final = "from peft import PeftModel\n"
"""A line of each `load_example`, which a release of all weights does without."""


class SplitNetwork(nn.Module):
    """A network whose lower layers can be run by themselves.

    Attributes:
        split: Its transformer.
    """

    split: SplitLayers

    def lower(self, *inputs: Tensor) -> Tensor:
        """Hidden states before the first trained layer, `(records, tokens, hidden)`."""
        raise NotImplementedError


class PretrainedModel(PlanModel):
    """A model on a pretrained transformer. Subclasses say what it reads and what it says."""

    network: SplitNetwork
    auto_class: ClassVar[str]
    """The class of transformers that a release is loaded with."""
    peft_task: ClassVar[str | None]
    """peft's name of the task; None where it has none."""
    prefix: ClassVar[str]
    """Begins the names of the transformer's weights in the state of a full phase."""
    keeps_head: ClassVar[bool] = False
    """Whether the base model's own head is used; else it need not have one."""

    def __init__(self, plan: TrainingPlan, outer: Any) -> None:
        self._outer = outer
        self._is_lora = not _trains_all(plan)
        self._inner = outer.base_model.model if self._is_lora else outer
        self._transformer: nn.Module = getattr(self._inner, self._inner.base_model_prefix)
        first = first_adapted_layer(plan, self._transformer) if self._is_lora else 0
        super().__init__(plan, self.network_on(self._transformer, first))
        self._transformer_weights = (
            trained_matrices(plan, self._transformer) if self._is_lora else self.all_weights()
        )
        self._base = {} if self._is_lora else copies(self._transformer_weights)

    @classmethod
    def build(cls, plan: TrainingPlan, base_path: Path, seed: int | None = None) -> Self:
        """Load the base model, add LoRA that changes nothing yet, and what the task adds.

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
                base_path, local_files_only=True, **_labels(plan)
            )
            _check_length(plan, settings)
            for name, value in settings.to_dict().items():
                if "drop" in name and isinstance(value, float):
                    setattr(settings, name, 0.0)
            outer, loading = getattr(transformers, cls.auto_class).from_pretrained(
                base_path,
                config=settings,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # a head for other labels is replaced
                output_loading_info=True,
            )
            prefix = "" if cls.keeps_head else f"{outer.base_model_prefix}."
            _check_whole(plan, loading, prefix)
            if not _trains_all(plan):
                outer = with_lora(plan, outer, cls.peft_task)
            model = cls(plan, outer)
            model.read_from(base_path)
        drawn = seed_of(plan) if seed is None else str(seed).encode()
        draw_fixed_matrices(model._transformer, drawn)
        model.start_head()
        return model

    @abstractmethod
    def network_on(self, transformer: nn.Module, first_trained_layer: int) -> SplitNetwork:
        """The task's network; layers below the first trained one are frozen in every phase."""

    @abstractmethod
    def read_from(self, base_path: Path) -> None:
        """Load what turns records into inputs."""

    def start_head(self) -> None:
        """Set what the task adds to the transformer from what is public."""

    @abstractmethod
    def raw_inputs(self, records: Sequence[EncodedRecord]) -> tuple[Tensor, ...]:
        """The network's inputs, on the model's device."""

    # --- weights ----------------------------------------------------------------------------------

    def frozen_in_full(self) -> frozenset[str]:
        """Weights of the transformer that a full phase leaves as they are, by name."""
        return frozenset()

    def all_weights(self) -> dict[str, nn.Parameter]:
        """What a full phase trains, beside a head."""
        frozen = self.frozen_in_full()
        return {
            self.prefix + name: weight
            for name, weight in self._transformer.named_parameters()
            if name not in frozen
        }

    def weights(self, kind: str) -> Mapping[str, nn.Parameter]:
        """LoRA's `B`, or all weights."""
        del kind
        return self._transformer_weights

    def trained_module(self, kind: str) -> nn.Module:
        """The network."""
        del kind
        return self.network

    @property
    def is_adapted(self) -> bool:
        """Whether the transformer computes anything else than the base model does."""
        if self._is_lora:  # `B` starts at zero, and then LoRA changes nothing
            return any(bool(weight.any()) for weight in self._transformer_weights.values())
        return any(
            not np.array_equal(self._base[name], weight.detach().cpu().numpy())
            for name, weight in self._transformer_weights.items()
        )

    def exchanged(self) -> Mapping[str, nn.Parameter]:
        """The transformer's that train."""
        return self._transformer_weights

    def _released(self, arrays: Mapping[str, npt.NDArray[Any]]) -> State:
        begin = (_PEFT if self._is_lora else "") + f"{self._inner.base_model_prefix}."
        own = self.weights("adapter" if self._is_lora else "full")
        state = {}
        for name, array in arrays.items():
            if not name.startswith(begin):
                state[f"head.{name.rpartition('.')[2]}"] = array
                continue
            inner = name.removeprefix(begin)
            # peft stores the fixed `A` too: they are the plan's, not trained.
            inner = inner.removesuffix(".weight") if self._is_lora else self.prefix + inner
            if inner in own:
                state[inner] = array
        return state

    # --- records ----------------------------------------------------------------------------------

    def keeps_below(self, kind: str) -> bool:
        """Where only upper layers have LoRA."""
        del kind
        return self.network.split.first > 0

    def below(self, kind: str, records: Sequence[EncodedRecord]) -> list[Tensor]:
        """Hidden states below the adapters."""
        del kind
        return trimmed(self.network.lower(*self.raw_inputs(records)).cpu(), records)

    def inputs(
        self, kind: str, records: Sequence[EncodedRecord], below: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """What the network reads, with hidden states if it is split."""
        del kind
        lower = () if below is None else (padded(list(below)).to(self.device),)
        return (*self.raw_inputs(records), *lower)

    # --- releases ---------------------------------------------------------------------------------

    @classmethod
    def load_example_of(cls, plan: TrainingPlan) -> str:
        """Code that loads a release of the plan: an adapter on its base, or all weights."""
        if not _trains_all(plan):
            return cls.load_example
        code = cls.load_example
        for adapter, everything in (
            (ADAPTER_IMPORT, ""),
            (adapter_lines(cls.auto_class, has_labels=bool(plan.labels)), _full_line(cls)),
        ):
            if adapter not in code:
                raise RuntimeError(f"{cls.__name__}.load_example lacks {adapter!r}")
            code = code.replace(adapter, everything)
        return code

    def finish_release(self) -> None:
        """Put what the task adds where the release has it."""

    def save(self, folder: Path) -> None:
        """`adapter_model.safetensors` as peft reads it, or `model.safetensors`."""
        self.finish_release()
        folder.mkdir(parents=True, exist_ok=True)
        embedded = self.plan.base_model.name == EMBEDDED_MODEL
        base = HUB_NAME_OF_EMBEDDED if embedded else self.plan.base_model.name
        if not self._is_lora:
            self._outer.config._name_or_path = base
            self._outer.save_pretrained(str(folder))
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


def adapter_lines(auto_class: str, *, has_labels: bool) -> str:
    """The lines of a `load_example` that put an adapter on its base model."""
    labels = ", num_labels=len(labels)" if has_labels else ""
    return (
        f"encoder = {auto_class}.from_pretrained(base{labels})\n"
        "model = PeftModel.from_pretrained(encoder, folder).eval()\n"
    )


def trimmed(values: Tensor, records: Sequence[EncodedRecord]) -> list[Tensor]:
    """Values `(records, …)` of each record; of values of tokens, those that are not padding."""
    sizes = [record.size for record in records]
    if values.dim() < 3 or values.shape[1] != max(sizes):  # such as patches: all alike
        return list(values)
    return [row[:size] for row, size in zip(values, sizes, strict=True)]


def _full_line(cls: type[PretrainedModel]) -> str:
    return f"model = {cls.auto_class}.from_pretrained(folder).eval()\n"


def _trains_all(plan: TrainingPlan) -> bool:
    return any(phase.kind == "full" for phase in plan.phases)


def _labels(plan: TrainingPlan) -> dict[str, Any]:
    """Labels as a config of transformers holds them; nothing where language is modelled."""
    if not plan.labels:
        return {}
    return {
        "id2label": dict(enumerate(plan.labels)),
        "label2id": {label: number for number, label in enumerate(plan.labels)},
    }


def _check_whole(plan: TrainingPlan, loading: Mapping[str, Collection[Any]], prefix: str) -> None:
    """Refuse a model that lacks weights: they would be random, and differ between sites."""
    names = {*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])}
    lacking = sorted(name for name in names if name.startswith(prefix))
    if lacking:
        raise MalformedInput(
            f"base model {plan.base_model.name!r} has no weights of the right shape for "
            f"{lacking[0]!r}",
            fix="install the base model again, whole",
        )


def _check_length(plan: TrainingPlan, settings: Any) -> None:
    longest = getattr(settings, "max_position_embeddings", None)
    if longest is not None and plan.max_tokens > longest:
        raise MalformedInput(
            f"max_tokens: base model {plan.base_model.name!r} reads at most {longest} tokens",
            fix="ask for at most as many",
        )
